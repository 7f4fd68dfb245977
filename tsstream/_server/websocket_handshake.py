"""The handshake of one WebSocket: accepted, refused, or decided by the application."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from time import time
from typing import TYPE_CHECKING, Any, cast

import trio
from hypercorn.config import Config
from hypercorn.protocol.events import EndBody, Event, Request, Response, StreamClosed
from hypercorn.protocol.ws_stream import ASGIWebsocketState, WSStream
from hypercorn.typing import AppWrapper
from hypercorn.utils import UnexpectedMessageError
from wsproto.connection import Connection as Frames
from wsproto.connection import ConnectionType

from tsstream._http.host import CLIENT, EXTENSION, Client
from tsstream._sansio.http1 import Refusal
from tsstream._sansio.websocket import (
    VERSION,
    accept_headers,
    check_handshake,
    is_of_handshake,
    refusal_headers,
    subprotocols,
)
from tsstream._server.exchange import call_app
from tsstream._server.inbox import Inbox

if TYPE_CHECKING:
    from tsstream._server.connection import Connection

State = ASGIWebsocketState


class Handshake(WSStream):
    """Hypercorn's translation of ASGI, as far as the handshake.

    Args:
      connection: whose nursery the application runs in.
      send: takes the events.
      stream_id: HTTP/2's.
      inbox: what the application receives.
    """

    def __init__(
        self,
        connection: Connection,
        send: Callable[[Event], Awaitable[None]],
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
        self._client = Client()
        self._refusal: Refusal | None = None
        self._decided = trio.Event()  # accepted, refused or lost
        self._deaf = trio.Event()  # nothing that the client may still send matters

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
        self._carrier.nursery.start_soon(call_app, cast(Any, self), app, config, scope)
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
        self._open()

    def _open(self) -> None:
        """It has been accepted."""

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
