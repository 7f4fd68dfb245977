"""Sync generators on a real connection: one thread each, at most one item ahead, closed there."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import trio
from leaks import assert_no_leaks
from probes import PROMPT, get
from wire import open_raw, open_server

from tsstream import App, Request
from tsstream._http.content import Content

pytestmark = pytest.mark.usefixtures("each_host")

BATCH_SIZE = 64 * 1024  # bytes


async def test_sync_generator_is_streamed_while_it_runs() -> None:
    # AC-31: never list()
    app = App()

    def count_slowly() -> Iterator[bytes]:
        for _ in range(20):
            threading.Event().wait(0.1)
            yield b"tick\n"

    @app.get("/")
    async def handler(request: Request) -> Content:
        return count_slowly()

    async with open_server(app) as port, assert_no_leaks(), open_raw(port) as raw:
        start = trio.current_time()
        await get(raw)
        await raw.read_chunk()
        assert trio.current_time() - start < 0.3
        raw.abort()


async def test_sync_generator_is_closed_in_its_own_thread_when_the_client_leaves() -> None:
    # AC-31, D29
    app = App()
    threads: list[int] = []
    closed = trio.Event()
    token = trio.lowlevel.current_trio_token()

    def count_slowly() -> Iterator[bytes]:
        threads.append(threading.get_ident())
        try:
            while True:
                threading.Event().wait(0.02)
                yield b"tick\n"
        finally:
            threads.append(threading.get_ident())
            token.run_sync_soon(closed.set)

    @app.get("/")
    async def handler(request: Request) -> Content:
        return count_slowly()

    async with open_server(app) as port, assert_no_leaks(), open_raw(port) as raw:
        await get(raw)
        await raw.read_chunk()
        raw.abort()
        with trio.fail_after(0.02 + PROMPT):
            await closed.wait()
    assert threads[0] == threads[1] != threading.get_ident()


async def test_sync_generator_waits_for_a_client_that_does_not_read() -> None:
    # AC-31: its memory is flat, because it is at most one item ahead.
    app = App()
    given = 0

    def count() -> Iterator[bytes]:
        nonlocal given
        while True:
            given += 1
            yield b"x" * 8192

    @app.get("/")
    async def handler(request: Request) -> Content:
        return count()

    async with open_server(app, send_buffer=4096) as port, assert_no_leaks():
        async with open_raw(port, receive_buffer=4096) as raw:
            await get(raw)
            await trio.sleep(0.2)
            stopped_at = given
            assert stopped_at < 3 * BATCH_SIZE / 8192
            await trio.sleep(0.1)
            assert given == stopped_at
            raw.abort()
