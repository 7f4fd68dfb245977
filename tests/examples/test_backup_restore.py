"""examples/backup.py: restoring what is uploaded, whole or not at all."""

from __future__ import annotations

import gzip
import json
import logging
import random
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import attrs
import pytest
import trio
from asgi import Server, chunk
from backup_kit import (
    BACKUP,
    DONE,
    FORM,
    LIBRARY,
    MIB,
    RESUMABLE,
    TREES,
    Answer,
    app,
    clear,
    fetch,
    form_of,
    hash_tree,
    home,
    make_archive,
    open_form,
    open_site,
    port,
    read_answer,
    upload,
    wait_for,
)
from forms import END, pieces
from leaks import assert_no_leaks
from probes import IDLE, WAYS_TO_LEAVE, leave
from uploading import send_what_is_taken
from wire import open_guarded, open_raw

from examples.backup import State
from examples.restoring import Viewer
from tsstream import ExtractLimits

__all__ = ["home", "port"]

PROGRESS = "/api/v2/recover/progress"
INVALID = {"backup_upload": "Invalid backup archive."}
OTHERS = {".anthias/anthias.conf": b"[other]\n", "anthias_assets/c.mp4": b"moving"}


@attrs.define
class Recorder(Viewer):
    """A viewer that keeps what it is told, or never answers."""

    commands: list[str] = attrs.field(factory=list)
    hangs_at: str = ""

    async def send(self, command: str) -> None:
        await trio.lowlevel.checkpoint()  # a viewer is told over a connection
        self.commands.append(command)
        if command == self.hangs_at:
            await trio.sleep_forever()


def record(*, hangs_at: str = "") -> Recorder:
    state: State = app.state
    state.restorer.viewer = recorder = Recorder(hangs_at=hangs_at)
    return recorder


def error_of(answer: Answer) -> object:
    assert answer.status == 400
    assert answer.headers["content-type"] == "application/json"
    return json.loads(answer.body)


def is_other(home: Path) -> bool:
    """Say whether the archive of OTHERS has been restored, and nothing else is there."""
    return {k: v for k, v in hash_tree(home).items() if v != "directory"}.keys() == OTHERS.keys()


# What is uploaded


@pytest.mark.usefixtures("each_host")
async def test_an_archive_takes_the_place_of_the_library(home: Path) -> None:
    # BK-28, BK-31
    async with open_site(keep_alive_timeout=IDLE) as port, assert_no_leaks():
        status, headers, body = await upload(port, make_archive(OTHERS))
    assert (status, headers["content-type"], body) == (200, "application/json", DONE)
    assert is_other(home)
    assert (home / "anthias_assets/c.mp4").read_bytes() == b"moving"


async def test_the_boundary_may_be_cut_anywhere(home: Path) -> None:
    # BK-29
    body = form_of(make_archive(OTHERS))
    async with app.open_lifespan():
        for size in [*range(1, 70), len(body) // 2, len(body) - 1, len(body)]:
            clear(home)
            server = Server(*map(chunk, pieces(body, size)), chunk(b"", more=False))
            await server.call(
                app,
                "POST",
                "/api/v2/recover",
                headers=[(b"content-type", FORM["content-type"].encode())],
            )
            assert (server.status, server.body) == (200, DONE)
            assert is_other(home)


@pytest.mark.parametrize(
    "filename", ["../../etc/passwd.tar.gz", "/etc/passwd.tar", "C:\\x.tgz", "..\\..\\x.tar"]
)
async def test_the_name_of_the_upload_is_no_path(
    home: Path, port: int, tmp_path: Path, filename: str
) -> None:
    # BK-30
    before = hash_tree(tmp_path)
    assert (await upload(port, make_archive(), filename)).status == 200
    assert hash_tree(tmp_path).keys() - before.keys() == set()


# BK-31
@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"[]", "application/json"),
        (b"[1, 2]", "application/json"),
        (b"", None),
        (b"backup_upload=x", "application/x-www-form-urlencoded"),
        (END, FORM["content-type"]),
        (form_of(b"x", name="upload"), FORM["content-type"]),
        (form_of(b"x", None), FORM["content-type"]),
        (form_of(b"", ""), FORM["content-type"]),
        (b"nothing of a form", FORM["content-type"]),
    ],
)
@pytest.mark.parametrize("path", ["/api/v2/recover", PROGRESS])
async def test_what_is_no_upload_is_400(
    port: int, body: bytes, content_type: str | None, path: str
) -> None:
    recorder = record()
    async with open_raw(port) as raw:
        headers = {"content-type": content_type} if content_type else {}
        await raw.request("POST", path, {**headers, "content-length": str(len(body))}, body)
        answer = await read_answer(raw)
    assert error_of(answer) == {"backup_upload": "No backup file uploaded."}
    assert recorder.commands == []


@pytest.mark.parametrize("filename", ["backup.zip", "backup", "backup.gz", "backup.tar.gz.exe"])
@pytest.mark.parametrize("path", ["/api/v2/recover", PROGRESS])
async def test_what_is_not_called_an_archive_is_400(port: int, filename: str, path: str) -> None:
    # BK-31
    answer = await upload(port, make_archive(), filename, path=path)
    assert error_of(answer) == {"backup_upload": "Incorrect file extension."}


@pytest.mark.parametrize("archive", [b"", b"no archive", bytes(10_000), b"\x1f\x8b\x08" * 500])
async def test_what_is_no_archive_is_400_and_a_warning(
    home: Path, port: int, archive: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    # BK-31
    before = hash_tree(home)
    assert error_of(await upload(port, archive)) == INVALID
    assert hash_tree(home) == before
    records = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [record.levelno for record in records] == [logging.WARNING]


async def test_a_truncated_archive_is_400_wherever_it_ends(home: Path, port: int) -> None:
    # BK-32
    archive = make_archive({**LIBRARY, **OTHERS})
    before = hash_tree(home)
    for cut in range(20):
        size = len(archive) * cut // 20 + cut % 3
        assert error_of(await upload(port, archive[:size])) == INVALID
        assert hash_tree(home) == before
    assert error_of(await upload(port, archive[:-1])) == INVALID
    assert error_of(await upload(port, archive[:-8] + bytes(8))) == INVALID


async def test_a_tar_that_ends_between_two_members_is_400(home: Path, port: int) -> None:
    # BK-32: tarfile takes it for whole
    tar = gzip.decompress(make_archive(OTHERS))
    before = hash_tree(home)
    end = tar.rstrip(b"\0")
    blocks = -(-len(end) // 512) * 512
    assert error_of(await upload(port, gzip.compress(tar[:blocks]))) == INVALID
    assert error_of(await upload(port, tar[:blocks], "x.tar")) == INVALID
    assert hash_tree(home) == before


# BK-33
@pytest.mark.parametrize(
    ("folders", "good"),
    [
        ((".anthias", "anthias_assets"), True),
        (("anthias_assets", ".anthias"), True),
        ((".screenly", "screenly_assets"), True),
        ((".anthias",), False),
        (("anthias_assets",), False),
        ((".screenly",), False),
        (("screenly_assets",), False),
        ((".screenly", "anthias_assets"), False),
        ((), False),
    ],
)
async def test_both_trees_are_required(
    home: Path, port: int, folders: tuple[str, ...], good: bool
) -> None:
    before = hash_tree(home)
    answer = await upload(
        port, make_archive({f"{name}/file": b"x" for name in folders}, folders=folders)
    )
    if good:
        assert (answer.status, answer.body) == (200, DONE)
        assert all((home / name / "file").read_bytes() == b"x" for name in folders)
    else:
        assert error_of(answer) == INVALID
        assert hash_tree(home) == before


# How it ends


async def test_a_failure_after_half_of_it_changes_nothing(home: Path, port: int) -> None:
    # BK-37
    files = {f"anthias_assets/{number}": bytes([number]) * 50_000 for number in range(40)}
    archive = bytearray(make_archive({**OTHERS, **files}))
    archive[len(archive) // 2] ^= 0xFF
    before = hash_tree(home)
    assert error_of(await upload(port, bytes(archive))) == INVALID
    assert hash_tree(home) == before


async def fail_with_space(home: Path, port: int) -> None:
    app.state.restorer.limits = ExtractLimits(max_size=10_000)
    assert (await upload(port, make_archive())).status == 413


async def fail_with_rubbish(home: Path, port: int) -> None:
    assert (await upload(port, b"rubbish")).status == 400


async def succeed(home: Path, port: int) -> None:
    assert (await upload(port, make_archive())).status == 200


async def disconnect(home: Path, port: int) -> None:
    recorder = record()
    body = form_of(make_archive({**LIBRARY, "anthias_assets/z": random.Random(1).randbytes(MIB)}))
    async with open_form(port, len(body)) as raw:
        await send_what_is_taken(raw, body[: len(body) // 2])
        await wait_for(lambda: recorder.commands != [])
    await wait_for(lambda: recorder.commands == ["stop", "play"])


async def miss_the_end(home: Path, port: int) -> None:
    body = form_of(make_archive())
    async with open_form(port, len(body)) as raw:
        await raw.send_all(body[:-30])
        await raw.half_close()
        await raw.read_until_closed()


@pytest.mark.parametrize(
    "ending", [succeed, fail_with_rubbish, fail_with_space, disconnect, miss_the_end]
)
async def test_nothing_of_an_upload_is_left_behind(
    home: Path, ending: Callable[..., object]
) -> None:
    # BK-38
    async with open_guarded(app, keep_alive_timeout=IDLE) as port, assert_no_leaks():
        await ending(home, port)  # type: ignore[misc]
    assert names_in(home) == set(TREES)


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("path", ["/api/v2/recover", PROGRESS])
@pytest.mark.parametrize("archive", [make_archive(OTHERS), b"no archive"])
async def test_the_viewer_is_stopped_and_plays_again(port: int, path: str, archive: bytes) -> None:
    # BK-39
    recorder = record()
    await upload(port, archive, path=path)
    assert recorder.commands == ["stop", "play"]


@pytest.mark.usefixtures("each_host")
@pytest.mark.parametrize("path", ["/api/v2/recover", PROGRESS])
@pytest.mark.parametrize("way", WAYS_TO_LEAVE)
async def test_the_viewer_plays_again_when_the_client_has_left(
    home: Path, path: str, way: str
) -> None:
    # BK-39, BK-38
    before = hash_tree(home)
    async with open_site(keep_alive_timeout=IDLE) as port, assert_no_leaks():
        recorder = record()
        body = form_of(make_archive(OTHERS))
        async with open_form(port, len(body), path) as raw:
            await raw.send_all(body[:-100])
            await wait_for(lambda: recorder.commands == ["stop"])
            await leave(raw, way)
            await wait_for(lambda: recorder.commands == ["stop", "play"])
    assert hash_tree(home) == before


async def test_a_viewer_that_hangs_holds_up_nobody_for_long(
    home: Path, autojump_clock: trio.testing.MockClock
) -> None:
    # BK-39: a second at most
    async with app.open_lifespan():
        recorder = record(hangs_at="play")
        body = form_of(make_archive(OTHERS))
        server = Server(chunk(body, more=False))
        start = trio.current_time()
        await server.call(
            app,
            "POST",
            "/api/v2/recover",
            headers=[(b"content-type", FORM["content-type"].encode())],
        )
    assert (server.status, recorder.commands) == (200, ["stop", "play"])
    assert trio.current_time() - start == pytest.approx(1.0)


async def test_a_short_upload_is_not_taken_for_a_whole_one(home: Path) -> None:
    # BK-41
    before = hash_tree(home)
    body = form_of(make_archive({**OTHERS, "anthias_assets/z": random.Random(2).randbytes(MIB)}))
    async with open_guarded(app, keep_alive_timeout=IDLE) as port, assert_no_leaks():
        recorder = record()
        async with open_form(port, len(body)) as raw:
            await raw.send_all(body[:400_000])
            await raw.half_close()
            assert DONE not in await raw.read_until_closed()
        await wait_for(lambda: recorder.commands == ["stop", "play"])
    assert hash_tree(home) == before


async def test_restores_take_turns(home: Path, port: int) -> None:
    recorder = record()
    async with open_form(port, 10_000) as raw:
        await raw.send_all(form_of(make_archive(OTHERS))[:300])
        await wait_for(lambda: recorder.commands == ["stop"])
        async with trio.open_nursery() as nursery:

            async def restore() -> None:
                assert (await upload(port, make_archive(OTHERS))).status == 200

            nursery.start_soon(restore)
            await trio.sleep(0.1)
            assert recorder.commands == ["stop"]
            raw.abort()
    assert recorder.commands == ["stop", "play"] * 2
    assert is_other(home)


# Progress


@pytest.mark.usefixtures("each_host")
async def test_progress_is_told_step_by_step(home: Path) -> None:
    # BK-40
    files = {f"anthias_assets/{number}": bytes(1000) for number in range(2000)}
    body = form_of(make_archive(files))
    times = []

    async with open_site() as port, open_form(port, len(body), PROGRESS) as raw:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_what_is_taken, raw, body)
            status, headers = await raw.read_head()
            assert (status, headers["content-type"]) == (200, "application/x-ndjson")
            data = b""
            while piece := await raw.read_chunk():
                times.append(trio.current_time())
                data += piece
            nursery.cancel_scope.cancel()
    steps = [json.loads(line) for line in data.splitlines()]
    assert len(times) >= 10
    assert max(after - before for before, after in pairwise(times)) < 1.0
    assert steps[0] == {"step": "start", "name": "backup.tar.gz"}
    assert steps[-1] == {"step": "done", "message": "Recovery successful."}
    members = [step["members"] for step in steps[1:-1]]
    assert {step["step"] for step in steps[1:-1]} == {"extract"}
    assert members == sorted(members)
    assert len(members) >= 2000 // 50
    assert hash_tree(home).keys() >= files.keys()


@pytest.mark.parametrize(
    ("limits", "status", "message"),
    [
        (ExtractLimits(), 400, "Invalid backup archive."),
        (ExtractLimits(max_members=2), 413, None),
    ],
)
async def test_the_last_line_says_what_went_wrong(
    home: Path, port: int, limits: ExtractLimits, status: int, message: str | None
) -> None:
    # BK-40
    app.state.restorer.limits = limits
    before = hash_tree(home)
    answer = await upload(port, make_archive(OTHERS)[:-20], path=PROGRESS)
    assert answer.status == 200
    last = json.loads(answer.body.splitlines()[-1])
    assert (last["step"], last["status"]) == ("error", status)
    assert last["message"] == message or message is None
    assert hash_tree(home) == before


# Round trips


@pytest.mark.parametrize(
    ("method", "path", "filename"),
    [
        ("POST", BACKUP, "backup.tar.gz"),
        ("POST", f"{BACKUP}?compression=zstd", "backup.tar.zst"),
        ("POST", f"{BACKUP}?compression=none", "backup.tar"),
        ("GET", RESUMABLE, "backup.tar"),
    ],
)
async def test_there_and_back_again(
    home: Path, port: int, method: str, path: str, filename: str
) -> None:
    # BK-42
    before = hash_tree(home)
    archive = (await fetch(port, path, method)).body
    clear(home)
    assert (await upload(port, archive, filename)).body == DONE
    assert hash_tree(home) == before
