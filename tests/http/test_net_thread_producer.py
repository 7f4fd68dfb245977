"""open_thread_producer() as a body, on a real connection: first bytes, failures, disconnects."""

from __future__ import annotations

import logging
import os
import tarfile
import threading
import zlib
from pathlib import Path
from typing import IO

import pytest
import trio
import trio.testing
from leaks import assert_no_leaks
from probes import IDLE, IN_TIME, PROMPT, WAYS_TO_LEAVE, add_health, check_health, leave, logged
from wire import Truncated, open_raw, open_server

from tsstream import App, HTTPError, Request, Response, open_thread_producer

pytestmark = pytest.mark.usefixtures("each_host")


class Gate:
    """Where a thread waits until the test lets it go on; every thread ends with the test."""

    def __init__(self) -> None:
        self.reached = trio.Event()
        self._released = threading.Event()
        self._token = trio.lowlevel.current_trio_token()

    def wait(self) -> None:
        self._token.run_sync_soon(self.reached.set)
        assert self._released.wait(IN_TIME)

    def release(self) -> None:
        self._released.set()


def make_app(response: Response) -> App:
    app = App()
    add_health(app)
    responses = iter([response])

    @app.get("/")
    async def handler(request: Request) -> Response:
        return next(responses)

    return app


async def test_bytes_arrive_while_the_archive_is_made() -> None:  # BK-1, BK-3
    gate = Gate()

    def write(file: IO[bytes]) -> None:
        file.write(b"a" * 1000)
        gate.wait()
        file.write(b"b" * 1000)

    app = make_app(Response(open_thread_producer(write)))
    async with open_server(app, keep_alive_timeout=IDLE) as port, assert_no_leaks():
        async with open_raw(port) as raw:
            await raw.request("GET", "/")
            with trio.fail_after(IN_TIME):
                await raw.read_head()
                assert await raw.read_chunk() == b"a" * 1000
            gate.release()
            assert await raw.read_body() == b"b" * 1000


async def test_a_tar_of_what_is_missing_is_a_500_without_its_headers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:  # BK-20
    def write(file: IO[bytes]) -> None:
        with tarfile.open(fileobj=file, mode="w|gz") as archive:
            archive.add(tmp_path / "missing")

    disposition = {"content-disposition": "attachment"}
    response = Response(open_thread_producer(write), 200, disposition, "application/x-tgz")
    async with open_server(make_app(response), keep_alive_timeout=IDLE) as port, assert_no_leaks():
        async with open_raw(port) as raw:
            await raw.request("GET", "/")
            status, headers = await raw.read_head()
            body = await raw.read_body()
    assert status == 500
    assert "content-disposition" not in headers
    assert "x-tgz" not in headers["content-type"]
    assert not body.startswith(b"\x1f\x8b")
    assert len(logged(caplog, logging.ERROR)) == 1  # BK-23


async def test_a_tar_that_fails_later_is_cut_and_no_gzip(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:  # BK-21
    (tmp_path / "data").write_bytes(os.urandom(300_000))
    gate = Gate()

    def write(file: IO[bytes]) -> None:
        with tarfile.open(fileobj=file, mode="w|gz") as archive:
            archive.add(tmp_path / "data", "data")
            gate.wait()
            archive.add(tmp_path / "missing")

    app = make_app(Response(open_thread_producer(write)))
    async with open_server(app, keep_alive_timeout=IDLE) as port, assert_no_leaks():
        async with open_raw(port) as raw:
            await raw.request("GET", "/")
            await raw.read_head()
            await gate.reached.wait()
            gate.release()
            with pytest.raises(Truncated) as cut:
                await raw.read_body()
    decompressor = zlib.decompressobj(31)
    decompressor.decompress(cut.value.body)
    assert not decompressor.eof
    assert len(logged(caplog, logging.ERROR)) == 1  # BK-23


async def test_an_http_error_of_the_thread_is_its_status() -> None:
    def write(file: IO[bytes]) -> None:
        raise HTTPError(507)

    async with open_server(make_app(Response(open_thread_producer(write)))) as port:
        async with open_raw(port) as raw:
            await raw.request("GET", "/")
            assert (await raw.read_head())[0] == 507


@pytest.mark.parametrize("way", WAYS_TO_LEAVE)
@pytest.mark.parametrize("reading", [True, False])
async def test_a_client_that_leaves_stops_the_thread(
    way: str, reading: bool, caplog: pytest.LogCaptureFixture
) -> None:  # BK-23, BK-24
    ended = trio.Event()
    token = trio.lowlevel.current_trio_token()

    def write(file: IO[bytes]) -> None:
        try:
            while True:
                file.write(b"x" * 10_000)
        finally:
            token.run_sync_soon(ended.set)

    app = make_app(Response(open_thread_producer(write)))
    async with open_server(app, keep_alive_timeout=IDLE) as port, assert_no_leaks():
        async with open_raw(port) as raw:
            await raw.request("GET", "/")
            await raw.read_head()
            for _ in range(10 if reading else 0):
                await raw.read_chunk()
            await leave(raw, way)
            with trio.fail_after(PROMPT):
                await ended.wait()
    assert logged(caplog, logging.INFO) == []


async def test_a_client_that_leaves_before_the_first_byte_stops_the_thread() -> None:  # BK-27
    gate = Gate()
    ended = trio.Event()

    def write(file: IO[bytes]) -> None:
        try:
            gate.wait()
            file.write(b"x")
        finally:
            trio.from_thread.run_sync(ended.set)

    app = make_app(Response(open_thread_producer(write)))
    async with open_server(app, keep_alive_timeout=IDLE) as port, assert_no_leaks():
        async with open_raw(port) as raw:
            await raw.request("GET", "/")
            await gate.reached.wait()
            raw.abort()
            await trio.sleep(0.02)
            gate.release()
            with trio.fail_after(PROMPT):
                await ended.wait()


async def test_a_thread_that_is_stuck_is_left_behind(caplog: pytest.LogCaptureFixture) -> None:
    # BK-26
    gate = Gate()
    left = trio.Event()

    def write_stuck(file: IO[bytes]) -> None:
        file.write(b"first")
        gate.wait()
        file.write(b"late")

    app = App(on_end=lambda request, ending: left.set())

    @app.get("/")
    async def handler(request: Request) -> Response:
        return Response(open_thread_producer(write_stuck, thread_grace=0.2))

    async with open_server(app, keep_alive_timeout=IDLE) as port, assert_no_leaks():
        async with open_raw(port) as raw:
            await raw.request("GET", "/")
            await raw.read_head()
            await gate.reached.wait()
            start = trio.current_time()
            raw.abort()
            with trio.fail_after(IN_TIME):
                await left.wait()
            assert trio.current_time() - start < 0.2 + PROMPT
        assert "write_stuck still runs 0.2 s" in logged(caplog)[0]
        gate.release()


async def test_other_requests_are_answered_while_threads_are_stalled() -> None:  # BK-9
    def write(file: IO[bytes]) -> None:
        while True:
            file.write(b"x" * 100_000)

    app = App()
    add_health(app)

    @app.get("/")
    async def handler(request: Request) -> Response:
        return Response(open_thread_producer(write))

    async with open_server(app, send_buffer=4096, graceful_timeout=0.05) as port:
        async with trio.open_nursery() as nursery:

            async def stall() -> None:
                async with open_raw(port, receive_buffer=4096) as raw:
                    await raw.request("GET", "/")
                    await raw.read_head()
                    await trio.sleep_forever()

            for _ in range(60):
                nursery.start_soon(stall)
            await trio.testing.wait_all_tasks_blocked(0.1)
            async with open_raw(port) as raw:
                await check_health(raw)
            with trio.fail_after(1.0):
                await trio.to_thread.run_sync(threading.get_ident)
            nursery.cancel_scope.cancel()
