"""The request's body on the guarded server: whoever wants a chunk receives it."""

from __future__ import annotations

import math

import trio

from tsstream._asgi import Message, Receive
from tsstream._sansio.exchange import Exchange, RequestEvent, RequestState

from .alarm import Alarm
from .host import INTERRUPTED, Inbox, client_of
from .request import Request
from .source import BodySource, Listeners
from .watcher import Watcher


def make_source(
    receive: Receive, exchange: Exchange, request: Request, listeners: Listeners
) -> BodySource:
    """Give the reader that suits the server, or the middleware, that made *receive*."""
    client = client_of(request.scope)
    if client is not None and client.inbox is not None and client.inbox.receive == receive:
        return Puller(client.inbox, exchange, request, listeners)
    return Watcher(receive, exchange, request, listeners)


class Puller(BodySource):
    """Receive when the body is read, in the task that reads it, and else not at all.

    Possible where the server tells by itself of the client's leaving. It saves two passes of the
    scheduler for each chunk; and a client that waits for ``100 Continue`` is told to go on when
    somebody wants its body, so that it can be refused before it has sent that.
    """

    def __init__(
        self, inbox: Inbox, exchange: Exchange, request: Request, listeners: Listeners
    ) -> None:
        super().__init__(exchange, request, listeners)
        self._inbox = inbox
        self._nursery: trio.Nursery | None = None
        self._alarm = Alarm(inbox.interrupt)

    def start(self, nursery: trio.Nursery) -> None:
        assert self._client is not None
        self._client.on_leave = self._leave
        self._client.time_body()
        self._nursery = nursery
        if self._client.left:
            nursery.start_soon(self._hear_left)

    def stop(self) -> None:
        self._nursery = None
        super().stop()

    async def next_chunk(self, limit: float) -> bytes | None:
        while self._exchange.request is RequestState.READING:
            due = math.inf if self._inbox.ready else self._set_alarm(limit)
            message = await self._inbox.receive()
            self._alarm.at = math.inf
            if message is INTERRUPTED:
                if trio.current_time() >= due:
                    raise trio.TooSlowError
            elif chunk := self._take(message):
                return chunk
        await trio.lowlevel.checkpoint()  # if the client has gone, we have been cancelled
        self._check_complete()
        return None

    def close(self) -> None:
        self._exchange.on_request(RequestEvent.CLOSE)
        self._inbox.discard()

    def _set_alarm(self, limit: float) -> float:
        due = trio.current_time() + limit
        if due < math.inf and self._nursery is not None:
            self._alarm.start(self._nursery)
            self._alarm.set(due)
        return due

    def _take(self, message: Message) -> bytes:
        """Give what is in a message; nothing if it is not of the body, or came too late."""
        if self._request.disconnected.is_set() or not self._is_body(message):
            return b""
        self._move(message.get("more_body", False))
        return bytes(message.get("body", b""))

    async def _hear_left(self) -> None:  # noqa: ASYNC910 (a task of its own)
        self._leave()  # before us: nobody has told the handler yet
