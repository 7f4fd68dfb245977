"""HTTP/2 on one connection: h2 knows the protocol, this drives it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import h2.errors
import h2.events
import h2.exceptions
import h2.settings
import trio
from hypercorn.protocol.events import Request
from hypercorn.typing import ConnectionState
from hypercorn.utils import valid_server_name

from tsstream._sansio.budget import Budget
from tsstream._sansio.http2_fields import (
    BadRequest,
    RequestHead,
    check_trailers,
    parse_request,
)
from tsstream._server.errors import ClientGone
from tsstream._server.exchange import HTTPExchange
from tsstream._server.http2_engine import Engine, ProtocolFault
from tsstream._server.http2_stream import WINDOW, Stream
from tsstream._server.http2_tunnel import Tunnel
from tsstream._server.http2_upload import BodyReceiver, UploadWatch
from tsstream._server.inbox import Inbox
from tsstream._server.output import BACKLOG
from tsstream._server.websocket import WebSocketExchange

if TYPE_CHECKING:
    from tsstream._server.connection import Connection

CONNECTION_WINDOW = 1024 * 1024  # bytes: given back at once; what waits is bounded by stream
# Streams that a client may waste at once, and in each second: twice what may be open, as one that
# has not seen our SETTINGS yet can be refused many. Rapid reset is thousands (CVE-2023-44487).
WASTE, WASTE_PER_SECOND = 200, 10
CHANGES, CHANGES_PER_SECOND = 100, 10  # of its SETTINGS; each is work for every stream

Codes = h2.errors.ErrorCodes
Setting = h2.settings.SettingCodes


class HTTP2:
    """Serve the streams of one connection.

    The connection's own task reads and never waits for an application: what the client sends
    waits in the inbox of each stream, and is bounded by the stream's window (HOST fault 4). The
    task of each call of the application writes. Only whole frames reach the connection's output,
    in the order in which h2 has made them.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._config = connection.config
        self._limits = connection.limits
        self._h2 = Engine(connection.config)
        self._streams: dict[int, Stream] = {}
        self._leaving: list[HTTPExchange | WebSocketExchange] = []  # over, but still running
        self._uploads = UploadWatch(connection.nursery, self._streams, self._limits.body_timeout)
        self._turn = trio.Lock()
        self._requests = 0
        self._received = 0  # bytes of connection window to give back
        self._closing = connection.server.host.shutting_down.is_set()  # new streams are refused
        self._said_goodbye = False  # by GOAWAY
        self._over = False
        self._drained = trio.lowlevel.ParkingLot()
        now = trio.current_time()
        self._waste = Budget(WASTE, WASTE_PER_SECOND, now)
        self._changes = Budget(CHANGES, CHANGES_PER_SECOND, now)
        self._take_event: dict[type[h2.events.Event], Callable[[Any], None]] = {
            h2.events.DataReceived: self._take_data,
            h2.events.StreamEnded: self._take_end,
            h2.events.TrailersReceived: self._take_trailers,
            h2.events.WindowUpdated: self._take_credit,
            h2.events.RemoteSettingsChanged: self._take_settings,
            h2.events.StreamReset: self._take_reset,
            h2.events.ConnectionTerminated: self._take_goaway,
        }

    # What the connection asks of us.

    async def run(self, data: bytes) -> None:
        """Read until the connection is over."""
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(CONNECTION_WINDOW - WINDOW)
        self._flush_soon()
        output = self._connection.output
        try:
            while not self._over:
                if data:
                    await self._take(data)
                if output.backlog > BACKLOG:  # answers to PINGs and the like, that it does not take
                    with self._connection.parked():
                        await output.wait_room()
                if not (data := await self._connection.read()):
                    await self._take_eof()
                    return
        except ProtocolFault as fault:
            self._fail(str(fault), fault.farewell)
        except ClientGone:
            pass

    def on_deadline(self) -> None:
        """No request came, or no other one."""
        self._say_goodbye()

    def disconnect(self) -> None:
        """The client has gone."""
        self._over = True
        for stream in list(self._streams.values()):
            stream.lose()
        self._drained.unpark_all()
        self._uploads.close()

    def begin_closing(self) -> None:
        """The server shuts down: what is open goes on."""
        for stream in list(self._streams.values()):
            if isinstance(stream.exchange, WebSocketExchange):
                stream.exchange.begin_closing()
        self._retire(linger=False)

    def abandon(self) -> None:
        """Cut every stream that is still open; their applications are cancelled after that."""
        for stream in list(self._streams.values()):
            stream.abandon()
        self._say_goodbye()

    # What the client sends.

    async def _take(self, data: bytes) -> None:
        for event in self._h2.take(data):
            if isinstance(event, h2.events.RequestReceived):
                await self._begin(event)
            elif (take := self._take_event.get(type(event))) is not None:
                take(event)
            if self._over:
                return
        self._flush_soon()

    async def _begin(self, event: h2.events.RequestReceived) -> None:
        """Call the application for a new stream, or refuse it."""
        stream_id = event.stream_id
        if self._closing or self._busy >= self._config.h2_max_concurrent_streams:
            self._waste_stream(stream_id, Codes.REFUSED_STREAM)
            return
        try:
            head = parse_request(
                event.headers or (),
                max_size=self._config.h2_max_header_list_size,
                max_count=self._limits.max_headers,
            )
        except BadRequest as error:
            self._refuse(stream_id, error)
            return
        request = self._make_request(stream_id, head)
        if not valid_server_name(self._config, request):
            self._refuse(stream_id, BadRequest("not a name of this server", 404))
            return
        stream = self._streams[stream_id] = Stream(
            self._connection, self._h2, self._turn, stream_id, self._forget
        )
        self._connection.set_deadline(None)
        if head.protocol:
            self._begin_websocket(stream, request)
        else:
            await self._begin_http(stream, request, head)
            if event.stream_ended is None:
                self._uploads.begin()
        self._requests += 1
        if self._requests >= 2 * self._config.keep_alive_max_requests:
            self._say_goodbye()  # there is always another stream open: so be it
        await self._connection.server.context.mark_request()

    def _make_request(self, stream_id: int, head: RequestHead) -> Request:
        return Request(
            stream_id=stream_id,
            headers=head.headers,
            http_version="2",
            method=head.method,
            raw_path=head.path,
            state=ConnectionState(self._connection.server.state),
        )

    async def _begin_http(self, stream: Stream, request: Request, head: RequestHead) -> None:
        def take_credit(size: int) -> None:
            stream.give_back(size)
            receiver.put()

        inbox = Inbox(take_credit, stream.invite_body if head.continues else None)
        receiver = BodyReceiver(inbox)
        exchange = HTTPExchange(
            self._connection, stream.send, stream.cut, stream_id=stream.id, inbox=inbox
        )
        stream.attach(exchange, receiver, head.length)
        await exchange.handle(request)

    def _begin_websocket(self, stream: Stream, request: Request) -> None:
        exchange = WebSocketExchange(
            self._connection, stream.send, stream.cut, stream_id=stream.id, inbox=Inbox()
        )
        tunnel = Tunnel(stream, exchange)
        stream.attach(exchange, tunnel)
        self._connection.nursery.start_soon(tunnel.run, request)

    def _take_data(self, event: h2.events.DataReceived) -> None:
        size = event.flow_controlled_length
        self._received += size
        if self._received > CONNECTION_WINDOW // 2:
            self._h2.increment_flow_control_window(self._received)
            self._received = 0
        if (stream := self._streams.get(event.stream_id)) is not None:
            stream.receive(event.data, size, ended=event.stream_ended is not None)

    def _take_end(self, event: h2.events.StreamEnded) -> None:
        stream = self._streams.get(event.stream_id)
        if stream is not None and stream.receiving:  # not said by the last DATA already
            stream.receive(b"", 0, ended=True)

    def _take_trailers(self, event: h2.events.TrailersReceived) -> None:
        try:
            check_trailers(event.headers or ())
        except BadRequest:
            if (stream := self._streams.get(event.stream_id)) is not None:
                stream.reset(Codes.PROTOCOL_ERROR)

    def _take_credit(self, event: h2.events.WindowUpdated) -> None:
        if event.stream_id == 0:
            for stream in self._streams.values():
                stream.add_credit()
        elif (named := self._streams.get(event.stream_id)) is not None:
            named.add_credit()

    def _take_settings(self, event: h2.events.RemoteSettingsChanged) -> None:
        if Setting.INITIAL_WINDOW_SIZE in event.changed_settings:
            for stream in self._streams.values():
                stream.add_credit()
        if not self._changes.spend(trio.current_time()):
            self._fail_calmly("its SETTINGS change too often")

    def _take_reset(self, event: h2.events.StreamReset) -> None:
        stream = self._streams.get(event.stream_id)
        if stream is not None:
            stream.lose()
        if stream is not None or not event.remote_reset:
            self._count_waste()

    def _take_goaway(self, event: h2.events.ConnectionTerminated) -> None:
        if event.error_code:
            self._connection.hang_up()
            return
        self._retire(linger=False)

    async def _take_eof(self) -> None:
        if self._limits.half_close and not self._connection.gone:
            self._closing = True
            for stream in list(self._streams.values()):
                if stream.receiving:  # its request can never be complete
                    stream.lose()
            with self._connection.parked():
                while self._streams:
                    await self._drained.park()
        else:
            self._connection.hang_up()

    # Streams that are not served.

    def _refuse(self, stream_id: int, error: BadRequest) -> None:
        if error.status is None:
            self._waste_stream(stream_id, Codes.PROTOCOL_ERROR)
            return
        fields = [(b":status", b"%d" % error.status), (b"content-length", b"0")]
        fields += self._connection.server.response_headers("h2")
        try:
            self._h2.send_headers(stream_id, fields, end_stream=True)
            self._h2.reset_stream(stream_id, Codes.NO_ERROR)
        except h2.exceptions.ProtocolError:
            pass  # the client has ended it, or reset it meanwhile

    def _waste_stream(self, stream_id: int, code: Codes) -> None:
        try:
            self._h2.reset_stream(stream_id, code)
        except h2.exceptions.ProtocolError:
            pass  # the client has reset it meanwhile
        self._count_waste()

    def _count_waste(self) -> None:
        if not self._waste.spend(trio.current_time()):
            self._fail_calmly("it opens streams only to waste them")

    # The end of a stream, and of the connection.

    @property
    def _busy(self) -> int:
        """Count the streams whose application runs, those that were reset included."""
        if self._leaving:
            self._leaving = [exchange for exchange in self._leaving if exchange.running]
        return len(self._streams) + len(self._leaving)

    def _forget(self, stream: Stream) -> None:
        del self._streams[stream.id]
        if stream.exchange.running:
            self._leaving.append(stream.exchange)
        if self._streams:
            return
        self._drained.unpark_all()
        if self._closing or self._requests >= self._config.keep_alive_max_requests:
            self._retire(linger=True)
        else:
            self._connection.set_deadline(self._config.keep_alive_timeout)

    def _fail_calmly(self, text: str) -> None:
        self._fail(text, self._h2.farewell(Codes.ENHANCE_YOUR_CALM))

    def _fail(self, text: str, farewell: bytes) -> None:
        """End the connection, for what the client does."""
        self._closing = self._said_goodbye = True
        self._connection.output.write_soon(farewell)
        self._connection.log_failure(text)
        self.disconnect()
        self._stop(linger=True)

    def _stop(self, *, linger: bool) -> None:
        self._over = True
        self._connection.stop(linger=linger)

    def _retire(self, *, linger: bool) -> None:
        """Take no new streams, and end when those that are open have.

        The GOAWAY comes last, though it could come first (RFC 9113 6.8): clients built on Python's
        h2 lose every open stream to it.
        """
        self._closing = True
        if not self._streams:
            self._say_goodbye()
            self._stop(linger=linger)

    def _say_goodbye(self) -> None:
        """Send a GOAWAY: the streams that are open go on, later ones are refused."""
        self._closing = True
        if not self._said_goodbye:
            self._said_goodbye = True
            self._connection.output.write_soon(self._h2.farewell(Codes.NO_ERROR))

    def _flush_soon(self) -> None:
        self._connection.output.write_soon(self._h2.data_to_send())
