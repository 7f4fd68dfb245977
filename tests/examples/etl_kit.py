"""ETL servers for tests: made of a function, served on a port, between a target and more stages."""

from __future__ import annotations

import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from io import BufferedIOBase
from typing import Any, TypeAlias

import attrs
import pytest
import trio
from wire import HOST, RawConnection, open_guarded, open_raw

from examples.etl.server import ETLServer
from tsstream import App, HTTPError, Request, Response
from tsstream._util import unwrapping

with pytest.MonkeyPatch.context() as patch:
    # These three are served as modules, so they read the environment when they are imported.
    patch.setenv("AIS_TARGET_URL", "http://127.0.0.1:9")
    from examples.etl.gunzip import Gunzip
    from examples.etl.sha256 import SHA256
    from examples.etl.upper import Upper

__all__ = [
    "IDLE_TIME",
    "NOWHERE",
    "REASON",
    "SHA256",
    "FakeTarget",
    "Gunzip",
    "Peer",
    "Talk",
    "Upper",
    "answer",
    "ask",
    "build",
    "node_url",
    "open_etl",
    "open_peer",
    "open_target",
    "put_object",
    "streaming",
    "whole",
]

NOWHERE = "http://127.0.0.1:9"
IDLE_TIME = 0.12  # seconds, real ones: with nothing happening for so long, virtual time goes on
Answer: TypeAlias = tuple[int, dict[str, str], bytes]
StreamFn: TypeAlias = Callable[[BufferedIOBase, str, str], Iterator[bytes]]
WholeFn: TypeAlias = Callable[[Any, str, str], bytes]


def streaming(fn: StreamFn) -> type[ETLServer]:
    """Make a server of a generator."""

    class Streaming(ETLServer):
        def transform_stream(
            self, reader: BufferedIOBase, path: str, etl_args: str
        ) -> Iterator[bytes]:
            return fn(reader, path, etl_args)

    return Streaming


def whole(fn: WholeFn) -> type[ETLServer]:
    """Make a server of a function of the whole object."""

    class Whole(ETLServer):
        def transform(self, data: bytes | str, path: str, etl_args: str) -> bytes:
            return fn(data, path, etl_args)

    return Whole


def build(kind: type[ETLServer], target: str = NOWHERE, **env: object) -> ETLServer:
    """Make a server in an environment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIS_TARGET_URL", target)
        for name, value in env.items():
            patch.setenv(name, str(value))
        return kind()


def open_etl(
    kind: type[ETLServer], target: str = NOWHERE, **env: object
) -> AbstractAsyncContextManager[int]:
    """Serve it; give the port."""
    return open_guarded(build(kind, target, **env).app)


def node_url(port: int, path: str = "") -> str:
    return f"http://{HOST}:{port}{path}"


async def ask(
    port: int,
    method: str,
    path: str,
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
) -> Answer:
    """Make one request on a connection of its own, and read the complete answer meanwhile."""
    fields = {"content-length": str(len(body)), **(headers or {})}
    with unwrapping():
        async with open_raw(port) as raw, trio.open_nursery() as nursery:
            await raw.request(method, path, fields)
            nursery.start_soon(_send_body, raw, body)
            status, fields = await raw.read_head()
            received = await raw.read_body()
    return status, fields, received


async def _send_body(raw: RawConnection, body: bytes) -> None:
    try:
        await raw.send_all(body)
    except trio.BrokenResourceError:
        pass  # answered early


@attrs.define(eq=False)
class FakeTarget:
    """A node of AIStore, as far as an ETL server sees it.

    Attributes:
      objects: by their names; what is put is added.
      seen: of each request, the method, the path with its query as sent, and the headers.
      open: GETs that are being answered.
      opened: GETs in all.
    """

    url: str = ""
    objects: dict[str, bytes] = attrs.field(factory=dict)
    seen: list[tuple[str, str, dict[str, str]]] = attrs.field(factory=list)
    open: int = 0
    opened: int = 0
    endless: bool = False
    closed: trio.Event = attrs.field(factory=trio.Event)
    chunks: Callable[[], Any] = attrs.field(default=lambda: endless_chunks())

    def app(self) -> App[None]:
        app = App()
        for path in ("/", "/{name:path}"):
            app.get(path)(self.get)
            app.put(path)(self.put)
        return app

    def note(self, request: Request) -> None:
        query = request.scope["query_string"].decode()
        target = request.scope["raw_path"].decode() + (f"?{query}" if query else "")
        self.seen.append((request.method, target, dict(request.headers)))

    @asynccontextmanager
    async def get(self, request: Request) -> AsyncIterator[Response]:
        self.note(request)
        self.opened += 1
        self.open += 1
        self.closed = trio.Event()
        try:
            if self.endless:
                yield Response(self.chunks())
            elif request.path[1:] in self.objects:
                yield Response(self.objects[request.path[1:]])
            else:
                raise HTTPError(404)
        finally:
            self.open -= 1
            if not self.open:
                self.closed.set()

    async def put(self, request: Request) -> bytes:
        self.note(request)
        self.objects[request.path[1:]] = await request.read()
        return b""

    async def wait_closed(self) -> None:
        with trio.fail_after(1):
            await self.closed.wait()


async def endless_chunks() -> AsyncIterator[bytes]:
    while True:
        await trio.lowlevel.checkpoint()
        yield b"x" * 65536


@asynccontextmanager
async def open_target(**objects: bytes) -> AsyncIterator[FakeTarget]:
    """Serve a target on a port."""
    target = FakeTarget(objects=objects)
    async with open_guarded(target.app()) as port:
        target.url = node_url(port)
        yield target


@attrs.define(eq=False)
class Peer:
    """A node that behaves as a test says: raw bytes, resets, silence.

    Attributes:
      times: when each connection was accepted.
      heads: the head of each request, as far as *talk* has read one.
    """

    port: int
    times: list[float] = attrs.field(factory=list)
    heads: list[str] = attrs.field(factory=list)

    @property
    def url(self) -> str:
        return node_url(self.port)

    async def read_head(self, raw: RawConnection) -> bytes:
        """Read a request's head; give what has come of its body."""
        data = bytearray()
        while b"\r\n\r\n" not in data:
            data += await raw.stream.receive_some()
        head, _, rest = bytes(data).partition(b"\r\n\r\n")
        self.heads.append(head.decode())
        return rest

    async def read_request(self, raw: RawConnection) -> bytes:
        """Read a whole request; give its body, still chunked if it is."""
        data = bytearray(await self.read_head(raw))
        length = re.search(r"content-length: (\d+)", self.heads[-1])
        while not (data.endswith(b"0\r\n\r\n") if length is None else len(data) >= int(length[1])):
            received = await raw.stream.receive_some()
            if not received:
                raise trio.BrokenResourceError
            data += received
        return bytes(data)


@asynccontextmanager
async def open_peer(
    talk: Callable[[Peer, RawConnection], Awaitable[None]], *, receive_buffer: int | None = None
) -> AsyncIterator[Peer]:
    """Listen, and call *talk* with each connection, which is closed afterwards."""
    sock = socket.create_server((HOST, 0))
    if receive_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
    peer = Peer(sock.getsockname()[1])

    async def serve(stream: trio.SocketStream) -> None:
        peer.times.append(trio.current_time())
        raw = RawConnection(stream)
        try:
            await talk(peer, raw)
        except trio.BrokenResourceError:
            pass
        finally:
            raw.close()

    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, serve, [listener])
        yield peer
        nursery.cancel_scope.cancel()


Talk: TypeAlias = Callable[[Peer, RawConnection], Awaitable[None]]
REASON = "ais-etl-retry-reason"


def answer(head: str, body: bytes = b"") -> Talk:
    """Read a request, and answer it."""

    async def talk(peer: Peer, raw: RawConnection) -> None:
        await peer.read_request(raw)
        await raw.send_all(f"HTTP/1.1 {head}\r\n\r\n".encode() + body)

    return talk


async def put_object(port: int, node: str, body: bytes = b"data", query: str = "") -> Answer:
    """Put an object, for its result to go on to *node*."""
    return await ask(port, "PUT", f"/b/o{query}", {"ais-node-url": node}, body)
