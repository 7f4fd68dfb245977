"""How a WebSocket ends: who leaves first, who is told, who is cancelled, what is logged."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
from farewells import on_guarded
from probes import logged
from trio.testing import MockClock, wait_all_tasks_blocked
from ws_asgi import (
    REJECTION,
    Peer,
    asserts_of_handlers,  # noqa: F401 (a fixture)
    disconnect,
    make_ws_app,
    text,
)

from tsstream import HTTPError, Response, StreamPolicy, WebSocketClosed
from tsstream._asgi import Message
from tsstream._http.host import CLIENT, Client, Host
from tsstream._http.websocket import WebSocket


async def listen(websocket: WebSocket) -> None:
    async for _ in websocket:
        pass


# The handler comes to its end


async def test_a_return_closes_with_1000(caplog: pytest.LogCaptureFixture) -> None:
    # RQ-38, D48
    caplog.set_level(logging.DEBUG, "tsstream")

    async def handler(websocket: WebSocket) -> None:
        await websocket.send("x")

    peer = Peer()
    await peer.call(make_ws_app(handler))
    assert peer.closed == (1000, "")
    assert logged(caplog, logging.DEBUG) == ["DEBUG WebSocket /: closed by us: 1000 ''"]


async def test_what_nobody_receives_any_more_is_dropped_while_we_close() -> None:
    # HOST fault 6: the server may not be able to finish behind it
    async def on_send(message: Message) -> None:
        if message["type"] == "websocket.close":
            await wait_all_tasks_blocked()
            assert peer.unread == 0

    async def handler(websocket: WebSocket) -> None:
        await websocket.accept()

    peer = Peer(*[text("x")] * 20, on_send=on_send)
    await peer.call(make_ws_app(handler))
    assert (peer.closed, peer.error) == ((1000, ""), None)


@pytest.mark.parametrize("error", [ValueError("x"), HTTPError(404), OSError(5, "of mine")])
async def test_an_error_after_the_accept_closes_with_1011_and_is_logged_once(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    # RQ-38, D48
    async def handler(websocket: WebSocket) -> None:
        await websocket.send("x")
        raise error

    peer = Peer(text("unread"))
    await peer.call(make_ws_app(handler))
    assert (peer.closed, peer.error) == ((1011, ""), None)
    assert logged(caplog) == ["ERROR WebSocket / failed"]
    info = caplog.records[0].exc_info
    assert info is not None
    assert info[1] is error


async def test_one_error_in_a_nursery_is_logged_as_itself(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def handler(websocket: WebSocket) -> None:
        await websocket.accept()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen, websocket)
            nursery.start_soon(fail)

    async def fail() -> None:
        raise KeyError("x")

    peer = Peer()
    await peer.call(make_ws_app(handler))
    assert peer.closed == (1011, "")
    assert caplog.records[0].exc_info is not None
    assert caplog.records[0].exc_info[0] is KeyError


async def test_a_test_client_may_ask_for_the_error() -> None:
    async def handler(websocket: WebSocket) -> None:
        await websocket.accept()
        raise KeyError("x")

    peer = Peer()
    await peer.call(make_ws_app(handler), extensions={"tsstream.raise_errors": {}})
    assert isinstance(peer.error, KeyError)
    assert peer.closed == (1011, "")


async def test_the_app_returns_although_receive_would_wait_for_ever(
    autojump_clock: MockClock,
) -> None:
    # RQ-34
    async def handler(websocket: WebSocket) -> None:
        await websocket.accept()

    with trio.fail_after(1):
        await Peer().call(make_ws_app(handler))


@pytest.mark.parametrize(
    ("handler", "message"),
    [
        (lambda websocket: None, "gave a NoneType without being awaited; write it with 'async def"),
        (lambda websocket: Response(b"x"), "gave a Response without being awaited"),
    ],
)
async def test_a_handler_that_is_not_async_is_an_error_that_says_so(
    handler: Any, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    peer = Peer()
    await peer.call(make_ws_app(handler))
    assert peer.status == 500
    assert message in caplog.text


async def test_a_handler_that_yields_is_an_error_that_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def generator(websocket: WebSocket) -> AsyncIterator[str]:
        yield "x"

    @asynccontextmanager
    async def manager(websocket: WebSocket) -> AsyncIterator[str]:
        yield "x"

    for handler in (generator, manager):
        peer = Peer()
        await peer.call(make_ws_app(handler))
        assert peer.status == 500
    assert caplog.text.count("without a 'yield'") == 2


@pytest.mark.parametrize("accepted", [False, True])
@pytest.mark.parametrize("given", ["text", b"", 0, False])
async def test_a_handler_that_returns_something_odd_is_an_error(
    accepted: bool, given: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(websocket: WebSocket) -> Any:
        if accepted:
            await websocket.accept()
        return given

    peer = Peer()
    await peer.call(make_ws_app(handler))
    assert (peer.closed if accepted else peer.status) == ((1011, "") if accepted else 500)
    assert "it returns None, or a Response to refuse" in caplog.text


async def test_a_response_after_the_accept_is_an_error_and_is_closed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    send_channel, receive_channel = trio.open_memory_channel[bytes](0)

    async def handler(websocket: WebSocket) -> Response:
        await websocket.accept()
        return Response(receive_channel)

    peer = Peer()
    await peer.call(make_ws_app(handler))
    assert peer.closed == (1011, "")
    assert "after it was accepted" in caplog.text
    with pytest.raises(trio.BrokenResourceError):
        send_channel.send_nowait(b"x")


async def test_nothing_is_left_for_the_garbage_collector() -> None:
    async def handler(websocket: WebSocket) -> None:
        seen.extend(map(weakref.ref, (websocket, websocket._talk, websocket._talk.mailbox)))
        await websocket.receive()

    seen: list[weakref.ref[object]] = []
    peer = Peer(text("x"))
    gc.disable()
    try:
        await peer.call(make_ws_app(handler))
        assert [ref() for ref in seen] == [None] * 3
    finally:
        gc.enable()


# The client leaves first


async def test_a_loop_ends_and_code_after_it_may_wait(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    # RQ-39, D49
    caplog.set_level(logging.DEBUG, "tsstream")

    async def handler(websocket: WebSocket) -> None:
        async for _ in websocket:
            pass
        await trio.sleep(9)
        done.append(True)

    done: list[bool] = []
    peer = Peer(disconnect(1001, "tab\nclosed"))
    await peer.call(make_ws_app(handler))
    assert (peer.kinds, done) == (["accept"], [True])
    assert logged(caplog, logging.DEBUG) == [
        "DEBUG WebSocket /: closed by the client: 1001 'tab\\nclosed'"
    ]


@pytest.mark.parametrize("way", ["receive", "send", "in a nursery", "beside an error of a channel"])
async def test_a_websocket_closed_that_leaves_the_handler_is_a_normal_end(
    way: str, caplog: pytest.LogCaptureFixture
) -> None:
    # D49
    async def handler(websocket: WebSocket) -> None:
        await websocket.accept()
        if way == "receive":
            await websocket.receive()
        elif way == "send":
            await listen(websocket)
            await websocket.send("x")
        else:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(websocket.receive)
                if way.startswith("beside"):
                    nursery.start_soon(produce)

    async def produce() -> None:
        send_channel, receive_channel = trio.open_memory_channel[str](1)
        try:
            await trio.sleep_forever()
        finally:
            receive_channel.close()
            send_channel.send_nowait("x")

    peer = Peer(disconnect(1000))
    await peer.call(make_ws_app(handler))
    assert peer.error is None
    assert logged(caplog) == []


async def test_senders_hear_at_once_that_the_client_has_gone() -> None:
    # D49
    codes: list[int | None] = []

    async def handler(websocket: WebSocket) -> None:
        await websocket.accept()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tick, websocket)
            await listen(websocket)
            proceed.set()

    async def tick(websocket: WebSocket) -> None:
        await proceed.wait()
        try:
            await websocket.send("tick")
        except WebSocketClosed as closed:
            codes.append(closed.code)
            raise

    proceed = trio.Event()
    peer = Peer()
    async with peer.calling(make_ws_app(handler)):
        peer.leave(1001)
    assert (codes, peer.kinds) == ([1001], ["accept"])


async def test_a_handler_is_cancelled_when_its_time_after_the_end_is_over(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    # A nursery in the handler whose children sleep on.
    async def handler(websocket: WebSocket) -> None:
        await websocket.accept()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            await listen(websocket)
            await trio.sleep(3)

    peer = Peer(disconnect(1000))
    await peer.call(make_ws_app(handler, policy=StreamPolicy(exit=5)))
    assert trio.current_time() == 5
    assert logged(caplog) == [
        "WARNING WebSocket /: exit limit of 5 s reached: its handler went on after the end"
    ]


async def test_the_time_begins_with_the_end_although_nobody_asks(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    # Nobody waits for what such a handler does, and it holds what it holds.
    async def handler(websocket: WebSocket) -> None:
        await websocket.accept()
        await trio.sleep(8)
        for _ in range(2):
            with pytest.raises(WebSocketClosed):
                await websocket.send("x")
        await trio.sleep_forever()

    peer = Peer(disconnect(1000))
    await peer.call(make_ws_app(handler))
    assert trio.current_time() == 10
    assert len(logged(caplog)) == 1


async def test_the_time_begins_when_the_last_message_has_been_received(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(websocket: WebSocket) -> None:
        await websocket.accept()
        async for _ in websocket:
            await trio.sleep(8)
        await trio.sleep_forever()

    peer = Peer(text("a"), text("b"), disconnect(1000))
    await peer.call(make_ws_app(handler))
    assert trio.current_time() == 18
    assert len(logged(caplog)) == 1


async def test_the_time_begins_when_the_handler_closes(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(websocket: WebSocket) -> None:
        await websocket.accept()
        await trio.sleep(100)
        await websocket.close()
        await trio.sleep_forever()

    await Peer().call(make_ws_app(handler))
    assert trio.current_time() == 110
    assert len(logged(caplog)) == 1


async def test_without_an_exit_limit_a_handler_has_all_the_time(
    autojump_clock: MockClock,
) -> None:
    async def handler(websocket: WebSocket) -> None:
        await listen(websocket)
        await trio.sleep(1000)

    peer = Peer(disconnect(1000))
    await peer.call(make_ws_app(handler, policy=StreamPolicy(exit=None)))
    assert trio.current_time() == 1000


async def test_an_error_after_the_end_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(websocket: WebSocket) -> None:
        await listen(websocket)
        raise ValueError("x")

    peer = Peer(disconnect(1000))
    await peer.call(make_ws_app(handler))
    assert peer.kinds == ["accept"]
    assert logged(caplog) == ["ERROR WebSocket / failed, and the client has gone"]


async def test_an_error_on_being_cancelled_is_logged(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(websocket: WebSocket) -> None:
        await listen(websocket)
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("x")

    await Peer(disconnect(1000)).call(make_ws_app(handler))
    assert [line.split()[0] for line in logged(caplog)] == ["WARNING", "ERROR"]


async def test_what_being_cancelled_does_to_a_handler_is_no_error(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(websocket: WebSocket) -> None:
        await listen(websocket)
        try:
            await trio.sleep_forever()
        finally:
            raise trio.BrokenResourceError

    await Peer(disconnect(1000)).call(make_ws_app(handler))
    assert [line.split()[0] for line in logged(caplog)] == ["WARNING"]


async def test_a_client_that_leaves_before_the_handler_begins_is_nobody() -> None:
    async def handler(websocket: WebSocket) -> None:
        raise AssertionError

    peer = Peer()
    peer._script.clear()
    peer.leave()
    await peer.call(make_ws_app(handler))
    assert (peer.sent, peer.error) == ([], None)


async def test_a_client_that_leaves_before_the_accept_is_told_to_the_handler() -> None:
    async def handler(websocket: WebSocket) -> None:
        await wait_all_tasks_blocked()
        for step in (websocket.accept, websocket.receive, partial(websocket.send, "x")):
            with pytest.raises(WebSocketClosed) as caught:
                await step()
            assert caught.value.code == 1001

    peer = Peer(disconnect(1001))
    await peer.call(make_ws_app(handler))
    assert (peer.sent, peer.error) == ([], None)


# Handlers that only send


async def test_a_send_only_handler_is_cancelled_when_the_client_leaves(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # RQ-40, D49
    async def handler(websocket: WebSocket) -> None:
        websocket.send_only()
        await websocket.send("first")
        try:
            await trio.sleep_forever()
        except trio.Cancelled as cancelled:
            reasons.append(cancelled.reason)
            raise

    reasons: list[str | None] = []
    peer = Peer(*[text("dropped")] * 50)
    async with peer.calling(make_ws_app(handler)):
        assert (peer.unread, peer.messages) == (0, ["first"])
        peer.leave()
    assert reasons == ["client disconnected"]
    assert logged(caplog) == []


async def test_send_only_after_the_client_has_left_cancels_at_once() -> None:
    # RQ-40
    async def handler(websocket: WebSocket) -> None:
        await websocket.accept()
        await wait_all_tasks_blocked()
        assert peer.unread == 1
        websocket.send_only()
        websocket.send_only()
        await trio.sleep_forever()

    peer = Peer(text("held"), disconnect(1000))
    await peer.call(make_ws_app(handler))
    assert peer.error is None


async def test_a_send_only_handler_cannot_receive() -> None:
    async def handler(websocket: WebSocket) -> None:
        websocket.send_only()
        with pytest.raises(RuntimeError, match="send_only"):
            await websocket.receive()
        with pytest.raises(RuntimeError, match="send_only"):
            async for _ in websocket:
                pass

    await Peer(text("x")).call(make_ws_app(handler))


async def test_a_send_only_handler_that_has_closed_is_not_cancelled_by_the_clients_close() -> None:
    async def handler(websocket: WebSocket) -> None:
        websocket.send_only()
        await websocket.accept()
        await websocket.close()
        peer.leave(1000)
        await wait_all_tasks_blocked()
        done.append(True)

    done: list[bool] = []
    peer = Peer()
    await peer.call(make_ws_app(handler))
    assert done == [True]


async def test_dropping_what_comes_lets_others_run() -> None:
    class Flood(Peer):
        async def receive(self) -> Message:
            if self.unread:
                return await super().receive()
            return text("x")

    async def handler(websocket: WebSocket) -> None:
        websocket.send_only()
        await websocket.accept()
        for _ in range(10):
            await trio.lowlevel.checkpoint()

    with trio.fail_after(5):
        await Flood().call(make_ws_app(handler))


# The server


@pytest.mark.parametrize("error", [trio.BrokenResourceError(), OSError(104, "reset")])
async def test_a_send_that_fails_says_that_the_client_has_gone(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    async def on_send(message: Message) -> None:
        if message["type"] != "websocket.accept":
            raise error

    async def handler(websocket: WebSocket) -> None:
        await websocket.accept()
        for _ in range(2):
            with pytest.raises(WebSocketClosed) as caught:
                await websocket.send("x")
            assert caught.value.code == 1006
        assert await websocket.receive() == "a"  # what has come is given all the same
        assert await websocket.receive() == "b"

    peer = Peer(text("a"), text("b"), on_send=on_send)
    await peer.call(make_ws_app(handler))
    assert (peer.error, logged(caplog)) == (None, [])


async def test_on_the_guarded_server_a_send_that_fails_knows_the_code() -> None:
    # The disconnect overtakes the message that waits.
    async def on_send(message: Message) -> None:
        if message["type"] != "websocket.accept":
            peer.leave(1001)
            raise OSError

    async def handler(websocket: WebSocket) -> None:
        await websocket.accept()
        await wait_all_tasks_blocked()
        with pytest.raises(WebSocketClosed) as caught:
            await websocket.send("x")
        assert caught.value.code == 1001
        assert await websocket.receive() == "read ahead"
        with pytest.raises(WebSocketClosed):
            await websocket.receive()

    peer = Peer(text("read ahead"), on_send=on_send)
    await peer.call(make_ws_app(handler), extensions=on_guarded())


async def test_a_client_that_is_said_to_have_left_is_known_past_a_message_that_waits() -> None:
    # The message is still delivered.
    async def handler(websocket: WebSocket) -> None:
        await websocket.accept()
        await wait_all_tasks_blocked()
        peer.leave(1006)
        await wait_all_tasks_blocked()
        assert peer.unread == 1
        client.leave()
        await wait_all_tasks_blocked()
        with pytest.raises(WebSocketClosed):
            await websocket.send("x")
        assert [message async for message in websocket] == ["waits"]

    client = Client()
    peer = Peer(text("waits"))
    extensions = {**on_guarded(), CLIENT: client}
    await peer.call(make_ws_app(handler), extensions=extensions)
    assert (peer.kinds, peer.error) == (["accept"], None)
    assert client.on_leave is None


@pytest.mark.parametrize(
    "strange",
    [
        {"type": "http.request"},
        {"type": "websocket.connect"},
        {"type": "websocket.receive"},
        {"type": "websocket.receive", "text": None, "bytes": None},
        ValueError("of a middleware"),
    ],
)
async def test_a_server_that_errs_ends_the_handler_and_hears_of_it(
    strange: Any, caplog: pytest.LogCaptureFixture
) -> None:
    # RQ-33
    async def handler(websocket: WebSocket) -> None:
        await websocket.accept()
        await trio.sleep_forever()

    peer = Peer(strange)
    await peer.call(make_ws_app(handler))
    assert peer.closed == (1011, "")
    assert isinstance(peer.error, RuntimeError | ValueError)
    assert logged(caplog) == ["ERROR WebSocket / failed"]


async def test_a_server_that_errs_before_the_accept_is_told() -> None:
    # RQ-33
    async def handler(websocket: WebSocket) -> None:
        await trio.sleep_forever()

    peer = Peer(ValueError("x"))
    await peer.call(make_ws_app(handler))
    assert (peer.sent, str(peer.error)) == ([], "x")


async def test_a_connection_that_breaks_in_receive_is_a_disconnect(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def handler(websocket: WebSocket) -> None:
        with pytest.raises(WebSocketClosed):
            await websocket.receive()

    peer = Peer(ConnectionResetError())
    await peer.call(make_ws_app(handler))
    assert (peer.error, logged(caplog)) == (None, [])


async def test_a_first_message_that_is_no_connect_is_an_error() -> None:
    async def handler(websocket: WebSocket) -> None:
        raise AssertionError

    peer = Peer()
    peer._script.clear()
    peer.say(text("x"))
    await peer.call(make_ws_app(handler))
    assert isinstance(peer.error, RuntimeError)


# Cancelled from outside


async def test_a_cancellation_from_outside_says_1001_and_propagates() -> None:
    # RQ-44, AC-52
    async def handler(websocket: WebSocket) -> None:
        await websocket.accept()
        try:
            await trio.sleep_forever()
        finally:
            left.append(True)

    left: list[bool] = []
    peer = Peer()
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.call, make_ws_app(handler))
            await wait_all_tasks_blocked()
            scope.cancel()
    assert scope.cancelled_caught
    assert (left, peer.closed, peer.error) == ([True], (1001, ""), None)


async def test_a_cancelled_server_is_held_up_for_a_second_at_most(
    autojump_clock: MockClock,
) -> None:
    # RQ-44
    async def on_send(message: Message) -> None:
        if message["type"] == "websocket.close":
            await trio.sleep_forever()

    async def handler(websocket: WebSocket) -> None:
        await websocket.accept()
        await trio.sleep_forever()

    peer = Peer(on_send=on_send)
    with trio.move_on_after(10):
        await peer.call(make_ws_app(handler))
    assert trio.current_time() == 11


async def test_what_is_closed_is_not_closed_again_by_a_cancellation() -> None:
    async def handler(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.close(4000)
        await trio.sleep_forever()

    peer = Peer()
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.call, make_ws_app(handler))
            await wait_all_tasks_blocked()
            scope.cancel()
    assert (peer.kinds, peer.closed) == (["accept", "close"], (4000, ""))


async def test_a_cancellation_before_the_accept_says_nothing() -> None:
    async def handler(websocket: WebSocket) -> None:
        await trio.sleep_forever()

    peer = Peer()
    with trio.move_on_after(0.01):
        await peer.call(make_ws_app(handler))
    assert peer.sent == []


async def test_an_error_beside_a_cancellation_from_outside_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def handler(websocket: WebSocket) -> None:
        await websocket.accept()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            try:
                await trio.sleep_forever()
            finally:
                raise ValueError("x")

    peer = Peer()
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.call, make_ws_app(handler))
            await wait_all_tasks_blocked()
            scope.cancel()
    assert scope.cancelled_caught
    assert peer.closed == (1001, "")
    assert logged(caplog) == ["ERROR WebSocket / failed, and was cancelled"]


async def test_a_cancellation_that_replaces_an_error_is_told_of(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(websocket: WebSocket) -> None:
        await listen(websocket)
        try:
            raise ValueError("hidden")
        finally:
            await trio.sleep_forever()  # noqa: ASYNC102

    await Peer(disconnect(1000)).call(make_ws_app(handler))
    assert any("a cancellation replaced this error" in line for line in logged(caplog))


async def test_a_cancellation_that_replaces_the_news_of_the_end_is_not_told_of(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(websocket: WebSocket) -> None:
        try:
            await websocket.receive()
        finally:
            await trio.sleep_forever()  # noqa: ASYNC102

    await Peer(disconnect(1000)).call(make_ws_app(handler))
    assert len(logged(caplog)) == 1  # of the exit limit


async def test_a_cancelled_that_strays_is_an_error(caplog: pytest.LogCaptureFixture) -> None:
    # D39
    async def handler(websocket: WebSocket) -> None:
        await websocket.accept()
        with trio.CancelScope() as scope:  # noqa: ASYNC912
            scope.cancel()
            try:
                await trio.lowlevel.checkpoint()
            except trio.Cancelled as cancelled:  # noqa: ASYNC103
                kept.append(cancelled)
        raise kept[0]

    kept: list[trio.Cancelled] = []
    peer = Peer()
    await peer.call(make_ws_app(handler))
    assert (peer.closed, logged(caplog)) == ((1011, ""), ["ERROR WebSocket / failed"])
    kept.clear()


async def test_a_keyboard_interrupt_passes_through() -> None:
    async def handler(websocket: WebSocket) -> None:
        await websocket.accept()
        raise KeyboardInterrupt

    peer = Peer()
    with pytest.raises(KeyboardInterrupt):
        await peer.call(make_ws_app(handler))
    assert peer.kinds == ["accept"]


async def test_a_shutdown_of_the_guarded_server_counts_whom_it_cuts() -> None:
    # D23
    async def handler(websocket: WebSocket) -> None:
        await websocket.accept()
        await trio.sleep_forever()

    host = Host()
    host.shutting_down.set()
    with trio.move_on_after(0.01):
        await Peer().call(make_ws_app(handler), extensions={**on_guarded(host), REJECTION: {}})
    assert host.endings == {"cancelled": 1}
