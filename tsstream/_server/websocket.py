"""One WebSocket, between the application's messages and a protocol's events."""

from __future__ import annotations

import math
import random
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import trio
from hypercorn.protocol.events import Data, EndData, Event, StreamClosed
from wsproto.connection import ConnectionState
from wsproto.events import CloseConnection, Message, Ping
from wsproto.events import Event as Frame
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import LocalProtocolError

from tsstream._sansio.websocket import LOST, MessageBuffer, MessageTooBig, check_close
from tsstream._server.errors import ClientGone
from tsstream._server.inbox import ROOM, Inbox
from tsstream._server.pinger import Pinger
from tsstream._server.websocket_handshake import Handshake, State

if TYPE_CHECKING:
    from tsstream._server.connection import Connection

CLOSE_TIMEOUT = 5.0  # seconds: for our Close to go out and the client's to come
FRAMES_PER_CHECKPOINT = 64  # a client may send thousands of empty frames in one packet


class WebSocketExchange(Handshake):
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
        super().__init__(connection, send, stream_id=stream_id, inbox=inbox)
        self._on_cut = on_cut
        self._messages = MessageBuffer(connection.config.websocket_max_message_size)
        self._order = trio.StrictFIFOLock()  # of the frames
        self._last_wait: trio.CancelScope | None = None  # behind a FIN
        self._pinger = Pinger(
            partial(self._send_wsproto_event, Ping()),
            self._drop,
            listening=lambda: not self.inbox.full,
            interval=connection.config.websocket_ping_interval,
            limit=connection.limits.pong_timeout,
        )

    def _open(self) -> None:
        self._carrier.nursery.start_soon(self._pinger.run)

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

        Who is cancelled while the client is behind has sent nothing, or all of one message. On
        HTTP/2, which sends as the window allows, a frame that was torn resets the stream.

        Raises:
          ClientGone: a Close has been sent or has come, or the client is lost.
        """
        try:  # not "async with", which would be a pass of the scheduler for each message
            self._order.acquire_nowait()
        except trio.WouldBlock:
            await self._order.acquire()
        try:
            if self.handshake.http_version != "2" and self._carrier.output.backlog:
                await self._carrier.output.wait_sent()
            await self.send(Data(self.stream_id, self.connection.send(event)))
        except LocalProtocolError:
            if isinstance(event, Message):
                raise ClientGone("the WebSocket has been closed") from None
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
                with self._parked(self._on_fin):
                    await self._send_wsproto_event(event.response())
            elif isinstance(event, CloseConnection):
                self._take_close(event)
            if self.inbox.full and not self._deaf.is_set():
                # A Close behind this message waits too, and so does not overtake it.
                with self._parked(self._on_fin):
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

    def _parked(self, on_fin: Callable[[], None] | None = None) -> AbstractContextManager[None]:
        if self.handshake.http_version == "2":
            return nullcontext()  # the connection is read all the time
        return self._carrier.parked(on_fin)

    def _on_fin(self) -> None:
        """The client sends no more, but the application has not received all that came before.

        Called again for each message that it then has not received.
        """
        limit = self._carrier.limits.stall_timeout
        deadline = math.inf if limit is None else trio.current_time() + limit
        if self._last_wait is None:
            self._last_wait = trio.CancelScope(deadline=deadline)
            self._carrier.nursery.start_soon(self._wait_received, self._last_wait)
        else:
            self._last_wait.deadline = deadline

    async def _wait_received(self, scope: trio.CancelScope) -> None:
        with scope:
            await self._deaf.wait()
        self._carrier.hang_up()

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
