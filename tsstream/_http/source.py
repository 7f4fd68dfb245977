"""Where the chunks of a request's body come from, and the news that its client has gone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import attrs
import trio

from tsstream._asgi import Message
from tsstream._sansio.exchange import Exchange, RequestEvent, RequestState

from .body import HANDLER_RETURNED, STARTED_UNOPENED
from .host import client_of
from .request import Request


@attrs.frozen(kw_only=True)
class Listeners:
    """Who is told what ``receive()`` brings besides the body, each once."""

    on_disconnect: Callable[[], None]
    """The client has gone."""
    on_error: Callable[[Exception], None]
    """``receive()`` raised this."""
    on_strange: Callable[[Exception], None]
    """A message came that has no place in an HTTP request (RQ-33, AC-55)."""


class BodySource(ABC):
    """The one reader of ``receive()``, for as long as the exchange lasts (RQ-31)."""

    def __init__(self, exchange: Exchange, request: Request, listeners: Listeners) -> None:
        self._exchange = exchange
        self._request = request
        self._listeners = listeners
        self._client = client_of(request.scope)
        self._complete = False  # the body; its client may have gone since
        request._body._source = self

    @abstractmethod
    def start(self, nursery: trio.Nursery) -> None:
        """Begin to hear the client go; ends when *nursery* is cancelled."""

    @abstractmethod
    async def next_chunk(self, limit: float) -> bytes | None:
        """Give the body's next chunk, or None at its end; what the body asks of its source."""

    @abstractmethod
    def close(self) -> None:
        """Drop the body from now on."""

    def stop(self) -> None:
        """Hear nothing any more."""
        if self._client is not None:
            self._client.on_leave = None
        self.close_body()

    def close_body(self) -> None:
        """Nobody can read the body any more."""
        self._request._body._close(HANDLER_RETURNED)

    def close_unopened_body(self) -> None:
        """The response has started; a body that nobody has asked for is not wanted (RQ-23)."""
        if not self._request._body_wanted:
            self._request._body._close(STARTED_UNOPENED)

    async def wait_settled(self) -> None:
        """Wait, for a while, until nothing more of the body will come."""
        self.close_body()
        await trio.lowlevel.checkpoint()

    async def drop_rest(self) -> None:
        """Drop what still comes of the body, for a while; when nobody reads it any more."""
        await trio.lowlevel.checkpoint()

    def _check_complete(self) -> None:
        """Raise what a reader is to be told, if the body has ended before its end."""
        if self._exchange.request is RequestState.DISCARDING:
            raise trio.ClosedResourceError
        if not self._complete:
            raise trio.BrokenResourceError("the client left before the request body was complete")

    def _is_body(self, message: Message) -> bool:
        """Say whether the message is of the body; else its listener is told."""
        kind = message.get("type")
        if kind == "http.disconnect":
            self._hear_disconnect()
        elif kind != "http.request":
            text = f"the server sent {kind!r} within an HTTP request"
            self._listeners.on_strange(RuntimeError(text))
        return kind == "http.request"

    def _move(self, more_body: bool) -> None:
        self._exchange.on_request(RequestEvent.CHUNK if more_body else RequestEvent.LAST)
        self._complete = not more_body

    def _leave(self) -> None:
        """The server says that the client has gone."""
        if self._exchange.request is not RequestState.GONE:
            self._hear_disconnect()

    def _hear_disconnect(self) -> None:
        self._exchange.on_request(RequestEvent.DISCONNECT)
        self._request.disconnected.set()
        self._listeners.on_disconnect()
