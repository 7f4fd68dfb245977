"""One accepted connection: what it speaks, how long it may take, and how it ends."""

from __future__ import annotations

import logging
import math
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Protocol

import trio
from hypercorn.utils import parse_socket_addr

from tsstream._server.errors import ClientGone
from tsstream._server.http1 import HTTP1
from tsstream._server.http2 import HTTP2
from tsstream._server.output import Output
from tsstream._server.transport import RECEIVE_SIZE, Stalled, Transport
from tsstream._util import split_cancelled, unwrapped

if TYPE_CHECKING:
    from tsstream._server.server import Server

logger = logging.getLogger("tsstream.server")

LINGER = 30.0  # seconds: for a client to take our last words while it still sends (nginx: 30 s)
LINGER_SILENCE = 2.0  # seconds without a byte of it, and we close
LINGER_AT_SHUTDOWN = 0.1  # seconds: the same, when the server is about to end
GREETING = 0.1  # seconds: for a client that has connected just before that to say what it wants
LOST = (trio.BrokenResourceError, trio.ClosedResourceError)
HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class Driver(Protocol):
    """What speaks one protocol on a connection."""

    async def run(self, data: bytes) -> None:
        """Read until the connection is over; *data* has been read already."""

    def on_deadline(self) -> None:
        """The deadline was reached, and :meth:`run` is over: say so to the client."""

    def disconnect(self) -> None:
        """The client has gone: tell every exchange, at once."""

    def begin_closing(self) -> None:
        """The server shuts down: end as soon as what is under way has ended."""

    def abandon(self) -> None:
        """The time for a graceful end is over: last words, without waiting for them to go."""


class Connection:
    """One client's connection, in a task of its own with a nursery for its exchanges.

    Whatever goes wrong in it ends this connection and no other (HOST fault 1).

    Attributes:
      nursery: for the calls of the application and all that serves them.
      gone: the client has closed the connection, or it was aborted.
    """

    def __init__(self, server: Server, stream: trio.SocketStream) -> None:
        self.server = server
        self.config = server.config
        self.limits = server.limits
        self.nursery: trio.Nursery
        self.gone = False
        sock = stream.socket
        self.client = parse_socket_addr(sock.family, sock.getpeername())
        self.server_address = parse_socket_addr(sock.family, sock.getsockname())
        self._transport = Transport(stream, self.limits.stall_timeout)
        self._tls: trio.SSLStream[Transport] | None = None
        self._driver: Driver | None = None
        self._output: Output | None = None
        self._reading = trio.CancelScope()  # round the driver's run()
        self._waiting = trio.CancelScope()  # round one wait for the client
        self._in_read = False
        self._deadline = math.inf
        self._accepted = trio.current_time()
        self._expired = False
        self._stopped = False
        self._linger = True
        self._patience = LINGER_SILENCE
        self._failed = False

    @property
    def output(self) -> Output:
        """What goes out."""
        assert self._output is not None, "nothing is sent before the connection is set up"
        return self._output

    @property
    def _header_timeout(self) -> float:
        limit = self.limits.header_timeout
        return math.inf if limit is None else limit

    @property
    def stopped(self) -> bool:
        """Nothing more is served on it."""
        return self._stopped

    @property
    def encrypted(self) -> bool:
        """The connection is encrypted."""
        return self._tls is not None

    async def run(self, ssl_context: ssl.SSLContext | None) -> None:
        """Serve the connection until it is over."""
        try:
            try:
                if ssl_context is None or await self._shake_hands(ssl_context):
                    async with trio.open_nursery() as self.nursery:
                        await self._serve()
            finally:
                self.hang_up()
                self._driver = self._output = None  # they know us: nothing for the GC
        except BaseException as error:  # noqa: ASYNC103 (what is no error is raised below)
            cancelled, errors = split_cancelled(error)
            if errors is not None:
                self.log_failure("failed", unwrapped(errors))
            if cancelled is not None:
                raise cancelled from None  # noqa: ASYNC104 (a part of it)

    async def read(self, size: int = RECEIVE_SIZE) -> bytes:
        """Give what the client has sent, or ``b""`` if it has closed its side, or is lost.

        Args:
          size: bytes, at most.
        """
        stream = self._transport if self._tls is None else self._tls
        # A scope for each wait, as a deadline that passes while the bytes arrive is none.
        with trio.CancelScope(deadline=self._deadline) as self._waiting:  # noqa: ASYNC912
            self._in_read = True
            try:
                return bytes(await stream.receive_some(size))
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return b""
            finally:
                self._in_read = False
        self._expired = True
        self._reading.cancel()
        await trio.lowlevel.checkpoint()
        raise AssertionError("who reads has been cancelled")

    @contextmanager
    def parked(self, on_fin: Callable[[], None] | None = None) -> Iterator[None]:
        """Not reading in this block: hear a hang-up all the same.

        Args:
          on_fin: called instead, if it is a FIN: there is something to read before it.
        """

        def on_hangup(reset: bool) -> None:
            if reset or on_fin is None:
                self.hang_up()
            else:
                on_fin()

        fileno = -1 if self.gone else self._transport.socket.fileno()
        with self.server.hangups.watching(fileno, on_hangup):
            yield

    def set_deadline(self, seconds: float | None) -> None:
        """Stop reading after *seconds*, and let the driver say so (``on_deadline``)."""
        self._deadline = math.inf if seconds is None else trio.current_time() + seconds
        if self._in_read:
            self._waiting.deadline = self._deadline

    def stop(self, *, linger: bool) -> None:
        """End the driver's ``run()``, and close the connection behind what was written.

        Args:
          linger: drop what the client still sends, for a while, before the socket is closed.
            Closing while bytes come in makes the kernel send a reset, and that would destroy a
            response that the client has not read yet.
        """
        self._stopped = True
        self._linger = linger
        self._reading.cancel()

    def hang_up(self) -> None:
        """The client has gone, or is to go."""
        if not self.gone:
            self.gone = True
            self._transport.close()
            self._reading.cancel()
            if self._output is not None:
                self._output.close()
            if self._driver is not None:
                self._isolated(self._driver.disconnect)

    def abort(self) -> None:
        """Reset the connection: what the client has got is not complete."""
        self._transport.abort()
        self.hang_up()

    def cancel(self) -> None:
        """Cancel what is under way, as the server has no more time for it."""
        self.nursery.cancel_scope.cancel(reason="server shutdown")

    def begin_closing(self) -> None:
        """The server shuts down."""
        self._patience = LINGER_AT_SHUTDOWN
        if self._output is None:
            self.hang_up()  # in its handshake
        elif self._stopped:
            self._wait_until(trio.current_time() + LINGER_AT_SHUTDOWN)
        elif self._driver is None:
            self._wait_until(self._accepted + GREETING)
        else:
            self._isolated(self._driver.begin_closing)

    def _wait_until(self, deadline: float) -> None:
        self._deadline = min(self._deadline, deadline)
        self._waiting.deadline = min(self._waiting.deadline, deadline)

    def abandon(self) -> None:
        """The time for a graceful end is over."""
        if self._driver is not None and not self.gone:
            self._isolated(self._driver.abandon)

    def _isolated(self, fn: Callable[[], None]) -> None:
        """Call *fn* for somebody else's task, which is not to suffer from what is wrong here."""
        try:
            fn()
        except Exception as error:
            self.log_failure("failed", error)

    def log_failure(self, text: str, error: BaseException | None = None) -> None:
        """Write the one record that a failed connection gets.

        Args:
          text: what went wrong.
          error: a bug of ours, if it is one.
        """
        if not self._failed:
            self._failed = True
            level = logging.INFO if error is None else logging.ERROR
            logger.log(level, "connection of %s: %s", self.client, text, exc_info=error)

    async def _shake_hands(self, ssl_context: ssl.SSLContext) -> bool:
        # Not https_compatible: that is to leave out the close_notify, which tells a client that
        # what it got is complete.
        tls = trio.SSLStream(self._transport, ssl_context, server_side=True)
        try:
            with trio.fail_after(min(self.config.ssl_handshake_timeout, self._header_timeout)):
                await tls.do_handshake()
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError) as error:
            if not self.gone:
                self.log_failure(f"the TLS handshake failed: {error.__cause__ or error!r}")
            return False
        self._tls = tls
        return True

    async def _serve(self) -> None:
        self._output = Output(self.nursery, self._transport, self._tls, self._on_broken)
        with self._reading:
            self.set_deadline(self.limits.header_timeout)
            await self._read_as_the_client_speaks()
        if self._driver is None or self.gone:
            return
        if self._expired and not self._stopped:
            self._driver.on_deadline()
        await self._close_gracefully()

    async def _read_as_the_client_speaks(self) -> None:
        """Choose by ALPN or, as HTTP/2 with prior knowledge has a preface, by the first bytes."""
        if self._tls is not None and self._tls.selected_alpn_protocol() == "h2":
            self._driver = HTTP2(self)
            await self._driver.run(b"")
            return
        data = await self.read()
        self._driver = HTTP1(self)
        while data and HTTP2_PREFACE.startswith(data) and data != HTTP2_PREFACE:
            if not (more := await self.read()):
                return
            data += more
        if data.startswith(HTTP2_PREFACE):
            self._driver = HTTP2(self)
        if data:
            await self._driver.run(data)

    async def _close_gracefully(self) -> None:
        with trio.move_on_after(LINGER), suppress(ClientGone, *LOST):
            await self.output.wait_sent()
            if self._tls is None:
                await self._transport.send_eof()
            else:
                await self._tls.aclose()  # which does the same with our transport
            # What is waiting unread already would make a reset of our closing, too.
            while (self._linger or self._transport.drop_unread()) and await self._drop_some():
                pass
        self.hang_up()

    async def _drop_some(self) -> bool:
        """Drop what the client still sends; say whether there may be more."""
        deadline = trio.current_time() + self._patience
        with trio.CancelScope(deadline=deadline) as self._waiting:
            return bool(await self._transport.receive_some(RECEIVE_SIZE))
        return False

    def _on_broken(self, error: Exception) -> None:
        if isinstance(error, Stalled):
            self.log_failure(str(error))
        self.hang_up()
