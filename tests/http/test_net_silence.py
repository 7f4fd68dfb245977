"""Uploads that pause, over real sockets: 408 when somebody waits for them, and for too long."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
from leaks import assert_no_leaks
from probes import IDLE, IN_TIME
from wire import Truncated, open_guarded, open_h2, open_raw, open_server

from tsstream import App, BodyLimits, Request, Response

LIMIT = 0.2  # seconds
CHUNKED = {"transfer-encoding": "chunked"}

each_host = pytest.mark.usefixtures("each_host")


def add_reader(app: App[None]) -> None:
    @app.post("/")
    async def handler(request: Request) -> bytes:
        return await request.read()


def http_chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


@each_host
@pytest.mark.parametrize("sent", [b"", b"abc"], ids=["before it", "within it"])
async def test_a_client_that_pauses_for_its_body_is_408(sent: bytes) -> None:
    # RQ-14
    app = App(body_limits=BodyLimits(timeout=LIMIT))
    add_reader(app)
    async with open_server(app) as port, assert_no_leaks(), open_raw(port) as raw:
        await raw.request("POST", "/", {"content-length": "10"})
        await raw.send_all(sent)
        start = trio.current_time()
        with trio.fail_after(IN_TIME):
            assert (await raw.read_head())[0] == 408
            assert await raw.read_body() == b"The request body has paused for 0.2 seconds."
        assert trio.current_time() - start > 0.9 * LIMIT


@each_host
async def test_a_client_that_pauses_for_its_body_over_http_2_is_408() -> None:
    # RQ-14
    app = App(body_limits=BodyLimits(timeout=LIMIT))
    add_reader(app)
    async with open_server(app, keep_alive_timeout=IDLE) as port, assert_no_leaks():
        async with open_h2(port) as h2:
            stream_id = await h2.request("POST", "/", end_stream=False)
            await h2.send_data(stream_id, b"abc")
            with trio.fail_after(IN_TIME):
                assert (await h2.read_head(stream_id))[0] == 408
                assert await h2.read_chunk(stream_id)


@each_host
async def test_a_client_that_is_slow_but_never_silent_is_served() -> None:
    # RQ-14
    app = App(body_limits=BodyLimits(timeout=LIMIT))
    add_reader(app)
    async with open_server(app) as port, open_raw(port) as raw:
        await raw.request("POST", "/", {"content-length": "8"})
        for _ in range(8):
            await trio.sleep(LIMIT / 4)
            await raw.send_all(b"x")
        assert (await raw.read_head())[0] == 200
        assert await raw.read_body() == b"x" * 8


@each_host
async def test_a_handler_that_waits_for_its_client_longer_says_so() -> None:
    # RQ-14
    app = App(body_limits=BodyLimits(timeout=LIMIT))

    @app.post("/")
    async def handler(request: Request) -> bytes:
        request.body_limits = attrs.evolve(request.body_limits, timeout=None)
        return await request.read()

    async with open_server(app) as port, open_raw(port) as raw:
        await raw.request("POST", "/", {"content-length": "2"})
        for _ in range(2):
            await trio.sleep(1.5 * LIMIT)
            await raw.send_all(b"x")
        assert (await raw.read_head())[0] == 200
        assert await raw.read_body() == b"xx"


@each_host
async def test_a_client_that_pauses_when_the_response_has_started_is_cut() -> None:
    # RQ-14
    app = App(body_limits=BodyLimits(timeout=LIMIT))

    @app.post("/")
    @asynccontextmanager
    async def handler(request: Request) -> AsyncIterator[Response]:
        yield Response(request.body)

    async with open_server(app) as port, assert_no_leaks(), open_raw(port) as raw:
        await raw.request("POST", "/", CHUNKED)
        await raw.send_all(http_chunk(b"abc"))
        assert (await raw.read_head())[0] == 200
        assert await raw.read_chunk() == b"abc"
        with trio.fail_after(IN_TIME), pytest.raises(Truncated):
            await raw.read_chunk()


@pytest.mark.parametrize("sent", [b"", b"abc"], ids=["before it", "within it"])
async def test_the_server_leaves_the_silence_to_the_app(sent: bytes) -> None:
    # RQ-14: of its own limit it is told by nobody
    app = App(body_limits=BodyLimits(timeout=None))
    add_reader(app)
    data = b"abcdef"
    async with open_guarded(app, body_timeout=LIMIT) as port, open_raw(port) as raw:
        await raw.request("POST", "/", {"content-length": "6"})
        await raw.send_all(sent)
        await trio.sleep(2 * LIMIT)
        await raw.send_all(data[len(sent) :])
        assert (await raw.read_head())[0] == 200
        assert await raw.read_body() == data


async def test_the_server_leaves_the_silence_of_an_http_2_stream_to_the_app() -> None:
    # RQ-14
    app = App(body_limits=BodyLimits(timeout=None))
    add_reader(app)
    async with open_guarded(app, body_timeout=LIMIT) as port, open_h2(port) as h2:
        stream_id = await h2.request("POST", "/", end_stream=False)
        await trio.sleep(2 * LIMIT)
        await h2.send_data(stream_id, b"abc", end_stream=True)
        assert (await h2.read_head(stream_id))[0] == 200
        assert await h2.read_body(stream_id) == b"abc"


async def test_the_app_minds_the_silence_where_the_server_would_not() -> None:
    # RQ-14
    app = App(body_limits=BodyLimits(timeout=LIMIT))
    add_reader(app)
    async with open_guarded(app, body_timeout=None) as port, open_raw(port) as raw:
        await raw.request("POST", "/", {"content-length": "6"})
        with trio.fail_after(IN_TIME):
            assert (await raw.read_head())[0] == 408


async def test_who_asks_for_no_body_is_not_cut_by_the_silence_of_its_client() -> None:
    # RQ-14: only who waits can be kept waiting
    app = App(body_limits=BodyLimits(timeout=LIMIT))

    @app.post("/")
    async def handler(request: Request) -> str:
        await trio.sleep(2 * LIMIT)
        return "ok"

    async with open_guarded(app, body_timeout=LIMIT) as port, open_raw(port) as raw:
        await raw.request("POST", "/", {"content-length": "6"})
        assert (await raw.read_head())[0] == 200
