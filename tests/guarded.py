"""The guarded server over TCP, TLS and Unix sockets, and raw ASGI applications to serve on it."""

from __future__ import annotations

import atexit
import functools
import logging
import shutil
import ssl
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import attrs
import pytest
import trio
import trustme
from leaks import assert_no_leaks
from wire import RawConnection, open_guarded, open_raw

from tsstream._asgi import ASGIApp, Message, Receive, Send
from tsstream._server.serve import serve

Transport = Literal["tcp", "tls", "unix"]
TRANSPORTS: tuple[Transport, ...] = ("tcp", "tls", "unix")
HttpApp = Callable[[Any, Receive, Send], Awaitable[None]]

DISCONNECT = {"type": "http.disconnect"}
FINAL: Message = {"type": "http.response.body", "body": b"", "more_body": False}


def start(status: int = 200, **headers: str) -> Message:
    """Give a response's start; an underscore in a header's name is a hyphen."""
    fields = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http.response.start", "status": status, "headers": fields}


def body(data: bytes, *, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}


async def answer(send: Send, data: bytes = b"ok", status: int = 200) -> None:
    """Send a whole response, with its Content-Length."""
    await send(start(status, content_length=str(len(data))))
    await send(body(data, more=False))


def http(fn: HttpApp) -> ASGIApp:
    """Make a whole ASGI application of what answers the http calls; its lifespan does nothing."""

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await fn(scope, receive, send)
            return
        for stage in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{stage}.complete"})

    return app


async def read_request(receive: Receive) -> bytes:
    """Receive the whole body; fail if the client leaves before its end."""
    data = bytearray()
    while True:
        message = await receive()
        assert message["type"] == "http.request", message
        data += message["body"]
        if not message["more_body"]:
            return bytes(data)


def records(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Give what the server has said of single connections and of applications that failed."""
    return [
        f"{record.levelname} {record.getMessage()}"
        for record in caplog.records
        if (record.name == "tsstream.server" and record.levelno >= logging.INFO)
        or record.levelno >= logging.WARNING
    ]


class OpenClient(Protocol):
    """Connect to a server; leaving the block closes the socket, without any goodbye of TLS."""

    def __call__(
        self, *, receive_buffer: int | None = None
    ) -> AbstractAsyncContextManager[RawConnection]: ...


@asynccontextmanager
async def open_guarded_on(
    transport: Transport, app: ASGIApp, **options: Any
) -> AsyncIterator[OpenClient]:
    """Serve *app* as :func:`wire.open_guarded` does, on a *transport*; give what connects to it."""
    if transport == "unix":
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "socket"
            async with open_guarded(app, unix_path=path, **options):
                yield partial(_open_unix, path)
        return
    tls = transport == "tls"
    if tls:
        options = {"certfile": certificate().certfile, "keyfile": certificate().keyfile, **options}
    async with open_guarded(app, **options) as port:
        yield partial(open_tls if tls else open_raw, port)


@asynccontextmanager
async def _open_unix(
    path: Path, *, receive_buffer: int | None = None
) -> AsyncIterator[RawConnection]:
    # A Unix socket has no receive buffer of its own: what is not read waits in the sender's.
    raw = RawConnection(await trio.open_unix_socket(path))
    try:
        yield raw
    finally:
        raw.close()


@attrs.define(eq=False)
class Ends:
    """When a server was told to end, and when it had ended."""

    told: float = 0.0
    over: float = 0.0
    ended: trio.Event = attrs.field(factory=trio.Event)

    @property
    def took(self) -> float:
        return self.over - self.told


@asynccontextmanager
async def open_ending(
    app: Any, **options: Any
) -> AsyncIterator[tuple[int, Callable[[], None], Ends]]:
    """Serve *app* until the second of what is given is called; the third knows how long it took."""
    stop, ends = trio.Event(), Ends()

    def end() -> None:
        ends.told = trio.current_time()
        stop.set()

    async def serve_it(*, task_status: trio.TaskStatus[list[str]]) -> None:  # noqa: ASYNC128
        start = partial(serve, app, bind=["127.0.0.1:0"], shutdown_trigger=stop.wait)
        await start(task_status=task_status, **options)
        ends.over = trio.current_time()
        ends.ended.set()

    async with assert_no_leaks(), trio.open_nursery() as nursery:
        (address,) = await nursery.start(serve_it)
        yield int(address.rpartition(":")[2]), end, ends


@attrs.frozen
class Certificate:
    """A server's certificate for 127.0.0.1 and localhost, and what trusts it."""

    certfile: str
    keyfile: str
    authority: trustme.CA

    def client_context(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        return context


@functools.cache
def certificate() -> Certificate:
    """Make the certificate of this process."""
    directory = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, directory)
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1", "localhost")
    certfile, keyfile = directory / "certificate.pem", directory / "key.pem"
    certfile.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(keyfile)
    return Certificate(str(certfile), str(keyfile), authority)


class TLSConnection(RawConnection):
    """A raw connection within TLS. For it a FIN without close_notify is a reset, not an end."""

    def __init__(self, tls: trio.SSLStream[trio.SocketStream]) -> None:
        self.tls = tls
        super().__init__(tls.transport_stream)

    async def send_all(self, data: bytes) -> None:
        await self.tls.send_all(data)

    async def half_close(self) -> None:
        """Send close_notify and a FIN; responses can still be read."""
        await self.close_notify()
        await self.stream.send_eof()

    async def close_notify(self) -> None:
        """Send close_notify alone."""
        # Trio's unwrap() would wait for the server's. An alert is a record of its own.
        try:
            self.tls._ssl_object.unwrap()
        except ssl.SSLWantReadError:
            pass
        await self.stream.send_all(self.tls._outgoing.read())

    async def _receive_some(self, max_bytes: int) -> bytes | bytearray:
        return await self.tls.receive_some(max_bytes)


@asynccontextmanager
async def open_tls(port: int, *, receive_buffer: int | None = None) -> AsyncIterator[TLSConnection]:
    """Connect to *port* and shake hands; leaving the block closes the socket."""
    async with open_raw(port, receive_buffer=receive_buffer) as raw:
        tls = trio.SSLStream(
            raw.stream, certificate().client_context(), server_hostname="127.0.0.1"
        )
        await tls.do_handshake()
        yield TLSConnection(tls)
