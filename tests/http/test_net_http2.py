"""What is different on HTTP/2: streams that end alone, resets, and no truncation of one stream."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
import trio.testing
from leaks import assert_no_leaks
from probes import (
    IDLE,
    IN_TIME,
    PROMPT,
    Calls,
    Endings,
    Life,
    add_health,
    flood,
    logged,
    say_one,
    two_feeds,
)
from wire import H2Connection, Truncated, open_h2, open_server

from tsstream import App, Request, Response, merge
from tsstream._http.content import Content

pytestmark = pytest.mark.usefixtures("each_host")


async def start(h2: H2Connection, method: str = "GET", path: str = "/") -> int:
    """Send a request and read its head; give the stream's id."""
    stream_id = await h2.request(method, path, end_stream=method == "GET")
    status, _ = await h2.read_head(stream_id)
    assert status == 200
    return stream_id


async def check_health(h2: H2Connection) -> None:
    with trio.fail_after(1):
        assert await h2.read_body(await start(h2, path="/health")) == b"fine"


async def shout(
    body: trio.abc.ReceiveChannel[bytes], send_channel: trio.MemorySendChannel[bytes]
) -> None:
    async for chunk in body:
        await send_channel.send(chunk.upper())


@pytest.mark.parametrize("way", ["reset", "close", "abort"])
@pytest.mark.parametrize("produce", [say_one, flood])
async def test_h2_client_that_leaves_a_stream_ends_its_producers_promptly(
    way: str, produce: Callable[[trio.MemorySendChannel[bytes]], Awaitable[None]]
) -> None:
    # AC-16, D17, D18 on HTTP/2
    life = Life()
    app = App()

    @app.get("/")
    async def handler(request: Request) -> Content:
        return two_feeds(life, produce)

    async with open_server(app, keep_alive_timeout=IDLE) as port, assert_no_leaks():
        async with open_h2(port) as h2:
            stream_id = await start(h2)
            await h2.read_chunk(stream_id)
            assert life.running == 3
            if way == "reset":
                await h2.reset(stream_id)
            else:
                getattr(h2, way)()
            await life.wait_gone()


async def test_h2_reset_of_one_stream_leaves_the_others_alone() -> None:
    # AC-16
    lives = {"/a": Life(), "/b": Life()}
    go_on = trio.Event()
    app = App()

    async def produce(send_channel: trio.MemorySendChannel[bytes]) -> None:
        await send_channel.send(b"one")
        await go_on.wait()
        await send_channel.send(b"two")

    @app.get("/{name}")
    async def handler(request: Request) -> Content:
        return two_feeds(lives[request.path], produce)

    async with open_server(app) as port, open_h2(port) as h2:
        first, second = await start(h2, path="/a"), await start(h2, path="/b")
        await h2.read_chunk(first)
        await h2.reset(first)
        await lives["/a"].wait_gone()
        assert lives["/b"].running == 3
        go_on.set()
        assert await h2.read_body(second) == b"oneonetwotwo"


async def test_h2_bodies_of_producers_end_cleanly_and_say_complete() -> None:
    endings = Endings()
    app = App(on_end=endings)

    @app.get("/")
    async def handler(request: Request) -> Content:
        async def produce(send_channel: trio.MemorySendChannel[bytes]) -> None:
            for _ in range(100):
                await send_channel.send(b"x" * 1000)

        return merge(produce)

    async with open_server(app, keep_alive_timeout=IDLE) as port, assert_no_leaks():
        async with open_h2(port) as h2:
            for _ in range(3):
                with trio.fail_after(IN_TIME):
                    assert await h2.read_body(await start(h2)) == b"x" * 100_000
    assert endings.reasons == ["complete"] * 3


async def test_h2_failure_before_the_first_chunk_is_a_status() -> None:
    # AC-18, AC-19 on HTTP/2
    app = App()

    @app.get("/")
    async def handler(request: Request) -> Content:
        async def produce(send_channel: trio.MemorySendChannel[bytes]) -> None:
            raise ValueError("failed at once")

        return merge(produce)

    async with open_server(app, keep_alive_timeout=IDLE) as port, assert_no_leaks():
        async with open_h2(port) as h2:
            stream_id = await h2.request("GET", "/")
            status, headers = await h2.read_head(stream_id)
            assert (status, headers["content-type"]) == (500, "text/plain; charset=utf-8")
            assert await h2.read_body(stream_id) == b"Internal Server Error"


async def test_h2_stream_that_fails_has_no_clean_end_and_the_connection_ends_when_it_idles(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # D47, HOST fault 3: the stock Hypercorn sends nothing; only tsstream's server can reset it.
    app = App()

    @app.get("/")
    async def handler(request: Request) -> Content:
        async def produce(send_channel: trio.MemorySendChannel[bytes]) -> None:
            await send_channel.send(b"one,")
            raise ValueError("no more")

        return merge(produce)

    keep_alive_timeout = 0.5
    async with open_server(app, keep_alive_timeout=keep_alive_timeout) as port, assert_no_leaks():
        async with open_h2(port) as h2:
            stream_id = await start(h2)
            with trio.fail_after(keep_alive_timeout + 0.5), pytest.raises(Truncated) as caught:
                await h2.read_body(stream_id)
            assert caught.value.body == b"one,"
    assert logged(caplog) == ["ERROR GET /: stream failed after 4 bytes"]


async def test_h2_producer_that_never_waits_ends_when_its_stream_is_reset() -> None:
    # HOST fault 8: sends after a reset may return without a checkpoint; the loop must turn.
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

    @app.get("/")
    async def handler(request: Request) -> Content:
        return body()

    async with open_server(app, keep_alive_timeout=IDLE) as port, assert_no_leaks():
        async with open_h2(port) as h2:
            stream_id = await start(h2)
            await h2.read_chunk(stream_id)
            await h2.reset(stream_id)
            await check_health(h2)
            await life.wait_gone()


async def test_h2_duplex_goes_in_lockstep() -> None:
    # DESIGN 5, ET-15: each answer arrives before the next piece is sent.
    app = App()

    @app.post("/")
    @asynccontextmanager
    async def upper(request: Request) -> AsyncIterator[Response]:
        async with merge(partial(shout, request.body)) as chunks:
            yield Response(chunks, live=True)

    async with open_server(app, keep_alive_timeout=IDLE) as port, assert_no_leaks():
        async with open_h2(port) as h2:
            stream_id = await start(h2, "POST")
            for number in range(100):
                await h2.send_data(stream_id, b"a%d" % number)
                with trio.fail_after(1):
                    assert await h2.read_chunk(stream_id) == b"A%d" % number
            await h2.send_data(stream_id, b"", end_stream=True)
            with trio.fail_after(1):
                assert await h2.read_chunk(stream_id) is None


@pytest.mark.stock_host("there it is refused by RST_STREAM(NO_ERROR) once the response has ended")
async def test_h2_upload_that_nobody_reads_is_no_obstacle() -> None:
    # RQ-21 on HTTP/2
    app = App()
    calls = Calls(app)

    @app.post("/")
    async def handler(request: Request) -> str:
        await trio.sleep(0.1)
        return "ok"

    async with open_server(calls, keep_alive_timeout=IDLE) as port, assert_no_leaks():
        async with open_h2(port) as h2, trio.open_nursery() as nursery:
            stream_id = await h2.request("POST", "/", end_stream=False)

            async def upload() -> None:
                await h2.send_data(stream_id, b"x" * 1_000_000, end_stream=True)

            nursery.start_soon(upload)
            with trio.fail_after(1.1):
                status, _ = await h2.read_head(stream_id)
                assert (status, await h2.read_body(stream_id)) == (200, b"ok")
            await calls.wait_returned()


async def test_h2_short_upload_is_never_complete(caplog: pytest.LogCaptureFixture) -> None:
    # RQ-19, RQ-27 on HTTP/2
    caplog.set_level(logging.WARNING)
    life = Life()
    app = App()

    @app.post("/")
    async def handler(request: Request) -> str:
        with life.of("handler"):
            async for _ in request.body:
                life.events.append("chunk")
            life.events.append("complete")
        return "never"

    async with open_server(app, keep_alive_timeout=IDLE) as port, assert_no_leaks():
        async with open_h2(port) as h2:
            stream_id = await h2.request("POST", "/", end_stream=False)
            await h2.send_data(stream_id, b"x" * 400)
            await life.wait_running(1)
            await trio.testing.wait_all_tasks_blocked(0.02)
            await h2.reset(stream_id)
            await life.wait_gone()
    assert life.events == ["handler in", "chunk", "handler out"]
    assert logged(caplog) == []


async def test_h2_head_never_enters_the_body() -> None:
    # D35
    life = Life()
    app = App()

    @app.get("/")
    async def handler(request: Request) -> Content:
        return two_feeds(life, flood)

    async with open_server(app, keep_alive_timeout=IDLE) as port, assert_no_leaks():
        async with open_h2(port) as h2:
            stream_id = await h2.request("HEAD", "/")
            with trio.fail_after(PROMPT * 5):
                assert (await h2.read_head(stream_id))[0] == 200
                assert await h2.read_body(stream_id) == b""
    assert life.events == []


async def test_h2_shutdown_frees_the_producers_and_cuts_the_stream() -> None:
    # D40, AC-52 on HTTP/2
    life, endings = Life(), Endings()
    app = App(on_end=endings)
    stop = trio.Event()

    @app.get("/")
    async def handler(request: Request) -> Content:
        return two_feeds(life, say_one)

    async with assert_no_leaks():
        async with open_server(app, shutdown_trigger=stop.wait) as port, open_h2(port) as h2:
            stream_id = await start(h2)
            await h2.read_chunk(stream_id)
            stop.set()
            await life.wait_gone(within=0.2 + PROMPT)
            with pytest.raises(Truncated):
                await h2.read_body(stream_id)
    assert endings.reasons == ["cancelled"]
