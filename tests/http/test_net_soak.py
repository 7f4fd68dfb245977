"""Hundreds of clients that leave at random moments leave nothing behind."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress

import pytest
import trio
from h2.exceptions import StreamClosedError
from leaks import assert_no_leaks
from probes import IDLE, Calls, Endings, Life, flood, logged, say_one, two_feeds
from wire import Truncated, open_h2, open_raw, open_server

from tsstream import App, Request, Response, merge
from tsstream._http.content import Content

pytestmark = pytest.mark.usefixtures("each_host")

CLIENTS = 20  # at a time
LATEST = 0.02  # seconds: when the last of them leave


def make_app(life: Life, endings: Endings) -> App[None]:
    app = App(on_end=endings)

    @app.get("/idle")
    async def idle(request: Request) -> Content:
        return two_feeds(life, say_one)

    @app.get("/flood")
    @app.post("/flood")
    async def busy(request: Request) -> Content:
        return two_feeds(life, flood)

    @app.get("/short")
    async def short(request: Request) -> Content:
        async def produce(send_channel: trio.MemorySendChannel[bytes]) -> None:
            with life.of("producer"):
                for _ in range(20):
                    await trio.sleep(0.001)
                    await send_channel.send(b"x" * 100)

        return merge(produce)

    @app.get("/generator")
    async def generator(request: Request) -> Content:
        async def generate() -> AsyncGenerator[bytes, None]:  # noqa: ASYNC900
            with life.of("generator"):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(trio.sleep_forever)
                    while True:
                        yield b"x" * 100  # noqa: ASYNC101, ASYNC119
                        await trio.sleep(0.001)

        return generate()

    @app.get("/thread")
    async def thread(request: Request) -> Content:
        def generate() -> Iterator[bytes]:
            while True:
                threading.Event().wait(0.001)
                yield b"x" * 100

        return generate()

    @app.post("/echo")
    @asynccontextmanager
    async def echo(request: Request) -> AsyncIterator[Response]:
        with life.of("handler"):
            yield Response(request.body, live=True)

    @app.get("/handler")
    async def handler(request: Request) -> str:
        with life.of("handler"):
            await trio.sleep(0.001)
        return "done"

    return app


REQUESTS = [
    ("GET", "/idle", 0),
    ("GET", "/flood", 0),
    ("POST", "/flood", 100_000),
    ("GET", "/short", 0),
    ("GET", "/generator", 0),
    ("GET", "/thread", 0),
    ("POST", "/echo", 10_000),
    ("GET", "/handler", 0),
]


async def test_500_abrupt_disconnects_at_random_moments_leave_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # HOST "rules that follow", BK-25, AC-13, AC-53
    caplog.set_level(logging.WARNING)
    rng = random.Random(43)
    life, endings = Life(), Endings()
    calls = Calls(make_app(life, endings))
    plans = [
        (*rng.choice(REQUESTS), rng.uniform(0, LATEST), rng.choice(["abort", "close"]))
        for _ in range(500)
    ]

    async def visit() -> None:
        while plans:
            method, path, size, leave_after, way = plans.pop()
            async with open_raw(port) as raw:
                with trio.move_on_after(leave_after):
                    body = b"x" * size
                    # Less than declared: the client is always in the middle of something.
                    length = {"content-length": str(size + 1)} if size else {}
                    await raw.request(method, path, length)
                    await raw.send_all(body)
                    await raw.read_head()
                    while await raw.read_chunk() is not None:
                        pass
                getattr(raw, way)()

    async with open_server(calls, keep_alive_timeout=IDLE) as port, assert_no_leaks():
        async with trio.open_nursery() as nursery:
            for _ in range(CLIENTS):
                nursery.start_soon(visit)
        await life.wait_gone(within=0.5)
        await calls.wait_idle()
    assert calls.raised == []
    assert logged(caplog) == []
    assert len(endings.seen) == calls.returned
    assert set(endings.reasons) <= {"disconnect", "complete"}
    assert endings.reasons.count("disconnect") > 200


async def test_200_resets_of_http2_streams_at_random_moments_leave_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # AC-16, AC-40, AC-53 on HTTP/2
    caplog.set_level(logging.WARNING)
    rng = random.Random(43)
    life, endings = Life(), Endings()
    calls = Calls(make_app(life, endings))
    paths = [path for method, path, _ in REQUESTS if method == "GET"]

    async with open_server(calls, keep_alive_timeout=IDLE) as port, assert_no_leaks():
        async with open_h2(port) as h2, trio.open_nursery() as nursery:

            async def visit() -> None:
                for _ in range(20):
                    stream_id = await h2.request("GET", rng.choice(paths))
                    try:
                        with trio.move_on_after(rng.uniform(0, LATEST)) as scope:
                            await h2.read_head(stream_id)
                            await h2.read_body(stream_id)
                        if scope.cancelled_caught:
                            with suppress(StreamClosedError):  # it has just ended
                                await h2.reset(stream_id)
                    except Truncated:
                        pass  # a reset that crossed the end of the stream

            for _ in range(10):
                nursery.start_soon(visit)
        await life.wait_gone(within=0.5)
        await calls.wait_returned(200)
    assert calls.raised == []
    assert logged(caplog) == []
    assert len(endings.seen) == 200
