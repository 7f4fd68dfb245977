"""The client leaves a real connection: what ends, how soon, and what is said of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from leaks import assert_no_leaks
from probes import (
    PROMPT,
    WAYS_TO_LEAVE,
    Calls,
    Endings,
    Life,
    flood,
    get,
    leave,
    say_one,
    two_feeds,
)
from wire import open_raw, open_server

from tsstream import App, Request, Response, StreamPolicy, merge, sse_response
from tsstream._http.content import Content

pytestmark = pytest.mark.usefixtures("each_host")


@pytest.mark.parametrize("way", WAYS_TO_LEAVE)
@pytest.mark.parametrize("produce", [say_one, flood])
async def test_client_that_leaves_a_stream_ends_its_producers_promptly(
    way: str, produce: Callable[[trio.MemorySendChannel[bytes]], Awaitable[None]]
) -> None:
    # AC-16, D17 (idle), D18 (busy), D22 (a half-close is a disconnect)
    life = Life()
    app = App()

    @app.get("/")
    async def feeds(request: Request) -> Content:
        return two_feeds(life, produce)

    async with open_server(app) as port, assert_no_leaks():
        async with open_raw(port) as raw:
            assert await get(raw) == 200
            await raw.read_chunk()
            assert life.running == 3
            await leave(raw, way)
            await life.wait_gone()


async def test_shielded_cleanup_is_run_to_its_end_before_the_exchange_ends() -> None:
    # AC-16, AC-17
    events: list[str] = []
    app = App(on_end=lambda request, ending: events.append(ending.reason))
    calls = Calls(app)

    async def produce(send_channel: trio.MemorySendChannel[bytes]) -> None:
        try:
            await say_one(send_channel)
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
                await trio.sleep(0.05)
                events.append("producer cleaned up")

    @asynccontextmanager
    async def body() -> AsyncIterator[object]:
        try:
            async with merge(produce) as chunks:
                yield chunks
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
                await trio.sleep(0.05)
                events.append("body cleaned up")

    @app.get("/")
    async def handler(request: Request) -> Content:
        return body()

    async with open_server(calls) as port, assert_no_leaks(), open_raw(port) as raw:
        await get(raw)
        await raw.read_chunk()
        raw.close()
        await calls.wait_returned()
    assert events == ["producer cleaned up", "body cleaned up", "disconnect"]


async def test_disconnect_cancels_a_handler_that_has_not_returned_and_nothing_is_sent() -> None:
    # AC-49, D15, RQ-28, RQ-30
    life = Life()
    app = App()
    seen: list[tuple[bool, str | None]] = []

    @app.get("/")
    async def handler(request: Request) -> str:
        with life.of("handler"):
            try:
                await trio.sleep_forever()
            except trio.Cancelled as error:
                seen.append((request.disconnected.is_set(), getattr(error, "reason", None)))
                raise
            return "never"

    async with open_server(app) as port, assert_no_leaks(), open_raw(port) as raw:
        await raw.request("GET", "/")
        await life.wait_running(1)
        await raw.half_close()
        await life.wait_gone()
        assert await raw.read_until_closed() == b""
    assert seen == [(True, "client disconnected")]


async def test_disconnect_while_the_body_is_entered_cancels_its_enter() -> None:
    # D16: no __aexit__ then, so the body's own try/finally cleans up.
    life = Life()
    app = App()

    @asynccontextmanager
    async def body() -> AsyncIterator[list[bytes]]:
        with life.of("enter"):
            await trio.sleep_forever()
        life.events.append("entered")
        yield []

    @app.get("/")
    async def handler(request: Request) -> Content:
        return body()

    async with open_server(app) as port, assert_no_leaks(), open_raw(port) as raw:
        await raw.request("GET", "/")
        await life.wait_running(1)
        await raw.half_close()
        await life.wait_gone()
        assert await raw.read_until_closed() == b""
    assert life.events == ["enter in", "enter out"]


async def test_disconnect_while_the_body_exits_cancels_the_exit() -> None:
    # D19: nobody waits for its result; what it shields is run all the same.
    life = Life()
    app = App()
    calls = Calls(app)

    @asynccontextmanager
    async def body() -> AsyncIterator[list[bytes]]:
        yield [b"all of it"]
        with life.of("exit"):
            try:
                await trio.sleep(2)
                life.events.append("waited")
            finally:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
                    await trio.sleep(0.02)
                    life.events.append("shielded")

    @app.get("/")
    async def handler(request: Request) -> Content:
        return body()

    async with open_server(calls) as port, assert_no_leaks(), open_raw(port) as raw:
        await get(raw)
        assert await raw.read_chunk() == b"all of it"
        await life.wait_running(1)
        raw.abort()
        await life.wait_gone()
        await calls.wait_returned()
    assert life.events == ["exit in", "shielded", "exit out"]


@pytest.mark.parametrize("way", WAYS_TO_LEAVE)
async def test_disconnect_cancels_a_handler_that_waits_for_a_chunk(way: str) -> None:
    # RQ-27, RQ-19, section E 12: a short body is never an end.
    life = Life()
    app = App()

    @app.post("/")
    async def upload(request: Request) -> str:
        with life.of("handler"):
            async for chunk in request.body:
                life.events.append(f"{len(chunk)} bytes")
            life.events.append("complete")
            return "never"

    async with open_server(app) as port, assert_no_leaks(), open_raw(port) as raw:
        await raw.request("POST", "/", {"content-length": "1000"})
        await life.wait_running(1)
        await raw.send_all(b"x" * 400)
        await trio.testing.wait_all_tasks_blocked(0.02)
        await leave(raw, way)
        await life.wait_gone()
    assert life.events == ["handler in", "400 bytes", "handler out"]


@pytest.mark.stock_host("there the disconnect overtakes that chunk")
async def test_disconnect_behind_a_pending_chunk_is_heard_when_the_chunk_is_taken() -> None:
    # RQ-29
    life = Life()
    app = App()
    go_on = trio.Event()

    @app.post("/")
    async def upload(request: Request) -> str:
        with life.of("handler"):
            life.events.append((await request.body.receive()).decode())
            await go_on.wait()
            life.events.append((await request.body.receive()).decode())
            await trio.sleep_forever()
            return "never"

    async with open_server(app) as port, assert_no_leaks(), open_raw(port) as raw:
        await raw.request("POST", "/", {"content-length": "1000"})
        await raw.send_all(b"first")
        await life.wait_running(1)
        await trio.testing.wait_all_tasks_blocked(0.02)
        await raw.send_all(b"second")
        await trio.testing.wait_all_tasks_blocked(0.02)
        raw.close()
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert life.running == 1
        go_on.set()
        await life.wait_gone()
    assert life.events == ["handler in", "first", "second", "handler out"]


async def test_what_comes_after_a_disconnect_is_not_sent() -> None:
    # AC-50
    app = App()
    gone = trio.Event()

    async def produce(send_channel: trio.MemorySendChannel[bytes]) -> None:
        await send_channel.send(b"first\n")
        try:
            await trio.sleep_forever()
        finally:
            gone.set()
            with trio.CancelScope(shield=True):
                await send_channel.send(b"last\n")

    @app.get("/")
    async def handler(request: Request) -> Content:
        return merge(produce)

    async with open_server(app) as port, assert_no_leaks(), open_raw(port) as raw:
        await get(raw)
        assert await raw.read_chunk() == b"first\n"
        await raw.half_close()
        with trio.fail_after(PROMPT):
            await gone.wait()
        assert await raw.read_until_closed() == b""  # nor the last chunk of a clean end


async def test_heartbeats_bound_how_long_a_pipelined_request_hides_the_disconnect() -> None:
    # D17's exception, HOST fault 9: Hypercorn's read loop is parked behind the second request. It
    # stays so until shutdown, whatever the app does, so the server is within the leak check.
    life = Life()
    app = App(policy=StreamPolicy(heartbeat=0.2))

    async def silent(send_channel: trio.MemorySendChannel[bytes]) -> None:
        with life.of("producer"):
            await trio.sleep_forever()

    @app.get("/")
    async def handler(request: Request) -> Content:
        return sse_response(merge(silent))

    async with assert_no_leaks(), open_server(app) as port, open_raw(port) as raw:
        await get(raw)
        await raw.request("GET", "/second")
        await life.wait_running(1)
        await trio.testing.wait_all_tasks_blocked(0.02)
        raw.abort()
        await life.wait_gone(within=0.2 + PROMPT)


async def test_response_that_started_before_the_client_left_is_not_reported_as_complete() -> None:
    # D17 for a live response, whose head goes out before its first item.
    endings = Endings()
    app = App(on_end=endings)
    calls = Calls(app)

    async def silent(send_channel: trio.MemorySendChannel[bytes]) -> None:
        await trio.sleep_forever()

    @app.get("/")
    async def handler(request: Request) -> Response:
        return Response(merge(silent), live=True)

    async with open_server(calls) as port, assert_no_leaks(), open_raw(port) as raw:
        assert await get(raw) == 200
        raw.close()
        await calls.wait_returned(within=1)
    assert endings.reasons == ["disconnect"]
