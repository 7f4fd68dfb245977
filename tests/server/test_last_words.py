"""However the server ends, whoever is still there is told what can be told."""

from __future__ import annotations

import logging
import time
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing
from guarded import http, open_ending, records
from leaks import assert_no_leaks
from probes import PROMPT, Calls
from wire import open_raw
from ws_kit import ACCEPT, open_frames

from tsstream._asgi import Receive, Send
from tsstream._server.serve import serve

LONG = 20.0  # seconds: far longer than these tests take


async def wait(scope: Any, receive: Receive, send: Send) -> None:
    """Accept a WebSocket, and answer nothing."""
    if scope["type"] == "websocket":
        await receive()
        await send(ACCEPT)
        await receive()
    await trio.sleep_forever()


@pytest.mark.parametrize("way", ["cancelled", "cancelled during the grace", "error of the trigger"])
async def test_a_server_that_is_torn_down_says_1001_and_503(way: str) -> None:
    # At once, also to those that were to be told later.
    stop = trio.Event()

    async def trigger() -> None:
        await stop.wait()
        if way.startswith("error"):
            raise LookupError("the trigger")

    async def serve_it(*, task_status: trio.TaskStatus[list[str]]) -> None:  # noqa: ASYNC128
        start = partial(serve, http(wait), bind=["127.0.0.1:0"], graceful_timeout=LONG)
        with cancelling:
            try:
                await start(farewell_spread=LONG, shutdown_trigger=trigger, task_status=task_status)
            except LookupError:
                assert way.startswith("error")

    cancelling = trio.CancelScope()
    async with assert_no_leaks(), trio.open_nursery() as nursery:
        (address,) = await nursery.start(serve_it)
        port = int(address.rpartition(":")[2])
        async with open_frames(port) as ws, open_raw(port) as raw:
            await raw.request("GET", "/")
            await trio.testing.wait_all_tasks_blocked(0.02)
            if way != "cancelled":
                stop.set()
            await trio.testing.wait_all_tasks_blocked(0.02)
            if way.startswith("cancelled"):
                cancelling.cancel()
            with trio.fail_after(PROMPT):
                assert await ws.next_close() == (1001, "")
                status, headers = await raw.read_head()
                assert (status, headers["connection"]) == (503, "close")
                await raw.read_body()
                assert await raw.read_until_closed() == b""


async def test_without_any_grace_it_says_1001_and_503() -> None:
    server = open_ending(http(wait), graceful_timeout=0)
    async with server as (port, end, ends), open_frames(port) as ws, open_raw(port) as raw:
        await raw.request("GET", "/")
        await trio.testing.wait_all_tasks_blocked(0.02)
        end()
        with trio.fail_after(PROMPT):
            assert await ws.next_close() == (1001, "")
            assert (await raw.read_head())[0] == 503
    assert ends.took < PROMPT


async def test_clients_that_reset_at_the_end_of_the_grace_do_not_keep_others_from_hearing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # The resets and the timeout are found in the same tick.
    caplog.set_level(logging.INFO, "tsstream.server")
    grace = 0.05
    calls = Calls(http(wait))
    server = open_ending(calls, graceful_timeout=grace)
    async with server as (port, end, ends), AsyncExitStack() as stack:
        raws = [await stack.enter_async_context(open_raw(port)) for _ in range(30)]
        for raw in raws:
            await raw.request("GET", "/")
        await trio.testing.wait_all_tasks_blocked(0.02)
        end()
        await trio.testing.wait_all_tasks_blocked(0.01)
        time.sleep(grace)  # noqa: ASYNC251 (the event loop is busy)
        for raw in raws[::2]:
            raw.abort()
        for raw in raws[1::2]:
            with trio.fail_after(PROMPT):
                assert (await raw.read_head())[0] == 503
    assert ends.took < grace + PROMPT
    assert not any("failed" in record for record in records(caplog))


async def test_an_upload_in_small_chunks_is_503_at_the_end_of_the_grace(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # The reader may be at any step of it, or wait for the application.
    caplog.set_level(logging.INFO, "tsstream.server")
    server = open_ending(http(wait), graceful_timeout=0.05)
    async with server as (port, end, ends), open_raw(port) as raw:
        await raw.request("POST", "/", {"transfer-encoding": "chunked"})
        await raw.send_all(b"1\r\na\r\n" * 5000)
        await trio.testing.wait_all_tasks_blocked(0.01)
        end()
        with trio.fail_after(2 * PROMPT):
            assert (await raw.read_head())[0] == 503
    assert ends.took < 2 * PROMPT
    assert not any("failed" in record for record in records(caplog))
