"""A body over a WebSocket: what becomes of its items, and when it is left."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
from probes import Life, logged, say_one, two_feeds
from trio.testing import MockClock, wait_all_tasks_blocked
from ws_asgi import (
    Peer,
    asserts_of_handlers,  # noqa: F401 (a fixture)
    disconnect,
    make_ws_app,
    text,
)

from tsstream import BYTES, NDJSON, SSE, TEXT, Encoder, HTTPError, WebSocketClosed, merge
from tsstream._http.websocket import WebSocket
from tsstream._http.websocket_stream import message_maker
from tsstream._util import leaves


def streaming(content: Any, **options: Any) -> Any:
    async def handler(websocket: WebSocket) -> None:
        await websocket.stream(content(), **options)

    return handler


LATIN = attrs.evolve(TEXT, media_type="text/plain; charset=latin-1")
NOTHING = Encoder(lambda item: b"")


@pytest.mark.parametrize(
    ("encoder", "item", "sent"),
    [
        (TEXT, "a\N{SNOWMAN}", {"text": "a\N{SNOWMAN}"}),
        (TEXT, b"a", {"text": "a"}),
        (TEXT, "", {"text": ""}),
        (BYTES, "a", {"bytes": b"a"}),
        (BYTES, memoryview(b"a"), {"bytes": b"a"}),
        (NDJSON, {"a": 1}, {"text": '{"a":1}\n'}),
        (SSE, "a", {"text": "data: a\n\n"}),
        (LATIN, "a", {"bytes": b"a"}),
        (NOTHING, 1, {"bytes": b""}),
        (Encoder(str.encode, media_type="application/json"), "1", {"text": "1"}),
        (Encoder(str.encode, media_type="image/svg+xml"), "1", {"text": "1"}),
        (Encoder(str.encode, media_type="text/csv;charset=UTF-8"), "1", {"text": "1"}),
        (Encoder(str.encode, media_type="application/octet-stream"), "1", {"bytes": b"1"}),
    ],
)
def test_an_item_is_a_message_of_its_encoders_kind(encoder: Encoder, item: Any, sent: Any) -> None:
    assert message_maker(encoder)(item) == {"type": "websocket.send", **sent}


async def agenerate() -> AsyncIterator[str]:
    yield "a"
    yield "b"


@asynccontextmanager
async def manage() -> AsyncIterator[Any]:
    async with trio.open_nursery() as nursery:
        send_channel, receive_channel = trio.open_memory_channel[str](0)
        nursery.start_soon(produce, send_channel)
        with receive_channel:
            yield receive_channel
        nursery.cancel_scope.cancel()


async def produce(send_channel: trio.MemorySendChannel[str]) -> None:
    with send_channel:
        for item in ("a", "b"):
            await send_channel.send(item)


@pytest.mark.parametrize(
    "content", [agenerate, manage, lambda: ["a", "b"], lambda: iter(["a", "b"])]
)
async def test_each_item_of_any_body_is_one_message(content: Any) -> None:
    peer = Peer()
    await peer.call(make_ws_app(streaming(content)))
    assert (peer.messages, peer.closed) == (["a", "b"], (1000, ""))


async def test_the_handler_goes_on_after_a_body_that_has_ended() -> None:
    async def handler(websocket: WebSocket) -> None:
        await websocket.stream(["a"])
        await websocket.stream([b"b"], encoder=BYTES)
        await websocket.send(await websocket.receive())

    peer = Peer(text("c"))
    await peer.call(make_ws_app(handler))
    assert peer.messages == ["a", b"b", "c"]


async def test_a_body_that_is_silent_is_accepted_when_it_has_been_entered() -> None:
    @asynccontextmanager
    async def body() -> AsyncIterator[Any]:
        assert peer.sent == []
        send_channel, receive_channel = trio.open_memory_channel[str](0)
        with send_channel, receive_channel:
            yield receive_channel

    peer = Peer()
    async with peer.calling(make_ws_app(streaming(body))):
        assert peer.kinds == ["accept"]
        peer.leave()


async def test_an_error_while_the_body_is_entered_is_answered_with_its_status() -> None:
    @asynccontextmanager
    async def body() -> AsyncIterator[Any]:
        raise HTTPError(404)
        yield

    peer = Peer()
    await peer.call(make_ws_app(streaming(body)))
    assert peer.status == 404


async def test_an_error_of_a_producer_leaves_as_itself() -> None:
    @asynccontextmanager
    async def body() -> AsyncIterator[Any]:
        async with trio.open_nursery() as nursery:
            send_channel, receive_channel = trio.open_memory_channel[str](0)
            nursery.start_soon(fail)
            with send_channel, receive_channel:
                yield receive_channel

    async def fail() -> None:
        raise KeyError("x")

    async def handler(websocket: WebSocket) -> None:
        with pytest.raises(KeyError):
            await websocket.stream(body())
        await websocket.send("still open")

    peer = Peer()
    await peer.call(make_ws_app(handler))
    assert peer.messages == ["still open"]


async def hand_over_and_fail(send_channel: trio.MemorySendChannel[str]) -> None:
    await send_channel.send("last")
    raise KeyError("x")


@asynccontextmanager
async def cancel_itself() -> AsyncIterator[Any]:
    async with trio.open_nursery() as nursery:
        send_channel, receive_channel = trio.open_memory_channel[str](0)
        nursery.start_soon(send_and_cancel, send_channel, nursery.cancel_scope)
        with send_channel, receive_channel:
            yield receive_channel


async def send_and_cancel(
    send_channel: trio.MemorySendChannel[str], scope: trio.CancelScope
) -> None:
    await send_channel.send("last")
    scope.cancel()


@pytest.mark.parametrize(
    ("content", "error"),
    [(lambda: merge(hand_over_and_fail), KeyError), (cancel_itself, RuntimeError)],
)
async def test_what_a_body_hands_over_before_it_fails_is_sent(content: Any, error: Any) -> None:
    # D10: as a response does; whichever of the two tasks goes on first
    async def handler(websocket: WebSocket) -> None:
        await websocket.accept()
        for _ in range(20):
            with pytest.raises(error):
                await websocket.stream(content())

    peer = Peer()
    await peer.call(make_ws_app(handler))
    assert (peer.messages, peer.error) == (["last"] * 20, None)


class Stuck:
    """A handler that streams a body that fails, behind a message that takes a while."""

    def __init__(self, seconds: float, *, limit: float = math.inf) -> None:
        self.peer = Peer(on_send=self._take)
        self.took: Any = 0.0  # seconds, until the body had failed
        self._seconds = seconds
        self._limit = limit

    async def _take(self, message: Any) -> None:
        if message.get("text") == "first":
            with trio.CancelScope(shield=True):
                await trio.sleep(self._seconds)

    async def handle(self, websocket: WebSocket) -> None:
        await websocket.accept()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(websocket.send, "first")
            await wait_all_tasks_blocked()
            began = trio.current_time()
            with trio.move_on_after(self._limit):
                with pytest.raises(KeyError):
                    await websocket.stream(merge(hand_over_and_fail))
            self.took = trio.current_time() - began


async def test_the_last_item_of_a_body_that_fails_waits_for_its_turn(
    autojump_clock: MockClock,
) -> None:
    stuck = Stuck(0.3)
    await stuck.peer.call(make_ws_app(stuck.handle))
    assert stuck.peer.messages == ["first", "last"]
    assert stuck.took == pytest.approx(0.3)


async def test_the_last_item_of_a_body_that_fails_holds_up_its_error_not_for_long(
    autojump_clock: MockClock,
) -> None:
    stuck = Stuck(3.0)
    await stuck.peer.call(make_ws_app(stuck.handle))
    assert stuck.peer.messages == ["first"]
    assert stuck.took == pytest.approx(0.5)


async def test_a_failed_body_whose_handler_is_cancelled_sends_nothing_more(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    stuck = Stuck(3.0, limit=0.2)
    await stuck.peer.call(make_ws_app(stuck.handle))
    assert stuck.peer.messages == ["first"]
    assert stuck.took == pytest.approx(0.2)


async def test_a_failed_body_whose_client_leaves_meanwhile_sends_nothing_more(
    autojump_clock: MockClock,
) -> None:
    stuck = Stuck(3.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stuck.peer.call, make_ws_app(stuck.handle))
        await trio.sleep(0.1)
        stuck.peer.leave()
    assert stuck.peer.messages == ["first"]
    assert stuck.took == pytest.approx(0.5)


@pytest.mark.parametrize("item", [1, b"\xff"])
async def test_an_item_that_cannot_be_sent_is_an_error(
    item: Any, caplog: pytest.LogCaptureFixture
) -> None:
    peer = Peer()
    await peer.call(make_ws_app(streaming(lambda: ["a", item])))
    assert (peer.messages, peer.closed) == (["a"], (1011, ""))
    assert logged(caplog) == ["ERROR WebSocket / failed"]


async def test_an_error_that_the_body_suppresses_is_raised_all_the_same() -> None:
    @asynccontextmanager
    async def body() -> AsyncIterator[Any]:
        try:
            yield ["a", 1]
        except TypeError:
            pass

    async def handler(websocket: WebSocket) -> None:
        with pytest.raises(TypeError):
            await websocket.stream(body())

    await Peer().call(make_ws_app(handler))


async def test_a_body_is_left_by_cancellation_when_the_client_goes() -> None:
    # D49
    life = Life()

    async def handler(websocket: WebSocket) -> None:
        with pytest.raises(WebSocketClosed) as caught:
            await websocket.stream(two_feeds(life, say_one))
        assert (caught.value.code, life.running) == (1001, 0)
        left.append(True)

    left: list[bool] = []
    peer = Peer()
    async with peer.calling(make_ws_app(handler)):
        assert (len(peer.messages), life.running) == (2, 3)
        peer.leave(1001)
    assert left == [True]
    assert life.running == 0


async def test_a_body_is_left_when_a_send_finds_that_the_client_has_gone() -> None:
    # A message of the client waits, so its leaving is not heard.
    events: list[str] = []

    @asynccontextmanager
    async def body() -> AsyncIterator[Any]:
        try:
            yield ["a", "b", "c"]
        except trio.Cancelled:
            events.append("cancelled")
            raise

    async def on_send(message: Any) -> None:
        if message.get("text") == "b":
            raise OSError

    async def handler(websocket: WebSocket) -> None:
        await websocket.accept()
        await wait_all_tasks_blocked()
        try:
            await websocket.stream(body())
        except WebSocketClosed as closed:
            events.append(str(closed.code))

    peer = Peer(text("unread"), on_send=on_send)
    await peer.call(make_ws_app(handler))
    assert (peer.messages, events) == (["a"], ["cancelled", "1006"])


async def test_a_body_is_left_by_the_close_of_another_task() -> None:
    life = Life()

    async def handler(websocket: WebSocket) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(feed, websocket)
            await wait_all_tasks_blocked()
            await websocket.close(4000)

    async def feed(websocket: WebSocket) -> None:
        with pytest.raises(WebSocketClosed) as caught:
            await websocket.stream(two_feeds(life, say_one))
        assert caught.value.code == 4000

    peer = Peer()
    await peer.call(make_ws_app(handler))
    assert (life.running, peer.closed, peer.error) == (0, (4000, ""), None)


async def test_in_a_send_only_handler_the_body_is_cancelled_with_all_the_rest() -> None:
    # RQ-40
    life = Life()

    async def handler(websocket: WebSocket) -> None:
        websocket.send_only()
        try:
            await websocket.stream(two_feeds(life, say_one))
        except BaseException as error:
            kinds.extend({type(leaf) for leaf in leaves(error)})
            raise

    kinds: list[type[BaseException]] = []
    peer = Peer(*[text("dropped")] * 20)
    async with peer.calling(make_ws_app(handler)):
        assert life.running == 3
        peer.leave()
    assert (kinds, life.running, peer.error) == ([trio.Cancelled], 0, None)


async def test_what_being_cancelled_does_to_a_body_is_no_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @asynccontextmanager
    async def body() -> AsyncIterator[Any]:
        try:
            yield Endless()
        finally:
            raise trio.BrokenResourceError

    class Endless:
        def __aiter__(self) -> Any:
            return self

        async def __anext__(self) -> str:
            await trio.sleep_forever()
            raise AssertionError

    async def handler(websocket: WebSocket) -> None:
        with pytest.raises(WebSocketClosed):
            await websocket.stream(body())

    peer = Peer()
    async with peer.calling(make_ws_app(handler)):
        peer.leave()
    assert (peer.error, logged(caplog)) == (None, [])


async def test_an_error_of_a_body_that_is_being_cancelled_leaves_as_itself(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @asynccontextmanager
    async def body() -> AsyncIterator[Any]:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                send_channel, receive_channel = trio.open_memory_channel[str](0)
                with send_channel, receive_channel:
                    yield receive_channel
        finally:
            raise KeyError("x")

    peer = Peer()
    async with peer.calling(make_ws_app(streaming(body))):
        peer.leave()
    assert logged(caplog) == ["ERROR WebSocket / failed, and the client has gone"]


async def test_a_body_that_swallows_its_cancellation_is_over_all_the_same() -> None:
    @asynccontextmanager
    async def body() -> AsyncIterator[Any]:
        send_channel, receive_channel = trio.open_memory_channel[str](0)
        try:
            with send_channel, receive_channel:
                yield receive_channel
        except trio.Cancelled:  # noqa: ASYNC103
            pass

    async def handler(websocket: WebSocket) -> None:
        with pytest.raises(WebSocketClosed):
            await websocket.stream(body())

    peer = Peer()
    async with peer.calling(make_ws_app(handler)):
        peer.leave()
    assert peer.error is None


async def test_streaming_to_a_client_that_has_gone_enters_nothing_for_long(
    autojump_clock: MockClock,
) -> None:
    life = Life()

    async def handler(websocket: WebSocket) -> None:
        async for _ in websocket:
            pass
        await websocket.stream(two_feeds(life, say_one))

    peer = Peer(disconnect(1000))
    await peer.call(make_ws_app(handler))
    assert (life.running, peer.kinds, peer.error) == (0, ["accept"], None)
    assert trio.current_time() == 0


async def test_what_cannot_be_streamed_is_an_error_that_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    peer = Peer()
    await peer.call(make_ws_app(streaming(lambda: 1)))
    assert peer.status == 500
    assert "cannot stream an int" in caplog.text
