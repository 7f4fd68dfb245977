"""Websocket feeds behind a response: what the end of one of them means to the client (AC-38)."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Literal

import pytest
import trio
import trio_websocket
from leaks import assert_no_leaks
from probes import IDLE, IN_TIME, Life, get, logged
from wire import Truncated, open_raw, open_server

from tsstream import App, Request, merge, websocket_feed
from tsstream._http.content import Content

pytestmark = pytest.mark.usefixtures("each_host")

HOST = "127.0.0.1"

Serve = Callable[[trio_websocket.WebSocketConnection], Awaitable[None]]


@asynccontextmanager
async def open_feed_server(serve: Serve) -> AsyncIterator[str]:
    async def handle(request: trio_websocket.WebSocketRequest) -> None:
        websocket = await request.accept()
        try:
            await serve(websocket)
        except trio_websocket.ConnectionClosed:
            pass

    async with trio.open_nursery() as nursery:
        server = await nursery.start(trio_websocket.serve_websocket, handle, HOST, 0, None)
        yield f"ws://{HOST}:{server.port}"
        nursery.cancel_scope.cancel()


def closing_with(code: int, text: str) -> Serve:
    async def serve(websocket: trio_websocket.WebSocketConnection) -> None:
        await websocket.send_message(text)
        await websocket.aclose(code, "enough")

    return serve


def make_app(urls: list[str], on_error: Literal["fail", "drop"]) -> App[None]:
    app = App()

    @app.get("/")
    async def handler(request: Request) -> Content:
        return merge(*map(websocket_feed, urls), on_error=on_error)

    return app


@pytest.mark.parametrize("code", [1000, 1001])
async def test_feed_that_ends_normally_leaves_the_others_running_to_their_end(code: int) -> None:
    # AC-38
    go_on = trio.Event()

    async def serve_late(websocket: trio_websocket.WebSocketConnection) -> None:
        await go_on.wait()
        await websocket.send_message("late")
        await websocket.aclose(1000)

    async with open_feed_server(closing_with(code, "early")) as early:
        async with open_feed_server(serve_late) as late:
            app = make_app([early, late], "fail")
            async with open_server(app, keep_alive_timeout=IDLE) as port, assert_no_leaks():
                async with open_raw(port) as raw:
                    await get(raw)
                    assert await raw.read_chunk() == b"early"
                    go_on.set()
                    with trio.fail_after(IN_TIME):
                        assert await raw.read_body() == b"late"


async def test_failing_feed_cuts_the_whole_stream_by_default() -> None:
    # AC-38
    async with open_feed_server(closing_with(1011, "early")) as failing:
        async with open_feed_server(_serve_until_closed) as other:
            app = make_app([failing, other], "fail")
            async with open_server(app, keep_alive_timeout=IDLE) as port, assert_no_leaks():
                async with open_raw(port) as raw:
                    await get(raw)
                    with trio.fail_after(IN_TIME), pytest.raises(Truncated):
                        await raw.read_body()


async def test_failing_feed_is_logged_and_dropped_if_asked_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # AC-38
    caplog.set_level(logging.WARNING)
    async with open_feed_server(closing_with(1011, "one")) as failing:
        async with open_feed_server(closing_with(1000, "two")) as other:
            app = make_app([failing, other], "drop")
            async with open_server(app, keep_alive_timeout=IDLE) as port, assert_no_leaks():
                async with open_raw(port) as raw:
                    await get(raw)
                    with trio.fail_after(IN_TIME):
                        assert sorted(await raw.read_body()) == sorted(b"onetwo")
    (line,) = logged(caplog)
    assert line.startswith("WARNING dropped the producer")


async def test_client_that_leaves_closes_the_feeds() -> None:
    # AC-16, for what tsstream is there for
    life = Life()

    async def serve(websocket: trio_websocket.WebSocketConnection) -> None:
        with life.of("feed"):
            await websocket.send_message("one")
            await _serve_until_closed(websocket)

    async with open_feed_server(serve) as url:
        app = make_app([url] * 3, "fail")
        async with open_server(app, keep_alive_timeout=IDLE) as port, assert_no_leaks():
            async with open_raw(port) as raw:
                await get(raw)
                await life.wait_running(3)
                raw.abort()
                await life.wait_gone()


async def _serve_until_closed(websocket: trio_websocket.WebSocketConnection) -> None:
    while True:
        await websocket.get_message()
