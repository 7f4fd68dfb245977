"""Uploads that blocking code reads, on a real connection (RQ-19, RQ-20, BK-24 to BK-27, ET-23)."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import random
import tarfile
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import IO, Any

import pytest
import trio
import trio.testing
from leaks import assert_no_leaks
from probes import IDLE, PROMPT, WAYS_TO_LEAVE, Calls, leave, logged
from wire import RawConnection, open_h2, open_raw, open_server

from tsstream import App, Request, Response, merge
from tsstream._adapters import _stream_limiter
from tsstream._streams.threads import run_thread_consumer

pytestmark = pytest.mark.usefixtures("each_host")

MIB = 1024 * 1024
WAIT = 5.0  # seconds: for what a thread waits for, so that a hang ends


class Reader:
    """A function that reads to the end, and tells what became of it."""

    def __init__(self) -> None:
        self.begun = trio.Event()
        self.over = trio.Event()
        self.raised: BaseException | None = None
        self.swallowed: list[Exception] = []
        self._token = trio.lowlevel.current_trio_token()

    def __call__(self, file: IO[bytes], size: int = 1) -> int:
        read = 0
        try:
            while True:
                try:
                    data = file.read(size)
                except Exception as error:  # blocking code may be like that
                    self.swallowed.append(error)
                    raise
                if not data:
                    return read
                read += len(data)
                self._token.run_sync_soon(self.begun.set)
        except BaseException as error:
            self.raised = error
            raise
        finally:
            self._token.run_sync_soon(self.over.set)


def sha256(file: IO[bytes]) -> str:
    return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]  # IO has none


def add_consumer(app: App[None], fn: Callable[[IO[bytes]], Any]) -> None:
    @app.post("/")
    async def handler(request: Request) -> str:
        return str(await run_thread_consumer(fn, request.body))


async def answer(raw: RawConnection) -> tuple[int, bytes]:
    status, _ = await raw.read_head()
    return status, await raw.read_body()


def chunked(data: bytes, size: int) -> bytes:
    parts = (data[i : i + size] for i in range(0, len(data), size))
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


# Whole uploads


@pytest.mark.parametrize("chunk_size", [None, 100_000, 100])
async def test_upload_arrives_whole(chunk_size: int | None) -> None:
    # RQ-20
    data = random.Random(1).randbytes(2 * MIB if chunk_size != 100 else 50_000)
    app = App()
    add_consumer(app, sha256)
    async with open_server(app, keep_alive_timeout=IDLE) as port, assert_no_leaks():
        async with open_raw(port) as raw:
            if chunk_size is None:
                await raw.request("POST", "/", body=data)
            else:
                await raw.request("POST", "/", {"transfer-encoding": "chunked"})
                await raw.send_all(chunked(data, chunk_size))
            with trio.fail_after(WAIT):
                assert await answer(raw) == (200, hashlib.sha256(data).hexdigest().encode())


async def test_upload_arrives_whole_on_http2() -> None:
    data = random.Random(2).randbytes(MIB)
    app = App()
    add_consumer(app, sha256)
    async with open_server(app, keep_alive_timeout=IDLE) as port, assert_no_leaks():
        async with open_h2(port) as h2:
            stream_id = await h2.request("POST", "/", end_stream=False)
            await h2.send_data(stream_id, data, end_stream=True)
            with trio.fail_after(WAIT):
                assert (await h2.read_head(stream_id))[0] == 200
                body = await h2.read_body(stream_id)
    assert body == hashlib.sha256(data).hexdigest().encode()


def unzip(file: IO[bytes]) -> int:
    with gzip.GzipFile(fileobj=file) as unzipped:
        return sum(unzipped.read(MIB))


def sum_members(file: IO[bytes]) -> int:
    total = 0
    with tarfile.open(fileobj=file, mode="r|*") as tar:
        for info in tar:
            member = tar.extractfile(info)
            assert member is not None
            total += sum(member.read())
    return total


def sum_rows(file: Any) -> int:
    rows = csv.reader(io.TextIOWrapper(file, newline=""))
    return sum(int(number) for row in rows for number in row)


def make_tar(numbers: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for i in range(0, len(numbers), 1000):
            info = tarfile.TarInfo(str(i))
            info.size = len(numbers[i : i + 1000])
            tar.addfile(info, io.BytesIO(numbers[i : i + 1000]))
    return file.getvalue()


def make_csv(numbers: Iterable[int]) -> bytes:
    return b"".join(b'%d,"%d"\r\n' % (number, 0) for number in numbers)


@pytest.mark.parametrize(
    ("fn", "make"),
    [(unzip, gzip.compress), (sum_members, make_tar), (sum_rows, make_csv)],
)
async def test_upload_is_unpacked_while_it_arrives(
    fn: Callable[[IO[bytes]], int], make: Callable[[bytes], bytes]
) -> None:
    # RQ-20
    numbers = random.Random(3).randbytes(20_000)
    data = make(numbers)
    app = App()
    add_consumer(app, fn)
    async with open_server(app, keep_alive_timeout=IDLE) as port, assert_no_leaks():
        async with open_raw(port) as raw:
            await raw.request("POST", "/", {"transfer-encoding": "chunked"})
            await raw.send_all(chunked(data, 777))
            with trio.fail_after(WAIT):
                assert await answer(raw) == (200, str(sum(numbers)).encode())


async def test_each_line_is_answered_before_the_next_is_sent() -> None:
    # ET-15
    app = App()

    def shout(file: IO[bytes], send_channel: trio.MemorySendChannel[bytes]) -> None:
        for line in file:
            trio.from_thread.run(send_channel.send, line.upper())

    @app.post("/")
    @asynccontextmanager
    async def handler(request: Request) -> AsyncIterator[Response]:
        body = request.body

        async def produce(send_channel: trio.MemorySendChannel[bytes]) -> None:
            await run_thread_consumer(shout, body, send_channel)

        async with merge(produce) as chunks:
            yield Response(chunks, live=True)

    async with open_server(app, keep_alive_timeout=IDLE) as port, assert_no_leaks():
        async with open_raw(port) as raw:
            await raw.request("POST", "/", {"transfer-encoding": "chunked"})
            await raw.read_head()
            with trio.fail_after(WAIT):  # noqa: ASYNC912
                for number in range(10):
                    await raw.send_all(b"5\r\nabc%d\n\r\n" % number)
                    assert await raw.read_chunk() == b"ABC%d\n" % number
                await raw.send_all(b"0\r\n\r\n")
                assert await raw.read_chunk() is None


# Parts of uploads


async def test_function_that_stops_early_leaves_the_connection_usable() -> None:
    # ET-23, RQ-25
    app = App()
    add_consumer(app, lambda file: file.read(3).decode())
    async with open_server(app, keep_alive_timeout=IDLE) as port, assert_no_leaks():
        async with open_raw(port) as raw:
            for _ in range(3):
                await raw.request("POST", "/", body=b"abc" + bytes(300_000))
                with trio.fail_after(WAIT):
                    assert await answer(raw) == (200, b"abc")


async def test_read_of_more_than_fits_is_answered_with_413() -> None:
    # RQ-20
    app = App()

    @app.post("/")
    async def handler(request: Request) -> str:
        await run_thread_consumer(lambda file: file.read(), request.body, max_read=1000)
        return "whole"

    async with open_server(app, keep_alive_timeout=IDLE) as port, assert_no_leaks():
        async with open_raw(port) as raw:
            await raw.request("POST", "/", body=bytes(1001))
            with trio.fail_after(WAIT):
                assert (await answer(raw))[0] == 413


async def test_slow_function_slows_the_client() -> None:
    # RQ-20, DESIGN 1.4: at most 16 MiB, the kernel's buffers included
    app = App()
    go_on = threading.Event()
    sent = 0

    def wait(file: IO[bytes]) -> None:
        file.read(1)
        go_on.wait(WAIT)

    async def upload(raw: RawConnection) -> None:
        nonlocal sent
        while True:
            await raw.send_all(b"10000\r\n" + bytes(0x10000) + b"\r\n")
            sent += 0x10000

    add_consumer(app, wait)
    async with open_server(app) as port, open_raw(port) as raw:
        await raw.request("POST", "/", {"transfer-encoding": "chunked"})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(upload, raw)
            await trio.testing.wait_all_tasks_blocked(0.1)
            stopped_at = sent
            await trio.testing.wait_all_tasks_blocked(0.1)
            assert 0 < sent == stopped_at <= 16 * MIB
            nursery.cancel_scope.cancel()
        raw.abort()
        go_on.set()


# Clients that leave


@pytest.mark.parametrize("way", WAYS_TO_LEAVE)
@pytest.mark.parametrize("size", [1, 1000])
async def test_client_that_leaves_makes_the_read_raise_promptly(
    way: str, size: int, caplog: pytest.LogCaptureFixture
) -> None:
    # BK-24, RQ-19; in the middle of a read, and between two
    reader = Reader()
    app = App()
    calls = Calls(app)
    completed = False

    @app.post("/")
    async def handler(request: Request) -> str:
        nonlocal completed
        await run_thread_consumer(reader, request.body, size)
        completed = True
        return "complete"

    async with open_server(calls) as port, assert_no_leaks(), open_raw(port) as raw:
        await raw.request("POST", "/", {"content-length": str(MIB)})
        await raw.send_all(bytes(1500))
        await reader.begun.wait()
        await leave(raw, way)
        with trio.fail_after(PROMPT):
            await reader.over.wait()
        await calls.wait_idle()
    assert type(reader.raised) is trio.Cancelled
    assert reader.swallowed == []
    assert not completed
    assert logged(caplog) == []
    assert _stream_limiter().borrowed_tokens == 0


@pytest.mark.parametrize("way", ["close", "half_close"])
@pytest.mark.parametrize("read", [lambda file: file.read(), lambda file: file.read(1000), list])
async def test_short_body_is_never_complete(way: str, read: Callable[[IO[bytes]], object]) -> None:
    # RQ-19, ET-10: aistore's server takes the 400 bytes for the whole object
    app = App()
    calls = Calls(app)
    asked = trio.Event()
    complete: list[str] = []
    token = trio.lowlevel.current_trio_token()

    def store(file: IO[bytes]) -> None:
        token.run_sync_soon(asked.set)
        read(file)
        complete.append("in the thread")

    @app.post("/")
    async def handler(request: Request) -> str:
        await run_thread_consumer(store, request.body)
        complete.append("in the handler")
        return "complete"

    async with open_server(calls) as port, assert_no_leaks(), open_raw(port) as raw:
        await raw.request("POST", "/", {"content-length": "1000"})
        await raw.send_all(bytes(400))
        await asked.wait()
        await leave(raw, way)
        if way == "half_close":
            assert b"200" not in await raw.read_until_closed()
        await calls.wait_idle()
    assert complete == []


async def test_client_that_leaves_at_once_stops_it_too() -> None:
    # BK-27
    app = App()
    calls = Calls(app)
    reader = Reader()
    add_consumer(app, reader)
    async with open_server(calls) as port, assert_no_leaks(), open_raw(port) as raw:
        await raw.request("POST", "/", {"content-length": "1000"})
        raw.close()
        await calls.wait_returned()
    assert reader.raised is None or type(reader.raised) is trio.Cancelled


async def test_thread_that_does_not_read_is_left_after_its_grace(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # BK-26
    app = App()
    calls = Calls(app)
    begun, ended = trio.Event(), trio.Event()
    release = threading.Event()
    token = trio.lowlevel.current_trio_token()

    def block(file: IO[bytes]) -> None:
        token.run_sync_soon(begun.set)
        release.wait(WAIT)
        try:
            file.read(1)
        finally:
            token.run_sync_soon(ended.set)

    @app.post("/")
    async def handler(request: Request) -> str:
        await run_thread_consumer(block, request.body, thread_grace=0.1)
        return "ok"

    async with open_server(calls) as port, assert_no_leaks(), open_raw(port) as raw:
        await raw.request("POST", "/", {"content-length": "1000"})
        await begun.wait()
        raw.abort()
        await calls.wait_idle(within=0.1 + PROMPT)
        (warning,) = logged(caplog)
        assert "block still runs 0.1 s" in warning
        release.set()
        with trio.fail_after(WAIT):
            await ended.wait()
    assert len(logged(caplog)) == 1
