"""examples/news_and_weather.py: its contract, over sockets, with real websocket feeds."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import Any

import attrs
import pytest
import trio
from leaks import assert_no_leaks
from probes import PROMPT
from trio_websocket import (
    ConnectionClosed,
    WebSocketConnection,
    WebSocketRequest,
    serve_websocket,
)
from wire import RawConnection, Truncated, open_raw

from examples.news_and_weather import app
from tsstream import serve

HOST = "127.0.0.1"


@attrs.define(eq=False)
class FeedServer:
    """A websocket server that sends what the test says to its one client.

    Attributes:
      url: its address.
      left: set when the client has gone.
    """

    url: str = ""
    left: trio.Event = attrs.field(factory=trio.Event)
    connected: trio.Event = attrs.field(factory=trio.Event)
    connection: WebSocketConnection | None = None

    async def handle(self, request: WebSocketRequest) -> None:
        self.connection = await request.accept()
        self.connected.set()
        with suppress(ConnectionClosed):
            await self.connection.get_message()
        self.left.set()

    async def send(self, item: str | bytes) -> None:
        await self.connected.wait()
        assert self.connection is not None
        await self.connection.send_message(item)

    async def close(self, code: int) -> None:
        await self.connected.wait()
        assert self.connection is not None
        await self.connection.aclose(code, "as the test says")


@asynccontextmanager
async def open_feed() -> AsyncIterator[FeedServer]:
    feed = FeedServer()
    async with trio.open_nursery() as nursery:
        # trio-websocket waits that long for the rest of a handshake whose client has gone.
        serve_feed = partial(serve_websocket, connect_timeout=1.0)
        server = await nursery.start(serve_feed, feed.handle, HOST, 0, None)
        feed.url = f"ws://{HOST}:{server.port}"
        yield feed
        nursery.cancel_scope.cancel()


@attrs.frozen
class Setup:
    """The application on *port*, and the two servers of its feeds."""

    port: int
    news: FeedServer
    weather: FeedServer

    @asynccontextmanager
    async def ask(self, path: str) -> AsyncIterator[tuple[int, dict[str, str], RawConnection]]:
        async with open_raw(self.port) as raw:
            await raw.request("GET", path)
            status, headers = await raw.read_head()
            yield status, headers, raw

    async def read(self, path: str) -> tuple[int, str]:
        async with self.ask(path) as (status, _, raw):
            return status, (await raw.read_body()).decode()

    async def stats(self) -> dict[str, Any]:
        stats: dict[str, Any] = json.loads((await self.read("/stats"))[1])
        return stats

    async def running(self) -> tuple[int, int]:
        stats = await self.stats()
        return stats["streams"], stats["producers"]


@asynccontextmanager
async def open_app() -> AsyncIterator[int]:
    async with trio.open_nursery() as nursery:
        addresses = await nursery.start(partial(serve, app, bind=[f"{HOST}:0"]))
        yield int(addresses[0].rpartition(":")[2])
        nursery.cancel_scope.cancel()


@pytest.fixture
async def setup(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Setup]:
    async with AsyncExitStack() as stack:
        news = await stack.enter_async_context(open_feed())
        weather = await stack.enter_async_context(open_feed())
        monkeypatch.setenv("FEEDS", f"{news.url} {weather.url}")
        port = await stack.enter_async_context(open_app())
        yield Setup(port, news, weather)


@pytest.mark.parametrize(
    ("query", "media_type", "chunks"),
    [
        ("", "text/plain; charset=utf-8", ["sun\n", "två rader\n", "rain\n"]),
        ("?format=text", "text/plain; charset=utf-8", ["sun\n", "två rader\n", "rain\n"]),
        (
            "?format=sse",
            "text/event-stream",
            ["data: sun\n\n", "data: två\ndata: rader\n\n", "data: rain\n\n"],
        ),
        ("?format=ndjson", "application/x-ndjson", ['"sun"\n', '"två\\nrader"\n', '"rain"\n']),
    ],
)
async def test_the_feeds_are_merged_in_each_format(
    setup: Setup, query: str, media_type: str, chunks: list[str]
) -> None:
    async with setup.ask(f"/feed{query}") as (status, headers, raw):
        assert (status, headers["content-type"]) == (200, media_type)
        # Each item is sent when the one before has arrived: a lone item leaves at once.
        await setup.weather.send("sun")
        assert await raw.read_chunk() == chunks[0].encode()
        await setup.news.send("två\nrader")
        assert await raw.read_chunk() == chunks[1].encode()
        await setup.weather.send(b"rain")  # a binary message
        assert await raw.read_chunk() == chunks[2].encode()


async def test_a_closed_client_ends_its_stream_and_producers_and_no_others(setup: Setup) -> None:
    async with assert_no_leaks():
        async with setup.ask("/feed"):
            await setup.news.connected.wait()
            await setup.weather.connected.wait()
            assert await setup.running() == (1, 2)
            async with setup.ask("/feed"):
                assert await setup.running() == (2, 4)
            assert await wait_for(setup, (1, 2)) < PROMPT
        assert await wait_for(setup, (0, 0)) < PROMPT
        await setup.news.left.wait()
        await setup.weather.left.wait()


async def wait_for(setup: Setup, running: tuple[int, int]) -> float:
    """Give the seconds until /stats shows *running*."""
    start = trio.current_time()
    while await setup.running() != running:
        pass
    return trio.current_time() - start


async def test_many_clients_that_reset_their_connection_at_any_moment_leave_nothing(
    setup: Setup,
) -> None:
    async def come_and_go(checkpoints: int) -> None:
        async with open_raw(setup.port) as raw:
            await raw.request("GET", "/feed")
            for _ in range(checkpoints):
                await trio.lowlevel.checkpoint()
            raw.abort()

    async with assert_no_leaks(grace=5.0):
        async with trio.open_nursery() as nursery:
            for checkpoints in range(40):
                nursery.start_soon(come_and_go, checkpoints)
        await wait_for(setup, (0, 0))


async def test_policy_fail_cuts_the_stream_visibly(
    setup: Setup, caplog: pytest.LogCaptureFixture
) -> None:
    async with setup.ask("/feed") as (_, _, raw):
        await setup.news.send("a")
        assert await raw.read_chunk() == b"a\n"
        await setup.weather.close(1011)
        with pytest.raises(Truncated):
            await raw.read_body()
    assert await setup.running() == (0, 0)
    errors = [r for r in caplog.records if r.name == "tsstream" and r.levelname == "ERROR"]
    assert len(errors) == 1


async def test_policy_drop_goes_on_with_the_other_feeds(setup: Setup) -> None:
    async with setup.ask("/feed?policy=drop") as (_, _, raw):
        await setup.news.send("a")
        assert await raw.read_chunk() == b"a\n"
        await setup.weather.close(1011)
        assert await wait_for(setup, (1, 1)) < PROMPT
        await setup.news.send("b")
        assert await raw.read_chunk() == b"b\n"


@pytest.mark.parametrize("policy", ["fail", "drop"])
async def test_a_stream_whose_feeds_have_all_ended_is_complete(setup: Setup, policy: str) -> None:
    async with setup.ask(f"/feed?policy={policy}") as (_, _, raw):
        await setup.news.send("a")
        assert await raw.read_chunk() == b"a\n"
        await setup.news.close(1000)
        await setup.weather.close(1001)
        assert await raw.read_body() == b""


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("format=xml", "format is one of text, sse, ndjson; not 'xml'\n"),
        ("format=", "format is one of text, sse, ndjson; not ''\n"),
        ("format=sse&policy=retry", "policy is one of fail, drop; not 'retry'\n"),
    ],
)
async def test_unknown_choices_are_400_and_name_the_known(
    setup: Setup, query: str, message: str
) -> None:
    assert await setup.read(f"/feed?{query}") == (400, message)
    assert not setup.news.connected.is_set()


async def test_stats_has_the_numbers_of_an_idle_application(setup: Setup) -> None:
    stats = await setup.stats()
    assert (stats["streams"], stats["producers"]) == (0, 0)
    assert stats["tasks"] > 0


async def test_health(setup: Setup) -> None:
    assert await setup.read("/health") == (200, "ok")


async def test_the_page_reads_the_sse_feed_and_the_stats(setup: Setup) -> None:
    async with setup.ask("/") as (status, headers, raw):
        assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
        text = (await raw.read_body()).decode()
    assert 'new EventSource("/feed?format=sse")' in text
    assert 'fetch("/stats"' in text
    assert "://" not in text  # it works offline


async def test_without_feeds_it_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FEEDS", raising=False)
    async with open_app() as port, open_raw(port) as raw:
        await raw.request("GET", "/feed")
        status, _ = await raw.read_head()
        assert status == 503
        assert b"FEEDS" in await raw.read_body()
