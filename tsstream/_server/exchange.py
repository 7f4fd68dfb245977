"""One request with its response, between the application's messages and a protocol's events."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from time import time
from typing import TYPE_CHECKING, Any, cast

import trio
from hypercorn.config import Config
from hypercorn.protocol.events import Body, Event
from hypercorn.protocol.http_stream import ASGIHTTPState, HTTPStream
from hypercorn.typing import AppWrapper
from hypercorn.utils import suppress_body

from tsstream._errors import is_logged
from tsstream._http.host import CLIENT, EXTENSION, Client
from tsstream._server.errors import ClientGone
from tsstream._server.gatherer import SMALL, Gatherer
from tsstream._server.inbox import Inbox
from tsstream._util import leaves, split_cancelled

if TYPE_CHECKING:
    from tsstream._server.connection import Connection
    from tsstream._server.websocket import WebSocketExchange

DISCONNECT = {"type": "http.disconnect"}


class HTTPExchange(HTTPStream):
    """Hypercorn's translation of ASGI, with an inbox that a disconnect overtakes.

    Args:
      connection: whose nursery the application runs in.
      send: takes the response's events. ``StreamClosed`` is the last; if no ``EndBody`` came
        before, the response is not complete.
      on_cut: called, and cannot wait, when the application was cancelled, or one of its sends:
        what the client has got is not complete.
      stream_id: HTTP/2's.
      inbox: what the application receives.
      on_timed: called when :attr:`times_body` is set.
      write_now: writes a chunk, unless others are on their way; gives how many bytes the client
        has not taken yet, or None if nothing was written.
    """

    def __init__(
        self,
        connection: Connection,
        send: Callable[[Event], Awaitable[None]],
        on_cut: Callable[[], None],
        *,
        stream_id: int,
        inbox: Inbox,
        on_timed: Callable[[], None] | None = None,
        write_now: Callable[[bytes], int | None] | None = None,
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
        self.inbox = inbox
        self.running = False  # the application has been called, and has not returned
        self.failed = False  # it raised an error
        self.ending = False  # its last message is on its way
        self._client = Client(inbox, on_timed=on_timed)
        if write_now is not None:
            self._client.send, self._client.send_now = self.app_send, self._send_now
            self._write_now = write_now
        self._gatherer: Gatherer | None = None  # of a stream that has started
        self._head_gone = False  # of a response without a body
        self._connection = connection
        self._on_cut = on_cut

    async def spawn_app(
        self, app: AppWrapper, config: Config, scope: Any, send: Callable[[Any], Awaitable[None]]
    ) -> None:
        """Start the application; what Hypercorn asks of its task group."""
        scope["extensions"].pop("http.response.push", None)  # browsers have given it up
        scope["extensions"][EXTENSION] = self._connection.server.host
        scope["extensions"][CLIENT] = self._client
        self.running = True
        self._connection.nursery.start_soon(call_app, self, app, config, scope)

    def disconnect(self) -> None:
        """The client has gone, or the exchange is over: let the application hear it."""
        self.closed = True
        self.inbox.disconnect(DISCONNECT)
        self._client.send = self._client.send_now = None  # they refer to us
        if self._gatherer is not None:
            self._gatherer.close()
            self._gatherer = None
        if self.state is not ASGIHTTPState.CLOSED:
            self._client.leave()

    def cancelled(self) -> None:
        """The application was cancelled."""
        if not self.closed:
            self._on_cut()

    @property
    def times_body(self) -> bool:
        """The application minds itself how long the request's body may be silent."""
        return self._client.times_body

    async def app_send(self, message: Any) -> None:
        """Take one message of the application; None when it has returned."""
        gatherer = self._gatherer
        try:
            if (
                gatherer is not None
                and message is not None
                and message["type"] == "http.response.body"
                and message.get("more_body", False)
                and 0 < len(message.get("body", b"")) < SMALL
                and not self.ending
                and not self.closed
            ):
                if gatherer.put(bytes(message["body"])):
                    await gatherer.pause()
            else:
                await self._send_message(message)
        except trio.Cancelled:
            self.cancelled()
            raise

    def _send_now(self, chunk: bytes) -> int | None:
        """Send a chunk behind the first, if nothing is before it; see :class:`Client`."""
        possible = (
            len(chunk) >= SMALL  # smaller ones may be gathered
            and self._gatherer is not None  # and so the head has gone, and there is a body
            and not self._gatherer.busy
            and not self.ending
            and not self.closed
        )
        return self._write_now(chunk) if possible else None

    async def _send_message(self, message: Any) -> None:
        if message is None:
            await self._log_if_cut()
        elif self.closed and self.state is not ASGIHTTPState.CLOSED:
            await trio.lowlevel.checkpoint()
            raise ClientGone("the client has gone")
        if self._gatherer is not None:
            await self._gatherer.flush()
        if message is None or message["type"] != "http.response.body":
            await super().app_send(self._without_trailers(message))
        elif self.state is not ASGIHTTPState.RESPONSE or not message.get("more_body", False):
            self.ending = self.state is ASGIHTTPState.RESPONSE
            await super().app_send(message)
        else:
            await self._send_chunk(bytes(message.get("body", b"")))

    def _without_trailers(self, message: Any) -> Any:
        """Leave out the announcement of trailers where there are none; Hypercorn waits for them."""
        announced = message is not None and message.get("trailers", False)
        if announced and "http.response.trailers" not in self.scope["extensions"]:
            return {**message, "trailers": False}
        return message

    async def _send_chunk(self, chunk: bytes) -> None:
        bodiless = suppress_body(self.scope["method"], int(self.response["status"]))
        if not bodiless:
            await self._send_piece(chunk)  # an empty one too, as it takes along the head
            if self._gatherer is None:
                self._gatherer = Gatherer(self._connection.nursery, self._send_piece)
        elif not self._head_gone:
            await self._send_piece(b"")
            self._head_gone = True
        else:
            await trio.lowlevel.checkpoint()

    async def _log_if_cut(self) -> None:
        begun = self.state in (ASGIHTTPState.RESPONSE, ASGIHTTPState.TRAILERS)
        if begun and not self.closed and not self.failed:
            await self.config.log.error("the application returned before its response had ended")
        if begun or (self.closed and self.state is ASGIHTTPState.REQUEST):
            await self.config.log.access(self.scope, cast(Any, None), time() - self.start_time)

    async def _send_piece(self, data: bytes) -> None:
        if self.ending or self.closed:
            raise ClientGone("the response has ended")
        await self.send(Body(stream_id=self.stream_id, data=data))


async def call_app(
    exchange: HTTPExchange | WebSocketExchange, app: AppWrapper, config: Config, scope: Any
) -> None:
    """Run the application for one exchange, and log its errors, if it has not done so itself."""
    receive: Any = exchange.inbox.receive
    send: Any = exchange.app_send
    try:
        failure, others = None, None
        try:
            await app(scope, receive, send, trio.to_thread.run_sync, trio.from_thread.run)
        except BaseException as error:  # noqa: ASYNC103 (what is no error is raised below)
            others, failure = split_cancelled(error)
        if failure is not None:
            exchange.failed = True
            if not all(_needs_no_record(leaf) for leaf in leaves(failure)):
                await config.log.error("Error in ASGI Framework", exc_info=failure)
        if others is not None:
            raise others
        await _end_call(exchange, config)
    except BaseException:
        exchange.cancelled()
        raise
    finally:
        exchange.running = False
        exchange.task_group = cast(Any, None)  # it was the exchange itself: nothing for the GC


async def _end_call(exchange: HTTPExchange | WebSocketExchange, config: Config) -> None:
    """Say that the application has returned; what it sent last may turn out to be wrong now."""
    try:
        await exchange.app_send(None)
    except ClientGone:
        pass
    except Exception:
        await config.log.exception("Error in ASGI Framework")
        exchange.cancelled()


def _needs_no_record(error: BaseException) -> bool:
    return isinstance(error, ClientGone) or is_logged(error)
