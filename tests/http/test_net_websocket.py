"""WebSocket endpoints on real sockets: messages both ways, and every way to end."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from frames_ws import Op, upgrade, ws_frame
from garbage import garbage_of
from leaks import assert_no_leaks
from probes import (
    IDLE,
    IN_TIME,
    PROMPT,
    WAYS_TO_LEAVE,
    Life,
    flood,
    leave,
    logged,
    say_one,
    two_feeds,
)
from starlette.applications import Starlette
from starlette.routing import Mount
from trio_websocket import open_websocket_url
from wire import host_of_test, open_raw, open_server
from ws_asgi import asserts_of_handlers  # noqa: F401 (a fixture)
from ws_kit import Frames, open_frames

from tsstream import App, HTTPError, Response, WebSocketClosed
from tsstream._http.websocket import WebSocket

pytestmark = pytest.mark.usefixtures("each_host")


def guarded() -> bool:
    return host_of_test.get() == "guarded"


def make(handler: Any, **options: Any) -> App[Any]:
    app: App[Any] = App(**options)
    app.websocket("/")(handler)
    return app


async def echo(websocket: WebSocket) -> None:
    async for message in websocket:
        await websocket.send(message)


@asynccontextmanager
async def open_pair(handler: Any, **options: Any) -> AsyncIterator[Frames]:
    """Serve *handler*, open a WebSocket to it, and see that nothing of both is left."""
    async with open_server(make(handler), **options) as port, assert_no_leaks():
        async with open_frames(port) as frames:
            yield frames


# Messages


async def test_messages_come_back_as_they_are() -> None:
    # RQ-35, RQ-36
    async with open_pair(echo) as ws:
        for op, payload in [
            (Op.TEXT, "caf\xe9".encode()),
            (Op.BINARY, b"\x00\xff"),
            (Op.TEXT, b""),
            (Op.BINARY, b""),
            (Op.BINARY, b"x" * 100_000),
        ]:
            await ws.send(op, payload)
            assert await ws.next() == (op, payload)


async def test_many_messages_at_once_come_back_in_order() -> None:
    async with open_pair(echo) as ws:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_numbers, ws, 2000)
            assert [await ws.next_text() for _ in range(2000)] == [str(i) for i in range(2000)]


async def send_numbers(ws: Frames, count: int) -> None:
    for i in range(count):
        await ws.send_text(str(i))


async def test_a_client_of_another_make_agrees_on_a_subprotocol() -> None:
    # RQ-37
    async def handler(websocket: WebSocket) -> None:
        await websocket.accept("chat", {"x-room": websocket.path_params["room"]})
        await echo(websocket)

    app: App[None] = App()
    app.websocket("/rooms/{room}")(handler)
    with trio.fail_after(IN_TIME):
        async with open_server(app, keep_alive_timeout=IDLE) as port, assert_no_leaks():
            url = f"ws://127.0.0.1:{port}/rooms/one"
            async with open_websocket_url(url, subprotocols=["other", "chat"]) as ws:
                assert ws.subprotocol == "chat"
                assert (b"x-room", b"one") in ws.handshake_headers
                await ws.send_message("hello")
                assert await ws.get_message() == "hello"


async def test_an_app_under_starlette_has_websockets() -> None:
    app = make(echo)
    starlette = Starlette(routes=[Mount("/sub", app=app)])
    async with open_server(starlette) as port, open_raw(port) as raw:
        ws = Frames(raw)
        assert await ws.shake_hands(path=b"/sub/") == 101
        await ws.send_text("hello")
        assert await ws.next_text() == "hello"


# Who ends it


async def test_a_return_is_1000_and_an_error_1011(caplog: pytest.LogCaptureFixture) -> None:
    # RQ-38, D48, HOST fault 13
    async def handler(websocket: WebSocket) -> None:
        message = await websocket.receive()
        if message == "fail":
            raise ValueError(message)

    for message, code in (("return", 1000), ("fail", 1011)):
        async with open_pair(handler, keep_alive_timeout=IDLE) as ws:
            await ws.send_text(message)
            assert await ws.next_close() == (code, "")
            await ws.send_close(code)
            assert await ws.next_end() == "fin"
    assert logged(caplog) == ["ERROR WebSocket / failed"]
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == 1


async def test_a_close_of_the_handler_reaches_the_client() -> None:
    async def handler(websocket: WebSocket) -> None:
        await websocket.receive()
        await websocket.close(4001, "caf\xe9")

    async with open_pair(handler, keep_alive_timeout=IDLE) as ws:
        await ws.send_text("x")
        assert await ws.next_close() == (4001, "caf\xe9")


async def test_a_close_of_the_client_reaches_the_handler() -> None:
    # RQ-39, HOST fault 13: the stock Hypercorn does not say with which code
    async def handler(websocket: WebSocket) -> None:
        messages.extend([message async for message in websocket])
        with pytest.raises(WebSocketClosed) as caught:
            await websocket.send("x")
        ends.append((caught.value.code, caught.value.reason))
        over.set()

    messages: list[Any] = []
    ends: list[Any] = []
    over = trio.Event()
    async with open_pair(handler) as ws:
        for i in range(3):
            await ws.send_text(str(i))
        await ws.send_close(4001, b"bye")
        assert await ws.next_close() == (4001, "bye")
        with trio.fail_after(PROMPT):
            await over.wait()
    assert messages == ["0", "1", "2"]
    assert ends == [(4001, "bye") if guarded() else (1006, "")]


@pytest.mark.parametrize("way", WAYS_TO_LEAVE)
@pytest.mark.parametrize("produce", [say_one, flood])
async def test_a_client_that_leaves_ends_a_send_only_stream_promptly(
    way: str, produce: Any
) -> None:
    # RQ-40, D49
    life = Life()

    async def handler(websocket: WebSocket) -> None:
        websocket.send_only()
        await websocket.stream(two_feeds(life, produce))

    async with open_pair(handler) as ws:
        await ws.next()
        assert life.running == 3
        await leave(ws.raw, way)
        await life.wait_gone()


@pytest.mark.parametrize("way", WAYS_TO_LEAVE)
async def test_a_client_that_leaves_ends_the_nursery_of_a_handler(
    way: str, caplog: pytest.LogCaptureFixture
) -> None:
    # D49: one task receives, and others send
    life = Life()

    async def handler(websocket: WebSocket) -> None:
        with life.of("handler"):
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(tick, websocket)
                async for _ in websocket:
                    pass

    async def tick(websocket: WebSocket) -> None:
        with life.of("ticker"):
            while True:
                await websocket.send("tick")
                await trio.sleep(0.01)

    async with open_pair(handler) as ws:
        await ws.next()
        await leave(ws.raw, way)
        await life.wait_gone()
    assert logged(caplog) == []


async def test_handlers_of_clients_that_come_and_go_leave_nothing() -> None:
    app = make(echo)
    async with open_server(app) as port, assert_no_leaks():
        for i in range(30):
            async with open_frames(port) as ws:
                await ws.send_text("x")
                if i % 3:
                    await ws.next()
                if i % 2:
                    ws.raw.abort()


# The pace


async def test_sending_waits_for_the_socket() -> None:
    # RQ-41
    size, sent = 64 * 1024, 0

    async def handler(websocket: WebSocket) -> None:
        nonlocal sent
        for _ in range(200):
            await websocket.send(b"x" * size)
            sent += 1

    options = {"send_buffer": 4096}
    async with open_server(make(handler), **options) as port:
        async with open_raw(port, receive_buffer=4096) as raw:
            ws = Frames(raw)
            assert await ws.shake_hands() == 101
            await trio.testing.wait_all_tasks_blocked(0.02)
            assert sent * size < 2**20
            for _ in range(200):
                op, payload = await ws.next()
                assert (op, len(payload)) == (Op.BINARY, size)
            assert await ws.next_close() == (1000, "")
    assert sent == 200


async def test_a_handler_that_does_not_receive_stops_its_client() -> None:
    # RQ-2, RQ-3
    size, sent = 64 * 1024, 0
    proceed = trio.Event()

    async def handler(websocket: WebSocket) -> None:
        await websocket.accept()
        await proceed.wait()
        async for message in websocket:
            taken.append(len(message))

    async def send_all(ws: Frames) -> None:
        nonlocal sent
        frame = ws_frame(Op.BINARY, b"x" * size)
        for _ in range(300):
            await ws.raw.send_all(frame)
            sent += 1
        await ws.send_close()

    taken: list[int] = []
    async with open_pair(handler) as ws, trio.open_nursery() as nursery:
        nursery.start_soon(send_all, ws)
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert sent * size < 16 * 2**20  # most of it in the kernel's buffers
        proceed.set()
        assert await ws.next_close() == (1000, "")
        assert taken == [size] * 300


async def test_pings_behind_messages_are_answered_when_those_are_received() -> None:
    # RQ-42: a client with a ping timeout gives up if the handler takes longer than that
    proceed = trio.Event()

    async def handler(websocket: WebSocket) -> None:
        await websocket.accept()
        await proceed.wait()
        async for _ in websocket:
            pass

    async with open_pair(handler) as ws:
        for _ in range(15):  # the stock Hypercorn has a queue of 10
            await ws.send_text("x")
        await ws.send(Op.PING, b"are you there?")
        await trio.testing.wait_all_tasks_blocked(0.02)
        with trio.move_on_after(0.1) as scope:
            await ws._next()
        assert scope.cancelled_caught
        proceed.set()
        assert await ws.next() == (Op.PONG, b"are you there?")


async def test_pings_are_answered_while_the_handler_receives() -> None:
    # RQ-42
    async with open_pair(echo) as ws:
        await ws.send(Op.PING, b"are you there?")
        assert await ws.next() == (Op.PONG, b"are you there?")


async def test_the_server_pings_in_its_interval() -> None:
    async with open_pair(echo, websocket_ping_interval=0.05) as ws:
        for _ in range(2):
            assert (await ws.next())[0] == Op.PING
            await ws.send(Op.PONG)


async def test_a_message_above_the_limit_is_1009() -> None:
    # RQ-43
    ends: list[int | None] = []

    async def handler(websocket: WebSocket) -> None:
        try:
            await websocket.receive()
        except WebSocketClosed as closed:
            ends.append(closed.code)

    async with open_pair(handler, websocket_max_message_size=1000) as ws:
        await ws.send(Op.BINARY, b"x" * 1001)
        assert (await ws.next_close())[0] == 1009
        await leave(ws.raw, "close")
    assert ends == [1009 if guarded() else 1006]


async def test_a_send_that_is_cancelled_goes_out_whole_or_not_at_all() -> None:
    # HOST fault 5: the stock Hypercorn is deaf until the client has read
    size = 2**20

    async def handler(websocket: WebSocket) -> None:
        for _ in range(3):
            with trio.move_on_after(0.01):
                await websocket.send(b"x" * size)
        await websocket.send("after")

    async with open_server(make(handler), send_buffer=4096) as port:
        async with open_raw(port, receive_buffer=4096) as raw:
            ws = Frames(raw)
            assert await ws.shake_hands() == 101
            await trio.sleep(0.02)
            messages = [await ws.next()]
            while messages[-1][0] == Op.BINARY:
                assert len(messages[-1][1]) == size
                messages.append(await ws.next())
            assert messages[-1] == (Op.TEXT, b"after")
            assert await ws.next_close() == (1000, "")


# The handshake that is refused


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_refusal_is_a_whole_response(streamed: bool) -> None:
    # RQ-38
    async def items() -> AsyncIterator[bytes]:
        yield b"not "
        yield b"here"

    async def handler(websocket: WebSocket) -> Response:
        return Response(items() if streamed else b"not here", 404, {"x-a": "b"})

    async with open_server(make(handler), keep_alive_timeout=IDLE) as port, assert_no_leaks():
        async with open_raw(port) as raw:
            await raw.send_all(upgrade(b"/"))
            with trio.fail_after(IN_TIME):
                status, headers = await raw.read_head()
                assert (status, headers["x-a"]) == (404, "b")
                assert await raw.read_body() == b"not here"


@pytest.mark.parametrize(
    ("error", "status"), [(HTTPError(401), 401), (ValueError("x"), 500), (None, 403)]
)
async def test_an_error_before_the_accept_has_its_status(
    error: Exception | None, status: int
) -> None:
    # RQ-38, D48
    async def handler(websocket: WebSocket) -> None:
        if error is not None:
            raise error
        await websocket.close()

    async with open_server(make(handler), keep_alive_timeout=IDLE) as port, assert_no_leaks():
        async with open_raw(port) as raw:
            assert await Frames(raw).shake_hands() == status


async def test_a_page_of_another_site_is_refused() -> None:
    async def handler(websocket: WebSocket) -> None:
        websocket.check_origin()
        await echo(websocket)

    async with open_server(make(handler), keep_alive_timeout=IDLE) as port:
        for origin, status in (
            (b"https://evil.test", 403),
            (b"null", 403),
            (b"http://localhost", 101),
        ):
            async with open_raw(port) as raw:
                assert await Frames(raw).shake_hands(b"Origin: " + origin) == status


# What is left


async def receive_and_fail(websocket: WebSocket) -> None:
    await websocket.receive()
    raise ValueError("x")


async def send_only(websocket: WebSocket) -> None:
    websocket.send_only()
    await send_for_ever(websocket)


async def send_for_ever(websocket: WebSocket) -> None:
    while True:
        await websocket.send("x")
        await trio.sleep(0.001)


async def receive_and_close(websocket: WebSocket) -> None:
    await websocket.receive()
    await websocket.close(4000)


async def refuse_with_an_http_error(websocket: WebSocket) -> None:
    raise HTTPError(403)


async def refuse_with_an_error(websocket: WebSocket) -> None:
    raise ValueError("x")


async def refuse_with_a_response(websocket: WebSocket) -> Response:
    return Response(b"no", 403)


async def refuse_with_a_stream(websocket: WebSocket) -> Response:
    return Response(["n", "o"], 403)


async def refuse_by_a_close(websocket: WebSocket) -> None:
    await websocket.close()


@pytest.mark.parametrize("way", [*WAYS_TO_LEAVE, "by a Close"])
@pytest.mark.parametrize(
    "handler",
    [
        echo,
        receive_and_fail,
        send_only,
        receive_and_close,
        refuse_with_an_http_error,
        refuse_with_an_error,
        refuse_with_a_response,
        refuse_with_a_stream,
        refuse_by_a_close,
    ],
)
async def test_websockets_leave_nothing_to_the_garbage_collector(
    handler: Any, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    life = Life()

    async def living(websocket: WebSocket) -> Any:
        with life.of("handler"):
            return await handler(websocket)

    async def talk() -> None:
        async with open_raw(port) as raw:
            ws = Frames(raw)
            if await ws.shake_hands() == 101:
                await ws.send_text("x")
                await ws.next()
                if way == "by a Close":
                    await ws.send_close()
                else:
                    await leave(raw, way)
            await life.wait_gone()
        life.events.clear()

    caplog.set_level(logging.CRITICAL + 1, "tsstream")  # a record that is kept keeps its error
    async with open_server(make(living), keep_alive_timeout=IDLE) as port:
        await talk()
        garbage = await garbage_of(talk, package="tsstream._http", times=3)
    # Which the server has made.
    assert {name for name in garbage if not name.endswith("host.Client")} == set()


# The shutdown


async def test_a_shutdown_is_1001_and_said_once() -> None:
    # RQ-44, D23, HOST fault 15
    async def handler(websocket: WebSocket) -> None:
        await websocket.accept()
        try:
            await trio.sleep_forever()  # deaf to whatever the server says
        finally:
            left.append(True)

    left: list[bool] = []
    stop = trio.Event()
    app = make(handler)
    async with open_server(app, shutdown_trigger=stop.wait, graceful_timeout=0.1) as port:
        async with open_frames(port) as ws:
            stop.set()
            assert await ws.next_close() == (1001, "")
            assert await ws.next_end() in ("fin", "reset")
    assert left == [True]
