"""examples/backup.py: what is in an archive, what it is called, and who may have it."""

from __future__ import annotations

import base64
import io
import logging
import os
import random
import socket
import tarfile
import zlib
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from urllib.parse import quote, unquote

import pytest
from backup_kit import (
    BACKUP,
    LIBRARY,
    RESUMABLE,
    Hook,
    app,
    fetch,
    fill,
    hash_tree,
    home,
    open_site,
    port,
)
from probes import logged
from tools import run_tool
from wire import open_guarded, open_raw

from examples.backup import backup_archive_name

__all__ = ["home", "port"]

DIRECTORIES = [".anthias", "anthias_assets", "anthias_assets/nothing", "anthias_assets/sub"]


def members_of(archive: bytes) -> list[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return tar.getmembers()


async def test_the_trees_come_in_order_with_relative_names(port: int) -> None:
    # BK-10
    names = [info.name for info in members_of((await fetch(port)).body)]
    assert sorted(names) == sorted([*LIBRARY, *DIRECTORIES])
    half = names.index("anthias_assets")
    assert names[0] == ".anthias"
    assert {name.split("/")[0] for name in names[:half]} == {".anthias"}
    assert {name.split("/")[0] for name in names[half:]} == {"anthias_assets"}


async def test_it_is_gzip_for_everybody(port: int) -> None:
    # BK-11, BK-13: on each Python that the tests run on
    data = (await fetch(port)).body
    assert run_tool("gzip", "-t", data=data)[0] == 0
    names = {*LIBRARY, *DIRECTORIES}
    for command in (("tar", "tzf", "-"), ("bsdtar", "tf", "-")):
        code, output = run_tool(*command, data=data)
        assert code == 0
        assert output.count(b"\n") == len(names)
    for mode in ("r:gz", "r|gz"):
        with tarfile.open(fileobj=io.BytesIO(data), mode=mode) as archive:
            assert set(archive.getnames()) == names


async def test_it_is_as_small_as_at_level_1(home: Path, port: int) -> None:
    # BK-11
    words = [random.Random(n).randbytes(3).hex() for n in range(500)]
    text = " ".join(random.Random(7).choices(words, k=300_000)).encode()
    fill(home, {"anthias_assets/text": text})
    data = (await fetch(port)).body
    tar = zlib.decompress(data, 31)
    compressor = zlib.compressobj(1, zlib.DEFLATED, 31)
    expected = len(compressor.compress(tar) + compressor.flush())
    assert len(data) <= expected * 1.03


@pytest.mark.parametrize(
    ("request_line", "command"),
    [
        (("POST", BACKUP), ("tar", "xzf")),
        (("POST", f"{BACKUP}?compression=gzip"), ("bsdtar", "xf")),
        (("POST", f"{BACKUP}?compression=none"), ("tar", "xf")),
        (("GET", RESUMABLE), ("bsdtar", "xf")),
    ],
)
async def test_unpacked_it_is_the_library(
    home: Path, port: int, tmp_path: Path, request_line: tuple[str, str], command: tuple[str, ...]
) -> None:
    # BK-12
    method, path = request_line
    data = (await fetch(port, path, method)).body
    (tmp_path / "there").mkdir()
    assert run_tool(*command, "-", "-C", tmp_path / "there", data=data)[0] == 0
    assert hash_tree(tmp_path / "there") == hash_tree(home)


async def test_zstd_is_zstd(home: Path, port: int) -> None:
    status, headers, data = await fetch(port, f"{BACKUP}?compression=zstd")
    assert (status, headers["content-type"]) == (200, "application/zstd")
    assert headers["content-disposition"].endswith('.tar.zst"')
    code, tar = run_tool("zstd", "-dc", data=data)
    assert code == 0
    assert {info.name for info in members_of(tar)} == {*LIBRARY, *DIRECTORIES}


async def test_another_compression_is_400(port: int) -> None:
    status, _, body = await fetch(port, f"{BACKUP}?compression=rar")
    assert (status, body) == (400, b"compression is one of gzip, zstd, none\n")


# BK-14
@pytest.mark.parametrize("zone", [UTC, timezone(timedelta(hours=5, minutes=30))])
@pytest.mark.parametrize(("name", "start"), [("", "anthias-backup"), ("lobby", "lobby")])
def test_an_archive_is_named_after_the_player_and_the_time_in_utc(
    name: str, start: str, zone: timezone
) -> None:
    now = datetime(2016, 7, 19, 12, 42, 12, 999, tzinfo=UTC).astimezone(zone)
    assert backup_archive_name(name, now=now) == f"{start}-2016-07-19T12-42-12.tar.gz"


@pytest.mark.parametrize("name", ["lobby", "the lobby", 'a";\r\nX: y/é', "läsrum", "a\\b"])
@pytest.mark.parametrize("target", [("POST", BACKUP), ("GET", RESUMABLE)])
async def test_no_player_name_breaks_the_header(
    port: int, name: str, target: tuple[str, str]
) -> None:
    # BK-15
    method, path = target
    async with open_raw(port) as raw:
        await raw.request(method, f"{path}?name={quote(name)}")
        status, headers = await raw.read_head()
        lines = [line for line in raw.head.split(b"\r\n") if b"isposition" in line]
        await raw.read_body()
    assert status == 200
    assert "x" not in headers
    [line] = lines
    assert line.isascii()
    value = headers["content-disposition"]
    if name in ("lobby", "the lobby"):
        assert value.startswith(f'attachment; filename="{name}-')
    else:
        assert value.startswith("attachment; filename*=utf-8''")
        assert unquote(value.partition("''")[2]).startswith(f"{name}-2")


async def test_the_headers_of_a_backup(port: int) -> None:
    # BK-16
    status, headers, _ = await fetch(port)
    assert status == 200
    assert headers["content-type"] == "application/x-tgz"
    assert headers["transfer-encoding"] == "chunked"
    assert headers["content-disposition"].startswith('attachment; filename="anthias-backup-20')
    assert headers["content-disposition"].endswith('.tar.gz"')
    assert "content-length" not in headers


async def test_a_backup_is_not_to_be_had_with_get(port: int) -> None:
    # BK-16
    status, headers, _ = await fetch(port, method="GET")
    assert (status, headers["allow"]) == (405, "POST")


PROTECTED = [
    ("POST", BACKUP),
    ("GET", RESUMABLE),
    ("POST", "/api/v2/backup"),
    ("POST", "/api/v2/recover"),
    ("POST", "/api/v2/recover/progress"),
    ("GET", "/static_with_mime/x"),
]


@pytest.mark.parametrize(("method", "path"), PROTECTED)
@pytest.mark.parametrize("given", ["", "Basic", "Basic b3BlbjpzYW1lc2E=", "Bearer {}", "Basic é"])
async def test_nobody_else_gets_anything(
    home: Path, monkeypatch: pytest.MonkeyPatch, method: str, path: str, given: str
) -> None:
    # BK-16: before any work starts
    monkeypatch.setenv("BACKUP_AUTH", "open:sesame")
    right = base64.b64encode(b"open:sesame").decode()
    before = hash_tree(home)
    hook = Hook()
    async with open_site(hook) as port:
        headers = {"authorization": given.format(right)} if given else {}
        status, headers, _ = await fetch(port, path, method, headers)
    assert (status, headers["www-authenticate"]) == (401, 'Basic realm="Anthias"')
    assert hook.opened == []
    assert hash_tree(home) == before


async def test_who_knows_the_password_gets_a_backup(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # BK-16
    monkeypatch.setenv("BACKUP_AUTH", "open:sesame")
    credentials = base64.b64encode(b"open:sesame").decode()
    answer = await fetch(port, headers={"authorization": f"basic {credentials}"})
    assert answer.status == 200
    assert (await fetch(port, "/health", "GET")).body == b'{"status":"ok"}'


@pytest.mark.parametrize("compression", ["gzip", "none"])
async def test_a_file_that_grows_has_the_size_that_it_had(home: Path, compression: str) -> None:
    # BK-17
    def grow(path: str) -> None:
        with open(path, "ab") as file:
            file.write(b"more" * 100_000)

    hook = Hook("a.mp4", then=grow)
    async with open_site(hook) as port:
        data = (await fetch(port, f"{BACKUP}?compression={compression}")).body
    [info] = [info for info in members_of(data) if info.name.endswith("a.mp4")]
    assert info.size == 100_000
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        member = archive.extractfile(info.name)
        assert member is not None
        assert member.read() == LIBRARY["anthias_assets/a.mp4"]


async def test_what_could_not_be_restored_is_left_out_with_a_warning(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # BK-19
    (home / "anthias_assets/link").symlink_to("a.mp4")
    (home / "anthias_assets/links").symlink_to("/etc")
    os.mkfifo(home / "anthias_assets/fifo")  # whoever opens it waits for ever
    here = Path.cwd()
    with socket.socket(socket.AF_UNIX) as sock:
        os.chdir(home)  # since the path of a socket may not be long
        try:
            sock.bind("anthias_assets/socket")
        finally:
            os.chdir(here)
        async with open_guarded(app) as port:
            members = members_of((await fetch(port)).body)
    assert {info.name for info in members} == {*LIBRARY, *DIRECTORIES}
    assert all(info.isfile() or info.isdir() for info in members)
    warnings = logged(caplog, logging.WARNING)
    assert len(warnings) == 4
    for name in ("link", "links", "fifo", "socket"):
        assert sum(f"'anthias_assets/{name}'" in line for line in warnings) == 1
