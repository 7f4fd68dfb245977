"""WebSocket endpoints on our own server: what the stock Hypercorn does not give them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import h2.events
import pytest
import trio
import trio.testing
from frames_ws import Op, WSAnswer, close, ws_frame
from leaks import assert_no_leaks
from probes import IN_TIME, PROMPT, Life, logged, say_one, two_feeds
from wire import H2Connection, open_guarded, open_h2
from ws_asgi import asserts_of_handlers  # noqa: F401 (a fixture)
from ws_kit import open_frames

from tsstream import App, Response, WebSocketClosed
from tsstream._http.websocket import WebSocket

CONNECT = {":protocol": "websocket", "sec-websocket-version": "13"}


def make(handler: Any) -> App[None]:
    app: App[None] = App()
    app.websocket("/")(handler)
    return app


async def echo(websocket: WebSocket) -> None:
    async for message in websocket:
        await websocket.send(message)


# At a shutdown


async def test_a_handler_that_receives_ends_by_itself_at_a_shutdown() -> None:
    # RQ-44, D23, HOST fault 15
    ends: list[int | None] = []

    async def handler(websocket: WebSocket) -> None:
        async for _ in websocket:
            pass
        with pytest.raises(WebSocketClosed) as caught:
            await websocket.send("x")
        ends.append(caught.value.code)

    stop = trio.Event()
    app = make(handler)
    async with open_guarded(app, shutdown_trigger=stop.wait, graceful_timeout=IN_TIME) as port:
        async with open_frames(port) as ws:
            await ws.send_text("x")
            await trio.testing.wait_all_tasks_blocked(0.01)
            stop.set()
            assert await ws.next_close() == (1001, "")
            await ws.send_close(1001)
            assert await ws.next_end() == "fin"
    assert ends == [1001]


async def test_a_live_body_is_left_at_a_shutdown(caplog: pytest.LogCaptureFixture) -> None:
    # D23
    life = Life()

    async def handler(websocket: WebSocket) -> None:
        await websocket.stream(two_feeds(life, say_one))

    stop = trio.Event()
    app = make(handler)
    async with open_guarded(app, shutdown_trigger=stop.wait, graceful_timeout=IN_TIME) as port:
        async with open_frames(port) as ws:
            await ws.next()
            stop.set()
            assert await ws.next_close() == (1001, "")
            await life.wait_gone()
    assert logged(caplog) == []


# What is lost


async def test_a_client_that_answers_no_ping_is_1006() -> None:
    ends: list[int | None] = []

    async def handler(websocket: WebSocket) -> None:
        with pytest.raises(WebSocketClosed) as caught:
            await websocket.receive()
        ends.append(caught.value.code)
        over.set()

    over = trio.Event()
    app = make(handler)
    async with open_guarded(app, websocket_ping_interval=0.05, pong_timeout=0.1) as port:
        async with assert_no_leaks(), open_frames(port) as ws:
            assert (await ws.next())[0] == Op.PING
            with trio.fail_after(1):
                await over.wait()
    assert ends == [1006]


async def test_a_send_after_the_client_has_left_is_known_past_unread_messages() -> None:
    # One message is read ahead, and more wait at the server.
    ends: list[Any] = []
    proceed, over = trio.Event(), trio.Event()

    async def handler(websocket: WebSocket) -> None:
        await websocket.accept()
        await proceed.wait()
        with pytest.raises(WebSocketClosed) as caught:
            await websocket.send("x")
        ends.append(caught.value.code)
        ends.extend([message async for message in websocket])
        over.set()

    async with open_guarded(make(handler)) as port, assert_no_leaks():
        async with open_frames(port) as ws:
            for i in range(5):
                await ws.send_text(str(i))
            await trio.testing.wait_all_tasks_blocked(0.01)
            ws.raw.abort()
            await trio.testing.wait_all_tasks_blocked(0.01)
            proceed.set()
            with trio.fail_after(PROMPT):
                await over.wait()
    assert ends == [1006, "0"]


# Within HTTP/2


@asynccontextmanager
async def open_stream(handler: Any) -> AsyncIterator[tuple[H2Connection, int]]:
    async with open_guarded(make(handler)) as port, assert_no_leaks(), open_h2(port) as client:
        yield client, await client.request("CONNECT", "/", CONNECT, end_stream=False)


async def read_to_close(client: H2Connection, stream_id: int) -> WSAnswer:
    data = b""
    with trio.fail_after(IN_TIME):  # noqa: ASYNC912
        while WSAnswer.of(data).code is None:
            event = await client.next_event(stream_id)
            if isinstance(event, h2.events.DataReceived):
                data += event.data
    return WSAnswer.of(data)


async def test_a_body_is_left_when_the_client_hangs_up_behind_unread_messages() -> None:
    life = Life()

    async def handler(websocket: WebSocket[None]) -> None:
        await websocket.stream(two_feeds(life, say_one))

    async with open_guarded(make(handler)) as port, assert_no_leaks(), open_frames(port) as ws:
        for number in range(5):
            await ws.send_text(str(number))
        await ws.next()
        await trio.testing.wait_all_tasks_blocked(0.01)
        ws.raw.abort()
        await life.wait_gone()


async def test_messages_and_codes_over_http2() -> None:
    # RFC 8441
    ends: list[Any] = []

    async def handler(websocket: WebSocket) -> None:
        await echo(websocket)
        with pytest.raises(WebSocketClosed) as caught:
            await websocket.receive()
        ends.append((websocket.http_version, caught.value.code, caught.value.reason))

    async with open_stream(handler) as (client, stream_id):
        assert (await client.read_head(stream_id))[0] == 200
        await client.send_data(stream_id, ws_frame(Op.TEXT, b"a") + ws_frame(Op.BINARY, b""))
        data = b""
        while len(WSAnswer.of(data).frames) < 2:
            data += await client.read_chunk(stream_id) or b""
        assert WSAnswer.of(data).frames == [(Op.TEXT, b"a"), (Op.BINARY, b"")]
        await client.send_data(stream_id, close(4000, b"bye"))
        assert (await read_to_close(client, stream_id)).code == 4000
    assert ends == [("2", 4000, "bye")]


async def test_a_return_over_http2_is_1000() -> None:
    async def handler(websocket: WebSocket) -> None:
        await websocket.send("x")

    async with open_stream(handler) as (client, stream_id):
        await client.read_head(stream_id)
        assert (await read_to_close(client, stream_id)).code == 1000


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_refusal_over_http2_is_a_whole_response(streamed: bool) -> None:
    # RQ-38
    async def items() -> AsyncIterator[bytes]:
        yield b"not "
        yield b"here"

    async def handler(websocket: WebSocket) -> Response:
        return Response(items() if streamed else b"not here", 404, {"x-a": "b"})

    async with open_stream(handler) as (client, stream_id):
        status, headers = await client.read_head(stream_id)
        assert (status, headers["x-a"]) == (404, "b")
        assert await client.read_body(stream_id) == b"not here"


async def test_a_stream_of_http2_that_is_reset_ends_a_send_only_handler() -> None:
    # RQ-40
    life = Life()

    async def handler(websocket: WebSocket) -> None:
        websocket.send_only()
        await websocket.stream(two_feeds(life, say_one))

    async with open_stream(handler) as (client, stream_id):
        await client.read_head(stream_id)
        await life.wait_running(3)
        await client.reset(stream_id)
        await life.wait_gone()
