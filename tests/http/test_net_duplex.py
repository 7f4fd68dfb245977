"""Both directions at once, event loops that turn, and shutdown, on HTTP/1.1."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
import trio.testing
from leaks import assert_no_leaks
from probes import (
    IDLE,
    PROMPT,
    WAYS_TO_LEAVE,
    Calls,
    Endings,
    Life,
    add_health,
    check_health,
    get,
    leave,
    logged,
    say_one,
    two_feeds,
)
from wire import Truncated, open_raw, open_server

from tsstream import App, HTTPError, Request, Response, merge
from tsstream._http.content import Content
from tsstream._util import leaves

pytestmark = pytest.mark.usefixtures("each_host")


async def shout(
    body: trio.abc.ReceiveChannel[bytes], send_channel: trio.MemorySendChannel[bytes]
) -> None:
    async for chunk in body:
        await send_channel.send(chunk.upper())


def add_upper(app: App[None], life: Life) -> None:
    @app.post("/")
    @asynccontextmanager
    async def upper(request: Request) -> AsyncIterator[Response]:
        with life.of("handler"):
            if request.headers.get("x-refuse"):
                raise HTTPError(415)
            async with merge(partial(shout, request.body)) as chunks:
                yield Response(chunks, live=True)


def http_chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


@pytest.mark.parametrize("size", [1, 64 * 1024])
async def test_duplex_goes_in_lockstep(size: int) -> None:
    # DESIGN 5, ET-15: each answer arrives before the next piece is sent.
    life = Life()
    app = App()
    add_upper(app, life)
    async with open_server(app, keep_alive_timeout=IDLE) as port, assert_no_leaks():
        async with open_raw(port) as raw:
            await raw.request("POST", "/", {"transfer-encoding": "chunked"})
            assert (await raw.read_head())[0] == 200
            for number in range(100):
                letter = bytes([ord("a") + number % 26])
                await raw.send_all(http_chunk(letter * size))
                got = b""
                with trio.fail_after(1):  # noqa: ASYNC912
                    while len(got) < size:
                        got += await raw.read_chunk() or b""
                assert got == letter.upper() * size
            await raw.send_all(b"0\r\n\r\n")
            with trio.fail_after(1):
                assert await raw.read_chunk() is None
            assert life.running == 0
            # and the connection is kept
            await raw.request("POST", "/", body=b"again")
            await raw.read_head()
            assert await raw.read_body() == b"AGAIN"


async def test_duplex_handler_that_opens_its_body_too_late_is_told_so() -> None:
    # RQ-23, STYLE S12: the error names the remedy, and this handler has not returned.
    told: list[str] = []
    app = App()

    @app.post("/")
    @asynccontextmanager
    async def handler(request: Request) -> AsyncIterator[Response]:
        async def greet_and_shout(send_channel: trio.MemorySendChannel[bytes]) -> None:
            await send_channel.send(b"hello")
            await trio.testing.wait_all_tasks_blocked()
            try:
                await shout(request.body, send_channel)
            except trio.ClosedResourceError as error:
                told.append(str(error))

        async with merge(greet_and_shout) as chunks:
            yield Response(chunks)

    async with open_server(app, keep_alive_timeout=IDLE) as port, assert_no_leaks():
        async with open_raw(port) as raw:
            await raw.request("POST", "/", {"transfer-encoding": "chunked"})
            await raw.read_head()
            assert await raw.read_body() == b"hello"
    (message,) = told
    assert "the handler has returned" not in message
    assert "asynccontextmanager" not in message


async def test_duplex_handler_can_still_refuse_before_it_yields() -> None:
    # D2
    life = Life()
    app = App()
    add_upper(app, life)
    async with open_server(app, keep_alive_timeout=IDLE) as port, assert_no_leaks():
        async with open_raw(port) as raw:
            await raw.request("POST", "/", {"x-refuse": "yes"}, body=b"data")
            assert (await raw.read_head())[0] == 415
    assert life.events == ["handler in", "handler out"]


@pytest.mark.parametrize("way", WAYS_TO_LEAVE)
async def test_client_that_leaves_in_the_middle_ends_both_directions(way: str) -> None:
    # AC-16, RQ-27, RQ-19
    life = Life()
    app = App()
    add_upper(app, life)
    async with open_server(app) as port, assert_no_leaks(), open_raw(port) as raw:
        await raw.request("POST", "/", {"transfer-encoding": "chunked"})
        await raw.read_head()
        await raw.send_all(http_chunk(b"one"))
        assert await raw.read_chunk() == b"ONE"
        await leave(raw, way)
        await life.wait_gone()
        if way == "half_close":
            assert await raw.read_until_closed() == b""  # no last chunk


async def test_sends_to_a_client_that_cut_its_upload_do_not_freeze_the_event_loop() -> None:
    # HOST fault 8: after a cut upload Hypercorn's send() returns without a checkpoint, for ever.
    class Endless:
        def __aiter__(self) -> Endless:
            return self

        async def __anext__(self) -> bytes:
            return b"x" * 100

    life = Life()
    app = App()
    add_health(app)

    @asynccontextmanager
    async def body() -> AsyncIterator[Endless]:
        with life.of("body"):
            yield Endless()

    @app.post("/")
    async def handler(request: Request) -> Content:
        return body()

    async with open_server(app, keep_alive_timeout=IDLE) as port, assert_no_leaks():
        async with open_raw(port) as raw, open_raw(port) as other:
            await raw.request("POST", "/", {"content-length": "1000"})
            await raw.send_all(b"x" * 400)
            await raw.read_head()
            await raw.read_chunk()
            raw.close()
            await life.wait_gone()
            await check_health(other)


async def test_loop_of_empty_chunks_does_not_freeze_the_event_loop() -> None:
    # HOST fault 8's cousin: nothing is sent, so nothing would wait.
    class Empty:
        def __aiter__(self) -> Empty:
            return self

        async def __anext__(self) -> bytes:
            return b""

    life = Life()
    app = App()
    add_health(app)

    @asynccontextmanager
    async def body() -> AsyncIterator[Empty]:
        with life.of("body"):
            yield Empty()

    @app.get("/")
    async def handler(request: Request) -> Content:
        return body()

    async with open_server(app, keep_alive_timeout=IDLE) as port, assert_no_leaks():
        async with open_raw(port) as raw, open_raw(port) as other:
            await raw.request("GET", "/")
            await life.wait_running(1)
            await check_health(other)
            raw.abort()
            await life.wait_gone()


async def test_shutdown_cuts_a_stream_after_the_grace_and_runs_its_cleanup(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # D40, AC-52: a cancellation that is no disconnect leaves the app as a cancellation.
    life, endings = Life(), Endings()
    app = App(on_end=endings)
    calls = Calls(app)
    stop = trio.Event()

    @app.get("/")
    async def handler(request: Request) -> Content:
        return two_feeds(life, say_one)

    async with assert_no_leaks():
        async with open_server(calls, shutdown_trigger=stop.wait, graceful_timeout=0.2) as port:
            async with open_raw(port) as raw:
                await get(raw)
                await raw.read_chunk()
                stop.set()
                stopped_at = trio.current_time()
                with trio.fail_after(0.2 + PROMPT), pytest.raises(Truncated):
                    while await raw.read_chunk():
                        pass
                assert trio.current_time() - stopped_at > 0.1
                await life.wait_gone()
    (raised,) = calls.raised
    assert {type(leaf) for leaf in leaves(raised)} == {trio.Cancelled}
    assert endings.reasons == ["cancelled"]
    assert logged(caplog) == []


async def test_shutdown_before_the_handler_returns_sends_nothing_of_ours() -> None:
    # D40, state R
    life, endings = Life(), Endings()
    app = App(on_end=endings)
    calls = Calls(app)
    stop = trio.Event()

    @app.get("/")
    async def handler(request: Request) -> str:
        with life.of("handler"):
            await trio.sleep_forever()
        return "never"

    async with assert_no_leaks():
        async with open_server(calls, shutdown_trigger=stop.wait, graceful_timeout=0.05) as port:
            async with open_raw(port) as raw:
                await raw.request("GET", "/")
                await life.wait_running(1)
                stop.set()
                await life.wait_gone(within=0.05 + PROMPT)
    (raised,) = calls.raised
    assert {type(leaf) for leaf in leaves(raised)} == {trio.Cancelled}
    assert endings.reasons == ["cancelled"]
    assert endings.seen[0].status_code is None
