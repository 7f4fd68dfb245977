"""The sole reader of ``receive()``: it feeds the request's body and hears the client go."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import attrs
import trio

from tsstream._asgi import Message, Receive
from tsstream._sansio.exchange import Exchange, RequestEvent, RequestState

from .body import HANDLER_RETURNED, STARTED_UNOPENED
from .host import client_of
from .request import Request

LINGER = 1.0  # seconds: for a client to finish an upload that nobody wanted, before we end


@attrs.frozen(kw_only=True)
class Listeners:
    """Who is told what ``receive()`` brings besides the body, each once."""

    on_disconnect: Callable[[], None]
    """The client has gone."""
    on_error: Callable[[Exception], None]
    """``receive()`` raised this."""
    on_strange: Callable[[Exception], None]
    """A message came that has no place in an HTTP request (RQ-33, AC-55)."""


class Watcher:
    """Read what the server tells of one request, for as long as the exchange lasts (RQ-31).

    One chunk of the body is held until somebody takes it, so a handler that reads slowly slows
    the client, and a disconnect behind that chunk is heard when it is taken (RQ-29). Once nobody
    can read the body any more it is dropped as it arrives: a full queue of unread chunks would
    hide the disconnect, and stop Hypercorn's own last step (HOST fault 6, RQ-21 to RQ-23). The
    guarded server tells of a disconnect past that chunk.
    """

    def __init__(
        self, receive: Receive, exchange: Exchange, request: Request, listeners: Listeners
    ) -> None:
        self._receive = receive
        self._exchange = exchange
        self._request = request
        self._listeners = listeners
        self._client = client_of(request.scope)
        self._scope = trio.CancelScope()
        self._settled = trio.Event()
        self._dropped = 0  # chunks
        self._complete = False  # the body; its client may have gone since
        request._body._source = self

    def start(self, nursery: trio.Nursery) -> None:
        """Begin to hear the client go; ends when *nursery* is cancelled."""
        self._send_chunk, self._receive_chunk = trio.open_memory_channel[bytes](0)
        if self._client is not None:
            self._client.on_leave = self._leave
        nursery.start_soon(self._run)

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
        if not self._request._body_opened:
            self._request._body._close(STARTED_UNOPENED)

    async def wait_settled(self) -> None:
        """Wait, for :data:`LINGER` at most, until nothing more of the body will come."""
        self.close_body()
        with trio.move_on_after(LINGER):
            await self._settled.wait()

    async def drop_rest(self) -> None:
        """Drop what still comes of the body, for a while; when nobody reads it any more."""
        # What goes wrong here is nothing to anybody: the response was cut.
        with trio.move_on_after(LINGER), suppress(Exception):
            while (await self._receive()).get("more_body"):
                await self._drop_chunk()

    async def next_chunk(self, limit: float) -> bytes | None:
        """Give the body's next chunk, or None at its end; what the body asks of its source."""
        try:
            with trio.fail_after(limit):
                return await self._receive_chunk.receive()
        except trio.EndOfChannel:
            self._check_complete()
            return None

    def close(self) -> None:
        """Drop the body from now on."""
        self._exchange.on_request(RequestEvent.CLOSE)
        self._receive_chunk.close()

    def _check_complete(self) -> None:
        """Raise what a reader is to be told, if the body has ended before its end."""
        if self._exchange.request is RequestState.DISCARDING:
            raise trio.ClosedResourceError
        if not self._complete:
            raise trio.BrokenResourceError("the client left before the request body was complete")

    async def _run(self) -> None:
        failure = None
        try:
            with self._scope:
                failure = await self._watch()
            # Not in an "except": the Cancelled that on_error() causes would take on the failure as
            # its context. And before the end of the body, which a reader would take for an error.
            if failure is not None:
                self._listeners.on_error(failure)
        finally:
            self._send_chunk.close()
            self._settled.set()

    async def _watch(self) -> Exception | None:
        while self._exchange.request is not RequestState.GONE:
            try:
                message = await self._receive()
            except Exception as error:
                return error
            if self._request.disconnected.is_set():
                return None  # we have been told of it while this was on its way
            if not self._is_body(message):
                return None
            if self._exchange.request is RequestState.COMPLETE:
                return None  # a middleware replays the body, and will never tell of the client
            await self._take_chunk(message.get("body", b""), message.get("more_body", False))
        return None

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
        """The client has gone, and we may be holding a chunk that nobody takes."""
        if self._exchange.request is not RequestState.GONE:
            self._hear_disconnect()
            self._scope.cancel(reason="client disconnected")

    def _hear_disconnect(self) -> None:
        self._exchange.on_request(RequestEvent.DISCONNECT)
        self._request.disconnected.set()
        self._settled.set()
        self._listeners.on_disconnect()

    async def _drop_chunk(self) -> None:
        """Drop a chunk, and let others run at times: a receive() need not ever wait."""
        self._dropped += 1
        if self._dropped % 8 == 0:
            await trio.lowlevel.checkpoint()

    async def _take_chunk(self, chunk: bytes, more_body: bool) -> None:
        if chunk and self._exchange.request is RequestState.READING:
            with suppress(trio.BrokenResourceError):  # closed by the handler, or by us, meanwhile
                await self._send_chunk.send(chunk)
        else:
            await self._drop_chunk()
        if self._request.disconnected.is_set():
            return  # we were told of it meanwhile
        self._move(more_body)
        if not more_body:
            self._send_chunk.close()
            self._settled.set()
