"""What a handler can say and hear through its WebSocket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import MockClock, Sequencer, wait_all_tasks_blocked
from ws_asgi import (
    Peer,
    asserts_of_handlers,  # noqa: F401 (a fixture)
    binary,
    disconnect,
    make_ws_app,
    text,
)

from tsstream import App, Headers, WebSocketClosed
from tsstream._asgi import Message
from tsstream._http.websocket import WebSocket


async def call(handler: Any, *script: Message, peer: Peer | None = None, **scope: Any) -> Peer:
    """Run one WebSocket to its end."""
    peer = peer or Peer(*script)
    await peer.call(make_ws_app(handler), **scope)
    assert peer.error is None
    return peer


async def echo(websocket: WebSocket) -> None:
    async for message in websocket:
        await websocket.send(message)


# Receiving


async def test_one_message_is_read_ahead_and_all_come_before_the_end() -> None:
    # RQ-2
    got: list[Any] = []
    peer = Peer(text("0"), text("1"), text("2"), disconnect(1000))

    async def handler(websocket: WebSocket) -> None:
        async for message in websocket:
            await wait_all_tasks_blocked()
            got.append((message, peer.unread))

    await call(handler, peer=peer)
    assert got == [(str(n), (3 - n - 2) + 1) for n in range(3)]


async def test_nothing_more_is_read_while_a_message_waits() -> None:
    # RQ-2
    peer = Peer(*[text(str(i)) for i in range(10)], disconnect(1000))

    async def handler(websocket: WebSocket) -> None:
        await websocket.accept()
        await wait_all_tasks_blocked()
        assert peer.unread == 10  # of 11

    await call(handler, peer=peer)


async def test_messages_keep_their_kind_and_order_and_empty_ones_are_messages() -> None:
    # RQ-35, RQ-36
    script = [
        text("a"),
        {"type": "websocket.receive", "text": None, "bytes": b"b"},
        {"type": "websocket.receive", "text": "", "bytes": None},
        binary(b""),
        text("\N{SNOWMAN}"),
    ]
    peer = Peer(*script)
    async with peer.calling(make_ws_app(echo)):
        assert peer.messages == ["a", b"b", "", b"", "\N{SNOWMAN}"]
        peer.leave()


async def test_a_cancelled_receive_loses_nothing() -> None:
    got: list[Any] = []
    peer = Peer()

    async def handler(websocket: WebSocket) -> None:
        await websocket.accept()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(websocket.receive)
                await wait_all_tasks_blocked()
                scope.cancel()
        for step in ("before", "after"):
            with trio.CancelScope() as scope:
                peer.say(text(step))
                if step == "after":
                    await wait_all_tasks_blocked()  # it has been read
                scope.cancel()
                got.append(await websocket.receive())
        got.extend([await websocket.receive(), await websocket.receive()])

    await call(handler, peer=peer)
    assert got == ["before", "after"]


async def test_a_message_that_is_on_its_way_to_a_cancelled_receive_arrives() -> None:
    # It is handed over in the same tick in which the receiver is cancelled.
    got: list[Any] = []

    async def handler(websocket: WebSocket) -> None:
        await websocket.accept()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(receive_one, websocket)
                await wait_all_tasks_blocked()
                websocket._talk.mailbox._hand_over("on its way")
                scope.cancel()

    async def receive_one(websocket: WebSocket) -> None:
        got.append(await websocket.receive())

    await call(handler)
    assert got == ["on its way"]


async def test_two_tasks_cannot_receive_at_once() -> None:
    async def handler(websocket: WebSocket) -> None:
        await websocket.accept()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(websocket.receive)
            await wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError, match="another task is receiving"):
                await websocket.receive()
            peer.say(text("a"))
            await wait_all_tasks_blocked()
            peer.say(text("b"))
            assert await websocket.receive() == "b"

    peer = Peer()
    await call(handler, peer=peer)
    assert peer.closed == (1000, "")


async def test_receive_raises_after_the_end_and_a_loop_ends_again() -> None:
    # RQ-39
    async def handler(websocket: WebSocket) -> None:
        async for _ in websocket:
            pass
        for _ in range(2):
            with pytest.raises(WebSocketClosed) as caught:
                await websocket.receive()
            assert (caught.value.code, caught.value.reason) == (4001, "bye")
        async for _ in websocket:
            raise AssertionError

    await call(handler, text("a"), disconnect(4001, "bye"))


@pytest.mark.parametrize(
    "message", [{"type": "websocket.disconnect"}, {"type": "websocket.disconnect", "code": None}]
)
async def test_a_disconnect_without_a_code_is_1006(message: Message) -> None:
    async def handler(websocket: WebSocket) -> None:
        with pytest.raises(WebSocketClosed) as caught:
            await websocket.receive()
        assert (caught.value.code, caught.value.reason) == (1006, "")

    await call(handler, message)


# Accepting


@pytest.mark.parametrize("first", ["receive", "send", "accept", "loop"])
async def test_the_first_receive_or_send_accepts(first: str) -> None:
    # RQ-37
    async def handler(websocket: WebSocket) -> None:
        assert peer.sent == []
        if first == "receive":
            await websocket.receive()
        elif first == "send":
            await websocket.send("x")
        elif first == "loop":
            async for _ in websocket:
                break
        else:
            await websocket.accept()
        assert peer.sent[0] == {"type": "websocket.accept"}

    peer = Peer(text("a"))
    await call(handler, peer=peer)


async def test_accept_is_idempotent_without_arguments() -> None:
    # RQ-37
    async def handler(websocket: WebSocket) -> None:
        await websocket.accept(subprotocol="chat")
        await websocket.accept()
        assert websocket.subprotocol == "chat"
        with pytest.raises(RuntimeError, match="call accept"):
            await websocket.accept(subprotocol="chat")
        with pytest.raises(RuntimeError, match="call accept"):
            await websocket.accept(headers={})

    peer = await call(handler, subprotocols=["chat"])
    assert peer.kinds == ["accept", "close"]


async def test_accept_names_a_subprotocol_and_headers() -> None:
    # RQ-37
    async def handler(websocket: WebSocket) -> None:
        assert websocket.subprotocols == ["chat", "superchat"]
        assert websocket.subprotocol is None
        await websocket.accept("superchat", {"Set-Cookie": "a=b"})

    peer = await call(handler, subprotocols=["chat", "superchat"])
    assert peer.sent[0] == {
        "type": "websocket.accept",
        "subprotocol": "superchat",
        "headers": [(b"set-cookie", b"a=b")],
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"subprotocol": "other"}, "has not offered the subprotocol 'other'"),
        ({"headers": {"sec-websocket-protocol": "chat"}}, "is the server's"),
        ({"headers": {"connection": "close"}}, "is the server's"),
        ({"headers": {"x-a": "b\r\nx-c: d"}}, "contains"),
    ],
)
async def test_what_an_accept_cannot_say_is_an_error_before_it(options: Any, message: str) -> None:
    async def handler(websocket: WebSocket) -> None:
        with pytest.raises(ValueError, match=message):
            await websocket.accept(**options)
        assert peer.sent == []
        await websocket.accept("chat")

    peer = Peer()
    await call(handler, peer=peer, subprotocols=["chat"])
    assert peer.kinds == ["accept", "close"]


@pytest.mark.parametrize("asgi", [{"version": "3.0"}, {"version": "3.0", "spec_version": "2.0"}])
async def test_headers_need_a_server_that_can_send_them(asgi: Any) -> None:
    # RQ-37
    async def handler(websocket: WebSocket) -> None:
        with pytest.raises(RuntimeError, match="cannot send headers"):
            await websocket.accept(headers={"x-a": "b"})
        await websocket.accept(headers={})

    peer = await call(handler, asgi=asgi)
    assert peer.sent[0] == {"type": "websocket.accept"}


async def test_only_one_of_two_first_senders_accepts() -> None:
    async def handler(websocket: WebSocket) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(websocket.send, "a")
            nursery.start_soon(websocket.receive)
            await wait_all_tasks_blocked()
            assert peer.kinds == ["accept", "send"]
            peer.say(text("x"))

    peer = Peer()
    await call(handler, peer=peer)


@pytest.mark.parametrize("early", [False, True])
async def test_an_accept_that_is_cancelled_was_sent_or_not_but_not_half(early: bool) -> None:
    async def on_send(message: Message) -> None:
        if message["type"] == "websocket.accept":
            scope.cancel()
            await trio.lowlevel.checkpoint()

    async def handler(websocket: WebSocket) -> None:
        with scope:
            if early:
                scope.cancel()
            await websocket.receive()
        assert peer.kinds == ([] if early else ["accept"])
        await websocket.send("x")

    scope = trio.CancelScope()
    peer = Peer(on_send=on_send)
    await call(handler, peer=peer)
    assert peer.messages == ["x"]


async def test_an_accept_that_the_server_never_takes_is_given_up(
    autojump_clock: MockClock,
) -> None:
    async def handler(websocket: WebSocket) -> None:
        with trio.move_on_after(1):
            await websocket.accept()

    async def on_send(message: Message) -> None:
        await trio.sleep_forever()

    await call(handler, peer=Peer(on_send=on_send))
    assert trio.current_time() == 5


# Sending


@pytest.mark.parametrize(
    ("message", "sent"),
    [
        ("text", {"text": "text"}),
        ("", {"text": ""}),
        (b"bytes", {"bytes": b"bytes"}),
        (b"", {"bytes": b""}),
        (bytearray(b"array"), {"bytes": b"array"}),
        (memoryview(b"view")[1:], {"bytes": b"iew"}),
    ],
)
async def test_text_is_sent_as_text_and_bytes_as_binary(message: Any, sent: Any) -> None:
    async def handler(websocket: WebSocket) -> None:
        await websocket.send(message)

    peer = await call(handler)
    assert peer.sent[1] == {"type": "websocket.send", **sent}


@pytest.mark.parametrize("message", [None, 1, {"a": 1}, ["a"]])
async def test_what_is_no_message_is_an_error_that_names_the_remedy(message: Any) -> None:
    async def handler(websocket: WebSocket) -> None:
        with pytest.raises(TypeError, match=r"json\.dumps\(\), or stream\(\)"):
            await websocket.send(message)
        assert peer.sent == []

    peer = Peer()
    await call(handler, peer=peer)


async def test_messages_of_many_tasks_go_out_whole_and_in_the_order_of_the_calls() -> None:
    running = 0

    async def on_send(message: Message) -> None:
        nonlocal running
        running += 1
        assert running == 1, "two messages are on their way at once"
        await wait_all_tasks_blocked()
        running -= 1

    async def handler(websocket: WebSocket) -> None:
        async with trio.open_nursery() as nursery:
            for i in range(10):
                nursery.start_soon(websocket.send, str(i))
                await trio.lowlevel.checkpoint()

    peer = await call(handler, peer=Peer(on_send=on_send))
    assert peer.messages == [str(i) for i in range(10)]


async def test_a_send_that_is_cancelled_while_it_waits_for_its_turn_has_sent_nothing() -> None:
    proceed = trio.Event()

    async def on_send(message: Message) -> None:
        if message.get("text") == "first":
            await proceed.wait()

    async def handler(websocket: WebSocket) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(websocket.send, "first")
            await wait_all_tasks_blocked()
            with trio.move_on_after(0):
                await websocket.send("second")
            proceed.set()
            await websocket.send("third")

    peer = await call(handler, peer=Peer(on_send=on_send))
    assert peer.messages == ["first", "third"]


class Deaf(Peer):
    """A server whose send() is no checkpoint (HOST fault 8)."""

    async def send(self, message: Message) -> None:
        self.sent.append(message)


async def test_sending_without_end_lets_others_run_although_the_server_does_not() -> None:
    # HOST fault 8
    async def handler(websocket: WebSocket) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(others)
            while not turns and len(peer.sent) < 100:
                await websocket.send("x")

    async def others() -> None:
        turns.append(len(peer.sent))

    turns: list[int] = []
    peer = Deaf()
    await call(handler, peer=peer)
    assert turns[0] < 20


async def test_sending_can_be_cancelled_although_the_server_does_not_notice() -> None:
    # HOST fault 8
    async def handler(websocket: WebSocket) -> None:
        await websocket.accept()
        with trio.CancelScope() as scope:
            scope.cancel()
            await websocket.send("x")

    peer = Deaf()
    await call(handler, peer=peer)
    assert peer.messages == []


async def test_sending_to_nobody_is_a_checkpoint() -> None:
    async def handler(websocket: WebSocket) -> None:
        with pytest.raises(WebSocketClosed):
            await websocket.receive()
        with trio.CancelScope() as scope:
            scope.cancel()
            with pytest.raises(trio.Cancelled):
                await websocket.send("x")
        with trio.CancelScope() as scope:
            scope.cancel()
            with pytest.raises(trio.Cancelled):
                await websocket.receive()

    await call(handler, disconnect(1000))


async def test_receiving_after_the_end_lets_others_run() -> None:
    async def handler(websocket: WebSocket) -> None:
        async for _ in websocket:
            pass
        async with trio.open_nursery() as nursery:
            nursery.start_soon(others)
            while not turns and len(tries) < 100:
                async for _ in websocket:
                    pass
                tries.append(True)

    async def others() -> None:
        turns.append(len(tries))

    tries: list[bool] = []
    turns: list[int] = []
    await call(handler, disconnect(1000))
    assert turns[0] < 20


# Closing


async def test_close_says_code_and_reason_and_ends_everything() -> None:
    # RQ-38
    async def handler(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.close(4000, "enough")
        for refused in (websocket.receive, partial(websocket.send, "x"), websocket.accept):
            with pytest.raises(WebSocketClosed) as caught:
                await refused()
            assert (caught.value.code, caught.value.reason) == (4000, "enough")

    peer = await call(handler, text("dropped"))
    assert (peer.kinds, peer.closed) == (["accept", "close"], (4000, "enough"))


async def test_closing_twice_is_an_error() -> None:
    # RQ-38
    async def handler(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.close()
        with pytest.raises(RuntimeError, match="close it once"):
            await websocket.close()

    peer = await call(handler)
    assert peer.kinds == ["accept", "close"]


@pytest.mark.parametrize(("code", "reason"), [(1006, ""), (999, ""), (1000, "x" * 124)])
async def test_what_a_close_cannot_say_is_an_error_and_closes_nothing(
    code: int, reason: str
) -> None:
    async def handler(websocket: WebSocket) -> None:
        await websocket.accept()
        with pytest.raises(ValueError, match="close"):
            await websocket.close(code, reason)
        await websocket.send("still open")

    peer = await call(handler)
    assert (peer.messages, peer.closed) == (["still open"], (1000, ""))


async def test_closing_what_the_client_has_closed_does_nothing() -> None:
    async def handler(websocket: WebSocket) -> None:
        async for _ in websocket:
            pass
        await websocket.close(4000)

    peer = await call(handler, disconnect(1000))
    assert peer.kinds == ["accept"]


async def test_close_waits_for_the_message_that_is_being_sent_and_no_other_follows() -> None:
    proceed = trio.Event()
    closed: list[str] = []

    async def on_send(message: Message) -> None:
        if message.get("text") == "first":
            await proceed.wait()

    async def send(websocket: WebSocket, message: str) -> None:
        try:
            await websocket.send(message)
        except WebSocketClosed:
            closed.append(message)

    async def handler(websocket: WebSocket) -> None:
        async with trio.open_nursery() as nursery:
            for message in ("first", "second"):
                nursery.start_soon(send, websocket, message)
                await wait_all_tasks_blocked()
            nursery.start_soon(websocket.close, 4000)
            await wait_all_tasks_blocked()
            assert peer.kinds == ["accept"]
            proceed.set()

    peer = Peer(on_send=on_send)
    await call(handler, peer=peer)
    assert (peer.messages, peer.closed, closed) == (["first"], (4000, ""), ["second"])


async def test_a_close_that_was_cancelled_before_its_turn_is_sent_at_the_end() -> None:
    proceed = trio.Event()

    async def on_send(message: Message) -> None:
        if message.get("text") == "first":
            await proceed.wait()

    async def handler(websocket: WebSocket) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(websocket.send, "first")
            await wait_all_tasks_blocked()
            with trio.move_on_after(0):
                await websocket.close(4000, "enough")
            proceed.set()

    peer = await call(handler, peer=Peer(on_send=on_send))
    assert (peer.messages, peer.closed) == (["first"], (4000, "enough"))


async def test_close_ends_the_receiving_of_another_task() -> None:
    async def handler(websocket: WebSocket) -> None:
        await websocket.accept()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(loop, websocket)
            await wait_all_tasks_blocked()
            await websocket.close()

    async def loop(websocket: WebSocket) -> None:
        async for _ in websocket:
            pass
        ended.append(True)

    ended: list[bool] = []
    await call(handler)
    assert ended == [True]


# What a handler is told


async def test_a_handler_is_told_of_the_handshake() -> None:
    seen: list[Any] = []
    app: App[None] = App()

    @app.websocket("/rooms/{name}/{rest:path}")
    async def room(websocket: WebSocket[None]) -> None:
        seen.extend([websocket.path_params, websocket.path, websocket.root_path, websocket.app])
        seen.extend([websocket.headers["x-a"], websocket.query_params["q"], websocket.client])
        seen.extend([websocket.scheme, websocket.http_version, websocket.state])

    await Peer().call(
        app,
        "/sub/rooms/a b/c/d",
        root_path="/sub",
        query_string=b"q=1",
        headers=[(b"X-A", b"b")],
        scheme="wss",
        http_version="2",
    )
    assert seen[:4] == [{"name": "a b", "rest": "c/d"}, "/rooms/a b/c/d", "/sub", app]
    assert seen[4:] == ["b", "1", ("testclient", 50000), "wss", "2", None]


async def test_state_and_nursery_of_the_app_are_there() -> None:
    sequencer = Sequencer()

    @asynccontextmanager
    async def lifespan(app: App[list[str]]) -> AsyncIterator[list[str]]:
        yield ["state"]

    app = App(lifespan=lifespan)

    @app.websocket("/")
    async def handler(websocket: WebSocket[list[str]]) -> None:
        websocket.app.nursery.start_soon(outlive, websocket)
        async with sequencer(0):
            await websocket.send(websocket.state[0])

    async def outlive(websocket: WebSocket[list[str]]) -> None:
        async with sequencer(1):
            with pytest.raises(WebSocketClosed):
                await websocket.receive()
            with pytest.raises(WebSocketClosed):
                await websocket.send("too late")
        done.append(True)

    done: list[bool] = []
    async with app.open_lifespan():
        peer = Peer()
        await peer.call(app)
        await wait_all_tasks_blocked()
    assert (peer.messages, done) == (["state"], [True])


def test_headers_are_one_value() -> None:
    app: App[None] = App()
    websocket = WebSocket(app, {"headers": [(b"A", b"b")]}, path="/a\nb")
    assert websocket.headers == Headers({"a": "b"})
    assert websocket.headers is websocket.headers
    assert str(websocket) == "WebSocket /a%0Ab"
