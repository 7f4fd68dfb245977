"""What a test sees of an app on a server: who is alive, which calls returned, what was said."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import attrs
import pytest
import trio
from wire import RawConnection

from tsstream import App, Ending, Request
from tsstream._asgi import ASGIApp, Receive, Send

# Seconds: "prompt" on a real network, where the requirements say so. One of tox's environments
# measures the coverage, which makes every line some times slower; the others hold to the 0.1.
PROMPT = 0.3 if "COVERAGE_RUN" in os.environ else 0.1
IN_TIME = 5.0  # seconds: for what has no bound of its own, so that a hang fails by name
# Seconds: for servers under assert_no_leaks(). A connection that its client closes while idle, or
# at the moment of completion, is kept by the stock Hypercorn until its keep_alive_timeout.
IDLE = 0.2

Produce = Callable[[trio.MemorySendChannel[bytes]], Awaitable[None]]


WAYS_TO_LEAVE = ("close", "abort", "half_close")


async def leave(raw: RawConnection, way: str) -> None:
    """End the client's side of a connection in one of the ways."""
    if way == "half_close":
        await raw.half_close()
    else:
        getattr(raw, way)()


class Life:
    """Knows which named blocks are running, and what happened in which order.

    Attributes:
      events: ``"NAME in"``, ``"NAME out"`` and whatever a test adds.
    """

    def __init__(self) -> None:
        self.events: list[str] = []
        self._running: Counter[str] = Counter()
        self._changed = trio.lowlevel.ParkingLot()

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Count the block as running under *name*."""
        self.events.append(f"{name} in")
        self._running[name] += 1
        self._changed.unpark_all()
        try:
            yield
        finally:
            self._running[name] -= 1
            self.events.append(f"{name} out")
            self._changed.unpark_all()

    @property
    def running(self) -> int:
        return self._running.total()

    async def wait_running(self, count: int) -> None:
        with trio.fail_after(IN_TIME):  # noqa: ASYNC912
            while self.running < count:
                await self._changed.park()

    async def wait_gone(self, within: float = PROMPT) -> None:
        """Wait until nothing is running any more; fail if that takes longer than *within*."""
        with trio.fail_after(within):  # noqa: ASYNC912
            while self.running:
                await self._changed.park()


class Calls:
    """An ASGI application, wrapped to see its HTTP calls return.

    Attributes:
      running: calls that have not returned yet.
      returned: calls that have.
      raised: what those raised that did not return normally.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.running = 0
        self.returned = 0
        self.raised: list[BaseException] = []
        self._changed = trio.lowlevel.ParkingLot()

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        self.running += 1
        try:
            await self.app(scope, receive, send)
        except BaseException as error:
            self.raised.append(error)
            raise
        finally:
            self.running -= 1
            self.returned += 1
            self._changed.unpark_all()

    async def wait_idle(self, *, within: float = 1.0) -> None:
        with trio.fail_after(within):  # noqa: ASYNC912
            while self.running:
                await self._changed.park()

    async def wait_returned(self, count: int = 1, *, within: float = 1.0) -> None:
        with trio.fail_after(within):  # noqa: ASYNC912
            while self.returned < count:
                await self._changed.park()


@attrs.define
class Endings:
    """An ``on_end`` hook that keeps what it is told."""

    seen: list[Ending] = attrs.field(factory=list)

    def __call__(self, request: object, ending: Ending) -> None:
        self.seen.append(ending)

    @property
    def reasons(self) -> list[str]:
        return [ending.reason for ending in self.seen]


@asynccontextmanager
async def two_feeds(
    life: Life, produce: Produce
) -> AsyncIterator[trio.MemoryReceiveChannel[bytes]]:
    """The body by hand, with nothing of ours in it: two producers, a nursery, a channel."""

    async def feed(send_channel: trio.MemorySendChannel[bytes]) -> None:
        with life.of("producer"), send_channel:
            await produce(send_channel)

    send_channel, receive_channel = trio.open_memory_channel[bytes](0)
    with life.of("body"):
        async with trio.open_nursery() as nursery:
            with send_channel:
                for _ in range(2):
                    nursery.start_soon(feed, send_channel.clone())
            with receive_channel:
                yield receive_channel
            nursery.cancel_scope.cancel()


async def say_one(send_channel: trio.MemorySendChannel[bytes]) -> None:
    """Send one item, and then be idle for ever."""
    await send_channel.send(b"one\n")
    await trio.sleep_forever()


async def flood(send_channel: trio.MemorySendChannel[bytes]) -> None:
    """Send as fast as they are taken, for ever."""
    while True:
        await send_channel.send(b"x" * 1024)


def add_health(app: App[Any]) -> None:
    """Add the route for :func:`check_health`."""

    @app.get("/health")
    async def health(request: Request) -> str:
        return "fine"


async def check_health(raw: RawConnection) -> None:
    """Ask for ``/health`` on a connection of its own: the event loop turns."""
    with trio.fail_after(1):
        await raw.request("GET", "/health")
        status, _ = await raw.read_head()
        assert (status, await raw.read_body()) == (200, b"fine")


def logged(caplog: pytest.LogCaptureFixture, level: int = logging.WARNING) -> list[str]:
    """Give what tsstream has logged at *level* or above, each as ``"LEVEL message"``."""
    return [
        f"{record.levelname} {record.getMessage()}"
        for record in caplog.records
        if record.name == "tsstream" and record.levelno >= level
    ]


async def get(raw: RawConnection, path: str = "/", method: str = "GET") -> int:
    """Send a request without a body and read the response's head; give the status."""
    await raw.request(method, path)
    return (await raw.read_head())[0]
