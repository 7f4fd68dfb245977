"""HTTP/1.1 and 1.0 on one connection: h11 knows the protocol, this drives it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, ClassVar, Final

import h11
import trio
from hypercorn.protocol.events import (
    Body,
    Data,
    EndBody,
    Event,
    Request,
    Response,
    StreamClosed,
)
from hypercorn.utils import valid_server_name

from tsstream._sansio.http1 import (
    Head,
    Phase,
    Refusal,
    check_request,
    content_length,
    is_websocket,
)
from tsstream._server.exchange import HTTPExchange
from tsstream._server.http1_body import Incoming, gather
from tsstream._server.http1_request import STREAM_ID, build_request
from tsstream._server.http1_response import ResponseWriter
from tsstream._server.inbox import Inbox
from tsstream._server.websocket import WebSocketExchange

if TYPE_CHECKING:
    from tsstream._server.connection import Connection

UNREAD = 1024 * 1024  # bytes: of a body that nobody wants, dropped to keep the connection (RQ-25)
DROP_TIMEOUT = 1.0  # seconds: for the same
EMPTY_LINES = 4  # bytes: before a request
COMPLETE: Final = {"type": "http.request", "body": b"", "more_body": False}


class HTTP1:
    """Serve one request after another.

    The connection's own task reads; the task of each call of the application writes. What the
    client sends goes to the inbox of the exchange, and while that is full nothing is read.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._config = connection.config
        self._limits = connection.limits
        self._h11 = self._make_h11()
        self._exchange: HTTPExchange | WebSocketExchange | None = None
        self._phase = Phase.HEAD
        self._arrived = False  # anything of the next request
        self._closing = connection.server.host.shutting_down.is_set()
        self._requests = 0
        self._response = self._make_response()
        self._incoming = Incoming(self._h11)
        self._moved_on = trio.lowlevel.ParkingLot()

    # What the connection asks of us.

    async def run(self, data: bytes) -> None:
        """Read until the connection is over."""
        self._receive(data)
        try:
            while self._phase is not Phase.OVER:
                if self._h11.their_state is h11.MUST_CLOSE:
                    # No further request is wanted (RFC 9112, 9.6), and h11 would take one for an
                    # error of this one.
                    await self._wait_response()
                else:
                    await self._take(self._h11.next_event())
        except h11.RemoteProtocolError as error:
            self._refuse(Refusal(error.error_status_hint, str(error)))
        except Refusal as refusal:
            self._refuse(refusal)

    def on_deadline(self) -> None:
        """The client was too slow: tell it, if it waits for a response."""
        if self._phase is Phase.HEAD:
            self._refuse(Refusal(408, "the request's head took too long"))
        elif self._phase is Phase.BODY:
            self._refuse(Refusal(408, "the request's body paused for too long"))
        else:
            self._stop(linger=self._phase is Phase.REST)

    def disconnect(self) -> None:
        """The client has gone."""
        self._phase = Phase.OVER
        self._moved_on.unpark_all()
        if self._exchange is not None:
            self._exchange.disconnect()

    def begin_closing(self) -> None:
        """The server shuts down."""
        self._closing = True
        if self._phase in (Phase.FIRST_BYTE, Phase.HEAD):
            self._stop(linger=False)
        elif isinstance(self._exchange, WebSocketExchange):
            self._exchange.begin_closing()

    def abandon(self) -> None:
        """Answer 503 if there is no answer yet, and cut what is under way."""
        if self._exchange is None:
            return
        if self._response.possible:
            self._response.refuse(503)
            self._exchange.closed = True  # it is not to reset this when it is cancelled
            self._exchange = None
            self._stop(linger=False)
        elif isinstance(self._exchange, WebSocketExchange):
            self._connection.output.write_soon(self._exchange.last_words())
        else:
            self._connection.cancel()

    # What the client sends.

    async def _take(self, event: Any) -> None:
        kind = type(event)
        if event is h11.NEED_DATA:
            await self._read()
        elif kind is h11.Data:
            data, event = gather(self._h11, event)
            await self._take_data(data)
            if event is None:
                await trio.lowlevel.checkpoint()
            elif self._phase in (Phase.BODY, Phase.REST):  # else its response has ended meanwhile
                await self._take(event)
        elif kind is h11.EndOfMessage:
            self._take_end()
            if self._phase is Phase.RESPONSE and not self._h11.trailing_data[0]:
                await self._read()  # h11 would ask for that
        elif kind is h11.Request:
            await self._begin(event)
        else:
            assert event is h11.PAUSED  # the next request is here already
            await self._wait_response()

    async def _read(self) -> None:
        self._time_body()
        if self._phase is Phase.FIRST_BYTE and self._arrived:
            self._phase = Phase.HEAD
            self._connection.set_deadline(self._limits.header_timeout)
        data = await self._connection.read(self._incoming.read_size)
        if data:
            await self._take_bytes(data)
        elif self._limits.half_close and self._phase is Phase.RESPONSE:
            self._closing = True
            await self._wait_response()
        else:
            self._connection.hang_up()

    async def _take_bytes(self, data: bytes) -> None:
        if self._phase is Phase.BODY:
            body, data = self._incoming.take_past(data)
            if body:
                await self._take_data(body)
        if data and self._phase is not Phase.OVER:
            self._receive(data)

    def _receive(self, data: bytes) -> None:
        if not self._arrived and data[:1] in (b"\r", b"\n"):
            # An empty line or two is what some clients end a body with (RFC 9112, 2.2).
            data = data[:EMPTY_LINES].lstrip(b"\r\n") + data[EMPTY_LINES:]
        if data:
            self._arrived = True
            self._h11.receive_data(data)

    async def _begin(self, event: h11.Request) -> None:
        # A list, as h11's own sequence is slow to walk through.
        head = Head(event.method, event.target, event.http_version, list(event.headers))
        check_request(head, self._limits.max_headers, self._config.h11_max_incomplete_size)
        self._requests += 1
        self._incoming = Incoming(self._h11, content_length(head) or 0)
        self._phase = Phase.BODY
        raw = self._config.h11_pass_raw_headers
        fields = event.headers.raw_items() if raw else head.headers
        request = build_request(head, fields, self._connection.server.state)
        if not valid_server_name(self._config, request):
            raise Refusal(404, "not a name of this server")
        if is_websocket(head):
            await self._run_websocket(request)
        else:
            self._exchange = HTTPExchange(
                self._connection,
                self._send,
                self._connection.abort,
                stream_id=STREAM_ID,
                inbox=Inbox(on_wanted=self._invite_body),
                on_timed=self._time_body,
                write_now=self._response.write_now,
            )
            await self._exchange.handle(request)
        await self._connection.server.context.mark_request()

    async def _take_data(self, data: bytes) -> None:
        self._incoming.unread -= len(data)
        if self._phase is not Phase.REST:
            await self._pass_on(data, self._inbox)
            return
        self._incoming.dropped += len(data)
        if self._incoming.dropped > UNREAD:
            self._stop(linger=True)

    async def _pass_on(self, data: bytes, inbox: Inbox) -> None:
        inbox.put({"type": "http.request", "body": data, "more_body": True}, len(data))
        if inbox.full:
            await trio.lowlevel.checkpoint()  # an application that is quick takes it here
        if inbox.full:
            self._connection.set_deadline(None)
            with self._connection.parked():
                await inbox.wait_room()

    def _take_end(self) -> None:
        self._connection.set_deadline(None)
        if self._phase is Phase.REST:
            self._recycle()
        elif self._phase is Phase.BODY:
            self._phase = Phase.RESPONSE
            self._inbox.put(COMPLETE)

    async def _wait_response(self) -> None:
        self._connection.set_deadline(None)
        with self._connection.parked():
            while self._phase in (Phase.BODY, Phase.RESPONSE):
                await self._moved_on.park()

    async def _run_websocket(self, request: Request) -> None:
        connection = self._connection
        connection.set_deadline(None)
        self._phase = Phase.RESPONSE
        exchange = self._exchange = WebSocketExchange(
            connection, self._send, connection.abort, stream_id=STREAM_ID, inbox=Inbox()
        )
        await exchange.handle(request)
        data = bytes(self._h11.trailing_data[0])
        while self._phase is Phase.RESPONSE:
            if data:
                await exchange.receive_data(data)
            if self._phase is Phase.RESPONSE and not (data := await connection.read()):
                connection.hang_up()

    def _invite_body(self) -> None:
        """Send 100 Continue, as the application wants the body that the client holds back."""
        if self._h11.they_are_waiting_for_100_continue and not self._response.begun:
            self._response.go_on()
            self._time_body()

    def _time_body(self) -> None:
        """Let the client not pause for too long within its body, if it is for us to mind it."""
        timed = isinstance(self._exchange, HTTPExchange) and self._exchange.times_body
        held_back = self._h11.they_are_waiting_for_100_continue
        if self._phase is Phase.BODY:
            no_limit = timed or held_back or self._response.begun
            self._connection.set_deadline(None if no_limit else self._limits.body_timeout)

    # What the application sends.

    async def _send(self, event: Event) -> None:
        await self._SENDERS[type(event)](self, event)

    async def _send_head(self, event: Response) -> None:
        if event.status_code == 101 and isinstance(self._exchange, WebSocketExchange):
            await self._response.switch_protocols(event.headers)
            return
        self._response.begin(event.status_code, event.headers, close=self._must_close)
        if self._phase is Phase.BODY:
            self._connection.set_deadline(None)

    async def _send_body(self, event: Body) -> None:
        exchange = self._exchange
        last = isinstance(exchange, HTTPExchange) and exchange.ending
        await self._response.write(event.data, last=last)

    async def _send_end(self, event: EndBody) -> None:
        await self._response.end()

    async def _send_data(self, event: Data) -> None:
        await self._connection.output.write(event.data)

    async def _end_exchange(self, event: StreamClosed) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is None:
            return  # its request was refused, while its last bytes were on their way
        exchange.disconnect()
        if isinstance(exchange, WebSocketExchange):
            self._stop(linger=True)
        elif self._h11.our_state is h11.DONE:
            self._recycle()
        elif self._h11.our_state is h11.MUST_CLOSE:
            self._stop(linger=not self._request_complete)
        elif not self._response.sent:
            self._response.replace(500)
            self._stop(linger=True)
        elif self._fin_is_an_end:
            self._connection.abort()
        else:
            self._stop(linger=True)

    # Of the class: bound methods in the instance would be garbage that refers to itself.
    _SENDERS: ClassVar[dict[type[Event], Callable[[HTTP1, Any], Awaitable[None]]]] = {
        Response: _send_head,
        Body: _send_body,
        EndBody: _send_end,
        Data: _send_data,
        StreamClosed: _end_exchange,
    }

    def _recycle(self) -> None:
        """Go on with the next request, when this one is all there, or its rest can be dropped."""
        if self._closing:
            self._stop(linger=not self._request_complete)
        elif self._h11.their_state is h11.DONE:
            self._phase = Phase.FIRST_BYTE
            self._arrived = False
            rest = self._h11.trailing_data[0]
            if rest[:1] in (b"\r", b"\n"):
                self._h11 = self._make_h11()
                self._receive(bytes(rest))
            else:
                self._h11.start_next_cycle()
                self._arrived = bool(rest)
            self._response = self._make_response()
            self._connection.set_deadline(self._config.keep_alive_timeout)
        elif self._h11.their_state is h11.SEND_BODY:
            self._phase = Phase.REST
            self._connection.set_deadline(DROP_TIMEOUT)
        else:
            self._stop(linger=True)
        if self._moved_on:
            self._moved_on.unpark_all()

    def _make_h11(self) -> h11.Connection:
        return h11.Connection(
            h11.SERVER, max_incomplete_event_size=self._config.h11_max_incomplete_size
        )

    def _make_response(self) -> ResponseWriter:
        return ResponseWriter(self._h11, self._connection.output, self._connection.server)

    @property
    def _must_close(self) -> bool:
        return (
            self._closing
            or self._requests >= self._config.keep_alive_max_requests
            or self._incoming.unread > UNREAD
            or self._h11.they_are_waiting_for_100_continue
        )

    @property
    def _request_complete(self) -> bool:
        return self._h11.their_state in (h11.DONE, h11.MUST_CLOSE)

    @property
    def _fin_is_an_end(self) -> bool:
        """To the client a FIN is the end of the response under way, or may be (HOST fault 12)."""
        return self._h11.their_http_version == b"1.0" and self._response.begun

    @property
    def _inbox(self) -> Inbox:
        assert self._exchange is not None
        return self._exchange.inbox

    # The end of the connection.

    def _refuse(self, refusal: Refusal) -> None:
        """Tell the client what is wrong with its request, if it still waits for a response."""
        connection = self._connection
        connection.log_failure(f"{refusal.status_code}: {refusal}")
        unanswered = self._response.possible
        if unanswered:
            self._response.refuse(refusal.status_code)
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.disconnect()
            if not unanswered and self._fin_is_an_end:
                connection.abort()
        self._stop(linger=True)

    def _stop(self, *, linger: bool) -> None:
        self._phase = Phase.OVER
        self._moved_on.unpark_all()
        self._connection.stop(linger=linger)
