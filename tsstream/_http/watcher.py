"""The sole reader of ``receive()``: it feeds the request's body and hears the client go."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import trio

from tsstream._asgi import Receive
from tsstream._sansio.exchange import Exchange, RequestEvent, RequestState

from .body import HANDLER_RETURNED, STARTED_UNOPENED
from .host import client_of
from .request import Request

LINGER = 1.0  # seconds: for a client to finish an upload that nobody wanted, before we end


class Watcher:
    """Read what the server tells of one request, for as long as the exchange lasts (RQ-31).

    One chunk of the body is held until somebody takes it, so a handler that reads slowly slows
    the client, and a disconnect behind that chunk is heard when it is taken (RQ-29). Once nobody
    can read the body any more it is dropped as it arrives: a full queue of unread chunks would
    hide the disconnect, and stop Hypercorn's own last step (HOST fault 6, RQ-21 to RQ-23). The
    guarded server tells of a disconnect past that chunk.

    Args:
      on_disconnect: called once, when the client has gone.
      on_error: called once, with what ``receive()`` raised.
      on_strange: called once, for a message that has no place in an HTTP request (RQ-33, AC-55).
    """

    def __init__(
        self,
        receive: Receive,
        exchange: Exchange,
        request: Request,
        on_disconnect: Callable[[], None],
        on_error: Callable[[Exception], None],
        on_strange: Callable[[Exception], None],
    ) -> None:
        self._receive = receive
        self._exchange = exchange
        self._request = request
        self._on_disconnect = on_disconnect
        self._on_error = on_error
        self._on_strange = on_strange
        self._client = client_of(request.scope)
        self._scope = trio.CancelScope()
        self._settled = trio.Event()
        self._dropped = 0  # chunks

    async def run(self) -> None:
        """Read until the client has gone, or until cancelled."""
        failure = None
        if self._client is not None:
            self._client.on_leave = self._leave
        try:
            with self._scope:
                failure = await self._watch()
            # Not in an "except": the Cancelled that on_error() causes would take on the failure as
            # its context. And before the end of the body, which a reader would take for an error.
            if failure is not None:
                self._on_error(failure)
        finally:
            if self._client is not None:
                self._client.on_leave = None
            self._request._body._end(complete=False)
            self._settled.set()

    def close_body(self) -> None:
        """Nobody can read the body any more."""
        self._exchange.on_request(RequestEvent.CLOSE)
        self._request._body._close(HANDLER_RETURNED)

    def close_unopened_body(self) -> None:
        """The response has started; a body that nobody has asked for is not wanted (RQ-23)."""
        if not self._request._body_opened:
            self._exchange.on_request(RequestEvent.CLOSE)
            self._request._body._close(STARTED_UNOPENED)

    async def wait_settled(self) -> None:
        """Wait, for :data:`LINGER` at most, until nothing more of the body will come."""
        self.close_body()
        with trio.move_on_after(LINGER):
            await self._settled.wait()

    async def drop_rest(self) -> None:
        """Drop what still comes of the body, for a while; when :meth:`run` has been cancelled."""
        # What goes wrong here is nothing to anybody: the response was cut.
        with trio.move_on_after(LINGER), suppress(Exception):
            while (await self._receive()).get("more_body"):
                await self._drop_chunk()

    async def _watch(self) -> Exception | None:
        while self._exchange.request is not RequestState.GONE:
            try:
                message = await self._receive()
            except Exception as error:
                return error
            if self._request.disconnected.is_set():
                return None  # we have been told of it while this was on its way
            kind = message.get("type")
            if kind == "http.disconnect":
                self._hear_disconnect()
            elif kind != "http.request":
                self._on_strange(RuntimeError(f"the server sent {kind!r} within an HTTP request"))
                return None
            elif self._exchange.request is RequestState.COMPLETE:
                return None  # a middleware replays the body, and will never tell of the client
            else:
                await self._take_chunk(message.get("body", b""), message.get("more_body", False))
        return None

    def _leave(self) -> None:
        """The client has gone, and we may be holding a chunk that nobody takes."""
        if self._exchange.request is not RequestState.GONE:
            self._hear_disconnect()
            self._scope.cancel(reason="client disconnected")

    def _hear_disconnect(self) -> None:
        self._exchange.on_request(RequestEvent.DISCONNECT)
        self._request.disconnected.set()
        self._settled.set()
        self._on_disconnect()

    async def _drop_chunk(self) -> None:
        """Drop a chunk, and let others run at times: a receive() need not ever wait."""
        self._dropped += 1
        if self._dropped % 8 == 0:
            await trio.lowlevel.checkpoint()

    async def _take_chunk(self, chunk: bytes, more_body: bool) -> None:
        if chunk and self._exchange.request is RequestState.READING:
            if not await self._request._body._put(chunk):
                self._exchange.on_request(RequestEvent.CLOSE)  # by the handler, or by us meanwhile
        else:
            await self._drop_chunk()
        if self._request.disconnected.is_set():
            return  # we were told of it meanwhile
        self._exchange.on_request(RequestEvent.CHUNK if more_body else RequestEvent.LAST)
        if not more_body:
            self._request._body._end(complete=True)
            self._settled.set()
