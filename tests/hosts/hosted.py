"""An app that shows what its host lets through: order, streaming, cuts, disconnects, context."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any, TypeAlias

import trio
from wire import RawConnection, Truncated, open_raw

from tsstream import App, HTTPError, Request, Response, json_response, merge

SEEN: ContextVar[str] = ContextVar("SEEN", default="nothing")
PROMPT = 0.5  # seconds: 100 ms is the promise; the rest is for a busy machine
IN_TIME = 5.0  # seconds: for what must happen, so that a hang fails by name

SendChannel: TypeAlias = trio.MemorySendChannel[bytes]


class Hosted:
    """An app, and what has happened in it.

    Attributes:
      app: has the routes below; its state is the text ``"state"``.
      events: ``startup``, ``in``, ``out``, ``shutdown`` and such.
      proceed: set by the test to let ``/two`` send its second chunk.
      left: set when a producer of ``/endless`` has cleaned up.
    """

    def __init__(self) -> None:
        self.app: App[str] = App(lifespan=self._lifespan)
        self.events: list[str] = []
        self.proceed = trio.Event()
        self.left = trio.Event()
        for path, handler in (
            ("/", self.where),
            ("/where", self.where),
            ("/where/{name}", self.where),
            ("/state", self.state),
            ("/context", self.context),
            ("/two", self.two),
            ("/endless", self.endless),
            ("/cut", self.cut),
            ("/early", self.early),
            ("/teapot", self.teapot),
        ):
            self.app.get(path)(handler)
        self.app.post("/size")(self.size)
        self.app.post("/echo")(self.echo)

    @asynccontextmanager
    async def _lifespan(self, app: App[str]) -> AsyncIterator[str]:
        self.events.append("startup")
        yield "state"
        self.events.append("shutdown")

    async def where(self, request: Request[str]) -> Response:
        return json_response([request.root_path, request.path, request.path_params])

    async def state(self, request: Request[str]) -> str:
        return request.state

    async def context(self, request: Request[str]) -> Response:
        seen = SEEN.get()

        async def produce(send_channel: SendChannel) -> None:
            await send_channel.send(f"producer {SEEN.get()}".encode())

        @asynccontextmanager
        async def body() -> AsyncIterator[trio.abc.ReceiveChannel[bytes]]:
            self.events.append(f"manager {SEEN.get()}")
            async with merge(produce) as chunks:
                yield chunks

        return Response(body(), headers={"handler-saw": seen})

    async def two(self, request: Request[str]) -> Response:
        async def produce(send_channel: SendChannel) -> None:
            await send_channel.send(b"first ")
            await self.proceed.wait()
            await send_channel.send(b"second")

        return Response(merge(produce), media_type="text/plain")

    async def endless(self, request: Request[str]) -> Response:
        async def produce(send_channel: SendChannel) -> None:
            self.events.append("in")
            try:
                await send_channel.send(b"first ")
                await trio.sleep_forever()
            finally:
                self.events.append("out")
                self.left.set()

        return Response(merge(produce), media_type="text/plain", live=True)

    async def cut(self, request: Request[str]) -> Response:
        async def produce(send_channel: SendChannel) -> None:
            await send_channel.send(b"first ")
            await self.proceed.wait()
            raise OSError("the source broke")

        return Response(merge(produce), media_type="text/plain")

    async def early(self, request: Request[str]) -> Response:
        async def produce(send_channel: SendChannel) -> None:
            raise OSError("no source")

        return Response(merge(produce), headers={"of-the-stream": "1"})

    async def teapot(self, request: Request[str]) -> Response:
        raise HTTPError(418)

    async def size(self, request: Request[str]) -> str:
        return str(len(await request.read()))

    @asynccontextmanager
    async def echo(self, request: Request[str]) -> AsyncIterator[Response]:
        yield Response(request.body)


async def get(port: int, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Get *path* on a connection of its own, up to the clean end."""
    return await ask(port, "GET", path, headers)


async def ask(
    port: int, method: str, path: str, headers: Any = None, body: bytes = b""
) -> tuple[int, dict[str, str], bytes]:
    """Send one request on a connection of its own; read the answer up to its clean end."""
    with trio.fail_after(IN_TIME):
        async with open_raw(port) as raw:
            await raw.request(method, path, headers, body)
            status, fields = await raw.read_head()
            return status, fields, await raw.read_body()


async def read_some(raw: RawConnection) -> bytes:
    """Read one chunk, and fail by name if none comes."""
    with trio.fail_after(IN_TIME):
        chunk = await raw.read_chunk()
    assert chunk is not None, "the body has ended"
    return chunk


async def check_streaming(hosted: Hosted, port: int, path: str) -> None:
    """Fail unless the first chunk of ``/two`` arrives before the second is made."""
    async with open_raw(port) as raw:
        await raw.request("GET", path)
        with trio.fail_after(IN_TIME):
            assert (await raw.read_head())[0] == 200
        assert await read_some(raw) == b"first "
        hosted.proceed.set()
        assert await raw.read_body() == b"second"


async def check_disconnect(hosted: Hosted, port: int, path: str, **headers: str) -> None:
    """Fail unless the producer of ``/endless`` is gone soon after its client."""
    async with open_raw(port) as raw:
        await raw.request("GET", path, headers)
        with trio.fail_after(IN_TIME):
            assert (await raw.read_head())[0] == 200
        await read_some(raw)
        assert hosted.events[-1] == "in"
    with trio.fail_after(PROMPT):
        await hosted.left.wait()


async def read_cut(hosted: Hosted, port: int, path: str, **headers: str) -> bytes:
    """Give the bytes of ``/cut``, and fail if they have a clean end."""
    async with open_raw(port) as raw:
        await raw.request("GET", path, headers)
        with trio.fail_after(IN_TIME):
            assert (await raw.read_head())[0] == 200
        first = await read_some(raw)
        hosted.proceed.set()
        try:
            with trio.fail_after(IN_TIME):
                await raw.read_body()
        except Truncated as error:
            return first + error.body
    raise AssertionError("the body has a clean end")
