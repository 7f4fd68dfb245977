"""A client that stops reading: its producers are freed, though the server's own send is stuck.

The stock Hypercorn shields its sends (HOST fault 5), so what is stuck there stays so until the
client goes. What a stalled client holds must be no more than that (D18).
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
import trio.testing
from leaks import assert_no_leaks
from probes import (
    IDLE,
    PROMPT,
    Calls,
    Endings,
    Life,
    check_health,
    flood,
    get,
    logged,
    two_feeds,
)
from wire import RawConnection, Truncated, open_raw, open_server

from tsstream import App, Request, Response, StreamPolicy, merge
from tsstream._http.content import Content
from tsstream._util import leaves

pytestmark = pytest.mark.usefixtures("each_host")

SMALL_BUFFER = 4096  # bytes: of the kernel, on both sides
SEND_LIMIT = 0.3  # seconds
PIECE = 64 * 1024  # bytes: more than all buffers hold

open_small_server = partial(open_server, send_buffer=SMALL_BUFFER, keep_alive_timeout=IDLE)
open_slow_raw = partial(open_raw, receive_buffer=SMALL_BUFFER)


class Feeds:
    """An app whose ``/feed`` floods, and whose ``/stats`` tells what is running for it."""

    def __init__(self, policy: StreamPolicy | None = None) -> None:
        self.life = Life()
        self.endings = Endings()
        self.fail = trio.Event()
        self.app = app = App(policy=policy, on_end=self.endings)

        async def count_flood(send_channel: trio.MemorySendChannel[bytes]) -> None:
            with self.life.of("producer"):
                await flood(send_channel)

        async def fail_when_told(send_channel: trio.MemorySendChannel[bytes]) -> None:
            with self.life.of("failing producer"):
                await self.fail.wait()
                raise ValueError("the feed broke")

        @asynccontextmanager
        async def body() -> AsyncIterator[object]:
            with self.life.of("body"):
                async with merge(count_flood, count_flood, fail_when_told) as chunks:
                    yield chunks

        @app.get("/feed")
        async def feed(request: Request) -> Content:
            return body()

        @app.get("/stats")
        async def stats(request: Request) -> str:
            return str(self.life.running)

    async def read_stats(self, port: int) -> int:
        async with open_raw(port) as raw:
            with trio.fail_after(1):
                assert await get(raw, "/stats") == 200
                return int(await raw.read_body())


async def stall(raw: RawConnection, path: str = "/feed") -> None:
    """Ask for *path*, read its head, and no more; return when the server's send is stuck."""
    await get(raw, path)
    await trio.testing.wait_all_tasks_blocked(0.1)  # the kernels pass data on by themselves


@pytest.mark.stock_host("there a send can be cancelled")
async def test_stalled_stream_holds_its_producers_only_as_long_as_the_send_limit(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # D18, D24, HOST fault 5: proved by the counters of another connection.
    feeds = Feeds(StreamPolicy(send=SEND_LIMIT))
    async with open_small_server(feeds.app) as port, assert_no_leaks():
        async with open_slow_raw(port) as raw:
            await stall(raw)
            assert await feeds.read_stats(port) == 4
            await feeds.life.wait_gone(within=SEND_LIMIT + PROMPT)
            assert await feeds.read_stats(port) == 0
            assert feeds.endings.reasons.count("timeout") == 0  # the server's send is still stuck
            raw.abort()
    assert feeds.endings.reasons.count("timeout") == 1
    (line,) = logged(caplog)
    assert line.startswith(f"WARNING GET /feed: send limit of {SEND_LIMIT} s reached after ")


async def test_send_limit_holds_for_a_piece_of_which_the_client_has_taken_some() -> None:
    # D24: nothing follows this piece that could be stuck in its place.
    life = Life()
    app = App(policy=StreamPolicy(send=SEND_LIMIT))

    async def send_two(send_channel: trio.MemorySendChannel[bytes]) -> None:
        with life.of("producer"):
            for _ in range(2):
                await send_channel.send(bytes(PIECE))
            await trio.sleep_forever()

    @app.get("/")
    async def handler(request: Request) -> Content:
        return merge(send_two)

    async with open_small_server(app) as port, assert_no_leaks():
        async with open_slow_raw(port) as raw:
            await get(raw)
            taken = 0
            while taken < PIECE:
                taken += len(await raw.stream.receive_some(SMALL_BUFFER))
            await life.wait_gone(within=SEND_LIMIT + PROMPT)
            raw.abort()


async def test_body_cut_by_the_send_limit_has_no_clean_end_for_a_client_that_reads_on() -> None:
    # D24, HOST fault 10: after a send that was given up nothing follows.
    feeds = Feeds(StreamPolicy(send=SEND_LIMIT))
    async with open_small_server(feeds.app) as port, assert_no_leaks():
        async with open_slow_raw(port) as raw:
            await stall(raw)
            await feeds.life.wait_gone(within=SEND_LIMIT + PROMPT)
            with trio.fail_after(2), pytest.raises(Truncated) as caught:
                await raw.read_body()
        assert len(caught.value.body) >= SMALL_BUFFER
        assert set(caught.value.body) == set(b"x")


@pytest.mark.stock_host("there a send can be cancelled")
async def test_shutdown_frees_the_producers_of_a_stalled_client_after_the_grace() -> None:
    # D18, D40, AC-52
    feeds = Feeds()
    calls = Calls(feeds.app)
    stop = trio.Event()
    async with assert_no_leaks():
        async with open_small_server(calls, shutdown_trigger=stop.wait, graceful_timeout=0.2) as p:
            async with open_slow_raw(p) as raw:
                await stall(raw)
                assert feeds.life.running == 4
                stop.set()
                await feeds.life.wait_gone(within=0.2 + PROMPT)
                assert calls.running == 1  # only the server's own send is stuck
                raw.abort()
                await calls.wait_returned()
    assert feeds.endings.reasons == ["cancelled"]
    (raised,) = calls.raised
    assert {type(leaf) for leaf in leaves(raised)} == {trio.Cancelled}


async def test_failing_producer_frees_the_others_while_the_send_is_stuck(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # D18, D10
    feeds = Feeds()
    calls = Calls(feeds.app)
    async with open_small_server(calls) as port, assert_no_leaks():
        async with open_slow_raw(port) as raw:
            await stall(raw)
            assert feeds.life.running == 4
            feeds.fail.set()
            await feeds.life.wait_gone()
            assert await feeds.read_stats(port) == 0
            raw.abort()
            await calls.wait_returned(2)
    (record,) = [r for r in caplog.records if r.name == "tsstream"]
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "the feed broke"


@pytest.mark.parametrize("way", ["close", "abort"])
async def test_stalled_client_that_leaves_frees_its_producers_promptly(
    way: str, caplog: pytest.LogCaptureFixture
) -> None:
    # D18, AC-16
    feeds = Feeds()
    async with open_small_server(feeds.app) as port, assert_no_leaks():
        async with open_slow_raw(port) as raw:
            await stall(raw)
            assert feeds.life.running == 4
            getattr(raw, way)()
            await feeds.life.wait_gone()
    assert logged(caplog) == []


async def test_cancelled_body_frees_its_producers_while_the_send_is_stuck() -> None:
    # D18, D24: the limit on the whole body, as any cancellation of ours.
    feeds = Feeds(StreamPolicy(lifetime=SEND_LIMIT))
    async with open_small_server(feeds.app) as port, assert_no_leaks():
        async with open_slow_raw(port) as raw:
            await stall(raw)
            await feeds.life.wait_gone(within=SEND_LIMIT + PROMPT)
            assert await feeds.read_stats(port) == 0
            raw.abort()
    assert [ending.limit for ending in feeds.endings.seen if ending.reason == "timeout"] == [
        "lifetime"
    ]


async def test_many_stalled_clients_do_not_slow_the_others() -> None:
    # D18, BK-9
    feeds = Feeds(StreamPolicy(send=SEND_LIMIT))
    async with open_small_server(feeds.app) as port, assert_no_leaks():
        async with trio.open_nursery() as nursery:
            release = trio.Event()

            async def be_stalled(task_status: trio.TaskStatus[None]) -> None:
                async with open_slow_raw(port) as raw:
                    await stall(raw)
                    task_status.started()
                    await release.wait()
                    raw.abort()

            for _ in range(20):
                await nursery.start(be_stalled)
            await feeds.read_stats(port)  # answers at all
            await feeds.life.wait_gone(within=SEND_LIMIT + 0.5)
            assert await feeds.read_stats(port) == 0
            release.set()
    assert feeds.endings.reasons.count("timeout") == 20


async def test_duplex_handler_stuck_in_send_with_input_pending_ends_by_the_send_limit() -> None:
    # RQ-24, D21: the disconnect is hidden behind the pending chunk. All is gone at the send
    # limit and a second more, the connection too.
    life = Life()
    app = App(policy=StreamPolicy(send=SEND_LIMIT))

    @app.post("/")
    @asynccontextmanager
    async def handler(request: Request) -> AsyncIterator[Response]:
        with life.of("handler"):
            await request.body.receive()
            yield Response(two_feeds(life, flood))

    async with open_small_server(app) as port, assert_no_leaks(grace=1.5):
        async with open_slow_raw(port) as raw, trio.open_nursery() as nursery:
            await raw.request("POST", "/", {"content-length": "5000000"})
            nursery.start_soon(_send_until_gone, raw, b"x" * 5_000_000)
            await raw.read_head()
            await trio.testing.wait_all_tasks_blocked(0.02)
            nursery.cancel_scope.cancel()
            raw.abort()
            await life.wait_gone(within=SEND_LIMIT + PROMPT)


async def _send_until_gone(raw: RawConnection, data: bytes) -> None:
    try:
        await raw.send_all(data)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass


async def test_backpressure_stops_every_producer_of_a_stalled_client() -> None:
    # AC-36: with a channel of capacity zero each producer holds one message at most.
    made = [0, 0]
    app = App()

    async def produce(number: int, send_channel: trio.MemorySendChannel[bytes]) -> None:
        while True:
            made[number] += 1
            await send_channel.send(b"x" * 1024)

    @app.get("/")
    async def handler(request: Request) -> Content:
        return merge(partial(produce, 0), partial(produce, 1))

    async with open_small_server(app) as port, assert_no_leaks():
        async with open_slow_raw(port) as raw:
            await stall(raw, "/")
            stopped_at = made.copy()
            # One batch is being sent, one is gathered at most, and the kernel holds some.
            assert sum(made) * 1024 < 3 * 64 * 1024
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert made == stopped_at
            read = 0
            while read < 1024 * 1024:
                read += len(await raw.read_chunk() or b"")
            assert min(made) > 256  # both go on when the client does, in turn
            raw.abort()


async def test_other_requests_are_answered_while_one_client_is_stalled(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # HOST faults 5 and 8: the event loop turns.
    caplog.set_level(logging.WARNING)
    feeds = Feeds()
    feeds.app.get("/health")(_health)
    async with open_small_server(feeds.app) as port, assert_no_leaks():
        async with open_slow_raw(port) as stalled, open_raw(port) as other:
            await stall(stalled)
            for _ in range(5):
                await check_health(other)
            stalled.abort()
            await feeds.life.wait_gone()
            await check_health(other)


async def _health(request: Request) -> str:
    return "fine"
