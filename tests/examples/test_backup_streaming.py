"""examples/backup.py: a backup leaves while it is made, and holds up nobody."""

from __future__ import annotations

import os
import random
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from itertools import pairwise
from pathlib import Path

import pytest
import trio
import trio.testing
from asgi import Server
from backup_kit import (
    BACKUP,
    KIB,
    MIB,
    Gate,
    Hook,
    app,
    fetch,
    fill,
    hash_tree,
    home,
    open_backup,
    open_site,
    port,
    read_some,
)
from leaks import assert_no_leaks
from probes import IDLE, IN_TIME
from wire import open_guarded, open_raw

__all__ = ["home", "port"]

PIECES = 24  # files of half a mebibyte


def fill_with_pieces(home: Path) -> None:
    data = random.Random(3).randbytes(512 * KIB)
    fill(home, {f"anthias_assets/piece-{number:02}": data for number in range(PIECES)})


@pytest.mark.usefixtures("each_host")
async def test_bytes_flow_and_grow_steadily_while_the_library_is_read(home: Path) -> None:
    # BK-1, BK-2: at 11 MB/s, a twentieth of a second for each file
    fill_with_pieces(home)
    hook = Hook("", act=lambda path: time.sleep(0.045 if "piece" in path else 0))
    got: list[tuple[float, int]] = []
    async with open_site(hook) as port, open_raw(port) as raw:
        start = trio.current_time()
        await raw.request("POST", BACKUP)
        await raw.read_head()
        size = 0
        while chunk := await raw.read_chunk():
            if not got:
                assert len(hook.opened) < PIECES
            size += len(chunk)
            got.append((trio.current_time() - start, size))
    times = [0.0, *(when for when, _ in got)]
    assert times[1] < 1.0
    assert max(after - before for before, after in pairwise(times)) < 1.0
    for share in (0.25, 0.5, 0.75):
        at = max(size for when, size in got if when <= share * times[-1])
        assert abs(at / size - share) < 0.2


async def test_the_first_bytes_do_not_wait_for_a_slow_second_file(home: Path) -> None:
    # BK-3
    gate = Gate()
    fill(home, {".anthias/0-first": random.Random(4).randbytes(60_000)})
    async with open_site(Hook("anthias.conf", act=gate.wait)) as port, open_backup(port) as raw:
        with trio.fail_after(1.0):
            data = await raw.read_chunk()
        assert zlib.decompressobj(31).decompress(data or b"").startswith(b".anthias")
        gate.release()
        await raw.read_body()


async def test_what_has_been_packed_does_not_wait_for_a_slow_second_file(home: Path) -> None:
    # BK-3: but for what the compressor still holds
    gate = Gate()
    fill(home, {".anthias/0-first": random.Random(4).randbytes(300_000)})
    async with open_site(Hook("anthias.conf", act=gate.wait)) as port, open_backup(port) as raw:
        with trio.fail_after(1.0):
            await read_some(raw, 200_000)
        gate.release()
        await raw.read_body()


async def test_a_reader_that_stops_stops_the_reading_of_files(home: Path) -> None:
    # BK-5
    fill_with_pieces(home)
    hook = Hook()
    async with open_site(hook, send_buffer=64 * KIB) as port:
        async with open_backup(port, receive_buffer=64 * KIB) as raw:
            await trio.sleep(0.5)
            opened = len(hook.opened)
            # Four chunks and the buffers of the kernels are less than three of the files.
            assert opened < 8
            await trio.sleep(0.3)
            assert len(hook.opened) == opened
            await raw.read_body()
    assert len(hook.opened) > PIECES


_writes: list[str] | None = None
_auditing = False


@contextmanager
def watch_writes() -> Iterator[list[str]]:
    """Note the paths of all files that are opened to be written to."""
    global _auditing, _writes  # since an audit hook cannot be removed
    if not _auditing:
        sys.addaudithook(_note_write)
        _auditing = True
    writes: list[str] = []
    _writes = writes
    try:
        yield writes
    finally:
        _writes = None


def _note_write(event: str, args: tuple[object, ...]) -> None:
    if event == "open" and _writes is not None:
        path, _, flags = args
        if isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR):
            _writes.append(str(path))


async def test_nothing_is_written_to_any_disk(
    home: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # BK-6
    fill_with_pieces(home)
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    before = hash_tree(home)
    with watch_writes() as writes:
        for compression in ("gzip", "zstd", "none"):
            assert (await fetch(port, f"{BACKUP}?compression={compression}")).status == 200
        os.close(os.open(os.devnull, os.O_WRONLY))  # which shows that writes are seen
    assert writes == [os.devnull]
    assert hash_tree(home) == before


async def test_what_is_sent_at_once_is_large_enough(home: Path, port: int) -> None:
    # BK-7: so that the hand-over between the threads does not set the pace
    fill_with_pieces(home)
    async with open_backup(port) as raw:
        sizes = []
        while chunk := await raw.read_chunk():
            sizes.append(len(chunk))
    assert sum(sizes) / len(sizes) >= 32 * KIB


async def test_no_default_limit_cuts_a_long_download(
    home: Path, autojump_clock: trio.testing.MockClock
) -> None:
    # BK-8: for an hour, something every 10 s
    fill(home, {f"anthias_assets/{number:03}": os.urandom(20) for number in range(360)})
    hook = Hook("", act=lambda path: trio.from_thread.run(trio.sleep, 10))
    server = Server()
    async with app.open_lifespan():
        app.state.opener = hook
        start = trio.current_time()
        await server.call(app, "POST", BACKUP)
    assert server.error is None
    assert (server.status, server.complete) == (200, True)
    assert trio.current_time() - start > 3600


async def test_other_requests_stay_quick_during_a_backup(home: Path) -> None:
    # BK-9
    fill_with_pieces(home)
    data = random.Random(6).randbytes(MIB)
    fill(home, {f"anthias_assets/more-{number}": data for number in range(24)})
    async with open_guarded(app) as port, open_backup(port) as backup:
        async with trio.open_nursery() as nursery, open_raw(port) as raw:
            nursery.start_soon(backup.read_body)
            times = []
            for _ in range(50):
                start = trio.current_time()
                await raw.request("GET", "/health")
                assert (await raw.read_head())[0] == 200
                assert await raw.read_body() == b'{"status":"ok"}'
                times.append(trio.current_time() - start)
    assert sorted(times)[48] < 0.1


async def test_sixty_stalled_backups_starve_nobody(home: Path) -> None:
    # BK-9
    fill_with_pieces(home)
    async with open_site(send_buffer=16 * KIB) as port, assert_no_leaks(grace=IN_TIME):
        async with AsyncExitStack() as stack:
            for _ in range(60):
                await stack.enter_async_context(open_backup(port, receive_buffer=4 * KIB))
            with trio.fail_after(1.0):
                assert await trio.Path(home / ".anthias/anthias.conf").read_bytes()
                assert (await fetch(port, "/health", "GET")).status == 200
                assert await trio.to_thread.run_sync(os.getpid) == os.getpid()


@pytest.mark.usefixtures("each_host")
async def test_a_backup_leaves_nothing_behind(home: Path) -> None:
    async with open_site(keep_alive_timeout=IDLE) as port, assert_no_leaks():
        assert (await fetch(port)).status == 200
