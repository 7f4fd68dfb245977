"""100 Continue on our own server: it is said when a handler first reads its body, and not before.

A client that is refused without it has saved its upload (RFC 9110, 10.1.1). The stock Hypercorn
says it before the application is called.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing
from leaks import assert_no_leaks
from probes import IN_TIME, PROMPT, WAYS_TO_LEAVE, leave
from wire import RawConnection, open_guarded, open_h2, open_raw

from tsstream import App, BodyLimits, HTTPError, Request, Response, merge

SIZE = 100  # bytes, declared
EXPECT = {"content-length": str(SIZE), "expect": "100-continue"}


async def refuse(request: Request) -> Response:
    raise HTTPError(401, "who are you?")


async def refuse_later(request: Request) -> Response:
    await trio.testing.wait_all_tasks_blocked(0.01)
    return Response("who are you?", 401)


async def read_too_much(request: Request) -> Response:
    return Response(await request.read(limit=SIZE - 1))


async def stream_too_much(request: Request) -> Response:
    request.body_limits = BodyLimits(max_stream=SIZE - 1)
    return Response([chunk async for chunk in request.body])


async def two() -> AsyncIterator[bytes]:
    yield b"one"
    await trio.testing.wait_all_tasks_blocked(0.01)
    yield b"two"


async def stream(request: Request) -> Response:
    return Response(two(), 403)


@asynccontextmanager
async def refuse_to_yield(request: Request) -> AsyncIterator[Response]:
    raise HTTPError(401)
    yield Response()


@asynccontextmanager
async def yield_stream(request: Request) -> AsyncIterator[Response]:
    yield Response(two(), 403)


@asynccontextmanager
async def yield_live_stream(request: Request) -> AsyncIterator[Response]:
    yield Response(two(), 403, live=True)


async def ignore(request: Request) -> str:
    return "thank you"


async def close(request: Request) -> Response:
    await request.body.aclose()
    await trio.testing.wait_all_tasks_blocked(0.01)
    return Response(two(), 403)


@pytest.mark.parametrize(
    ("handler", "status"),
    [
        (refuse, 401),
        (refuse_later, 401),
        (read_too_much, 413),
        (stream_too_much, 413),
        (stream, 403),
        (refuse_to_yield, 401),
        (yield_stream, 403),
        (yield_live_stream, 403),
        (ignore, 200),
        (close, 403),
    ],
)
async def test_a_handler_that_reads_nothing_says_nothing_but_its_answer(
    handler: Any, status: int
) -> None:
    app = App()
    app.post("/")(handler)
    async with open_guarded(app) as port, assert_no_leaks():
        async with open_raw(port) as raw:
            await raw.request("POST", "/", EXPECT)
            with trio.fail_after(IN_TIME):
                got, headers = await raw.read_head()
                assert got == status
                assert await raw.read_body()
                # Whether the body still comes cannot be known, so the connection ends.
                assert headers["connection"] == "close"
                assert await raw.read_until_closed() == b""
        async with open_h2(port) as h2:
            stream_id = await h2.request("POST", "/", EXPECT, end_stream=False)
            with trio.fail_after(IN_TIME):
                assert (await h2.read_head(stream_id))[0] == status
                assert await h2.read_body(stream_id)


async def read(request: Request) -> bytes:
    return await request.read()


async def read_chunks(request: Request) -> bytes:
    return b"".join([chunk async for chunk in request.body])


@asynccontextmanager
async def echo(request: Request) -> AsyncIterator[Response]:
    yield Response(request.body)


@asynccontextmanager
async def shout(request: Request) -> AsyncIterator[Response]:
    async def send_back(send_channel: trio.MemorySendChannel[bytes]) -> None:
        async for chunk in request.body:
            await send_channel.send(chunk)

    async with merge(send_back) as chunks:
        yield Response(chunks)


@pytest.mark.parametrize("handler", [read, read_chunks, echo, shout])
async def test_a_handler_that_reads_says_so_once_when_it_begins(handler: Any) -> None:
    app = App()
    begin = trio.Event()
    add_waiting(app, handler, begin)
    async with open_guarded(app) as port, assert_no_leaks(), open_raw(port) as raw:
        await raw.request("POST", "/", EXPECT)
        await expect_silence(raw)
        begin.set()
        with trio.fail_after(PROMPT):
            assert (await raw.read_head())[0] == 100
        await expect_silence(raw)
        await raw.send_all(b"x" * (SIZE // 2))
        await trio.testing.wait_all_tasks_blocked(0.01)
        await raw.send_all(b"x" * (SIZE // 2))
        assert (await raw.read_head())[0] == 200
        assert await raw.read_body() == b"x" * SIZE
        await raw.request("POST", "/", EXPECT)  # the connection is kept
        assert (await raw.read_head())[0] == 100


def add_waiting(app: App[None], handler: Any, begin: trio.Event) -> None:
    @app.post("/")
    @asynccontextmanager
    async def waiting(request: Request) -> AsyncIterator[Any]:
        await begin.wait()
        given = handler(request)
        if hasattr(given, "__await__"):
            yield Response(await given)
        else:
            async with given as response:
                yield response


async def expect_silence(raw: RawConnection) -> None:
    with trio.move_on_after(0.03) as silence:
        await raw.read_head()
    assert silence.cancelled_caught


async def test_a_client_that_does_not_wait_is_not_told_to_go_on() -> None:
    app = App()
    begin = trio.Event()
    add_waiting(app, read, begin)
    async with open_guarded(app) as port, open_raw(port) as raw:
        await raw.request("POST", "/", EXPECT)
        await raw.send_all(b"x" * SIZE)
        await trio.testing.wait_all_tasks_blocked(0.02)
        begin.set()
        assert (await raw.read_head())[0] == 200
        assert await raw.read_body() == b"x" * SIZE


async def test_a_client_that_does_not_wait_is_served_though_nobody_reads() -> None:
    # RQ-23, RQ-25: it writes 5 MB, and reads as many later
    app = App()
    size = 5_000_000

    @app.post("/")
    async def handler(request: Request) -> Response:
        return Response(bytes(size // 100) for _ in range(100))

    async with open_guarded(app) as port, assert_no_leaks(), open_raw(port) as raw:
        await raw.request("POST", "/", {**EXPECT, "content-length": str(size)})
        with trio.fail_after(IN_TIME):
            await raw.send_all(bytes(size))
            assert (await raw.read_head())[0] == 200
            assert len(await raw.read_body()) == size


async def test_a_body_that_comes_after_the_answer_has_begun_reaches_who_reads_it() -> None:
    # It is too late for 100 Continue then, and the client decides by itself.
    app = App()

    @app.post("/")
    @asynccontextmanager
    async def handler(request: Request) -> AsyncIterator[Response]:
        async with merge(partial(greet_and_send_back, request)) as chunks:
            yield Response(chunks, live=True)

    async def greet_and_send_back(
        request: Request, send_channel: trio.MemorySendChannel[bytes]
    ) -> None:
        await send_channel.send(b"hello ")
        async for chunk in request.body:
            await send_channel.send(chunk)

    opened = App()
    opened.post("/")(opening(handler))
    async with open_guarded(opened) as port, open_raw(port) as raw:
        await raw.request("POST", "/", EXPECT)
        assert (await raw.read_head())[0] == 200
        assert await raw.read_chunk() == b"hello "
        await raw.send_all(b"x" * SIZE)
        assert await raw.read_body() == b"x" * SIZE


def opening(handler: Any) -> Any:
    """Have the body asked for before the response starts (RQ-23)."""

    @asynccontextmanager
    async def open_first(request: Request) -> AsyncIterator[Response]:
        assert request.body is not None
        async with handler(request) as response:
            yield response

    return open_first


@pytest.mark.parametrize("way", WAYS_TO_LEAVE)
async def test_a_client_that_leaves_instead_of_going_on_is_a_disconnect(way: str) -> None:
    # RQ-27
    app = App()
    ended = trio.Event()

    @app.post("/")
    async def handler(request: Request) -> bytes:
        try:
            return await request.read()
        finally:
            ended.set()

    async with open_guarded(app) as port, assert_no_leaks(), open_raw(port) as raw:
        await raw.request("POST", "/", EXPECT)
        assert (await raw.read_head())[0] == 100
        await leave(raw, way)
        with trio.fail_after(PROMPT):
            await ended.wait()
