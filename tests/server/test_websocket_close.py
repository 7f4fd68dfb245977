"""The end of a WebSocket: whose code reaches whom, and when the connection closes."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import trio
import trio.testing
from frames_ws import Op, close, ws_frame
from leaks import assert_no_leaks
from probes import IN_TIME, PROMPT, leave
from trio_websocket import ConnectionClosed, open_websocket_url, wrap_client_stream
from wire import SERVER_LOG, open_guarded
from ws_kit import ACCEPT, Talk, echo, listen, open_frames

from tsstream._asgi import Receive, Send
from tsstream._server.errors import ClientGone


def disconnect(code: int, reason: str = "") -> dict[str, Any]:
    return {"type": "websocket.disconnect", "code": code, "reason": reason}


def server_records(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == "tsstream.server"]


@pytest.mark.parametrize(
    ("code", "reason", "heard"),
    [
        (1000, b"", disconnect(1000)),
        (1001, b"leaving", disconnect(1001, "leaving")),
        (4999, "caf\xe9".encode(), disconnect(4999, "caf\xe9")),
        (None, b"", disconnect(1005)),
    ],
)
async def test_clients_close_reaches_the_application_and_is_answered(
    code: int | None, reason: bytes, heard: dict[str, Any]
) -> None:
    app = Talk(listen)
    async with open_guarded(app) as port, assert_no_leaks(), open_frames(port) as ws:
        await ws.send_close(code, reason)
        assert await ws.next_close() == (1005 if code is None else code, reason.decode())
        assert await ws.next_end() == "fin"
        assert await app.wait_heard() == [heard]


@pytest.mark.parametrize("way", ["close", "abort", "half_close"])
async def test_lost_connection_is_1006(way: str) -> None:
    app = Talk(listen)
    async with open_guarded(app) as port, assert_no_leaks(), open_frames(port) as ws:
        await leave(ws.raw, way)
        with trio.fail_after(PROMPT):
            assert await app.wait_heard() == [disconnect(1006)]


async def test_every_receive_after_the_end_gives_the_disconnect() -> None:
    async def talk(scope: Any, receive: Receive, send: Send) -> None:
        await listen(scope, receive, send)
        await receive()
        await receive()

    app = Talk(talk)
    async with open_guarded(app) as port, open_frames(port) as ws:
        await ws.send_close(4001)
        assert await app.wait_heard(3) == [disconnect(4001)] * 3


async def test_close_behind_messages_waits_for_them() -> None:
    taken = trio.Event()

    async def talk(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        await taken.wait()
        while (await receive())["type"] == "websocket.receive":
            pass

    app = Talk(talk)
    async with open_guarded(app) as port, open_frames(port) as ws:
        texts = b"".join(ws_frame(Op.TEXT, b"%d" % i) for i in range(5))
        await ws.raw.send_all(texts + close(4002))
        await trio.testing.wait_all_tasks_blocked()
        taken.set()
        heard = await app.wait_heard(6)
        assert [message.get("text") for message in heard] == [*"01234", None]
        assert heard[-1] == disconnect(4002)
        assert await ws.next_close() == (4002, "")


@pytest.mark.parametrize(
    ("message", "code", "reason"),
    [
        ({}, 1000, ""),
        ({"code": None, "reason": None}, 1000, ""),
        ({"code": 4321, "reason": "caf\xe9"}, 4321, "caf\xe9"),
        ({"code": 1013, "reason": "x" * 123}, 1013, "x" * 123),
    ],
)
async def test_applications_close_reaches_the_client(
    message: dict[str, Any], code: int, reason: str
) -> None:
    async def talk(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        await send({"type": "websocket.close", **message})
        await receive()

    app = Talk(talk)
    async with open_guarded(app) as port, assert_no_leaks(), open_frames(port) as ws:
        assert await ws.next_close() == (code, reason)
        assert await app.wait_heard() == [disconnect(code, reason)]
        await ws.send_close(code)
        assert await ws.next_end() == "fin"


@pytest.mark.parametrize(
    "message",
    [
        {"code": 999},
        {"code": 1004},
        {"code": 1005},
        {"code": 1006},
        {"code": 1015},
        {"code": 2999},
        {"code": 5000},
        {"code": "1000"},
        {"code": 1000, "reason": "x" * 124},
        {"code": 1000, "reason": "\xe9" * 62},
        {"code": 1000, "reason": b"bytes"},
    ],
)
async def test_close_that_cannot_be_sent_is_the_applications_error(message: Any) -> None:
    async def talk(scope: Any, receive: Receive, send: Send) -> None:
        await send(ACCEPT)
        with pytest.raises(ValueError, match=r"close code|reason"):
            await send({"type": "websocket.close", **message})
        await send({"type": "websocket.close", "code": 4000})

    async with open_guarded(Talk(talk)) as port, open_frames(port) as ws:
        assert await ws.next_close() == (4000, "")


async def test_return_without_a_close_is_1000() -> None:
    async def talk(scope: Any, receive: Receive, send: Send) -> None:
        await send(ACCEPT)

    async with open_guarded(Talk(talk)) as port, assert_no_leaks(), open_frames(port) as ws:
        assert await ws.next_close() == (1000, "")


async def test_error_of_the_application_is_1011_and_one_record(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def talk(scope: Any, receive: Receive, send: Send) -> None:
        await send(ACCEPT)
        raise ValueError("of the application")

    async with open_guarded(Talk(talk)) as port, assert_no_leaks(), open_frames(port) as ws:
        assert await ws.next_close() == (1011, "")
    records = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert [(r.name, r.exc_info is not None) for r in records] == [(SERVER_LOG.name, True)]


async def test_second_close_is_nothing_and_a_message_after_it_is_an_error() -> None:
    async def talk(scope: Any, receive: Receive, send: Send) -> None:
        await send(ACCEPT)
        await send({"type": "websocket.close", "code": 4000})
        await send({"type": "websocket.close", "code": 4001})
        await send({"type": "websocket.send", "text": "late"})

    app = Talk(talk)
    async with open_guarded(app) as port, open_frames(port) as ws:
        assert await ws.next_close() == (4000, "")
        await app.wait_over()
    assert "websocket.send" in str(app.raised[0])


@pytest.mark.parametrize("end", ["close frame", "close", "abort"])
async def test_send_after_the_client_has_gone_raises_and_is_not_logged(
    end: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def talk(scope: Any, receive: Receive, send: Send) -> None:
        await listen(scope, receive, send)
        while True:
            await send({"type": "websocket.send", "text": "hello?"})

    app = Talk(talk)
    async with open_guarded(app) as port, assert_no_leaks(), open_frames(port) as ws:
        if end == "close frame":
            await ws.send_close()
        else:
            await leave(ws.raw, end)
        await app.wait_over()
    assert isinstance(app.raised[0], ClientGone)
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (ws_frame(Op.TEXT, b"\xff\xfe"), 1007),
        (ws_frame(Op.TEXT, b"not masked", masked=False), 1002),
        (ws_frame(Op.TEXT, b"compressed", rsv=4), 1002),
        (ws_frame(3, b"unknown"), 1002),
        (ws_frame(Op.CLOSE, b"\x03"), 1002),
    ],
)
async def test_broken_protocol_is_answered_heard_and_logged_once(
    data: bytes, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "tsstream.server")
    app = Talk(listen)
    async with open_guarded(app) as port, assert_no_leaks(), open_frames(port) as ws:
        await ws.raw.send_all(data + ws_frame(Op.TEXT, b"ignored"))
        assert (await ws.next_close())[0] == code
        assert await ws.next_end() == "fin"
        assert [message["code"] for message in await app.wait_heard()] == [code]
    assert len(server_records(caplog)) == 1
    assert str(code) in server_records(caplog)[0]


async def test_shutdown_is_1001_on_both_sides() -> None:
    app, shut = Talk(listen), trio.Event()
    async with open_guarded(app, shutdown_trigger=shut.wait) as port:
        async with open_frames(port) as ws:
            shut.set()
            assert await ws.next_close() == (1001, "")
            assert await app.wait_heard() == [disconnect(1001)]
            await ws.send_close(1001)
            assert await ws.next_end() == "fin"


async def test_shutdown_does_not_wait_for_a_client_that_does_not_answer() -> None:
    app, shut = Talk(listen), trio.Event()
    with trio.fail_after(IN_TIME):
        async with open_guarded(app, shutdown_trigger=shut.wait) as port:
            async with open_frames(port):
                shut.set()
                await app.wait_heard()
    assert app.heard == [disconnect(1001)]


async def test_websocket_that_is_accepted_during_a_shutdown_is_closed_too() -> None:
    begun, shut, decide = trio.Event(), trio.Event(), trio.Event()

    async def talk(scope: Any, receive: Receive, send: Send) -> None:
        begun.set()
        await decide.wait()
        await listen(scope, receive, send)

    async def open_one() -> None:
        async with open_frames(port) as ws:
            assert await ws.next_close() == (1001, "")

    async with open_guarded(Talk(talk), shutdown_trigger=shut.wait) as port:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(open_one)
            await begun.wait()
            shut.set()
            await trio.testing.wait_all_tasks_blocked()
            decide.set()


async def test_client_library_sees_the_codes() -> None:
    async def talk(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        await receive()
        await send({"type": "websocket.close", "code": 3456, "reason": "enough"})

    async with open_guarded(Talk(talk)) as port, assert_no_leaks(), trio.open_nursery() as nursery:
        # Not open_websocket_url(): it leaves the socket open after a close of the server's.
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            ws = await wrap_client_stream(nursery, stream, "127.0.0.1", "/")
            await ws.send_message("one")
            with pytest.raises(ConnectionClosed) as caught:
                await ws.get_message()
    assert caught.value.reason is not None
    assert (caught.value.reason.code, caught.value.reason.reason) == (3456, "enough")


async def test_client_library_closes() -> None:
    app = Talk(echo)
    async with open_guarded(app) as port, assert_no_leaks():
        async with open_websocket_url(f"ws://127.0.0.1:{port}/") as ws:
            await ws.send_message(b"bytes")
            assert await ws.get_message() == b"bytes"
            await ws.aclose(4444, "done")
        assert (await app.wait_heard(2))[1] == disconnect(4444, "done")
