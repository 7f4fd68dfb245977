"""The sole reader of ``receive()``: it feeds the request's body and hears the client go."""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from tsstream._asgi import Message, Receive
from tsstream._sansio.exchange import Exchange, RequestEvent, RequestState

from .request import Request

logger = logging.getLogger("tsstream")


class Watcher:
    """Read what the server tells of one request, for as long as the exchange lasts (RQ-31).

    One chunk of the body is held until somebody takes it, so a handler that reads slowly slows
    the client, and a disconnect behind that chunk is heard when it is taken (RQ-29). Once nobody
    can read the body any more it is dropped as it arrives: a full queue of unread chunks would
    hide the disconnect, and stop Hypercorn's own last step (HOST fault 6, RQ-21 to RQ-23).

    Args:
      on_disconnect: called once, when the client has gone.
      on_error: called once, with what ``receive()`` raised or for a message that is none (RQ-33).
    """

    def __init__(
        self,
        receive: Receive,
        exchange: Exchange,
        request: Request,
        on_disconnect: Callable[[], None],
        on_error: Callable[[Exception], None],
    ) -> None:
        self._receive = receive
        self._exchange = exchange
        self._request = request
        self._on_disconnect = on_disconnect
        self._on_error = on_error
        self._settled = trio.Event()

    async def run(self) -> None:
        """Read until the client has gone, or until cancelled."""
        try:
            while self._exchange.request is not RequestState.GONE:
                await self._handle(await self._receive())
        except Exception as error:
            self._on_error(error)
        finally:
            self._request._body._end(complete=False)

    def close_body(self) -> None:
        """Nobody can read the body any more."""
        self._exchange.on_request(RequestEvent.CLOSE)
        self._request._body.close()

    def close_unopened_body(self) -> None:
        """The response has started; a body that nobody has asked for is not wanted (RQ-23)."""
        if not self._request._body_opened:
            self.close_body()

    async def wait_settled(self, seconds: float) -> None:
        """Wait, for so long at most, until nothing more of the body will come."""
        self.close_body()
        with trio.move_on_after(seconds):
            await self._settled.wait()

    async def _handle(self, message: Message) -> None:
        kind = message["type"]
        if kind == "http.request":
            await self._take_chunk(message.get("body", b""), message.get("more_body", False))
        elif kind == "http.disconnect":
            self._exchange.on_request(RequestEvent.DISCONNECT)
            self._request.disconnected.set()
            self._settled.set()
            self._on_disconnect()
        else:
            raise RuntimeError(f"the server sent {kind!r} within an HTTP request")

    async def _take_chunk(self, chunk: bytes, more_body: bool) -> None:
        reading = self._exchange.request is RequestState.READING
        if chunk and reading and not await self._request._body._put(chunk):
            self._exchange.on_request(RequestEvent.CLOSE)  # by the handler, or by us meanwhile
        self._exchange.on_request(RequestEvent.CHUNK if more_body else RequestEvent.LAST)
        if not more_body:
            self._request._body._end(complete=True)
            self._settled.set()
