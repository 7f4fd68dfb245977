"""A WebSocket exchange on a connection that is made up."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import SimpleNamespace
from typing import Any, cast

import trio
import trio.testing
from frames_ws import KEY, WSAnswer
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.protocol.events import Data, Event, Request
from hypercorn.typing import ConnectionState

from tsstream._asgi import ASGIApp
from tsstream._http.host import Host
from tsstream._server.inbox import Inbox
from tsstream._server.limits import Limits
from tsstream._server.websocket import WebSocketExchange

SPREAD = 60.0  # seconds
INTERVAL = 10.0  # seconds
LIMIT = 25.0  # seconds


class FakeConnection:
    """What an exchange asks of its connection, with nothing behind it."""

    encrypted = False
    client = server_address = ("127.0.0.1", 1)

    def __init__(self, nursery: trio.Nursery, app: ASGIApp, **config: Any) -> None:
        self.nursery = nursery
        self.config = Config.from_mapping({"accesslog": None, "errorlog": None, **config})
        self.limits = Limits(pong_timeout=LIMIT)
        self.server = SimpleNamespace(
            app=ASGIWrapper(app), context=None, host=Host(farewell_spread=SPREAD)
        )
        self.output = SimpleNamespace(backlog=0)
        self.failures: list[str] = []

    @contextmanager
    def parked(self, on_fin: object = None) -> Iterator[None]:
        yield

    def log_failure(self, text: str, error: BaseException | None = None) -> None:
        self.failures.append(text)


class Exchange:
    """An exchange, and what it did.

    Attributes:
      events: what it sent, except for the bytes of its frames.
      cut: whether it cut the connection.
      blocked: if set, nothing is sent before it is.
      pieces: each frame is taken in two pieces, as HTTP/2 may do it.
    """

    def __init__(self, nursery: trio.Nursery, app: ASGIApp, **config: Any) -> None:
        self.events: list[Event] = []
        self.cut = False
        self.blocked: trio.Event | None = None
        self.pieces = False
        self._data = b""
        self.connection = FakeConnection(nursery, app, **config)
        self.exchange = WebSocketExchange(
            cast(Any, self.connection), self._send, self._cut, stream_id=1, inbox=Inbox()
        )

    async def _send(self, event: Event) -> None:
        if self.blocked is not None:
            await self.blocked.wait()
        if isinstance(event, Data):
            half = len(event.data) // 2 if self.pieces else 0
            self._data += event.data[:half]
            if half:
                await trio.lowlevel.checkpoint()
            self._data += event.data[half:]
        else:
            self.events.append(event)

    def _cut(self) -> None:
        self.cut = True

    @property
    def answer(self) -> WSAnswer:
        """The frames that were sent."""
        return WSAnswer.of(self._data)

    async def begin(self, http_version: str = "1.1") -> None:
        headers = [(b"sec-websocket-version", b"13"), (b"host", b"localhost")]
        if http_version == "1.1":
            headers += [
                (b"connection", b"Upgrade"),
                (b"upgrade", b"websocket"),
                (b"sec-websocket-key", KEY),
            ]
        state = ConnectionState(cast(Any, {}))
        await self.exchange.handle(Request(1, headers, http_version, "GET", b"/", state))
        await trio.testing.wait_all_tasks_blocked()


Begin = Callable[..., Awaitable[Exchange]]


@asynccontextmanager
async def exchanges() -> AsyncIterator[Begin]:
    """Give a function that starts exchanges; they have to end by themselves."""

    async def begin(
        app: ASGIApp, http_version: str = "1.1", *, pieces: bool = False, **config: Any
    ) -> Exchange:
        exchange = Exchange(nursery, app, **config)
        exchange.pieces = pieces
        await exchange.begin(http_version)
        return exchange

    async with trio.open_nursery() as nursery:
        yield begin


def seconds_until_now() -> Callable[[], float]:
    start = trio.current_time()
    return lambda: trio.current_time() - start
