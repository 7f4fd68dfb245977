"""Messages: what is kept of them, what waits for whom, and in what order they go out."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import trio
import trio.testing
from frames_ws import Op, close, ws_frame
from leaks import assert_no_leaks
from wire import open_guarded
from ws_kit import ACCEPT, Talk, echo, listen, open_frames

from tsstream._asgi import Receive, Send

MEBI = 1024 * 1024
IN_BUFFERS = 16 * MEBI  # bytes: more than the kernel's buffers of both sides take
LIMIT = 1000  # bytes


def message(size: int, i: int = 0) -> dict[str, Any]:
    return {"type": "websocket.send", "bytes": bytes([i]) * size}


@pytest.mark.parametrize(
    "data",
    [
        ws_frame(Op.BINARY, b"x" * (LIMIT + 1)),
        ws_frame(Op.BINARY, b"x" * (LIMIT + 1), length=2**40),
        ws_frame(Op.TEXT, b"x" * 600, fin=False) + ws_frame(0, b"x" * 401, fin=False),
        ws_frame(Op.TEXT, "\xe9".encode() * (LIMIT // 2 + 1)),
        ws_frame(Op.TEXT, b"x", fin=False) + LIMIT * ws_frame(0, b"x", fin=False),
    ],
    ids=["one frame", "a frame without an end", "fragments", "bytes of text", "small fragments"],
)
async def test_message_above_the_limit_is_1009(
    data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "tsstream.server")
    app = Talk(listen)
    async with open_guarded(app, websocket_max_message_size=LIMIT) as port, assert_no_leaks():
        async with open_frames(port) as ws:
            await ws.raw.send_all(data)
            code, reason = await ws.next_close()
            assert (code, str(LIMIT) in reason) == (1009, True)
            assert await ws.next_end() == "fin"
            assert [heard["code"] for heard in await app.wait_heard()] == [1009]
    assert len([r for r in caplog.records if r.name == "tsstream.server"]) == 1


@pytest.mark.parametrize("text", ["x" * LIMIT, "\xe9" * (LIMIT // 2), "\U0001f40d" * (LIMIT // 4)])
async def test_message_of_the_limit_is_received_whole(text: str) -> None:
    data = text.encode()
    pieces = [data[i : i + 7] for i in range(0, len(data), 7)]
    frames = [
        ws_frame(Op.CONTINUATION if i else Op.TEXT, piece, fin=i == len(pieces) - 1)
        for i, piece in enumerate(pieces)
    ]
    async with open_guarded(Talk(echo), websocket_max_message_size=LIMIT) as port:
        async with open_frames(port) as ws:
            await ws.raw.send_all(b"".join(frames) + ws_frame(Op.TEXT, data))
            assert [await ws.next_text(), await ws.next_text()] == [text, text]


async def test_application_that_does_not_receive_stops_the_client() -> None:
    sent, proceed = 0, trio.Event()

    async def talk(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        await proceed.wait()
        while (await receive())["type"] == "websocket.receive":
            pass

    async def flood() -> None:
        nonlocal sent
        data = ws_frame(Op.BINARY, bytes(64 * 1024))
        for _ in range(400):
            await ws.raw.send_all(data)
            sent += len(data)
        await ws.raw.send_all(close(4000))

    app = Talk(talk)
    async with open_guarded(app) as port, open_frames(port) as ws:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood)
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert 0 < sent < IN_BUFFERS
            proceed.set()
        heard = await app.wait_heard(401)
        assert heard[-1]["code"] == 4000
        assert {len(each["bytes"]) for each in heard[:-1]} == {64 * 1024}


async def test_client_that_does_not_read_stops_the_application() -> None:
    sent = 0

    async def talk(scope: Any, receive: Receive, send: Send) -> None:
        nonlocal sent
        await receive()
        await send(ACCEPT)
        for i in range(400):
            await send(message(64 * 1024, i % 256))
            sent += 64 * 1024

    async with open_guarded(Talk(talk)) as port, open_frames(port) as ws:
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert 0 < sent < IN_BUFFERS
        for i in range(400):
            assert await ws.next() == (Op.BINARY, bytes([i % 256]) * 64 * 1024)
        assert await ws.next_close() == (1000, "")


@pytest.mark.parametrize("size", [10, 40 * 1024])
async def test_messages_of_several_tasks_do_not_mix(size: int) -> None:
    async def talk(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        async with trio.open_nursery() as nursery:
            for task in range(4):
                nursery.start_soon(say, task, send)

    async def say(task: int, send: Send) -> None:
        for _ in range(10):
            await send(message(size, task))

    async with open_guarded(Talk(talk), send_buffer=8 * 1024) as port, open_frames(port) as ws:
        await ws.send(Op.PING, b"between them")
        frames = [await ws.next() for _ in range(41)]
        assert (Op.PONG, b"between them") in frames
        payloads = sorted(payload for op, payload in frames if op == Op.BINARY)
        assert payloads == sorted(bytes([task]) * size for task in range(4) for _ in range(10))


async def test_client_that_leaves_while_it_is_sent_to_frees_the_application() -> None:
    async def talk(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        while True:
            await send(message(MEBI))

    app = Talk(talk)
    async with open_guarded(app) as port, assert_no_leaks():
        async with open_frames(port) as ws:
            await trio.testing.wait_all_tasks_blocked(0.05)
            ws.raw.abort()
        await app.wait_over()
    assert isinstance(app.raised[0], OSError)


NINE = b"".join(ws_frame(Op.TEXT, b"%d" % number) for number in range(9))


async def test_reset_is_heard_behind_a_message_that_nobody_takes() -> None:
    left = trio.Event()

    async def talk(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        await left.wait()
        assert (await receive())["code"] == 1006

    app = Talk(talk)
    async with open_guarded(app) as port, assert_no_leaks():
        async with open_frames(port) as ws:
            await ws.raw.send_all(NINE)
            await trio.testing.wait_all_tasks_blocked()
            ws.raw.abort()
        await trio.testing.wait_all_tasks_blocked()
        left.set()
        await app.wait_over()
    assert app.raised == []


async def test_what_came_before_a_fin_is_received_before_the_disconnect() -> None:
    # RQ-2: there may be no Close
    async def talk(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        await left.wait()
        await trio.testing.wait_all_tasks_blocked(0.01)
        for number in range(9):
            assert (await receive())["text"] == str(number)
            await trio.testing.wait_all_tasks_blocked(0.001)
        assert (await receive())["code"] == 1006

    left = trio.Event()
    app = Talk(talk)
    async with open_guarded(app) as port, assert_no_leaks():
        async with open_frames(port) as ws:
            await ws.raw.send_all(NINE)
        left.set()
        await app.wait_over()
    assert app.raised == []


async def test_who_goes_on_receiving_what_came_before_a_fin_has_time_for_each_message() -> None:
    async def talk(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        for number in range(9):
            await trio.sleep(limit / 2)
            assert (await receive())["text"] == str(number)
        assert (await receive())["code"] == 1006

    limit = 0.1
    app = Talk(talk)
    async with open_guarded(app, stall_timeout=limit) as port, assert_no_leaks():
        async with open_frames(port) as ws:
            await ws.raw.send_all(NINE)
        await app.wait_over()
    assert app.raised == []


async def test_who_does_not_receive_what_came_before_a_fin_is_not_waited_for_for_ever() -> None:
    async def talk(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        await trio.sleep(3 * limit)
        assert (await receive())["code"] == 1006

    limit = 0.1
    app = Talk(talk)
    async with open_guarded(app, stall_timeout=limit) as port, assert_no_leaks():
        async with open_frames(port) as ws:
            await ws.raw.send_all(NINE)
        await app.wait_over()
    assert app.raised == []


async def test_cancelled_send_to_a_client_that_is_behind_leaves_whole_messages() -> None:
    # The first is on its way; those that had to wait for it are as if they had never been sent.
    async def talk(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        for size in (IN_BUFFERS, 1, IN_BUFFERS):
            with trio.move_on_after(0.02) as cancel_scope:
                await send(message(size))
            assert cancel_scope.cancelled_caught
        await send({"type": "websocket.close", "code": 4000})
        cancelled.set()

    cancelled = trio.Event()
    app = Talk(talk)
    async with open_guarded(app) as port, assert_no_leaks(), open_frames(port) as ws:
        await cancelled.wait()
        _, payload = await ws.next()
        assert len(payload) == IN_BUFFERS
        assert await ws.next_close() == (4000, "")
        await ws.send_close(4000)
        await app.wait_over()
    assert app.raised == []


async def test_cancelled_send_that_had_nothing_to_wait_for_harms_nothing() -> None:
    async def talk(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        for i in range(20):  # some of these are cancelled at a checkpoint, behind the bytes
            with trio.CancelScope() as cancel_scope:
                cancel_scope.cancel()
                await send({"type": "websocket.send", "text": str(i)})

    async with open_guarded(Talk(talk)) as port, open_frames(port) as ws:
        assert [await ws.next_text() for _ in range(20)] == [str(i) for i in range(20)]
        assert await ws.next_close() == (1000, "")


@pytest.mark.parametrize(
    "wrong",
    [
        {"type": "websocket.send"},
        {"type": "websocket.send", "text": 5},
        {"type": "websocket.send", "text": "\ud800"},
        {"type": "websocket.accept"},
        {"type": "http.response.start", "status": 200},
    ],
)
async def test_wrong_message_is_the_applications_error_and_nothing_else(wrong: Any) -> None:
    async def talk(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        with pytest.raises(Exception):  # noqa: B017, PT011  # Hypercorn's choice
            await send(wrong)
        await send({"type": "websocket.send", "text": "right"})

    async with open_guarded(Talk(talk)) as port, open_frames(port) as ws:
        assert await ws.next_text() == "right"
        assert await ws.next_close() == (1000, "")
