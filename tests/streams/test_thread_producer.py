"""open_thread_producer(): what leaves when, bounds, errors that look like ends, cancellation."""

from __future__ import annotations

import csv
import gc
import gzip
import io
import logging
import os
import random
import sys
import tarfile
import threading
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO

import pytest
import trio
import trio.testing
from leaks import assert_no_leaks
from probes import logged

from tsstream._errors import HTTPError
from tsstream._streams.thread_channel import CHUNK_SIZE, HIGH_WATER
from tsstream._streams.threads import open_thread_producer

WAIT = 10.0  # seconds: for what a thread waits for, so that a hang ends


async def read_all(fn: Callable[[IO[bytes]], object]) -> list[bytes]:
    with trio.fail_after(WAIT):
        async with open_thread_producer(fn) as channel:
            return [chunk async for chunk in channel]


def hold(released: threading.Event) -> None:
    assert released.wait(WAIT)


# What comes out


async def test_what_the_function_writes_comes_out_in_order() -> None:
    def write(file: IO[bytes], start: int) -> None:
        for number in range(start, start + 1000):
            assert file.write(b"%d," % number) == len(b"%d," % number)

    async with open_thread_producer(write, 5) as channel:
        data = b"".join([chunk async for chunk in channel])
        with pytest.raises(trio.EndOfChannel):
            await channel.receive()
    assert data == b"".join(b"%d," % number for number in range(5, 1005))


async def test_a_function_that_writes_nothing_gives_an_empty_channel() -> None:
    assert await read_all(lambda file: file.write(b"")) == []


@pytest.mark.parametrize("size", [1, CHUNK_SIZE - 1, CHUNK_SIZE, CHUNK_SIZE + 1, 5_000_000])
async def test_one_write_of_any_size_comes_out_in_chunks_of_64_KiB(size: int) -> None:
    data = random.Random(5).randbytes(size)
    chunks = await read_all(lambda file: file.write(memoryview(bytearray(data))))
    assert b"".join(chunks) == data
    assert max(map(len, chunks)) <= CHUNK_SIZE
    assert len(chunks) <= size // CHUNK_SIZE + 2


async def test_small_writes_travel_together() -> None:  # BK-7
    def write(file: IO[bytes]) -> None:
        for _ in range(10_000):
            file.write(b"x" * 100)

    chunks = await read_all(write)
    assert sum(map(len, chunks)) == 1_000_000
    assert len(chunks) < 31  # 32 KiB on average at least


async def test_a_chunk_cannot_change_after_it_was_written() -> None:  # AC-29
    def write(file: IO[bytes]) -> None:
        buffer = bytearray(b"before")
        file.write(buffer)
        buffer[:] = b"after!"

    assert await read_all(write) == [b"before"]


def write_tar(file: IO[bytes], path: Path) -> None:
    with tarfile.open(fileobj=file, mode="w|") as archive:
        archive.add(path, "data")


def write_zip(file: IO[bytes], path: Path) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.write(path, "data")


def write_gzip(file: IO[bytes], path: Path) -> None:
    with gzip.GzipFile(fileobj=file, mode="wb") as archive:
        archive.write(path.read_bytes())


def write_csv(file: IO[bytes], path: Path) -> None:
    with io.TextIOWrapper(file, newline="") as text:
        csv.writer(text).writerow([path.read_bytes().hex()])


def read_tar(file: IO[bytes]) -> bytes:
    with tarfile.open(fileobj=file) as archive:
        member = archive.extractfile("data")
        assert member is not None
        return member.read()


@pytest.mark.parametrize(
    ("write", "read"),
    [
        (write_tar, read_tar),
        (write_zip, lambda file: zipfile.ZipFile(file).read("data")),
        (write_gzip, lambda file: gzip.GzipFile(fileobj=file).read()),
        (write_csv, lambda file: bytes.fromhex(file.read().decode().strip())),
    ],
)
async def test_archive_writers_work_on_it(
    tmp_path: Path,
    write: Callable[[IO[bytes], Path], None],
    read: Callable[[IO[bytes]], bytes],
) -> None:
    path = tmp_path / "data"
    path.write_bytes(os.urandom(300_000))
    archive = b"".join(await read_all(lambda file: write(file, path)))
    assert read(io.BytesIO(archive)) == path.read_bytes()


async def test_it_tells_its_position_and_cannot_seek_or_be_read() -> None:
    def write(file: IO[bytes]) -> None:
        assert file.writable()
        assert not file.readable()
        assert not file.seekable()
        file.write(b"abc")
        assert file.tell() == 3
        for refused in (partial(file.seek, 0), file.read):
            with pytest.raises(io.UnsupportedOperation):
                refused()

    assert await read_all(write) == [b"abc"]


# When it comes out


async def test_the_first_bytes_leave_at_once(mock_clock: trio.testing.MockClock) -> None:  # BK-3
    released = threading.Event()

    def write(file: IO[bytes]) -> None:
        file.write(b"first")
        hold(released)

    async with open_thread_producer(write) as channel:
        assert await channel.receive() == b"first"  # the clock stands still
        released.set()


async def test_later_bytes_leave_when_the_thread_is_silent(
    mock_clock: trio.testing.MockClock,
) -> None:  # BK-3
    released = threading.Event()
    written = trio.Event()
    token = trio.lowlevel.current_trio_token()

    def write(file: IO[bytes]) -> None:
        file.write(b"first")
        file.write(b"second")
        token.run_sync_soon(written.set)
        hold(released)

    async with open_thread_producer(write, flush_interval=3.0) as channel:
        assert await channel.receive() == b"first"
        await written.wait()
        async with trio.open_nursery() as nursery:
            got: list[bytes] = []

            async def receive() -> None:
                got.append(await channel.receive())

            nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked(0.01)
            mock_clock.jump(2.9)
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert got == []
            mock_clock.jump(0.2)
        assert got == [b"second"]
        released.set()


@pytest.mark.parametrize("waiting", [True, False])
async def test_later_bytes_leave_also_to_a_reader_who_looks_now_and_then(
    mock_clock: trio.testing.MockClock, waiting: bool
) -> None:  # BK-3
    written, released = trio.Event(), threading.Event()
    token = trio.lowlevel.current_trio_token()

    def write(file: IO[bytes]) -> None:
        file.write(b"first")
        file.write(b"second")
        token.run_sync_soon(written.set)
        hold(released)

    async with open_thread_producer(write, flush_interval=3.0) as channel:
        assert await channel.receive() == b"first"
        await written.wait()
        mock_clock.autojump_threshold = 0.0
        got = b""
        while not got and trio.current_time() < 9.0:
            with trio.move_on_after(0.9), suppress(trio.WouldBlock):
                if waiting:
                    got = await channel.receive()
                else:
                    await trio.sleep(0.8)
                    got = channel.receive_nowait()  # type: ignore[attr-defined]
        assert got == b"second"
        released.set()


async def test_flushed_bytes_leave_at_once(mock_clock: trio.testing.MockClock) -> None:
    released = threading.Event()

    def write(file: IO[bytes]) -> None:
        file.write(b"first")
        file.flush()
        file.write(b"second")
        file.flush()
        hold(released)

    async with open_thread_producer(write) as channel:
        data = b""
        while data != b"firstsecond":
            data += await channel.receive()
        released.set()


async def test_receive_nowait_gives_what_is_ready() -> None:
    released, done = threading.Event(), trio.Event()
    token = trio.lowlevel.current_trio_token()

    def write(file: IO[bytes]) -> None:
        file.write(b"x" * CHUNK_SIZE)
        file.write(b"y" * 10)
        token.run_sync_soon(done.set)
        hold(released)

    async with open_thread_producer(write) as channel:
        await done.wait()
        assert channel.receive_nowait() == b"x" * CHUNK_SIZE  # type: ignore[attr-defined]
        with pytest.raises(trio.WouldBlock):
            channel.receive_nowait()  # type: ignore[attr-defined]
        released.set()
        assert await channel.receive() == b"y" * 10
        with pytest.raises(trio.EndOfChannel):
            while True:
                await channel.receive()
        with pytest.raises(trio.EndOfChannel):
            channel.receive_nowait()  # type: ignore[attr-defined]


async def test_the_thread_waits_for_a_reader_who_is_behind() -> None:  # BK-5
    positions: list[int] = []

    def write(file: IO[bytes]) -> None:
        while True:
            positions.append(file.tell())
            file.write(b"x" * CHUNK_SIZE)

    async with open_thread_producer(write) as channel:
        for received in range(5):
            await channel.receive()
            await trio.testing.wait_all_tasks_blocked(0.02)
            assert positions[-1] <= (received + 1) * CHUNK_SIZE + HIGH_WATER


async def test_threads_that_write_together_all_go_on() -> None:
    blocked, go_on = threading.Event(), threading.Event()

    def write_much(file: IO[bytes]) -> None:
        file.write(b"x" * HIGH_WATER)
        blocked.set()
        file.write(b"y")

    def write(file: IO[bytes]) -> None:
        helper = threading.Thread(target=write_much, args=(file,), daemon=True)
        helper.start()
        hold(go_on)
        file.write(b"z")  # while there is room again, but not yet enough for the other to go on
        helper.join(WAIT)

    with trio.fail_after(WAIT / 2):
        async with open_thread_producer(write, thread_grace=0.1) as channel:
            await trio.to_thread.run_sync(blocked.wait)
            await trio.sleep(0.05)  # until it waits, which nobody can see
            data = await channel.receive()
            go_on.set()
            await trio.sleep(0.05)
            data += b"".join([chunk async for chunk in channel])
    assert sorted(data) == sorted(b"x" * HIGH_WATER + b"yz")


async def test_garbage_that_writes_does_not_hold_the_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A tar file that was not closed, in a cycle, collected while the thread is far ahead.
    full, released = threading.Event(), threading.Event()
    errors: list[BaseException | None] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda told: errors.append(told.exc_value))

    def write(file: IO[bytes]) -> None:
        left: list[object] = []
        archive = tarfile.open(fileobj=file, mode="w|")  # noqa: SIM115 (left open)
        archive.addfile(tarfile.TarInfo("a"))
        left += [left, archive]
        del left, archive
        file.write(b"x" * HIGH_WATER)
        full.set()
        hold(released)

    gc.disable()
    try:
        async with open_thread_producer(write) as channel:
            await trio.to_thread.run_sync(full.wait)
            gc.collect()
            released.set()
            data = b"".join([chunk async for chunk in channel])
    finally:
        gc.enable()
    assert data == b"x" * HIGH_WATER
    assert [type(error) for error in errors] == [RuntimeError]


async def test_a_cancelled_receive_loses_nothing() -> None:
    def write(file: IO[bytes]) -> None:
        for number in range(2000):
            file.write(b"%05d" % number)
            file.flush()
            trio.from_thread.run_sync(int)  # not faster than who reads

    data, cancelled, over = b"", 0, False
    rng = random.Random(1)
    async with open_thread_producer(write) as channel:
        while not over:
            try:
                with trio.move_on_after(rng.random() * 0.0003) as timer:
                    data += await channel.receive()
            except trio.EndOfChannel:
                over = True
            cancelled += timer.cancelled_caught
    assert data == b"".join(b"%05d" % number for number in range(2000))
    assert cancelled


# Errors


async def test_an_error_leaves_as_itself_and_what_was_not_sent_is_dropped() -> None:  # BK-21
    error = OSError("gone")

    def write(file: IO[bytes]) -> None:
        file.write(b"first")
        file.write(b"second")
        raise error

    chunks: list[bytes] = []
    with pytest.raises(OSError, match="gone") as caught:
        async with open_thread_producer(write) as channel:
            await trio.testing.wait_all_tasks_blocked(0.02)
            async for chunk in channel:
                chunks.append(chunk)
    assert caught.value is error
    assert chunks == []


@pytest.mark.parametrize("write", [write_tar, write_zip])
async def test_an_archive_that_fails_has_no_end(
    tmp_path: Path, write: Callable[[IO[bytes], Path], None]
) -> None:  # BK-20
    chunks: list[bytes] = []
    with pytest.raises(FileNotFoundError):
        async with open_thread_producer(write, tmp_path / "missing") as channel:
            async for chunk in channel:
                chunks.append(chunk)
    assert chunks == []


async def test_what_an_unwinding_writer_adds_never_leaves() -> None:  # BK-21
    closing = threading.Event()

    def write(file: IO[bytes]) -> None:
        try:
            file.write(b"start")
            raise ValueError("broken")
        finally:
            file.write(b"x" * CHUNK_SIZE)
            file.flush()
            closing.set()
            trio.from_thread.run(trio.sleep, 0.02)  # the reader has time to take something wrong

    chunks: list[bytes] = []
    with pytest.raises(ValueError, match="broken"):
        async with open_thread_producer(write) as channel:
            async for chunk in channel:
                chunks.append(chunk)
    assert closing.is_set()
    assert chunks == [b"start"]


async def test_what_is_written_while_an_error_is_handled_is_kept_in_order() -> None:
    def write(file: IO[bytes]) -> None:
        file.write(b"a")
        try:
            raise ValueError
        except ValueError:
            file.write(b"b" * 10)
            file.write(b"c" * CHUNK_SIZE)
            file.write(b"d")
        file.write(b"e")
        try:
            raise ValueError
        except ValueError:
            file.write(b"f")

    data = b"".join(await read_all(write))
    assert data == b"a" + b"b" * 10 + b"c" * CHUNK_SIZE + b"def"


@pytest.mark.parametrize("then", [b"", b"more"])
async def test_too_much_written_while_an_error_is_handled_is_an_error(then: bytes) -> None:
    def write(file: IO[bytes]) -> None:
        try:
            raise ValueError
        except ValueError:
            for _ in range(3):
                file.write(b"x" * CHUNK_SIZE)
        file.write(then)

    with pytest.raises(RuntimeError, match="after the except block"):
        await read_all(write)


async def test_a_large_zip_that_fails_has_no_directory() -> None:  # BK-21
    def write(file: IO[bytes]) -> None:
        with zipfile.ZipFile(file, "w") as archive:
            for number in range(5000):
                archive.writestr(str(number), b"")
            raise ValueError("broken")

    data = b""
    with pytest.raises(ValueError, match="broken"):
        async with open_thread_producer(write) as channel:
            async for chunk in channel:
                data += chunk
    assert b"PK\x01\x02" not in data


async def test_an_async_function_is_refused() -> None:
    async def write(file: IO[bytes]) -> None:
        raise AssertionError

    with pytest.raises(TypeError, match="is async"):
        await read_all(write)


async def test_a_generator_is_refused() -> None:
    def write(file: IO[bytes]) -> Iterator[bytes]:
        yield b"never"

    async def send(file: IO[bytes]) -> AsyncIterator[bytes]:
        yield b"never"

    for fn in (write, send):
        with pytest.raises(TypeError, match=r"is a generator.*instead of yielding"):
            await read_all(fn)


async def test_an_http_error_of_the_thread_is_the_blocks() -> None:
    def write(file: IO[bytes]) -> None:
        raise HTTPError(507)

    with pytest.raises(HTTPError):
        await read_all(write)


@pytest.mark.parametrize("option", ["thread_grace", "flush_interval"])
async def test_times_are_not_negative(option: str) -> None:
    with pytest.raises(ValueError, match=option):
        open_thread_producer(print, **{option: -1.0})


# Leaving early


def write_for_ever(file: IO[bytes], ended: list[BaseException]) -> None:
    try:
        while True:
            file.write(b"x" * 1000)
    except BaseException as error:
        ended.append(error)
        raise


async def test_leaving_the_block_stops_the_thread_at_its_next_write() -> None:  # BK-24
    ended: list[BaseException] = []
    async with assert_no_leaks():
        async with open_thread_producer(write_for_ever, ended) as channel:
            await channel.receive()
        assert [type(error) for error in ended] == [trio.Cancelled]


async def test_cancelling_stops_the_thread() -> None:  # BK-24
    ended: list[BaseException] = []
    async with assert_no_leaks():
        with trio.CancelScope() as scope:
            async with open_thread_producer(write_for_ever, ended) as channel:
                await channel.receive()
                scope.cancel()
                await channel.receive()
        assert scope.cancelled_caught
        assert [type(error) for error in ended] == [trio.Cancelled]


async def test_closing_the_channel_stops_the_thread() -> None:
    ended: list[BaseException] = []
    async with assert_no_leaks():
        async with open_thread_producer(write_for_ever, ended) as channel:
            await channel.receive()
            await channel.aclose()
            with pytest.raises(trio.ClosedResourceError):
                await channel.receive()
        assert [type(error) for error in ended] == [trio.Cancelled]


async def test_the_readers_own_error_leaves_as_itself() -> None:
    ended: list[BaseException] = []
    with pytest.raises(KeyError):
        async with open_thread_producer(write_for_ever, ended) as channel:
            await channel.receive()
            raise KeyError
    assert [type(error) for error in ended] == [trio.Cancelled]


async def test_a_cancelled_thread_stays_cancelled() -> None:
    calls: list[type[BaseException]] = []

    def write(file: IO[bytes]) -> None:
        for _ in range(3):
            try:
                while True:
                    file.write(b"x" * 1000)
            except BaseException as error:  # noqa: ASYNC103 (a user who will not listen)
                calls.append(type(error))

    async with open_thread_producer(write) as channel:
        await channel.receive()
    assert calls == [trio.Cancelled] * 3


async def test_a_stuck_thread_is_abandoned_with_a_warning(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:  # BK-26
    released = threading.Event()
    ended = threading.Event()

    def write_stuck(file: IO[bytes]) -> None:
        file.write(b"first")
        hold(released)
        try:
            file.write(b"late")
        finally:
            ended.set()

    async with open_thread_producer(write_stuck, thread_grace=5.0) as channel:
        await channel.receive()
        start = trio.current_time()
    assert trio.current_time() - start == pytest.approx(5.0)
    (warning,) = logged(caplog, logging.WARNING)
    assert "write_stuck" in warning
    released.set()
    assert ended.wait(WAIT)  # without touching the channel: nobody is there to complain
    assert [r for r in caplog.records if r.levelno > logging.WARNING] == []


async def test_a_thread_never_starts_when_cancelled_before() -> None:  # BK-27
    started: list[bool] = []

    def write(file: IO[bytes]) -> None:
        started.append(True)

    with trio.CancelScope() as scope:
        scope.cancel()
        async with open_thread_producer(write) as channel:
            await channel.receive()
    assert started == []


async def test_500_ends_at_random_moments_leave_nothing() -> None:  # BK-25
    rng = random.Random(25)
    async with assert_no_leaks():
        for _ in range(500):
            ended: list[BaseException] = []
            with trio.move_on_after(rng.random() * 0.004):
                async with open_thread_producer(write_for_ever, ended) as channel:
                    for _ in range(rng.randrange(8)):
                        await channel.receive()
            assert {type(error) for error in ended} <= {trio.Cancelled}


async def test_stalled_readers_starve_nobody() -> None:  # BK-9
    async with trio.open_nursery() as nursery:
        for _ in range(60):
            nursery.start_soon(hold_open)
        await trio.testing.wait_all_tasks_blocked(0.05)
        with trio.fail_after(1.0):
            assert await trio.to_thread.run_sync(threading.get_ident)
            assert await read_all(lambda file: file.write(b"x")) == [b"x"]
        nursery.cancel_scope.cancel()


async def hold_open() -> None:
    async with open_thread_producer(write_for_ever, []) as channel:
        await channel.receive()
        await trio.sleep_forever()
