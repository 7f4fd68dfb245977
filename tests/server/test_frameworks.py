"""Applications and middleware that were not written for this server."""

from __future__ import annotations

from typing import Any, cast

import pytest
import trio
import trio.testing
from guarded import open_ending
from hypercorn.middleware import ProxyFixMiddleware
from probes import PROMPT, WAYS_TO_LEAVE, Calls, Endings, get, leave
from starlette.applications import Starlette
from starlette.requests import Request as StarletteRequest
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from wire import open_guarded, open_raw

from tsstream import App, Request, Response, merge, sse_response

LONG = 20.0  # seconds: far longer than these tests take


@pytest.mark.parametrize("way", WAYS_TO_LEAVE)
async def test_a_loop_until_starlettes_is_disconnected_ends_when_the_client_leaves(
    way: str,
) -> None:
    polled = trio.Event()

    async def handler(request: StarletteRequest) -> PlainTextResponse:
        while not await request.is_disconnected():
            polled.set()
            await trio.sleep(0.005)
        return PlainTextResponse("too late")

    calls = Calls(cast(Any, Starlette(routes=[Route("/", handler)])))
    async with open_guarded(calls) as port, open_raw(port) as raw:
        await raw.request("GET", "/")
        await polled.wait()
        await leave(raw, way)
        await calls.wait_returned(within=PROMPT)


def behind_a_proxy(app: App[Any]) -> Any:
    """Wrap *app* in a middleware that copies the scope, and all that is in it."""
    return ProxyFixMiddleware(cast(Any, app), mode="legacy", trusted_hops=1)


FORWARDED = {"x-forwarded-for": "192.0.2.1", "x-forwarded-proto": "https"}


async def test_a_live_stream_behind_a_copied_scope_says_farewell_at_shutdown() -> None:
    endings = Endings()
    app: App[Any] = App(on_end=endings)

    @app.get("/")
    async def handler(request: Request) -> Response:
        assert request.scheme == "https"

        async def produce(send_channel: trio.MemorySendChannel[str]) -> None:
            await send_channel.send("one")
            await trio.sleep_forever()

        return sse_response(merge(produce))

    server = open_ending(behind_a_proxy(app), graceful_timeout=LONG)
    async with server as (port, end, ends), open_raw(port) as raw:
        await raw.request("GET", "/", FORWARDED)
        assert (await raw.read_head())[0] == 200
        assert await raw.read_chunk()
        end()
        with trio.fail_after(PROMPT):
            await raw.read_body()  # to its clean end
    assert ends.took < PROMPT
    assert endings.reasons == ["shutdown"]


@pytest.mark.parametrize("way", ["close", "abort"])
async def test_a_client_that_leaves_behind_an_unread_chunk_is_heard_through_a_copied_scope(
    way: str,
) -> None:
    endings = Endings()
    app: App[Any] = App(on_end=endings)

    @app.post("/")
    async def handler(request: Request) -> str:
        await trio.sleep_forever()
        raise AssertionError

    calls = Calls(behind_a_proxy(app))
    async with open_guarded(calls) as port, open_raw(port) as raw:
        await raw.request("POST", "/", {**FORWARDED, "content-length": "100"})
        await raw.send_all(b"unread")
        await trio.testing.wait_all_tasks_blocked(0.02)
        await leave(raw, way)
        await calls.wait_returned(within=PROMPT)
    assert endings.reasons == ["disconnect"]


async def test_starlette_answers_more_than_once_on_a_connection() -> None:
    async def handler(request: StarletteRequest) -> PlainTextResponse:
        return PlainTextResponse(await request.body())

    app = Starlette(routes=[Route("/", handler, methods=["POST"])])
    async with open_guarded(cast(Any, app)) as port, open_raw(port) as raw:
        for size in (1, 300_000):
            await raw.request("POST", "/", body=b"x" * size)
            assert (await raw.read_head())[0] == 200
            assert len(await raw.read_body()) == size
        assert await get(raw) == 405
