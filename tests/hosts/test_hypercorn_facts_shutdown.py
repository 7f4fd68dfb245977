"""Facts about how the stock Hypercorn starts and ends (HOST faults 5 and 15)."""

from __future__ import annotations

import signal
from functools import partial
from pathlib import Path

import hypercorn.trio
import pytest
import trio
from hypercorn.config import Config
from hypercorn.utils import LifespanFailureError
from probes import IN_TIME
from stock import (
    MORE_THAN_BUFFERS,
    NO_TIMER,
    OUTPUT,
    SERVE,
    SMALL_BUFFER,
    SUPERVISOR,
    TRANSPORT,
    WEBSOCKET,
    Call,
    cured,
    next_timer,
    open_command,
    open_stock,
    open_websocket,
    returns,
    settle,
)
from wire import SERVER_LOG, Truncated, open_raw

from tsstream._asgi import Receive, Send
from tsstream._util import unwrapping

ENOUGH = 0.3  # seconds of grace: for a test to look what happens meanwhile
LONG = 60  # seconds of grace that a test could not wait for


async def test_an_app_is_told_nothing_of_a_shutdown_and_then_cancelled() -> None:
    """HOST fault 15: the client sees a cut; only then the lifespan hears of it."""
    stop = trio.Event()
    async with (
        open_stock(shutdown_trigger=stop.wait, graceful_timeout=ENOUGH) as stock,
        open_raw(stock.port) as raw,
    ):
        call = await stock.ask(raw)
        await call.receive()
        await call.start()
        await call.body(b"half")
        stop.set()
        told = await returns(call.receive)
        assert not told, cured("an app is told of the shutdown", SERVE)
        assert stock.events == ["startup"], cured("the lifespan is told early", SERVE)
        with trio.fail_after(IN_TIME):
            await call.over.wait()
            assert call.cancelled
            await raw.read_head()
            with pytest.raises(Truncated):
                await raw.read_body()
        await settle()
        assert stock.events == ["startup", "shutdown"]


async def test_at_shutdown_a_websocket_is_cut_without_a_close_frame() -> None:
    """HOST fault 15: which its client calls 1006."""
    stop = trio.Event()
    async with (
        open_stock(shutdown_trigger=stop.wait, graceful_timeout=ENOUGH) as stock,
        open_websocket(stock) as (websocket, call),
    ):
        stop.set()
        events = await websocket.read_events()
        with trio.fail_after(IN_TIME):
            await call.over.wait()
        events += await websocket.read_events()
        assert events == [], cured("a WebSocket is closed with a code at shutdown", WEBSOCKET)


async def test_a_client_that_does_not_read_keeps_a_stopping_server_alive_for_ever() -> None:
    """HOST fault 5: far beyond graceful_timeout, and no lifespan is ended."""
    stop = trio.Event()

    async def flood(call: Call) -> None:
        await call.start()
        await call.body(MORE_THAN_BUFFERS)

    async with open_stock(
        flood, shutdown_trigger=stop.wait, graceful_timeout=0, send_buffer=SMALL_BUFFER
    ) as stock:
        async with open_raw(stock.port, receive_buffer=SMALL_BUFFER) as raw:
            await stock.ask(raw)
            await settle()
            stop.set()
            await settle()
            stuck = stock.events == ["startup"] and next_timer() == NO_TIMER
            assert stuck, cured("a stalled client does not delay the end", OUTPUT, TRANSPORT)
            raw.abort()


async def test_a_server_says_started_although_the_lifespan_has_failed() -> None:
    async def app(scope: object, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    config = Config.from_mapping({"bind": "127.0.0.1:0", "errorlog": SERVER_LOG})
    started = False
    with pytest.raises(LifespanFailureError), unwrapping():
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(hypercorn.trio.serve, app, config, mode="asgi"))
            started = True
    assert started, cured("started() is not called after a failed startup", SERVE)


STREAM = """
import sys
import trio

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        open("shutdown", "w").close()
        await send({"type": "lifespan.shutdown.complete"})
    else:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first ", "more_body": True})
        await trio.sleep_forever()
"""


async def test_the_first_worker_that_ends_takes_the_others_with_it(tmp_path: Path) -> None:
    """However long the grace is: one of the two has nothing to do, and ends at once."""
    args = ("--workers", "2", "--graceful-timeout", str(LONG))
    async with open_command(tmp_path, STREAM, *args) as (process, port), open_raw(port) as raw:
        with trio.fail_after(IN_TIME):
            await raw.request("GET", "/")
            await raw.read_head()
            await raw.read_chunk()
        process.send_signal(signal.SIGTERM)
        with trio.move_on_after(IN_TIME), pytest.raises(Truncated):
            await raw.read_body()
        cut = raw.ended != "open"
        assert cut, cured("every worker has the whole grace", SUPERVISOR)


async def test_without_workers_the_command_dies_of_a_sigterm(tmp_path: Path) -> None:
    """With ``--workers 0`` it runs in one process, and that handles no signal but SIGINT."""
    args = ("--workers", "0", "--graceful-timeout", "0")
    async with open_command(tmp_path, STREAM, *args) as (process, port), open_raw(port) as raw:
        with trio.fail_after(IN_TIME):
            await raw.request("GET", "/")
            await raw.read_head()
            process.send_signal(signal.SIGTERM)
            status = await process.wait()
    assert status == -signal.SIGTERM, cured("SIGTERM is a graceful end without workers", SUPERVISOR)
    assert not (tmp_path / "shutdown").exists()
