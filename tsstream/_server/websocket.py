"""One WebSocket, between the application's messages and a protocol's events."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from functools import partial
from time import time
from typing import TYPE_CHECKING, Any, cast

import trio
from hypercorn.config import Config
from hypercorn.protocol.events import Data, EndBody, EndData, Event, Request, Response, StreamClosed
from hypercorn.protocol.ws_stream import ASGIWebsocketState, WSStream
from hypercorn.typing import AppWrapper
from hypercorn.utils import UnexpectedMessageError
from wsproto.connection import Connection as Frames
from wsproto.connection import ConnectionState, ConnectionType
from wsproto.events import CloseConnection, Message, Ping
from wsproto.events import Event as Frame
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import LocalProtocolError

from tsstream._http.host import CLIENT, EXTENSION, Client
from tsstream._sansio.http1 import Refusal
from tsstream._sansio.websocket import (
    LOST,
    VERSION,
    MessageBuffer,
    MessageTooBig,
    accept_headers,
    check_close,
    check_handshake,
    is_of_handshake,
    refusal_headers,
    subprotocols,
)
from tsstream._server.errors import ClientGone
from tsstream._server.exchange import call_app
from tsstream._server.inbox import ROOM, Inbox
from tsstream._server.pinger import Pinger

if TYPE_CHECKING:
    from tsstream._server.connection import Connection

CLOSE_TIMEOUT = 5.0  # seconds: for our Close to go out and the client's to come
FRAMES_PER_CHECKPOINT = 64  # a client may send thousands of empty frames in one packet

State = ASGIWebsocketState


class WebSocketExchange(WSStream):
    """Hypercorn's translation of ASGI, with real close codes and a bound on what is read ahead.

    The inbox is full with one message in it, so one message waits and the next is being put
    together, and of neither is there more than ``websocket_max_message_size``. permessage-deflate
    is never agreed on: some bytes would become a message of any size (HOST fault 13).

    Args:
      connection: whose nursery the application runs in.
      send: takes the events. ``StreamClosed`` is the last, unless the driver has called
        :meth:`disconnect` before.
      on_cut: called, and cannot wait, when the connection is of no use any more.
      stream_id: HTTP/2's.
      inbox: what the application receives.
    """

    def __init__(
        self,
        connection: Connection,
        send: Callable[[Event], Awaitable[None]],
        on_cut: Callable[[], None],
        *,
        stream_id: int,
        inbox: Inbox,
    ) -> None:
        super().__init__(
            connection.server.app,
            connection.config,
            cast(Any, connection.server.context),
            cast(Any, self),  # Hypercorn's task group; see spawn_app()
            connection.encrypted,
            connection.client,
            connection.server_address,
            send,
            stream_id,
        )
        self.connection: Frames  # what Hypercorn calls wsproto's state
        self.inbox = inbox
        self.failed = False  # the application raised an error
        self.running = False  # it has been called, and has not returned
        self._carrier = connection
        self._on_cut = on_cut
        self._client = Client()
        self._refusal: Refusal | None = None
        self._messages = MessageBuffer(connection.config.websocket_max_message_size)
        self._order = trio.StrictFIFOLock()  # of the frames
        self._decided = trio.Event()  # accepted, refused or lost
        self._deaf = trio.Event()  # nothing that the client may still send matters
        self._pinger = Pinger(
            partial(self._send_wsproto_event, Ping()),
            self._drop,
            listening=lambda: not self.inbox.full,
            interval=connection.config.websocket_ping_interval,
            limit=connection.limits.pong_timeout,
        )

    # The handshake.

    async def handle(self, event: Event) -> None:
        """Take the request: start the application, or refuse it."""
        assert isinstance(event, Request)
        try:
            check_handshake(event.headers, event.http_version)
        except Refusal as refusal:
            self._refusal = refusal
            self._carrier.log_failure(f"{refusal.status_code}: {refusal}")
            # Hypercorn fails on some of these headers, and refuses a request without them.
            headers = [field for field in event.headers if not is_of_handshake(field[0])]
            event = replace(event, headers=headers)
        await super().handle(event)

    async def spawn_app(
        self, app: AppWrapper, config: Config, scope: Any, send: Callable[[Any], Awaitable[None]]
    ) -> Callable[[Any], Awaitable[None]]:
        """Start the application; what Hypercorn asks of its task group."""
        offered = subprotocols(scope["headers"])
        scope["subprotocols"] = self.handshake.subprotocols = offered
        scope["extensions"] |= {EXTENSION: self._carrier.server.host, CLIENT: self._client}
        self.running = True
        self._carrier.nursery.start_soon(call_app, self, app, config, scope)
        return self._put

    async def _put(self, message: Any) -> None:
        self.inbox.put(message)

    async def _accept(self, message: Any) -> None:
        handshake = self.handshake
        if handshake.accepted:
            raise UnexpectedMessageError(self.state, message["type"])
        headers = accept_headers(
            message.get("subprotocol"),
            handshake.subprotocols or (),
            message.get("headers", ()),
            key=None if handshake.http_version == "2" else handshake.key,
        )
        status = 200 if handshake.http_version == "2" else 101
        handshake.accepted = True
        self.connection = Frames(ConnectionType.SERVER)
        await self.send(Response(self.stream_id, headers, status))
        self.state = State.CONNECTED
        self._decided.set()
        await self._log_access(status)
        self._carrier.nursery.start_soon(self._pinger.run)

    async def _send_error_response(self, status_code: int) -> None:
        """Refuse the handshake: ours is to say why, and to close the connection."""
        if self._refusal is not None and status_code == 400:
            status_code = self._refusal.status_code
        version = [(b"sec-websocket-version", VERSION)] if status_code == 426 else []
        headers = self._refusal_headers(status_code, [(b"content-length", b"0"), *version])
        self.state = State.HTTPCLOSED
        await self.send(Response(self.stream_id, headers, status_code))
        await self.send(EndBody(self.stream_id))
        await self._log_access(status_code)
        await self._end_refusal()

    async def _send_rejection(self, message: Any) -> None:
        if self.state is State.HANDSHAKE and not hasattr(self, "response"):
            raise UnexpectedMessageError(self.state, message["type"])
        await super()._send_rejection(message)
        if self.state is State.HTTPCLOSED:
            await self._end_refusal()

    def _refusal_headers(self, status: int, headers: Any) -> list[tuple[bytes, bytes]]:
        return refusal_headers(status, headers, self.handshake.http_version)

    async def _end_refusal(self) -> None:
        self._decided.set()
        self._deaf.set()
        await self.send(StreamClosed(self.stream_id))

    async def _log_access(self, status: int) -> None:
        response = cast(Any, {"status": status, "headers": []})
        await self.config.log.access(self.scope, response, time() - self.start_time)

    # What the application sends.

    async def app_send(self, message: Any) -> None:
        """Take one message of the application; None when it has returned."""
        if message is None:
            await self._end_app()
            return
        if self.closed:
            await trio.lowlevel.checkpoint()
            raise ClientGone("the client has gone")
        try:
            kind = message["type"]
            if kind == "websocket.close" and self.state in (State.CONNECTED, State.CLOSED):
                code, reason = check_close(message.get("code"), message.get("reason"))
                self._tell_end(code, reason)
                self._begin_close(code, reason)
                await trio.lowlevel.checkpoint()
            elif kind == "websocket.http.response.start" and self.state is State.HANDSHAKE:
                headers = self._refusal_headers(message["status"], message.get("headers", ()))
                await super().app_send(cast(Any, {**message, "headers": headers}))
            else:
                await super().app_send(message)
        except trio.Cancelled:
            if self.state not in (State.CONNECTED, State.CLOSED):
                self._on_cut()
            raise

    async def _end_app(self) -> None:
        # Whoever waits for room goes on: there may be a Close behind what nobody has taken.
        self._tell_end(1000)
        if self.closed:
            return
        if self.state is State.HANDSHAKE:
            await self._send_error_response(500)
        elif self.state is State.RESPONSE:
            await self.send(StreamClosed(self.stream_id))  # without an end: it is not complete
        else:
            failed, normal = CloseReason.INTERNAL_ERROR, CloseReason.NORMAL_CLOSURE
            self._begin_close(failed if self.failed else normal)

    async def _send_wsproto_event(self, event: Frame) -> None:
        """Send a frame whole, before any other; not a control frame that has become pointless.

        Raises:
          ClientGone: a Close has been sent or has come, or the client is lost.
        """
        try:  # not "async with", which would be a pass of the scheduler for each message
            self._order.acquire_nowait()
        except trio.WouldBlock:
            await self._order.acquire()
        try:
            await self.send(Data(self.stream_id, self.connection.send(event)))
        except LocalProtocolError:
            if isinstance(event, Message):
                raise ClientGone("the WebSocket has been closed") from None
        except trio.Cancelled:
            # HTTP/2 sends as the window allows; HTTP/1 has torn nothing, but a client that is
            # behind is not to be given more and more.
            if self.handshake.http_version == "2" or self._carrier.output.backlog:
                self.cancelled()
            raise
        finally:
            self._order.release()

    # What the client sends.

    async def receive_data(self, data: bytes) -> None:
        """Take what the client has sent; return when there is room for more.

        What comes before the handshake has been decided waits for that. Over HTTP/2 this is not
        for the reader of the connection, which has other streams.
        """
        self._pinger.heard()
        if not self._decided.is_set():
            with self._parked():
                await self._decided.wait()
        if data and self.handshake.accepted and not self._deaf.is_set():
            self.connection.receive_data(data)
            with suppress(ClientGone):
                await self._take_frames()

    async def _take_frames(self) -> None:
        for count, event in enumerate(self.connection.events(), 1):
            if isinstance(event, Message):
                self._take_message(event)
            elif isinstance(event, Ping):
                with self._parked():
                    await self._send_wsproto_event(event.response())
            elif isinstance(event, CloseConnection):
                self._take_close(event)
            if self.inbox.full and not self._deaf.is_set():
                # A Close behind this message waits too, and so does not overtake it.
                with self._parked():
                    await self.inbox.wait_room()
                self._pinger.heard()
            elif count % FRAMES_PER_CHECKPOINT == 0:
                await trio.lowlevel.checkpoint()
            if self._deaf.is_set():
                return

    def _take_message(self, event: Message[Any]) -> None:
        if self.state is not State.CONNECTED:
            return  # we have said our Close
        try:
            whole = self._messages.add(event.data, last=event.message_finished)
        except MessageTooBig as error:
            self._fail(CloseReason.MESSAGE_TOO_BIG, str(error))
        else:
            if whole is not None:
                message, size = whole
                self.inbox.put(message, max(size, ROOM))

    def _take_close(self, event: CloseConnection) -> None:
        """Take the client's Close, or what wsproto gives for bytes that are wrong."""
        code, reason = int(event.code), event.reason or ""
        if self.connection.state in (ConnectionState.OPEN, ConnectionState.LOCAL_CLOSING):
            self._fail(code, reason)  # a Close would have changed the state
        else:
            self._end(code, reason)

    def _fail(self, code: int, reason: str) -> None:
        self._carrier.log_failure(f"the WebSocket was closed with {code:d}: {reason}")
        self._end(code, reason)

    def _end(self, code: int, reason: str) -> None:
        """The client has said its last; what came before it has been taken."""
        self.closed = True
        self._deaf.set()
        self._tell_end(code, reason)
        self._begin_close(code, reason)

    def _parked(self) -> AbstractContextManager[None]:
        if self.handshake.http_version == "2":
            return nullcontext()  # the connection is read all the time
        return self._carrier.parked()

    # The end.

    def disconnect(self) -> None:
        """The client has gone, or the exchange is over: let the application hear it."""
        self.closed = True
        self._pinger.stop()
        self._decided.set()
        self._deaf.set()
        refused = self.state is State.HTTPCLOSED
        self._tell_end(CloseReason.NORMAL_CLOSURE if refused else LOST)

    def _tell_end(self, code: int, reason: str = "") -> None:
        """Let the application hear that it is over; the first one counts."""
        message = {"type": "websocket.disconnect", "code": int(code), "reason": reason}
        self.inbox.disconnect(message)
        self._client.leave()

    def cancelled(self) -> None:
        """The application was cancelled."""
        if not self.closed and self.state not in (State.CLOSED, State.HTTPCLOSED):
            self._on_cut()

    def begin_closing(self) -> None:
        """The server shuts down: say so to both sides, in a while."""
        self._carrier.nursery.start_soon(self._go_away)

    def last_words(self) -> bytes:
        """Give a Close to be sent at once, as there is no more time; nothing is heard after it."""
        if self.state is not State.CONNECTED or self.closed:
            return b""
        self.state, self.closed = State.CLOSED, True
        self._pinger.stop()
        self._tell_end(CloseReason.GOING_AWAY)
        return self.connection.send(CloseConnection(CloseReason.GOING_AWAY))

    async def _go_away(self) -> None:
        await self._decided.wait()
        with trio.move_on_after(random.uniform(0, self._carrier.server.host.farewell_spread)):
            await self._deaf.wait()
        if self.state is State.CONNECTED and not self.closed:
            self.closed = True
            self._tell_end(CloseReason.GOING_AWAY)
            self._begin_close(CloseReason.GOING_AWAY)

    def _begin_close(self, code: int, reason: str = "") -> None:
        """Send a Close and let the client answer it, in a task; the first one counts."""
        if self.state is State.CONNECTED:
            self.state = State.CLOSED
            self._pinger.stop()
            if code == CloseReason.NO_STATUS_RCVD:
                code = CloseReason.NO_STATUS_RCVD  # wsproto tells it by its identity
            self._carrier.nursery.start_soon(self._close, CloseConnection(code, reason))

    async def _close(self, event: CloseConnection) -> None:
        sent = False
        try:
            with trio.move_on_after(CLOSE_TIMEOUT):
                await self._send_wsproto_event(event)
                sent = True
                await self._deaf.wait()
            self._deaf.set()
            if not sent:
                self._on_cut()
            else:
                if self.handshake.http_version == "2":
                    await self.send(EndData(self.stream_id))
                await self.send(StreamClosed(self.stream_id))
        except ClientGone:
            pass  # the driver knows

    def _drop(self) -> None:
        """The client does not answer: it is lost."""
        self._carrier.log_failure("the WebSocket does not answer a ping")
        self.disconnect()
        self._on_cut()
