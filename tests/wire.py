"""A server on a loopback port, stock or guarded, and raw clients that see every byte and cut.

The clients are raw on purpose: HTTP client libraries hide whether a body was complete.
"""

from __future__ import annotations

import inspect
import logging
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any, Literal

import hypercorn.trio
import trio
import trio.testing
from hypercorn.config import Config
from wire_h2 import H2Connection, Truncated, open_h2

from tsstream._asgi import ASGIApp
from tsstream._server.serve import serve
from tsstream._util import unwrapping

__all__ = [
    "HOST",
    "SERVER_LOG",
    "H2Connection",
    "RawConnection",
    "Truncated",
    "host_of_test",
    "open_guarded",
    "open_h2",
    "open_raw",
    "open_server",
    "open_stock",
]

HOST = "127.0.0.1"
GRACEFUL_TIMEOUT = 0.2  # seconds: what a stream gets at shutdown before it is cut
SETTLING_TIME = 0.1  # seconds: the most that a server waits for the server's tasks to rest
RECEIVE_SIZE = 64 * 1024  # bytes
BODYLESS = (204, 304)

# Hypercorn's own messages ("Error in ASGI Framework", with its traceback) go here and from here
# to the root logger: shown by pytest for a failed test, found by caplog under this name.
SERVER_LOG = logging.getLogger("wire.hypercorn")
SERVER_LOG.setLevel(logging.INFO)
SERVER_LOG.addHandler(logging.NullHandler())


# What open_server() opens: "stock" or "guarded". The fixture each_host sets it.
host_of_test: ContextVar[str] = ContextVar("host_of_test", default="stock")


def open_server(app: ASGIApp, **options: Any) -> AbstractAsyncContextManager[int]:
    """Serve *app* on the host that the test is for: that of ``each_host``, or else the stock one.

    Args:
      app: any ASGI application; its lifespan is run.
      options: what :func:`open_stock` and :func:`open_guarded` have in common.
    """
    opener = open_guarded if host_of_test.get() == "guarded" else open_stock
    return opener(app, **options)


@asynccontextmanager
async def open_stock(
    app: ASGIApp,
    *,
    send_buffer: int | None = None,
    shutdown_trigger: Callable[[], Awaitable[None]] | None = None,
    **config: Any,
) -> AsyncIterator[int]:
    """Serve *app* with the stock ``hypercorn.trio.serve`` in this process; give the port.

    Leaving the block shuts the server down and waits for it; streams that are still alive are
    cut after ``graceful_timeout`` (0.2 s unless given). If the block raises, all is cancelled.

    Args:
      app: any ASGI application; its lifespan is run.
      send_buffer: bytes of kernel buffer for each accepted connection; small ones show
        backpressure early.
      shutdown_trigger: also shuts the server down, when it returns.
      config: attributes of :class:`hypercorn.config.Config`.
    """
    settings = {"graceful_timeout": GRACEFUL_TIMEOUT, "accesslog": None, "errorlog": SERVER_LOG}
    listener = _listen(send_buffer)
    port: int = listener.getsockname()[1]
    left = trio.Event()
    with unwrapping():
        async with trio.open_nursery() as nursery:
            await nursery.start(
                partial(
                    hypercorn.trio.serve,
                    app,
                    Config.from_mapping(
                        {**settings, "bind": f"fd://{listener.detach()}", **config}
                    ),
                    shutdown_trigger=partial(_wait_any, left.wait, shutdown_trigger),
                    mode="asgi",
                )
            )
            with trio.move_on_after(SETTLING_TIME):
                await trio.testing.wait_all_tasks_blocked()  # so that a census counts all its tasks
            yield port
            left.set()


@asynccontextmanager
async def open_guarded(
    app: ASGIApp,
    *,
    send_buffer: int | None = None,
    shutdown_trigger: Callable[[], Awaitable[object]] | None = None,
    unix_path: Path | None = None,
    **options: Any,
) -> AsyncIterator[int]:
    """Serve *app* with our own ``serve`` in this process; give the port.

    Leaving the block shuts the server down and waits for it, as :func:`open_stock` does.

    Args:
      app: any ASGI application; its lifespan is run.
      send_buffer: bytes of kernel buffer for each accepted connection.
      shutdown_trigger: also shuts the server down, when it returns.
      unix_path: listen on this Unix socket instead; the port is then 0.
      options: what ``serve`` takes (``stall_timeout``...), and attributes of
        :class:`hypercorn.config.Config` (``keep_alive_timeout``...), told apart by their names.
    """
    config: dict[str, Any] = {"accesslog": None, "errorlog": SERVER_LOG}
    for name in options.keys() - inspect.signature(serve).parameters.keys():
        assert hasattr(Config, name), f"neither serve() nor Config knows {name!r}"
        config[name] = options.pop(name)
    listener = _listen(send_buffer, unix_path)
    port: int = 0 if unix_path else listener.getsockname()[1]
    left = trio.Event()
    with unwrapping():
        async with trio.open_nursery() as nursery:
            await nursery.start(
                partial(
                    serve,
                    app,
                    Config.from_mapping(config),
                    bind=[f"fd://{listener.detach()}"],
                    shutdown_trigger=partial(_wait_any, left.wait, shutdown_trigger),
                    **{"graceful_timeout": GRACEFUL_TIMEOUT, **options},
                )
            )
            with trio.move_on_after(SETTLING_TIME):
                await trio.testing.wait_all_tasks_blocked()  # so that a census counts all its tasks
            yield port
            left.set()


def _listen(send_buffer: int | None, unix_path: Path | None = None) -> socket.socket:
    if unix_path is not None:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(unix_path))
        return listener
    listener = socket.create_server((HOST, 0))
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if send_buffer is not None:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    return listener


async def _wait_any(*waits: Callable[[], Awaitable[object]] | None) -> None:
    async def wait(fn: Callable[[], Awaitable[object]]) -> None:
        await fn()
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for fn in waits:
            if fn is not None:
                nursery.start_soon(wait, fn)


@asynccontextmanager
async def open_raw(port: int, *, receive_buffer: int | None = None) -> AsyncIterator[RawConnection]:
    """Connect to *port* for raw HTTP/1.1; leaving the block closes the connection.

    Args:
      port: on 127.0.0.1.
      receive_buffer: bytes of kernel buffer (Linux doubles it); small ones make a client that
        does not read stall the server early.
    """
    raw = RawConnection(await _connect(port, receive_buffer))
    try:
        yield raw
    finally:
        raw.close()


async def _connect(port: int, receive_buffer: int | None) -> trio.SocketStream:
    if receive_buffer is None:
        return await trio.open_tcp_stream(HOST, port)
    # The window is agreed on while connecting, so the buffer must be set before.
    sock = trio.socket.socket()
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        await sock.connect((HOST, port))
    except BaseException:
        sock.close()
        raise
    return trio.SocketStream(sock)


class RawConnection:
    """One HTTP/1.x connection, byte by byte.

    Attributes:
      stream: the socket's stream, for what the methods do not do.
      head: the bytes of the response head read last, blank line included.
      ended: how the peer has ended the connection, as far as it has been read.
    """

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.head = b""
        self.ended: Literal["open", "fin", "reset"] = "open"
        self._buffer = bytearray()
        self._methods: list[str] = []
        self._framing: Literal["chunked", "length", "close"] = "length"
        self._remaining = 0

    async def send_all(self, data: bytes) -> None:
        """Send *data* as it is."""
        await self.stream.send_all(data)

    async def request(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> None:
        """Send an HTTP/1.1 request, with a Content-Length if there is a *body*."""
        fields = {"host": HOST, **(headers or {})}
        if body:
            fields.setdefault("content-length", str(len(body)))
        lines = [f"{method} {path} HTTP/1.1", *(f"{k}: {v}" for k, v in fields.items())]
        self._methods.append(method)
        await self.send_all("\r\n".join([*lines, "", ""]).encode("latin-1") + body)

    async def read_head(self, *, method: str | None = None) -> tuple[int, dict[str, str]]:
        """Read a response head; give the status and the headers, their names in lower case.

        Cancelling it or :meth:`read_chunk` loses nothing. Informational (1xx) heads are given
        like any other. Repeated headers are joined with
        ``", "``; :attr:`head` keeps the bytes.

        Args:
          method: the request's, if it was HEAD and not sent with :meth:`request`.

        Raises:
          Truncated: the connection ended before the head did.
        """
        self.head = self._take(await self._find(b"\r\n\r\n") + 4)
        status_line, *lines = self.head.decode("latin-1").split("\r\n")[:-2]
        status = int(status_line.split(" ")[1])
        headers: dict[str, str] = {}
        for line in lines:
            name, _, value = line.partition(":")
            name, value = name.lower(), value.strip(" \t")
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        if status >= 200 or status == 101:
            method = self._methods.pop(0) if self._methods else method
        self._frame(status, headers, bodyless=method == "HEAD" or status in BODYLESS)
        return status, headers

    def _frame(self, status: int, headers: Mapping[str, str], *, bodyless: bool) -> None:
        self._remaining = 0
        if bodyless or status < 200:
            self._framing = "length"
        elif "chunked" in headers.get("transfer-encoding", ""):
            self._framing = "chunked"
        elif "content-length" in headers:
            self._framing, self._remaining = "length", int(headers["content-length"])
        else:
            self._framing = "close"

    async def read_chunk(self) -> bytes | None:
        """Read one HTTP chunk as it came off the wire, or None at the clean end.

        Without chunked coding: whatever has arrived; then the end is clean when all of the
        Content-Length is there or, if there is none, at a FIN (but not at a reset).

        Raises:
          Truncated: the connection ended without the clean end.
        """
        if self._framing == "chunked":
            return await self._read_http_chunk()
        if self._framing == "length":
            return await self._read_counted()
        return await self._take_some(RECEIVE_SIZE, fin_is_clean=True)

    async def _read_http_chunk(self) -> bytes | None:
        # Nothing is taken before all is there: a cancelled read loses nothing.
        start = await self._find(b"\r\n") + 2
        size = int(self._buffer[:start].split(b";")[0], 16)
        if size == 0:
            self._take(await self._find(b"\r\n\r\n") + 4)  # with the trailers
            self._framing = "length"
            return None
        while len(self._buffer) < start + size + 2:
            await self._fill()
        taken = self._take(start + size + 2)
        assert taken.endswith(b"\r\n"), f"a chunk does not end with CRLF: {taken!r}"
        return taken[start:-2]

    async def _read_counted(self) -> bytes | None:
        if self._remaining == 0:
            await trio.lowlevel.checkpoint()
            return None
        data = await self._take_some(self._remaining, fin_is_clean=False)
        self._remaining -= len(data or b"")
        return data

    async def read_body(self) -> bytes:
        """Read up to the clean end.

        Raises:
          Truncated: there is none; its ``body`` holds what came.
        """
        body = bytearray()
        try:
            while (chunk := await self.read_chunk()) is not None:
                body += chunk
        except Truncated as error:
            error.body = bytes(body)
            raise
        return bytes(body)

    async def read_until_closed(self) -> bytes:
        """Read all bytes, undecoded, until the peer ends the connection; see :attr:`ended`."""
        while self.ended == "open":
            try:
                await self._fill()
            except Truncated:
                break
        return self._take(len(self._buffer))

    async def half_close(self) -> None:
        """Send a FIN: no more requests, but responses can still be read."""
        await self.stream.send_eof()

    def close(self) -> None:
        """Close the socket, which sends a FIN (or a reset, if unread bytes have arrived)."""
        self.stream.socket.close()

    def abort(self) -> None:
        """Close the socket with a reset (RST)."""
        linger = struct.pack("ii", 1, 0)
        self.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.close()

    async def _find(self, end: bytes) -> int:
        while (index := self._buffer.find(end)) < 0:
            await self._fill()
        return index

    async def _take_some(self, limit: int, *, fin_is_clean: bool) -> bytes | None:
        if not self._buffer:
            try:
                await self._fill()
            except Truncated:
                if fin_is_clean and self.ended == "fin":
                    return None
                raise
        return self._take(limit)

    def _take(self, size: int) -> bytes:
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    async def _receive_some(self, max_bytes: int) -> bytes | bytearray:
        return await self.stream.receive_some(max_bytes)

    async def _fill(self) -> None:
        try:
            data = await self._receive_some(RECEIVE_SIZE)
        except trio.BrokenResourceError as error:
            self.ended = "reset"
            raise Truncated("the connection was reset") from error
        if not data:
            self.ended = "fin"
            raise Truncated("the connection was closed")
        self._buffer += data
