"""A WebSocket within a stream of HTTP/2 (RFC 8441)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
from hypercorn.protocol.events import Request
from hypercorn.protocol.ws_stream import ASGIWebsocketState

from tsstream._server.http2_engine import Codes
from tsstream._server.http2_stream import Stream

if TYPE_CHECKING:
    from tsstream._server.websocket import WebSocketExchange

UNENDED = (ASGIWebsocketState.HANDSHAKE, ASGIWebsocketState.CONNECTED)


class Tunnel:
    """Gives the bytes of a stream to its WebSocket, in a task of its own.

    A WebSocket answers what it receives, and may have to wait with that; the connection's reader
    must not. What waits here is bounded by the stream's window.
    """

    def __init__(self, stream: Stream, exchange: WebSocketExchange) -> None:
        self._stream = stream
        self._exchange = exchange
        self._gathered = bytearray()
        self._ended = False
        self._closed = False
        self._arrived = trio.lowlevel.ParkingLot()

    def take(self, data: bytes, *, ended: bool) -> None:
        """Take what a frame has brought; *ended* if it was the last."""
        self._gathered += data
        self._ended = ended
        self._arrived.unpark()

    def close(self) -> None:
        """The stream is no more."""
        self._closed = True
        self._arrived.unpark()

    async def run(self, request: Request) -> None:
        """Begin the WebSocket with *request*, and serve it until its stream ends."""
        await self._exchange.handle(request)
        while not self._closed:
            if self._gathered:
                data = bytes(self._gathered)
                self._gathered.clear()
                await self._exchange.receive_data(data)
                self._stream.give_back(len(data))
            elif self._ended:
                if self._exchange.state in UNENDED:  # it has left without a Close
                    self._stream.reset(Codes.CANCEL)
                return
            else:
                await self._arrived.park()
