"""The sole reader of ``receive()``: it feeds the request's body and hears the client go."""

from __future__ import annotations

from contextlib import suppress

import trio

from tsstream._asgi import Receive
from tsstream._sansio.exchange import Exchange, RequestEvent, RequestState

from .request import Request
from .source import BodySource, Listeners

LINGER = 1.0  # seconds: for a client to finish an upload that nobody wanted, before we end


class Watcher(BodySource):
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
        super().__init__(exchange, request, listeners)
        self._receive = receive
        self._send_chunk, self._receive_chunk = trio.open_memory_channel[bytes](0)
        self._scope = trio.CancelScope()
        self._settled = trio.Event()
        self._dropped = 0  # chunks

    def start(self, nursery: trio.Nursery) -> None:
        if self._client is not None:
            self._client.on_leave = self._leave
        nursery.start_soon(self._run)

    async def wait_settled(self) -> None:
        self.close_body()
        with trio.move_on_after(LINGER):
            await self._settled.wait()

    async def drop_rest(self) -> None:
        # What goes wrong here is nothing to anybody: the response was cut.
        with trio.move_on_after(LINGER), suppress(Exception):
            while (await self._receive()).get("more_body"):
                await self._drop_chunk()

    async def next_chunk(self, limit: float) -> bytes | None:
        try:
            with trio.fail_after(limit):
                return await self._receive_chunk.receive()
        except trio.EndOfChannel:
            pass
        await trio.lowlevel.checkpoint()  # if the client has gone, we have been cancelled
        self._check_complete()
        return None

    def close(self) -> None:
        self._exchange.on_request(RequestEvent.CLOSE)
        self._receive_chunk.close()

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

    def _leave(self) -> None:
        super()._leave()
        self._scope.cancel(reason="client disconnected")  # we may be holding a chunk

    def _hear_disconnect(self) -> None:
        super()._hear_disconnect()
        self._settled.set()

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
