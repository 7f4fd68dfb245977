"""What is said of a client that leaves: nothing above DEBUG, unless a cleanup fails."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from leaks import assert_no_leaks
from probes import IDLE, WAYS_TO_LEAVE, Calls, Endings, flood, get, leave, logged, say_one
from wire import open_raw, open_server

from tsstream import App, Request, merge
from tsstream._http.content import Content

pytestmark = pytest.mark.usefixtures("each_host")


@pytest.mark.parametrize("way", WAYS_TO_LEAVE)
async def test_disconnect_is_logged_as_no_error_with_the_bytes_sent(
    way: str, caplog: pytest.LogCaptureFixture
) -> None:
    # D17, BK-23, B7
    caplog.set_level(logging.DEBUG, "tsstream")
    endings = Endings()
    app = App(on_end=endings)
    calls = Calls(app)

    @app.get("/")
    async def feed(request: Request) -> Content:
        return merge(say_one)

    async with open_server(calls) as port, open_raw(port) as raw:
        await get(raw)
        await raw.read_chunk()
        await leave(raw, way)
        await calls.wait_returned()
    assert calls.raised == []
    assert logged(caplog, logging.DEBUG) == ["DEBUG GET /: client disconnected after 4 bytes"]
    assert [(e.reason, e.bytes_sent, e.status_code) for e in endings.seen] == [
        ("disconnect", 4, 200)
    ]


async def test_client_that_leaves_in_the_middle_of_its_upload_is_no_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # D18, B7: while Hypercorn shuts the socket down, its send() raises BusyResourceError.
    app = App()
    calls = Calls(app)

    @app.post("/")
    async def handler(request: Request) -> Content:
        return merge(flood)

    async with open_server(calls, keep_alive_timeout=IDLE) as port, assert_no_leaks():
        for turns in [*range(6)] * 10:
            async with open_raw(port) as raw:
                await raw.request("POST", "/", {"content-length": "100001"})
                await raw.send_all(b"x" * 100_000)
                for _ in range(turns):
                    await trio.lowlevel.checkpoint()
                await raw.half_close()
                await raw.read_until_closed()
        await calls.wait_returned(60)
    assert calls.raised == []
    assert logged(caplog) == []


async def test_disconnect_at_the_moment_of_completion_is_no_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # AC-51, AC-53
    endings = Endings()
    app = App(on_end=endings)
    calls = Calls(app)
    finish: list[trio.Event] = []

    async def produce(send_channel: trio.MemorySendChannel[bytes]) -> None:
        await send_channel.send(b"first\n")
        finish.append(event := trio.Event())
        await event.wait()
        await send_channel.send(b"last\n")

    @app.get("/")
    async def handler(request: Request) -> Content:
        return merge(produce)

    async with open_server(calls, keep_alive_timeout=IDLE) as port, assert_no_leaks():
        for turn in range(40):
            async with open_raw(port) as raw:
                await get(raw)
                await raw.read_chunk()
                if turn % 2:
                    finish.pop().set()
                    for _ in range(turn // 2):
                        await trio.lowlevel.checkpoint()
                    raw.abort()
                else:
                    raw.abort()
                    for _ in range(turn // 2):
                        await trio.lowlevel.checkpoint()
                    finish.pop().set()
        await calls.wait_returned(40)
    assert calls.raised == []
    assert logged(caplog) == []
    assert len(endings.reasons) == 40
    assert set(endings.reasons) == {"disconnect", "complete"}


@pytest.mark.parametrize(
    ("error", "level"),
    [(ValueError("a broken cleanup"), "ERROR"), (trio.BrokenResourceError(), None)],
)
async def test_only_a_real_error_of_the_cleanup_after_a_disconnect_is_logged(
    error: Exception, level: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    # D14, AC-15
    app = App()
    calls = Calls(app)

    @asynccontextmanager
    async def body() -> AsyncIterator[object]:
        async with merge(say_one) as chunks:
            try:
                yield chunks
            finally:
                raise error

    @app.get("/")
    async def handler(request: Request) -> Content:
        return body()

    async with open_server(calls) as port, assert_no_leaks(), open_raw(port) as raw:
        await get(raw)
        await raw.read_chunk()
        raw.close()
        await calls.wait_returned()
    assert [line.split()[0] for line in logged(caplog)] == ([] if level is None else [level])


async def test_client_that_leaves_before_its_refusal_is_no_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # B7, D2: whatever Hypercorn's send() raises then is told to nobody.
    calls = Calls(App())
    async with open_server(calls, keep_alive_timeout=IDLE) as port, assert_no_leaks():
        for turns in [*range(8)] * 5:
            async with open_raw(port) as raw:
                await raw.request("POST", "/no-such-path", {"content-length": "100001"})
                await raw.send_all(b"x" * 100_000)
                for _ in range(turns):
                    await trio.lowlevel.checkpoint()
                await raw.half_close()
                await raw.read_until_closed()
        await calls.wait_returned(40)
    assert calls.raised == []
    assert logged(caplog) == []
