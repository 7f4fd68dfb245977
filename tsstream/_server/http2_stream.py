"""One stream of an HTTP/2 connection: what its client sends, and what its application answers."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import h2.exceptions
import trio
from hypercorn.protocol.events import (
    Body,
    Data,
    EndBody,
    EndData,
    Event,
    InformationalResponse,
    Response,
    StreamClosed,
    Trailers,
)
from hypercorn.utils import suppress_body

from tsstream._sansio.http2_fields import Field, build_fields, build_response, content_length
from tsstream._server.errors import ClientGone
from tsstream._server.exchange import HTTPExchange
from tsstream._server.http2_engine import Codes, Engine

if TYPE_CHECKING:
    from tsstream._server.connection import Connection
    from tsstream._server.websocket import WebSocketExchange

WINDOW = 65_535  # bytes of each stream that wait for its application; the protocol's default
MAX_WRITE = 64 * 1024  # bytes: of one stream in one turn


class Sending(Enum):
    """How far the response of a stream has come."""

    HEAD = auto()  # not sent yet
    BODY = auto()
    ENDED = auto()  # END_STREAM is on its way
    LOST = auto()  # reset, by either side, or the connection is lost


class Receiver(Protocol):
    """What takes the client's half of a stream; it never waits."""

    def take(self, data: bytes, *, ended: bool) -> None:
        """Take what a frame has brought; *ended* if it was the last."""

    def close(self) -> None:
        """The stream is no more."""


class Stream:
    """The sending half of one stream, and its flow control in both directions.

    The application's own task writes its frames, as far as the client's window allows. There is
    no buffer: what waits for window credit waits in the application's ``send()`` (HOST fault 2).

    Args:
      connection: whose stream it is.
      engine: the connection's h2.
      turn: held while data is sent. So one stream's worth of it waits for a slow client, not each
        one's, and none is served twice while another waits.
      stream_id: its number.
      on_over: called once, when nothing can be sent on it any more.

    Attributes:
      sending: how far the response has come.
      receiving: the client has not ended its half, and it is wanted.
      heard: when the client has last sent something of its half.
    """

    exchange: HTTPExchange | WebSocketExchange
    _http: HTTPExchange | None
    _receiver: Receiver
    _unreceived: int | None

    def __init__(
        self,
        connection: Connection,
        engine: Engine,
        turn: trio.Lock,
        stream_id: int,
        on_over: Callable[[Stream], None],
    ) -> None:
        self.id = stream_id
        self.sending = Sending.HEAD
        self.receiving = True
        self.heard = trio.current_time()
        self._connection = connection
        self._h2 = engine
        self._turn = turn
        self._on_over = on_over
        self._credited = trio.lowlevel.ParkingLot()
        self._owed = 0  # bytes of window to give back to the client
        self._unsent: int | None = None  # bytes that the Content-Length still promises
        self._written = 0  # bytes of DATA
        self._trailers: list[Field] = []

    def attach(
        self,
        exchange: HTTPExchange | WebSocketExchange,
        receiver: Receiver,
        length: int | None = None,
    ) -> None:
        """Name the application's call, where the client's half goes, and its Content-Length."""
        self.exchange, self._receiver, self._unreceived = exchange, receiver, length
        self._http = exchange if isinstance(exchange, HTTPExchange) else None

    # What the client sends.

    def receive(self, data: bytes, size: int, *, ended: bool) -> None:
        """Take *data*, for which the client has used *size* bytes of its window."""
        self.heard = trio.current_time()
        if self._unreceived is not None:
            self._unreceived -= len(data)
            if self._unreceived < 0 or (ended and self._unreceived):
                self.reset(Codes.PROTOCOL_ERROR)
                return
        self.receiving = not ended
        self._receiver.take(data, ended=ended)
        self.give_back(size - len(data))  # padding

    def give_back(self, size: int) -> None:
        """Give window back for *size* bytes that the application has taken.

        In portions: a client whose application is not behind has always half a window left.
        """
        self.heard = trio.current_time()  # from now on the client can go on
        self._owed += size
        if self._owed > WINDOW // 2 and self.receiving and self.sending is not Sending.LOST:
            self._h2.increment_flow_control_window(self._owed, self.id)
            self._owed = 0
            self._flush_soon()

    def add_credit(self) -> None:
        """The client's window may have grown."""
        self._credited.unpark_all()

    def invite_body(self) -> None:
        """Send 100 Continue, as the application wants the body that the client holds back."""
        if self.sending is Sending.HEAD and self.receiving:
            self._h2.send_headers(self.id, [(b":status", b"100")])
            self._flush_soon()

    @property
    def uploading(self) -> bool:
        """A body is still to come before the response starts, and it is for us to time it."""
        http = self._http
        unanswered = self.receiving and self.sending is Sending.HEAD
        return unanswered and http is not None and not http.times_body

    @property
    def quiet_since(self) -> float:
        """When the client has last sent, or could go on to send."""
        return trio.current_time() if self.exchange.inbox.size else self.heard

    # How it ends before its time.

    def refuse(self, status: int) -> None:
        """Answer in the application's place."""
        fields = [(b":status", b"%d" % status), (b"content-length", b"0")]
        fields += self._connection.server.response_headers("h2")
        self._h2.send_headers(self.id, fields, end_stream=True)
        self.reset(Codes.NO_ERROR)

    def reset(self, code: Codes) -> None:
        """Cut the stream; its application hears of a disconnect."""
        if self.sending is not Sending.LOST:
            self._reset(code)
            self.lose()

    def cut(self) -> None:
        """The application, or one of its sends, was cancelled: what was sent is not complete."""
        self.reset(Codes.INTERNAL_ERROR)

    def abandon(self) -> None:
        """Cut the stream, of which the application is not to hear anything."""
        if self.sending is not Sending.LOST:
            self.sending = Sending.LOST
            self._reset(Codes.INTERNAL_ERROR)

    def lose(self) -> None:
        """The stream is no more; its application hears of a disconnect."""
        if self.sending is not Sending.LOST:
            self.sending = Sending.LOST
            self._credited.unpark_all()
            self._receiver.close()
            self.exchange.disconnect()
            self._on_over(self)

    # What the application sends.

    async def send(self, event: Event) -> None:
        """Send one event of the exchange.

        Raises:
          ClientGone: the stream was reset, or the connection is lost.
          ValueError: the client must not be sent this.
        """
        if isinstance(event, StreamClosed):
            await self._close()
        else:
            self._check_open()
            await self._SENDERS[type(event)](self, event)

    async def _send_head(self, event: Response) -> None:
        fields = build_response(event.status_code, event.headers, informational=False)
        length = content_length(fields)
        method = "CONNECT" if self._http is None else self._http.scope["method"]
        self._unsent = None if suppress_body(method, event.status_code) else length
        fields += self._connection.server.response_headers("h2")
        self._h2.send_headers(self.id, fields)
        self.sending = Sending.BODY
        if self._http is not None:
            await trio.lowlevel.checkpoint_if_cancelled()  # what follows takes it along
        else:
            await self._flush()

    async def _send_informational(self, event: InformationalResponse) -> None:
        fields = build_response(event.status_code, event.headers, informational=True)
        self._h2.send_headers(self.id, fields)
        await self._flush()

    async def _send_body(self, event: Body | Data) -> None:
        rest = memoryview(event.data)
        if self._unsent is not None:
            if len(rest) > self._unsent:
                self.cut()
                raise ValueError("the body is longer than its Content-Length")
            self._unsent -= len(rest)
        end = self._written + len(rest)
        try:
            while rest:
                await self._wait_window()
                rest = rest[await self._send_some(rest) :]
        except trio.Cancelled:
            if end - len(event.data) < self._written < end:
                self.cut()  # what follows would be taken for the rest of this
            raise
        if not event.data:
            await self._flush()

    async def _send_some(self, data: memoryview) -> int:
        """Send as much as the window and one turn allow; give how much that was."""
        try:  # not "async with", which would be a pass of the scheduler for each chunk
            self._turn.acquire_nowait()
        except trio.WouldBlock:
            await self._turn.acquire()
        try:
            size = max(0, min(len(data), self._window, MAX_WRITE))
            length = self._h2.max_outbound_frame_size
            frames = [data[at : min(at + length, size)] for at in range(0, size, length)]
            if size == len(data) and self._ending and not self._connection.output.backlog:
                self._written += size
                for frame in frames:
                    self._h2.send_data(self.id, frame)
            else:
                await self._write(frames)
            return size
        finally:
            self._turn.release()

    async def _write(self, frames: list[memoryview]) -> None:
        pieces: list[bytes | memoryview] = [self._h2.data_to_send()]
        for frame in frames:
            self._written += len(frame)
            pieces += (self._h2.count_data(self.id, len(frame)), frame)
        await self._connection.output.write(*pieces)

    async def _wait_window(self) -> None:
        """Wait until the client gives window credit, but not for ever."""
        if self._window > 0:
            return
        await self._flush()  # a head that waits to be taken along
        limit = self._connection.limits.stall_timeout
        while self._window <= 0:
            with trio.move_on_after(math.inf if limit is None else limit) as scope:
                await self._credited.park()
            if scope.cancelled_caught:
                self.reset(Codes.CANCEL)

    async def _keep_trailers(self, event: Trailers) -> None:
        self._trailers += build_fields(event.headers)
        await trio.lowlevel.checkpoint()

    async def _send_end(self, event: EndBody | EndData) -> None:
        if self._unsent:
            self.cut()
            raise ValueError("the body is shorter than its Content-Length")
        if self._trailers:
            self._h2.send_headers(self.id, self._trailers, end_stream=True)
        else:
            self._h2.end_stream(self.id)
        self.sending = Sending.ENDED
        if self.receiving and isinstance(event, EndBody):
            # Nobody wants the rest of the request (RFC 9113 8.1).
            self.receiving = False
            self._h2.reset_stream(self.id, Codes.NO_ERROR)
        await self._flush()

    # Of the class: bound methods in the instance would be garbage that refers to itself.
    _SENDERS: ClassVar[dict[type[Event], Callable[[Stream, Any], Awaitable[None]]]] = {
        Response: _send_head,
        InformationalResponse: _send_informational,
        Body: _send_body,
        Data: _send_body,
        Trailers: _keep_trailers,
        EndBody: _send_end,
        EndData: _send_end,
    }

    async def _close(self) -> None:
        """The exchange is over: completely, or not."""
        if self.sending is Sending.ENDED:
            if self.receiving:
                self._reset(Codes.NO_ERROR)
            self.lose()
        elif self.sending is not Sending.LOST:
            self.cut()
        await trio.lowlevel.checkpoint_if_cancelled()

    # What they are made of.

    @property
    def _window(self) -> int:
        self._check_open()
        return self._h2.local_flow_control_window(self.id)

    @property
    def _ending(self) -> bool:
        """The end of the response follows at once, and takes along what was not flushed."""
        http = self._http
        return http is not None and http.ending and not http.response.get("trailers", False)

    def _check_open(self) -> None:
        if self.sending is Sending.LOST or self._connection.gone:
            raise ClientGone("the client has gone")

    def _reset(self, code: Codes) -> None:
        try:
            self._h2.reset_stream(self.id, code)
        except h2.exceptions.ProtocolError:
            return  # it has ended on both sides, or the connection has
        self._flush_soon()

    async def _flush(self) -> None:
        await self._connection.output.write(self._h2.data_to_send())

    def _flush_soon(self) -> None:
        self._connection.output.write_soon(self._h2.data_to_send())
