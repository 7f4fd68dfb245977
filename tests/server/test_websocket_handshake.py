"""The handshake: who is let in, who is refused, and what a refusal does to the connection."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import trio
from frames_ws import Op, upgrade, ws_frame
from hypercorn.utils import UnexpectedMessageError
from leaks import assert_no_leaks
from probes import IN_TIME
from wire import SERVER_LOG, open_guarded, open_raw
from ws_kit import ACCEPT, Frames, Talk, echo, listen, open_frames

from tsstream._asgi import Receive, Send
from tsstream._http.host import host_of


async def refuse(scope: Any, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.close"})
    await receive()


def saying(*messages: Any) -> Talk:
    """An application that sends *messages*."""

    async def talk(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        for message in messages:
            await send(message)

    return Talk(talk)


async def test_accept_token_is_that_of_the_rfc() -> None:
    async with open_guarded(Talk(echo)) as port, open_frames(port) as ws:
        head = ws.head.lower()
        assert b"sec-websocket-accept: " + b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=".lower() in head
        assert b"upgrade: websocket" in head
        assert b"connection: upgrade" in head


async def test_deflate_is_never_agreed_on() -> None:
    offer = b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"
    async with open_guarded(Talk(echo)) as port, open_frames(port, offer) as ws:
        assert b"extensions" not in ws.head.lower()


@pytest.mark.parametrize(
    ("extra", "leave_out", "status"),
    [
        ((), (b"sec-websocket-version",), 426),
        ((b"Sec-WebSocket-Version: 8",), (b"sec-websocket-version",), 426),
        ((b"Sec-WebSocket-Version: 13",), (), 426),
        ((), (b"sec-websocket-key",), 400),
        ((b"Sec-WebSocket-Key: AAAA",), (b"sec-websocket-key",), 400),
        ((b"Sec-WebSocket-Key: not/base64!not/base64!==",), (b"sec-websocket-key",), 400),
        ((b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",), (), 400),
        ((b"Sec-WebSocket-Protocol: caf\xe9",), (), 400),
        ((b"Sec-WebSocket-Extensions: \xff",), (), 400),
        ((b"Sec-WebSocket-Key: \xff",), (b"sec-websocket-key",), 400),
        ((b"Connection: \xff",), (), 400),
        ((b"Content-Length: 3",), (), 400),
        ((b"Transfer-Encoding: chunked",), (), 400),
    ],
)
async def test_wrong_handshakes_are_refused_and_closed(
    extra: tuple[bytes, ...],
    leave_out: tuple[bytes, ...],
    status: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = Talk(echo)
    caplog.set_level(logging.INFO, "tsstream.server")
    async with open_guarded(app) as port, assert_no_leaks(), open_raw(port) as raw:
        await raw.send_all(upgrade(b"/", *extra, leave_out=leave_out) + b"abc")
        with trio.fail_after(IN_TIME):
            answer = await raw.read_until_closed()
        head = answer.partition(b"\r\n\r\n")[0].lower()
        assert int(head.split(b" ")[1]) == status
        assert b"connection: close" in head
        assert (b"sec-websocket-version: 13" in head) == (status == 426)
        assert raw.ended == "fin"
    assert app.over == 0
    assert len([record for record in caplog.records if record.name == "tsstream.server"]) == 1


async def test_http_1_0_is_refused() -> None:
    async with open_guarded(Talk(echo)) as port, open_raw(port) as raw:
        await raw.send_all(upgrade(b"/", version=b"1.0"))
        with trio.fail_after(IN_TIME):
            assert b" 400 " in (await raw.read_until_closed()).split(b"\r\n")[0]


async def test_content_length_of_0_is_no_body() -> None:
    async with open_guarded(Talk(echo)) as port:
        async with open_frames(port, b"Content-Length: 0") as ws:
            await ws.send_text("hello")
            assert await ws.next_text() == "hello"


async def test_scope_knows_the_host_and_all_subprotocols() -> None:
    scopes: list[Any] = []

    async def talk(scope: Any, receive: Receive, send: Send) -> None:
        scopes.append(scope)
        await send({**ACCEPT, "subprotocol": "b"})

    offers = (b"Sec-WebSocket-Protocol: a, b", b"Sec-WebSocket-Protocol: c")
    async with open_guarded(Talk(talk)) as port, open_frames(port, *offers) as ws:
        assert b"sec-websocket-protocol: b" in ws.head.lower()
    assert scopes[0]["subprotocols"] == ["a", "b", "c"]
    assert host_of(scopes[0]) is not None
    assert "websocket.http.response" in scopes[0]["extensions"]


@pytest.mark.parametrize(
    "message",
    [
        {**ACCEPT, "subprotocol": "not offered"},
        {**ACCEPT, "headers": [(b"x-a", b"b\r\nset-cookie: c")]},
        {**ACCEPT, "headers": [(b"x-a\r\n", b"b")]},
        {**ACCEPT, "headers": [(b"Sec-WebSocket-Extensions", b"permessage-deflate")]},
        {**ACCEPT, "headers": [(b"sec-websocket-protocol", b"a")]},
        {**ACCEPT, "headers": [(b"connection", b"close")]},
        {**ACCEPT, "headers": [(b"transfer-encoding", b"chunked")]},
        {**ACCEPT, "headers": [(b":status", b"200")]},
        {"type": "websocket.http.response.start", "status": 101},
        {"type": "websocket.http.response.start", "status": 404, "headers": [(b"a", b"\n")]},
        {"type": "websocket.http.response.body"},
        {"type": "websocket.send", "text": "too early"},
    ],
)
async def test_wrong_answer_is_the_applications_error_and_a_500(message: Any) -> None:
    app = saying(message)
    async with open_guarded(app) as port, open_raw(port) as raw:
        frames = Frames(raw)
        assert await frames.shake_hands(b"Sec-WebSocket-Protocol: a") == 500
        assert await frames.next_end() == "fin"
    assert isinstance(app.raised[0], ValueError | UnexpectedMessageError)


async def test_accept_headers_are_sent() -> None:
    app = saying({**ACCEPT, "headers": [(b"Set-Cookie", b"a=b"), (b"set-cookie", b"c=d")]})
    async with open_guarded(app) as port, open_frames(port) as ws:
        assert ws.head.lower().count(b"set-cookie: ") == 2


async def test_what_comes_before_the_accept_is_taken_after_it() -> None:
    decide = trio.Event()

    async def talk(scope: Any, receive: Receive, send: Send) -> None:
        await decide.wait()
        await echo(scope, receive, send)

    early = ws_frame(Op.TEXT, b"one") + ws_frame(Op.TEXT, b"two")
    async with open_guarded(Talk(talk)) as port, open_raw(port) as raw:
        ws = Frames(raw)
        await raw.send_all(upgrade(b"/") + early)
        await raw.send_all(ws_frame(Op.TEXT, b"three"))
        await trio.testing.wait_all_tasks_blocked()
        decide.set()
        assert await ws.read_status() == 101
        assert [await ws.next_text() for _ in range(3)] == ["one", "two", "three"]


async def test_hang_up_is_heard_behind_what_comes_before_the_accept() -> None:
    async def talk(scope: Any, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "websocket.disconnect":
            pass

    app = Talk(talk)
    async with open_guarded(app) as port, assert_no_leaks():
        async with open_raw(port) as raw:
            await raw.send_all(upgrade(b"/") + ws_frame(Op.TEXT, b"one"))
            await trio.testing.wait_all_tasks_blocked()
        assert (await app.wait_heard())[0]["code"] == 1006
        await app.wait_over()


async def test_close_before_the_accept_is_a_403_and_what_came_is_dropped() -> None:
    app = Talk(refuse)
    async with open_guarded(app) as port, assert_no_leaks(), open_raw(port) as raw:
        frames = Frames(raw)
        assert await frames.shake_hands(then=ws_frame(Op.TEXT, b"dropped")) == 403
        assert b"connection: close" in frames.head.lower()
        assert await frames.next_end() == "fin"
        assert (await app.wait_heard())[0]["type"] == "websocket.disconnect"


@pytest.mark.parametrize("raising", [False, True])
async def test_end_of_the_application_before_the_accept_is_a_500(
    raising: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def talk(scope: Any, receive: Receive, send: Send) -> None:
        if raising:
            raise ValueError("of the application")

    async with open_guarded(Talk(talk)) as port, open_raw(port) as raw:
        frames = Frames(raw)
        assert await frames.shake_hands() == 500
        assert await frames.next_end() == "fin"
    records = [record for record in caplog.records if record.name == SERVER_LOG.name]
    assert len([record for record in records if record.levelno >= logging.ERROR]) == raising


def refusal(*bodies: bytes, headers: Any = ()) -> list[Any]:
    start = {"type": "websocket.http.response.start", "status": 401, "headers": list(headers)}
    last = len(bodies) - 1
    return [
        start,
        *(
            {"type": "websocket.http.response.body", "body": body, "more_body": i < last}
            for i, body in enumerate(bodies)
        ),
    ]


@pytest.mark.parametrize(
    "headers", [[], [(b"content-length", b"6")]], ids=["without length", "with length"]
)
async def test_refusal_with_a_body(headers: Any) -> None:
    app = saying(*refusal(b"abc", b"def", headers=headers))
    async with open_guarded(app) as port, assert_no_leaks(), open_raw(port) as raw:
        await raw.send_all(upgrade(b"/"))
        with trio.fail_after(IN_TIME):
            status, fields = await raw.read_head()
            assert (status, fields["connection"]) == (401, "close")
            assert await raw.read_body() == b"abcdef"
            assert await raw.read_until_closed() == b""


async def test_refusal_that_is_left_incomplete_is_cut() -> None:
    app = saying(*refusal(b"abc", b"def")[:2])
    async with open_guarded(app) as port, open_raw(port) as raw:
        await raw.send_all(upgrade(b"/"))
        with trio.fail_after(IN_TIME):
            answer = await raw.read_until_closed()
    assert b" 401 " in answer
    assert b"0\r\n\r\n" not in answer


async def test_foreign_server_name_is_a_404() -> None:
    app = Talk(listen)
    async with open_guarded(app, server_names=["example.org"]) as port, open_raw(port) as raw:
        frames = Frames(raw)
        assert await frames.shake_hands() == 404
        assert await frames.next_end() == "fin"
    assert app.over == 0


@pytest.mark.parametrize("leave", ["close", "abort"])
async def test_client_that_leaves_before_the_accept(leave: str) -> None:
    left = trio.Event()

    async def talk(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        assert (await receive())["code"] == 1006
        with pytest.raises(OSError, match="gone"):
            await send(ACCEPT)
        left.set()

    async with open_guarded(Talk(talk)) as port, assert_no_leaks():
        async with open_raw(port) as raw:
            await raw.send_all(upgrade(b"/"))
            await trio.testing.wait_all_tasks_blocked()
            end: Callable[[], None] = getattr(raw, leave)
            end()
        with trio.fail_after(IN_TIME):
            await left.wait()
