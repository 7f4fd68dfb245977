"""examples/backup.py: a backup that fails does not look whole, and one that nobody wants ends."""

from __future__ import annotations

import errno
import gzip
import io
import logging
import os
import random
import shutil
import tarfile
import threading
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import trio.testing
from asgi import Server
from backup_kit import (
    BACKUP,
    MIB,
    Gate,
    Hook,
    app,
    fail_with,
    fetch,
    fill,
    home,
    open_backup,
    open_site,
    read_some,
    wait_for,
)
from leaks import assert_no_leaks, take_census
from probes import IDLE, IN_TIME, WAYS_TO_LEAVE, leave, logged
from tools import run_tool
from wire import SERVER_LOG, Truncated, open_guarded, open_raw

__all__ = ["home"]


def assert_no_archive(data: bytes, compression: str = "gzip") -> None:
    """Check that whoever has kept *data* will see that it is not a whole archive (BK-21)."""
    if compression == "gzip":
        assert run_tool("gzip", "-t", data=data)[0] != 0
        decompressor = zlib.decompressobj(31)
        data = decompressor.decompress(data)
        assert not decompressor.eof
    elif compression == "zstd":
        assert run_tool("zstd", "-t", data=data)[0] != 0
        data = run_tool("zstd", "-dc", data=data)[1]
    assert len(data) > 1 * MIB
    assert not data.endswith(bytes(1024))  # the end mark of a tar


@pytest.mark.usefixtures("each_host")
@pytest.mark.parametrize("missing", [".anthias", "anthias_assets"])
@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
async def test_a_missing_tree_is_a_500_with_nothing_of_a_backup(
    home: Path, missing: str, compression: str, caplog: pytest.LogCaptureFixture
) -> None:
    # BK-20
    shutil.rmtree(home / missing)
    async with open_site(keep_alive_timeout=IDLE) as port, assert_no_leaks():
        status, headers, body = await fetch(port, f"{BACKUP}?compression={compression}")
    assert status == 500
    assert "content-disposition" not in headers
    assert headers["content-type"].startswith("text/plain")
    assert body == b"Internal Server Error"
    [line] = logged(caplog, logging.ERROR)  # BK-23
    assert line.startswith("ERROR")


async def receive_until_cut(
    port: int, gate: Gate, act: Callable[[], object], compression: str = "gzip"
) -> bytes:
    """Download until the gate is reached, *act*, and go on until the response is cut."""

    async def pass_gate() -> None:
        await gate.reached.wait()
        act()
        gate.release()

    async with open_backup(port, f"{BACKUP}?compression={compression}") as raw:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pass_gate)
            with trio.fail_after(IN_TIME), pytest.raises(Truncated) as cut:
                await raw.read_body()
    assert len(cut.value.body) > 1 * MIB
    body: bytes = cut.value.body
    return body


def failures(caplog: pytest.LogCaptureFixture) -> list[BaseException]:
    """Give the errors that were logged with a traceback, by us or the server."""
    return [
        record.exc_info[1]
        for record in caplog.records
        if record.name in ("tsstream", SERVER_LOG.name)
        and record.exc_info is not None
        and record.exc_info[1] is not None
        and record.levelno == logging.ERROR
    ]


FILLING = {".anthias/0-filling": random.Random(8).randbytes(3 * MIB)}


@pytest.mark.usefixtures("each_host")
@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
async def test_a_tree_that_vanishes_later_cuts_the_response(
    home: Path, compression: str, caplog: pytest.LogCaptureFixture
) -> None:
    # BK-21
    fill(home, FILLING)
    gate = Gate()
    hook = Hook("anthias.db", act=gate.wait)
    async with open_site(hook, keep_alive_timeout=IDLE) as port, assert_no_leaks():
        data = await receive_until_cut(
            port, gate, lambda: shutil.rmtree(home / "anthias_assets"), compression
        )
    assert_no_archive(data, compression)
    assert str(home / "anthias_assets") in str(failures(caplog)[0])


def shrink(path: str) -> None:
    os.truncate(path, 100)


# BK-18, BK-22
@pytest.mark.parametrize(
    ("act", "then"),
    [
        (os.unlink, None),
        (None, shrink),
        (fail_with(errno.EACCES), None),
        (fail_with(errno.EIO), None),
    ],
    ids=["vanishes", "shrinks", "forbidden", "broken"],
)
async def test_a_file_that_cannot_be_read_cuts_the_response_and_is_named_once(
    home: Path,
    act: Callable[[str], object] | None,
    then: Callable[[str], object] | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    # BK-21, BK-23
    fill(home, FILLING)
    gate = Gate()

    def nothing(path: str) -> None:
        pass

    def wait_and_act(path: str) -> None:
        gate.wait()
        (act or nothing)(path)

    hook = Hook("a.mp4", act=wait_and_act, then=then or nothing)
    async with open_guarded(app) as port, assert_no_leaks():
        app.state.opener = hook
        data = await receive_until_cut(port, gate, lambda: None)
    assert_no_archive(data)
    [error] = failures(caplog)
    assert str(error).count(str(home / "anthias_assets/a.mp4")) == 1


async def test_a_client_that_leaves_is_no_error(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # BK-23
    caplog.set_level(logging.DEBUG)
    fill(home, FILLING)
    async with open_guarded(app, keep_alive_timeout=IDLE) as port, assert_no_leaks():
        async with open_backup(port, receive_buffer=4096):
            pass
    assert failures(caplog) == []
    assert logged(caplog, logging.INFO) == []
    assert any("client disconnected" in line for line in logged(caplog, logging.DEBUG))


def open_below(folder: Path) -> list[str]:
    return [name for name in take_census().fds.values() if str(folder) in name]


async def wait_closed(folder: Path) -> None:
    with trio.fail_after(1.0):
        await wait_for(lambda: not open_below(folder))


@pytest.mark.usefixtures("each_host")
@pytest.mark.parametrize("way", WAYS_TO_LEAVE)
async def test_a_client_that_leaves_stops_the_reading(home: Path, way: str) -> None:
    # BK-24
    fill(home, {f".anthias/{number}": os.urandom(4 * MIB) for number in range(4)})
    hook = Hook()
    async with open_site(hook, keep_alive_timeout=IDLE) as port, assert_no_leaks():
        async with open_backup(port, receive_buffer=64 * 1024) as raw:
            await read_some(raw, 1 * MIB)
            assert open_below(home)
            await leave(raw, way)
            await wait_closed(home)
    assert len(hook.opened) < 8


@pytest.mark.parametrize("seed", range(2))
async def test_a_disconnect_at_any_moment_is_only_that(
    home: Path, seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    # BK-25: with the next test, 500 of them
    fill(home, {f"anthias_assets/{number}": os.urandom(MIB) for number in range(8)})
    moments = random.Random(seed)

    async def come_and_go(port: int) -> None:
        for _ in range(25):
            async with open_raw(port) as raw:
                await raw.request("POST", BACKUP)
                with trio.move_on_after(moments.uniform(0, 0.05)):
                    await raw.read_head()
                    await raw.read_body()

    async with open_guarded(app, keep_alive_timeout=IDLE) as port:
        async with assert_no_leaks(grace=IN_TIME), trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(come_and_go, port)
    assert logged(caplog) == []
    assert failures(caplog) == []


async def test_one_thread_alone_touches_an_archive(home: Path) -> None:
    # BK-25
    hook = Hook()
    async with open_site(hook) as port:
        assert (await fetch(port)).status == 200
    assert len(hook.opened) > 3
    assert len(hook.threads) == 1
    assert threading.get_ident() not in hook.threads


async def test_a_stuck_source_is_abandoned_with_a_warning(
    home: Path, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    # BK-26: as a mount that hangs is
    gate = Gate()
    async with app.open_lifespan():
        app.state.opener = Hook("a.mp4", act=gate.wait)
        server = Server()
        async with assert_no_leaks():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.call, app, "POST", BACKUP)
                await gate.reached.wait()
                start = trio.current_time()
                server.leave()
                await server.over.wait()
            assert trio.current_time() - start < 6
            [warning] = logged(caplog)
            assert "still runs 5 s after it was cancelled; it is abandoned" in warning
            sent = len(server.sent)
            gate.release()
        assert len(server.sent) == sent
    assert len(logged(caplog)) == 1


def add_large_file(home: Path) -> None:
    """Add what would take many seconds, and no space."""
    path = home / "anthias_assets/large"
    path.touch()
    os.truncate(path, 16 * 1024 * MIB)


@pytest.mark.usefixtures("each_host")
async def test_a_client_that_leaves_while_the_first_file_is_opened(home: Path) -> None:
    # BK-27
    gate = Gate()
    add_large_file(home)
    hook = Hook("anthias.conf", act=gate.wait)
    async with open_site(hook, keep_alive_timeout=IDLE) as port, assert_no_leaks():
        async with open_raw(port) as raw:
            await raw.request("POST", BACKUP)
            await gate.reached.wait()
        gate.release()
        await wait_closed(home)


@pytest.mark.usefixtures("each_host")
@pytest.mark.parametrize("compression", ["gzip", "none"])
async def test_a_client_that_leaves_right_after_its_request(home: Path, compression: str) -> None:
    # BK-27
    add_large_file(home)
    async with open_site(keep_alive_timeout=IDLE) as port, assert_no_leaks():
        for way in WAYS_TO_LEAVE:
            async with open_raw(port) as raw:
                await raw.request("POST", f"{BACKUP}?compression={compression}")
                await leave(raw, way)
        await wait_closed(home)


def test_what_unwinds_after_an_error_looks_whole_by_itself() -> None:
    # Why BK-21 is a requirement: this is what tarfile and gzip make of an archive that has failed.
    file = io.BytesIO()
    with pytest.raises(FileNotFoundError):
        with gzip.open(file, "w") as packed, tarfile.open(fileobj=packed, mode="w|") as archive:
            archive.addfile(tarfile.TarInfo("first"))
            archive.add("/nowhere")
    assert run_tool("gzip", "-t", data=file.getvalue())[0] == 0
