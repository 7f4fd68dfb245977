"""What a body holds is closed whoever owned it, however the exchange ends."""

# What PEP 789 warns of is what some of these tests are about.
# flake8: noqa: ASYNC101, ASYNC119

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from itertools import repeat
from typing import Any, Self

import pytest
import trio
from asgi import Server, make_app
from trio.testing import wait_all_tasks_blocked

from tsstream import Request
from tsstream._asgi import Message

# Channels that are filled from the app's nursery: no nursery of their own cancels the producer


class Feed:
    """A channel for each request, with a producer in the app's nursery.

    Attributes:
      receive: the channel that the handler gave.
      told: how often a producer heard that nobody reads its channel any more.
    """

    def __init__(self, give: Callable[[Any], Any], items: Iterable[object]) -> None:
        self.give = give
        self.items = items
        self.told = 0
        self.receive: trio.MemoryReceiveChannel[object]

    async def handler(self, request: Request[Any]) -> Any:
        send_channel, self.receive = trio.open_memory_channel[object](0)
        request.app.nursery.start_soon(self.produce, send_channel)
        return self.give(self.receive)

    async def produce(self, send_channel: trio.MemorySendChannel[object]) -> None:
        try:
            with send_channel:
                for item in self.items:
                    await send_channel.send(item)
        except trio.BrokenResourceError:
            self.told += 1


@asynccontextmanager
async def manage(content: Any) -> AsyncIterator[Any]:
    yield content


def itself(channel: Any) -> Any:
    return channel


async def end_early(server: Server, app: Any, how: str) -> None:
    """Let one exchange end as *how* says, after some items."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.call, app)
        while len(server.chunks) < 3:  # noqa: ASYNC110
            await trio.lowlevel.checkpoint()
        if how == "cancelled":
            nursery.cancel_scope.cancel()
        elif how == "disconnect":
            server.leave()


ways_to_give = pytest.mark.parametrize("give", [itself, manage], ids=["bare", "yielded"])


@pytest.mark.parametrize("how", ["disconnect", "error of send", "cancelled"])
@ways_to_give
async def test_a_channel_that_nobody_else_closes_is_closed(give: Any, how: str) -> None:
    # D32, AC-12
    async def fail_later(message: Message) -> None:
        if how == "error of send" and len(server.chunks) == 3:
            raise RuntimeError("the server broke")

    feed = Feed(give, repeat(b"x"))
    app = make_app(feed.handler)
    server = Server(on_send=fail_later)
    async with app.open_lifespan():
        await end_early(server, app, how)
        await wait_all_tasks_blocked()
        assert feed.receive.statistics().open_receive_channels == 0
        assert feed.told == 1


@ways_to_give
async def test_a_channel_with_an_item_that_cannot_be_sent_is_closed(give: Any) -> None:
    feed = Feed(give, [b"a", 1, b"b"])
    app = make_app(feed.handler)
    server = Server()
    async with app.open_lifespan():
        await server.call(app)
        await wait_all_tasks_blocked()
    assert isinstance(server.error, TypeError)
    assert feed.told == 1


# Async iterables whose iterator is another object


class Gives:
    """An async iterable whose ``__aiter__`` is an async generator function."""

    def __init__(self) -> None:
        self.log: list[str] = []

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x"
        finally:
            self.log.append("closed")


class EntersAndGives(Gives):
    """The same, with a context manager round it."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.log.append("left")


class Closing:
    """An async iterator with a close of its own."""

    def __init__(self, log: list[str]) -> None:
        self.log = log

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        await trio.lowlevel.checkpoint()
        return b"x"

    async def aclose(self) -> None:
        self.log.append("closed")


class EntersAndGivesIterator(EntersAndGives):
    """Its iterator is an object of another class."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        return Closing(self.log)


@pytest.mark.parametrize(
    ("kind", "log"),
    [
        (Gives, ["closed"]),
        (EntersAndGives, ["closed", "left"]),
        (EntersAndGivesIterator, ["closed", "left"]),
    ],
    ids=["iterable", "iterable with a context", "the same, with an iterator of another class"],
)
@ways_to_give
async def test_the_iterator_of_an_iterable_is_closed_when_the_client_leaves(
    kind: type[Gives], log: list[str], give: Any
) -> None:
    # D27
    content = kind()

    async def handler(request: object) -> Any:
        return give(content)

    await end_early(Server(), make_app(handler), "disconnect")
    assert content.log == log


class WithNursery:
    """An iterable that opens a nursery round its ``yield`` (PEP 789), in which a task fails."""

    def __init__(self, fail_now: trio.Event) -> None:
        self.fail_now = fail_now

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.fail)
            while True:
                yield b"x"
                await trio.lowlevel.checkpoint()

    async def fail(self) -> None:
        await self.fail_now.wait()
        raise ValueError("a producer")


class EntersWithNursery(WithNursery):
    """The same, with a context manager round it."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("kind", [WithNursery, EntersWithNursery])
@ways_to_give
async def test_an_iterable_may_open_a_nursery_round_its_yield(
    give: Any, kind: type[WithNursery]
) -> None:
    # AC-40: its error leaves as itself, and not in a group with a GeneratorExit of ours
    fail_now = trio.Event()

    async def fail_while_it_is_sent(message: Message) -> None:
        if message.get("body"):
            fail_now.set()
            await wait_all_tasks_blocked()

    async def handler(request: object) -> Any:
        return give(kind(fail_now))

    server = Server(on_send=fail_while_it_is_sent)
    await server.call(make_app(handler))
    assert (server.status, server.complete) == (200, False)
    assert isinstance(server.error, ValueError)


class NotesTasks:
    """An iterable that notes the task in which it is started, and the one in which it is closed."""

    def __init__(self) -> None:
        self.tasks: list[trio.lowlevel.Task] = []

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self.tasks.append(trio.lowlevel.current_task())
        try:
            while True:
                yield b"x"
        finally:
            self.tasks.append(trio.lowlevel.current_task())


@ways_to_give
async def test_the_generator_of_an_iterable_runs_in_one_task_of_its_own(give: Any) -> None:
    # AC-40: so a cancel scope round its yield is round nothing else
    content = NotesTasks()

    async def handler(request: object) -> Any:
        content.tasks.append(trio.lowlevel.current_task())
        return give(content)

    await end_early(Server(), make_app(handler), "disconnect")
    task_of_handler, started_in, closed_in = content.tasks
    assert started_in is closed_in is not task_of_handler
