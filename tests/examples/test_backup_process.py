"""examples/backup.py in a process of its own: its memory, a full disk, and as people start it."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
from functools import partial
from hashlib import sha256
from pathlib import Path

import pytest
import trio
from backup_kit import (
    BACKUP,
    DONE,
    MIB,
    RESUMABLE,
    fetch,
    fill,
    form_of,
    hash_tree,
    home,
    make_archive,
    open_backup,
    open_form,
    read_answer,
    upload,
)
from probes import IN_TIME
from processes import open_process
from tools import run_tool
from wire import open_raw

from examples.backup import app
from tsstream import serve

__all__ = ["home"]

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="memory is read from /proc"
)

ROOT = Path(__file__).parents[2]
GROWTH = 16 * MIB  # bytes, however large the library is
SIZE = 96 * MIB


async def main() -> None:
    if limit := os.environ.get("FILE_LIMIT"):
        # As a disk that is full: what goes beyond fails with EFBIG.
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), resource.RLIM_INFINITY))
    async with trio.open_nursery() as nursery:
        [address] = await nursery.start(partial(serve, app, bind=["127.0.0.1:0"]))
        sys.stdout.write(address + "\n")
        sys.stdout.flush()


def fill_with_noise(home: Path) -> None:
    data = random.Random(9).randbytes(8 * MIB)
    fill(home, {f"anthias_assets/{number}": data for number in range(SIZE // len(data))})


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
async def test_the_memory_of_a_backup_is_flat(home: Path, compression: str) -> None:
    # BK-4
    path = f"{BACKUP}?compression={compression}"
    async with open_process(__file__) as server:
        await fetch(server.port, path)  # so that everything has been imported
        fill_with_noise(home)
        async with open_backup(server.port, path) as raw:
            before = server.read_memory("VmRSS")
            size = 0
            while size < MIB:
                size += len(await raw.read_chunk() or b"")
            await trio.sleep(0.5)  # a client that does not read
            while chunk := await raw.read_chunk():
                size += len(chunk)
        assert size >= SIZE
        assert server.read_memory("VmHWM") - before <= GROWTH


async def test_the_memory_of_a_restore_is_flat(home: Path) -> None:
    # BK-28
    block = random.Random(10).randbytes(MIB)
    large = block * (SIZE // MIB)
    body = form_of(make_archive({"anthias_assets/large": large}, level=0))
    async with open_process(__file__) as server:
        await upload(server.port, make_archive())
        before = server.read_memory("VmHWM")
        async with open_form(server.port, len(body)) as raw:
            with trio.fail_after(4 * IN_TIME):
                await raw.send_all(body)
                assert (await raw.read_head())[0] == 200
                assert await raw.read_body() == DONE
        assert server.read_memory("VmHWM") - before <= GROWTH
    assert sha256((home / "anthias_assets/large").read_bytes()).digest() == sha256(large).digest()


async def test_other_requests_stay_quick_during_a_restore(home: Path) -> None:
    # BK-40
    archive = make_archive({f"anthias_assets/{number}": bytes(1000) for number in range(4000)})
    lags: list[float] = []

    async def ask_for_health(port: int) -> None:
        async with open_raw(port) as raw:
            while True:
                start = trio.current_time()
                await raw.request("GET", "/health")
                assert (await read_answer(raw)).status == 200
                lags.append(trio.current_time() - start)
                await trio.sleep(0.005)

    async with open_process(__file__) as server, trio.open_nursery() as nursery:
        await upload(server.port, make_archive())
        nursery.start_soon(ask_for_health, server.port)
        answer = await upload(server.port, archive, path="/api/v2/recover/progress")
        nursery.cancel_scope.cancel()
    assert b'"done"' in answer.body
    assert len(lags) > 20
    assert sorted(lags)[len(lags) * 99 // 100] < 0.1


@pytest.mark.parametrize("path", ["/api/v2/recover", "/api/v2/recover/progress"])
async def test_a_full_disk_is_507_and_changes_nothing(
    home: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    # BK-36
    monkeypatch.setenv("FILE_LIMIT", str(MIB))
    archive = make_archive({"anthias_assets/large": random.Random(1).randbytes(2 * MIB)})
    before = hash_tree(home)
    async with open_process(__file__) as server:
        answer = await upload(server.port, archive, path=path)
        again = await upload(server.port, make_archive())
    if path.endswith("progress"):
        assert json.loads(answer.body.splitlines()[-1])["status"] == 507
    else:
        assert answer.status == 507
    assert again.body == DONE
    assert hash_tree(home).keys() == before.keys() - {"anthias_assets/nothing"}


async def test_a_full_disk_leaves_nothing_of_a_staged_backup(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FILE_LIMIT", str(MIB))
    fill_with_noise(home)
    async with open_process(__file__) as server:
        assert (await fetch(server.port, "/api/v2/backup")).status == 500
    assert list(hash_tree(home / "anthias/staticfiles")) == []


def test_as_people_start_it_with_curl(home: Path, tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "examples.backup", "--bind", "127.0.0.1:0"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().split()[-1].removesuffix(RESUMABLE)
            assert address.startswith("http://127.0.0.1:")
            # -OJ: under the name that the server gives
            curl = partial(run_tool, "curl", "--silent", "--show-error", "--max-time", "10")
            output = ["--output-dir", str(tmp_path), "-OJ"]
            assert curl(*output, "-X", "POST", f"{address}{BACKUP}?name=lobby")[0] == 0
            [archive] = tmp_path.glob("lobby-*.tar.gz")
            before = hash_tree(home)
            (home / ".anthias/anthias.db").write_bytes(b"spoilt")
            form = ["-F", f"backup_upload=@{archive}"]
            assert curl(*form, f"{address}/api/v2/recover") == (0, DONE)
            assert hash_tree(home) == before
            code, lines = curl(*form, f"{address}/api/v2/recover/progress")
            assert json.loads(lines.splitlines()[-1])["step"] == "done"
            process.send_signal(signal.SIGINT)
            _, log = process.communicate(timeout=IN_TIME)
        finally:
            process.kill()
    assert (process.returncode, code) == (0, 0)
    assert [line for line in log.splitlines() if "viewer" in line] == [
        "INFO viewer: stop",
        "INFO viewer: play",
    ] * 2
    assert "Traceback" not in log


if __name__ == "__main__":
    trio.run(main)
