"""Transforms over one POST: bytes in, bytes out, at the same time, on HTTP/1.1 and HTTP/2."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from typing import Protocol

import pytest
import trio
import trio.testing
from h2.exceptions import StreamClosedError
from leaks import assert_no_leaks
from probes import IDLE, IN_TIME, PROMPT, Endings, Life, logged
from wire import H2Connection, RawConnection, open_h2, open_raw, open_server

from tsstream import App, HTTPError, Request, Response, merge

pytestmark = pytest.mark.usefixtures("each_host")

SIZE = 3_000_000  # bytes: more than what waits anywhere between


class Post(Protocol):
    """One POST of a client that speaks either protocol."""

    async def send(self, data: bytes) -> None: ...
    async def end(self) -> None: ...
    async def read_status(self) -> int: ...
    async def read_chunk(self) -> bytes | None: ...
    def abort(self) -> None: ...


class Post1:
    def __init__(self, raw: RawConnection) -> None:
        self.raw = raw
        self.read_chunk = raw.read_chunk
        self.abort = raw.abort

    async def send(self, data: bytes) -> None:
        await self.raw.send_all(b"%x\r\n%s\r\n" % (len(data), data))

    async def end(self) -> None:
        await self.raw.send_all(b"0\r\n\r\n")

    async def read_status(self) -> int:
        return (await self.raw.read_head())[0]


class Post2:
    def __init__(self, h2: H2Connection, stream_id: int) -> None:
        self.h2 = h2
        self.send = partial(h2.send_data, stream_id)
        self.read_chunk = partial(h2.read_chunk, stream_id)
        self.abort = h2.abort
        self.stream_id = stream_id

    async def end(self) -> None:
        # The answer may have come, and a server that wants no more then resets the stream.
        with suppress(StreamClosedError):
            await self.h2.send_data(self.stream_id, b"", end_stream=True)

    async def read_status(self) -> int:
        return (await self.h2.read_head(self.stream_id))[0]


@asynccontextmanager
async def post_1(port: int) -> AsyncIterator[Post]:
    async with open_raw(port) as raw:
        await raw.request("POST", "/", {"transfer-encoding": "chunked"})
        yield Post1(raw)


@asynccontextmanager
async def post_2(port: int) -> AsyncIterator[Post]:
    async with open_h2(port) as h2:
        yield Post2(h2, await h2.request("POST", "/", end_stream=False))


class OpenPost(Protocol):
    def __call__(self, port: int) -> AbstractAsyncContextManager[Post]: ...


each_protocol = pytest.mark.parametrize("open_post", [post_1, post_2], ids=["http/1.1", "http/2"])


async def read_body(post: Post) -> bytes:
    body = b""
    while (chunk := await post.read_chunk()) is not None:
        body += chunk
    return body


async def shout(request: Request, send_channel: trio.MemorySendChannel[bytes]) -> None:
    async for chunk in request.body:
        await send_channel.send(chunk.upper())


@each_protocol
async def test_the_status_is_chosen_when_the_input_has_been_looked_at(open_post: OpenPost) -> None:
    # DESIGN 5: the start is deferred, until the first bytes go out
    app = App()

    @app.post("/")
    @asynccontextmanager
    async def handler(request: Request) -> AsyncIterator[Response]:
        first = await request.body.receive()
        if not first.startswith(b"GIF"):
            raise HTTPError(415)
        async with merge(partial(shout, request)) as chunks:
            yield Response(chunks, 201, {"x-first": str(len(first))})

    async with open_server(app, keep_alive_timeout=IDLE) as port, assert_no_leaks():
        for first, status in ((b"GIF89a", 201), (b"PNG", 415)):
            async with open_post(port) as post:
                await post.send(first)
                if status == 415:
                    await post.end()
                else:
                    await trio.testing.wait_all_tasks_blocked(0.01)
                    await post.send(b"more")
                with trio.fail_after(IN_TIME):
                    assert await post.read_status() == status
                    if status == 201:
                        assert await post.read_chunk() == b"MORE"
                        await post.end()
                        assert await post.read_chunk() is None


@each_protocol
async def test_a_transform_that_fails_before_its_first_bytes_is_a_status(
    open_post: OpenPost, caplog: pytest.LogCaptureFixture
) -> None:
    # D4: however much it has read by then
    app = App()

    @app.post("/")
    @asynccontextmanager
    async def handler(request: Request) -> AsyncIterator[Response]:
        async def check(send_channel: trio.MemorySendChannel[bytes]) -> None:
            async for chunk in request.body:
                if b"?" in chunk:
                    raise HTTPError(422, "no questions")

        async with merge(check) as chunks:
            yield Response(chunks)

    async with open_server(app, keep_alive_timeout=IDLE) as port, assert_no_leaks():
        async with open_post(port) as post:
            for data in (b"a", b"b", b"?"):
                await post.send(data)
                await trio.testing.wait_all_tasks_blocked(0.01)
            with trio.fail_after(IN_TIME):
                assert await post.read_status() == 422
                assert await read_body(post) == b"no questions"
    assert logged(caplog) == []


@each_protocol
@pytest.mark.parametrize("takes", ["all", "some", "none"])
async def test_a_transform_reads_as_much_of_its_input_as_it_likes(
    open_post: OpenPost, takes: str
) -> None:
    # RQ-23, RQ-25, ET-23: the client sends all of it meanwhile, and then looks at the answer
    endings = Endings()
    app = App(on_end=endings)

    @app.post("/")
    @asynccontextmanager
    async def handler(request: Request) -> AsyncIterator[Response]:
        body = request.body

        async def measure(send_channel: trio.MemorySendChannel[bytes]) -> None:
            await send_channel.send(b"size: ")
            size = 0
            if takes != "none":
                async for chunk in body:
                    size += len(chunk)
                    if takes == "some":
                        break
            body.close()
            await send_channel.send(b"%d" % size)

        async with merge(measure) as chunks:
            yield Response(chunks)

    async with open_server(app, keep_alive_timeout=IDLE) as port, assert_no_leaks():
        async with open_post(port) as post, trio.open_nursery() as nursery:
            nursery.start_soon(send_all, post)
            with trio.fail_after(IN_TIME):
                assert await post.read_status() == 200
                size = int((await read_body(post)).removeprefix(b"size: "))
            nursery.cancel_scope.cancel()
        assert (size == 0) is (takes == "none")
        assert (size == SIZE) is (takes == "all")
    assert endings.reasons == ["complete"]


async def send_all(post: Post) -> None:
    try:
        for _ in range(SIZE // 10_000):
            await post.send(bytes(10_000))
        await post.end()
    except Exception:  # the connection or the stream may end before: whatever the client calls it
        await trio.sleep_forever()


@each_protocol
async def test_an_echo_of_much_holds_little(open_post: OpenPost) -> None:
    # RQ-24's cousin: both directions are full, and both flow
    app = App()

    @app.post("/")
    @asynccontextmanager
    async def handler(request: Request) -> AsyncIterator[Response]:
        yield Response(request.body)

    async with open_server(app, keep_alive_timeout=IDLE) as port, assert_no_leaks():
        async with open_post(port) as post, trio.open_nursery() as nursery:
            nursery.start_soon(send_all, post)
            with trio.fail_after(IN_TIME):
                assert await post.read_status() == 200
                assert len(await read_body(post)) == SIZE
            nursery.cancel_scope.cancel()


@each_protocol
async def test_a_client_that_leaves_a_transform_ends_it_at_once(open_post: OpenPost) -> None:
    # RQ-27: in whatever it was: it waits for input, and a handler's own task for nothing
    life = Life()
    app = App()

    async def idle() -> None:
        with life.of("idle"):
            await trio.sleep_forever()

    @app.post("/")
    @asynccontextmanager
    async def handler(request: Request) -> AsyncIterator[Response]:
        with life.of("handler"):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(idle)
                async with merge(partial(shout, request)) as chunks:
                    yield Response(chunks)

    async with open_server(app, keep_alive_timeout=IDLE) as port, assert_no_leaks():
        async with open_post(port) as post:
            await post.send(b"a")
            assert await post.read_status() == 200
            assert await post.read_chunk() == b"A"
            post.abort()
            await life.wait_gone(PROMPT)
