"""The server: it accepts connections, and knows those that are open."""

from __future__ import annotations

import errno
import logging
import math
import ssl
from time import time
from typing import Any

import trio
from hypercorn.config import Config
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import AppWrapper

from tsstream._http.host import Host
from tsstream._server.connection import Connection
from tsstream._server.hangup import HangupWatch
from tsstream._server.limits import Limits
from tsstream._server.transport import Transport

logger = logging.getLogger("tsstream.server")

FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\n"
    b"retry-after: 1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
)
FULL_LINGER = 1.0  # seconds
# accept() fails with these when the process, or the machine, has no more to give.
EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)
RECORD_INTERVAL = 60.0  # seconds
EXHAUSTED_PAUSE = 0.1  # seconds: as in trio.serve_listeners()


class Server:
    """What all connections of one server have in common.

    Attributes:
      host: what the applications are told of us.
      hangups: the watch for clients that leave while they are not read.
      state: the lifespan's, of which each request gets a copy.
    """

    def __init__(
        self, app: AppWrapper, config: Config, limits: Limits, context: WorkerContext, host: Host
    ) -> None:
        self.app = app
        self.config = config
        self.limits = limits
        self.context = context
        self.host = host
        self.state: dict[str, Any] = {}
        self.hangups = HangupWatch(half_close=limits.half_close)
        self._connections: set[Connection] = set()
        limit = limits.max_connections
        self._max_connections = math.inf if limit is None else limit
        self._headers: dict[str, list[tuple[bytes, bytes]]] = {}
        self._headers_at = 0  # the second in which they were made
        self._refused = 0  # times, since the last record of it
        self._next_record = -math.inf
        self._left = trio.lowlevel.ParkingLot()

    def response_headers(self, protocol: str) -> list[tuple[bytes, bytes]]:
        """Give what Hypercorn adds to every response; made once a second, for the Date in it."""
        second = int(time())
        if self._headers_at != second:
            self._headers_at = second
            self._headers = {name: self.config.response_headers(name) for name in ("h11", "h2")}
        return self._headers[protocol]

    async def accept(
        self,
        listener: trio.SocketListener,
        ssl_context: ssl.SSLContext | None,
        nursery: trio.Nursery,
    ) -> None:
        """Accept until cancelled; the connections live in *nursery*."""
        while True:
            try:
                stream = await listener.accept()
            except OSError as error:
                if error.errno not in EXHAUSTED:
                    raise
                self._note_refusal(f"no more can be opened: {error.strerror}")
                await trio.sleep(EXHAUSTED_PAUSE)
            else:
                nursery.start_soon(self._serve_connection, ssl_context, stream)

    def begin_closing(self) -> None:
        """Tell the applications, and every connection: idle ones close, others when they can."""
        if self.host.shutting_down.is_set():
            return
        self.host.shutting_down.set()
        for connection in list(self._connections):
            connection.begin_closing()

    def abandon(self) -> int:
        """Say the last words on every connection, and give the number of those that are cut."""
        connections = [each for each in self._connections if not each.stopped]
        for connection in connections:
            connection.abandon()
        return len(connections)

    async def wait_empty(self) -> None:
        """Wait until no connection is open."""
        while self._connections:
            await self._left.park()

    async def _serve_connection(
        self, ssl_context: ssl.SSLContext | None, stream: trio.SocketStream
    ) -> None:
        if len(self._connections) >= self._max_connections:
            self._note_refusal(f"{self._max_connections} are open")
            await _refuse(Transport(stream, None), tell=ssl_context is None)
            return
        try:
            connection = Connection(self, stream)
        except OSError:  # it has been reset already
            stream.socket.close()
            return
        self._connections.add(connection)
        try:
            await connection.run(ssl_context)
        finally:
            self._connections.discard(connection)
            self._left.unpark_all()

    def _note_refusal(self, why: str) -> None:
        """Log that connections are refused, but not for each."""
        self._refused += 1
        if trio.current_time() >= self._next_record:
            logger.warning("connections are refused: %s (%d times)", why, self._refused)
            self._next_record = trio.current_time() + RECORD_INTERVAL
            self._refused = 0


async def _refuse(transport: Transport, *, tell: bool) -> None:
    """Answer 503, and close; without a word if it would have to be encrypted."""
    try:
        if tell:
            await transport.send_all(FULL)
            await transport.send_eof()
            with trio.move_on_after(FULL_LINGER):
                while await transport.receive_some():
                    pass
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass
    finally:
        transport.close()
