"""What "Merge feeds by hand" says of its listing, and of each line that one could leave out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import by_hand
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from trio_websocket import ConnectionClosed, WebSocketRequest, serve_websocket

from tsstream import App, Request, Response, StreamPolicy
from tsstream.testing import TruncatedBodyError, open_client


class Publisher:
    """A WebSocket server: two messages for each reader, and what *then* does."""

    def __init__(self) -> None:
        self.close_code: int | None = None  # None: wait for the reader to leave
        self.left = trio.Semaphore(0)

    async def publish(self, request: WebSocketRequest) -> None:
        connection = await request.accept()
        for number in (1, 2):
            await connection.send_message(f"item {number}\n")
        if self.close_code is not None:
            await connection.aclose(code=self.close_code)
            return
        try:
            await connection.get_message()
        except ConnectionClosed:
            self.left.release()


@pytest.fixture
async def publisher(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> Publisher:
    publisher = Publisher()
    server = await nursery.start(serve_websocket, publisher.publish, "127.0.0.1", 0, None)
    for name in ("NEWS", "WEATHER"):
        monkeypatch.setattr(by_hand, name, f"ws://127.0.0.1:{server.port}")
    return publisher


async def test_feeds_merged_by_hand_end_when_all_have_ended(publisher: Publisher) -> None:
    publisher.close_code = 1000
    async with open_client(by_hand.app) as client:
        response = await client.get("/both")
    assert sorted(response.text.splitlines()) == ["item 1", "item 1", "item 2", "item 2"]


async def test_a_feed_merged_by_hand_that_fails_cuts_the_response(publisher: Publisher) -> None:
    publisher.close_code = 1011
    async with open_client(by_hand.app, raise_app_errors=False) as client:
        with pytest.raises(TruncatedBodyError):
            await client.get("/both")


async def test_feeds_merged_by_hand_are_closed_when_the_client_leaves(
    publisher: Publisher,
) -> None:
    async with open_client(by_hand.app) as client:
        async with client.stream("GET", "/both") as response:
            assert (await response.body.receive()).startswith(b"item")
        with trio.fail_after(1):
            for _ in range(2):
                await publisher.left.acquire()


async def test_a_refused_feed_merged_by_hand_is_a_500(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(by_hand, "NEWS", "ws://127.0.0.1:9")
    monkeypatch.setattr(by_hand, "WEATHER", "ws://127.0.0.1:9")
    async with open_client(by_hand.app, raise_app_errors=False) as client:
        assert (await client.get("/both")).status_code == 500


# The same shape, with made-up producers, and without one of its lines.

Producer = Callable[[trio.MemorySendChannel[str]], Awaitable[None]]


@asynccontextmanager
async def open_body(
    *producers: Producer, close_own_end: bool = True, cancel: bool = True
) -> AsyncIterator[trio.MemoryReceiveChannel[str]]:
    send_channel, receive_channel = trio.open_memory_channel[str](0)
    async with trio.open_nursery() as nursery:
        for producer in producers:
            nursery.start_soon(producer, send_channel.clone())
        if close_own_end:
            send_channel.close()
        with receive_channel:
            yield receive_channel
            if cancel:
                nursery.cancel_scope.cancel()
        send_channel.close()


async def send_one(send_channel: trio.MemorySendChannel[str]) -> None:
    with send_channel:
        await send_channel.send("one")


async def send_for_ever(send_channel: trio.MemorySendChannel[str]) -> None:
    with send_channel:
        while True:
            await send_channel.send("more")


async def say_nothing(send_channel: trio.MemorySendChannel[str]) -> None:
    with send_channel:
        await trio.sleep_forever()


async def stay_without_a_channel(send_channel: trio.MemorySendChannel[str]) -> None:
    send_channel.close()
    await trio.sleep_forever()


async def send_without_closing(send_channel: trio.MemorySendChannel[str]) -> None:
    await send_channel.send("one")


async def test_a_send_end_that_stays_open_keeps_the_client_waiting(
    autojump_clock: MockClock,
) -> None:
    for body in (open_body(send_one, close_own_end=False), open_body(send_without_closing)):
        async with body as receive_channel:
            assert await receive_channel.receive() == "one"
            with trio.move_on_after(1000) as waiting:
                await receive_channel.receive()
            assert waiting.cancelled_caught
    async with open_body(send_one) as receive_channel:
        assert [item async for item in receive_channel] == ["one"]


async def test_leaving_early_with_the_cancel_is_quiet() -> None:
    for producer in (send_for_ever, say_nothing):
        with trio.fail_after(1):
            async with open_body(producer, send_one) as receive_channel:
                await receive_channel.receive()
                await wait_all_tasks_blocked()


async def test_leaving_early_without_the_cancel_fails_or_hangs(autojump_clock: MockClock) -> None:
    with pytest.RaisesGroup(trio.BrokenResourceError):
        async with open_body(send_for_ever, cancel=False) as receive_channel:
            await receive_channel.receive()
            await wait_all_tasks_blocked()
    with trio.move_on_after(1000) as hanging:
        async with open_body(say_nothing, cancel=False):
            pass
    assert hanging.cancelled_caught


@pytest.mark.parametrize("cancel", [True, False])
async def test_a_task_that_goes_on_after_the_channels_end_cuts_the_response(
    cancel: bool, autojump_clock: MockClock
) -> None:
    """Without the cancel, once the ``exit`` limit of 10 s is over."""
    app = App()

    @app.get("/")
    async def handler(request: Request) -> Response:
        return Response(open_body(send_one, stay_without_a_channel, cancel=cancel))

    start = trio.current_time()
    async with open_client(app, raise_app_errors=False) as client:
        if cancel:
            assert (await client.get("/")).text == "one"
            assert trio.current_time() == start
        else:
            with pytest.raises(TruncatedBodyError):
                await client.get("/")
            assert trio.current_time() - start == StreamPolicy().exit
