"""examples/backup.py: a download that goes on where it was cut, and backups that are kept."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from pathlib import Path
from urllib.parse import quote

import pytest
import trio
from backup_kit import (
    DONE,
    MIB,
    RESUMABLE,
    Gate,
    Hook,
    app,
    clear,
    fail_with,
    fetch,
    fill,
    hash_tree,
    home,
    open_site,
    port,
    upload,
    wait_for,
)
from leaks import assert_no_leaks
from probes import IDLE
from tools import run_tool
from wire import HOST, open_guarded, open_raw

__all__ = ["home", "port"]

STAGE = "/api/v2/backup"


# The download that resumes


@pytest.mark.usefixtures("each_host")
async def test_the_length_is_known_before_the_first_byte(home: Path) -> None:
    async with open_site(keep_alive_timeout=IDLE) as port, assert_no_leaks():
        status, headers, body = await fetch(port, RESUMABLE, "GET")
        head = await fetch(port, RESUMABLE, "HEAD")
    assert status == 200
    assert headers["content-type"] == "application/x-tar"
    assert headers["content-disposition"].endswith('.tar"')
    assert headers["accept-ranges"] == "bytes"
    assert int(headers["content-length"]) == len(body)
    assert re.fullmatch(r'"[^"]+"', headers["etag"])
    assert (head.status, head.body) == (200, b"")
    for name in ("content-length", "etag", "accept-ranges"):
        assert head.headers[name] == headers[name]


@pytest.mark.usefixtures("each_host")
async def test_a_part_is_that_of_the_whole(home: Path) -> None:
    async with open_site() as port:
        _, headers, whole = await fetch(port, RESUMABLE, "GET")
        for start, stop in ((0, 1), (511, 513), (50_000, 60_000), (len(whole) - 1, len(whole))):
            wanted = {"range": f"bytes={start}-{stop - 1}", "if-range": headers["etag"]}
            answer = await fetch(port, RESUMABLE, "GET", wanted)
            assert answer.status == 206
            assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/{len(whole)}"
            assert answer.body == whole[start:stop]


async def test_who_has_it_already_is_told_so(port: int) -> None:
    etag = (await fetch(port, RESUMABLE, "HEAD")).headers["etag"]
    assert (await fetch(port, RESUMABLE, "GET", {"if-none-match": etag})).status == 304


async def test_only_the_files_of_a_part_are_opened(home: Path) -> None:
    fill(home, {f"anthias_assets/video-{n}": bytes([n]) * 200_000 for n in range(10)})
    hook = Hook()
    async with open_site(hook) as port:
        _, _, whole = await fetch(port, RESUMABLE, "GET")
        start = whole.index(bytes([7]) * 1000)
        del hook.opened[:]
        headers = {"range": f"bytes={start}-{start + 999}"}
        assert (await fetch(port, RESUMABLE, "GET", headers)).body == bytes([7]) * 1000
    assert hook.opened == [str(home / "anthias_assets/video-7")]


async def test_a_library_that_has_changed_is_sent_anew(home: Path, port: int) -> None:
    etag = (await fetch(port, RESUMABLE, "HEAD")).headers["etag"]
    (home / ".anthias/anthias.conf").write_bytes(b"[changed]\n")
    answer = await fetch(port, RESUMABLE, "GET", {"range": "bytes=1000-", "if-range": etag})
    assert answer.status == 200
    assert len(answer.body) == int(answer.headers["content-length"])
    assert b"[changed]" in answer.body


async def test_a_download_goes_on_after_each_cut_and_curl_ends_it(
    home: Path, tmp_path: Path
) -> None:
    fill(home, {"anthias_assets/video": random.Random(5).randbytes(6 * MIB)})
    path = tmp_path / "backup.tar"
    async with open_guarded(app) as port:
        _, headers, whole = await fetch(port, RESUMABLE, "GET")
        for size in range(1 * MIB, 6 * MIB, MIB):
            # What a download that was cut has left
            async with open_raw(port) as raw:
                kept = path.stat().st_size if path.exists() else 0  # noqa: ASYNC240
                await raw.request(
                    "GET", RESUMABLE, {"range": f"bytes={kept}-", "if-range": headers["etag"]}
                )
                await raw.read_head()
                with path.open("ab") as file:  # noqa: ASYNC230
                    while file.tell() < size:
                        file.write(await raw.read_chunk() or b"")
        url = f"http://{HOST}:{port}{RESUMABLE}"
        command = ["--silent", "--max-time", "5", "-C", "-", "-o", os.fspath(path), url]
        code, _ = await trio.to_thread.run_sync(lambda: run_tool("curl", *command))
    assert code == 0
    assert path.read_bytes() == whole  # noqa: ASYNC240


# Backups that are kept


async def test_a_backup_is_kept_downloaded_and_restored(home: Path, port: int) -> None:
    before = hash_tree(home)
    status, headers, body = await fetch(port, f"{STAGE}?name=lobby")
    assert (status, headers["content-type"]) == (201, "application/json")
    name = json.loads(body)
    assert re.fullmatch(r"lobby-\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d\.tar\.gz", name)
    assert list(hash_tree(home / "anthias/staticfiles")) == [name]

    path = f"/static_with_mime/{name}?mime=application/x-tgz"
    answer = await fetch(port, path, "GET")
    assert answer.headers["content-type"] == "application/x-tgz"
    assert answer.headers["content-disposition"] == f'attachment; filename="{name}"'
    assert answer.body == (home / "anthias/staticfiles" / name).read_bytes()
    wanted = {"range": "bytes=100-", "if-range": answer.headers["etag"]}
    assert (await fetch(port, path, "GET", wanted)).body == answer.body[100:]

    clear(home)
    assert (await upload(port, answer.body, name)).body == DONE
    assert hash_tree(home) == before


@pytest.mark.parametrize("name", ["../../evil", "/etc/evil", "a\0b", "é" * 300, ".", "a/b", "x\n"])
async def test_no_player_name_is_a_path(home: Path, port: int, tmp_path: Path, name: str) -> None:
    before = hash_tree(tmp_path).keys()
    status, _, body = await fetch(port, f"{STAGE}?name={quote(name)}")
    assert status == 201
    new = {Path(path) for path in hash_tree(tmp_path).keys() - before}
    folder = Path("home/anthias/staticfiles")
    assert new == {folder.parent, folder, folder / json.loads(body)}


async def test_a_backup_that_fails_is_not_kept(home: Path) -> None:
    async with open_site(Hook("a.mp4", act=fail_with(5))) as port:
        assert (await fetch(port, STAGE)).status == 500
    assert list(hash_tree(home / "anthias/staticfiles")) == []


async def test_a_backup_whose_client_leaves_is_not_kept(home: Path) -> None:
    gate = Gate()
    folder = home / "anthias/staticfiles"
    hook = Hook("a.mp4", act=gate.wait)
    async with open_site(hook, keep_alive_timeout=IDLE) as port, assert_no_leaks():
        async with open_raw(port) as raw:
            await raw.request("POST", STAGE)
            await gate.reached.wait()
            await wait_for(lambda: list(hash_tree(folder)) != [])
        await wait_for(lambda: list(hash_tree(folder)) == [])
        gate.release()
    assert list(hash_tree(folder)) == []


@pytest.mark.parametrize(
    "name",
    ["nothing", "..", "%2e%2e", "..%2f..%2f.anthias%2fanthias.conf", "%2fetc%2fpasswd", "link"],
)
async def test_nothing_else_is_served(home: Path, port: int, name: str) -> None:
    folder = home / "anthias/staticfiles"
    folder.mkdir(parents=True)
    (folder / "link").symlink_to(home / ".anthias/anthias.conf")
    assert (await fetch(port, f"/static_with_mime/{name}", "GET")).status == 404
    shutil.rmtree(folder)
    assert (await fetch(port, f"/static_with_mime/{name}", "GET")).status == 404


@pytest.mark.parametrize("mime", ["", "x", "a/b%0d%0aX:%20y", "text/html;charset=x", "é/é"])
async def test_a_mime_that_is_none_is_400(port: int, mime: str) -> None:
    status, headers, _ = await fetch(port, f"/static_with_mime/x?mime={mime}", "GET")
    assert status == 400
    assert "x" not in headers
