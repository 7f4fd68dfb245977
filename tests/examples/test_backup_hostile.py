"""examples/backup.py: archives that are made to do harm, and disks that are full."""

from __future__ import annotations

import json
import logging
import stat
import tarfile
import zlib
from pathlib import Path
from typing import Any

import pytest
from backup_kit import (
    DONE,
    LIBRARY,
    MIB,
    TREES,
    app,
    hash_tree,
    home,
    open_form,
    pack,
    port,
    upload,
)
from forms import END, part
from probes import logged
from uploading import send_what_is_taken

from tsstream import ExtractLimits

__all__ = ["home", "port"]

Member = tuple[tarfile.TarInfo, bytes]


def member(name: str, data: bytes = b"evil", **fields: Any) -> Member:
    info = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def folder(name: str) -> Member:
    return member(name, b"", type=tarfile.DIRTYPE, mode=0o755)


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> Member:
    return member(name, b"", type=kind, linkname=target)


GOOD = [folder(".anthias"), folder("anthias_assets"), member(".anthias/good", b"good")]

# What is hostile → which of its names are there afterwards.
HOSTILE: dict[str, tuple[list[Member], list[str]]] = {
    "upwards": ([member("../evil")], []),
    "absolute": ([member("/tmp/evil-of-a-test")], []),
    "upwards within": ([member(".anthias/../../evil")], []),
    "elsewhere": ([member("other/x")], []),
    "a file beside the trees": ([member("x")], []),
    "symlink": ([link(".anthias/link", "/etc/passwd")], []),
    "hard link": ([link(".anthias/link", "/etc/passwd", tarfile.LNKTYPE)], []),
    "hard link to what is good": ([link(".anthias/link", ".anthias/good", tarfile.LNKTYPE)], []),
    "backslashes": ([member(".anthias\\..\\..\\x")], []),
    "a dot in front": ([member("./.anthias/q")], []),
    "a dot within": ([member(".anthias/./q")], []),
    "two slashes": ([member(".anthias//q")], []),
    "long": ([member(f".anthias/{'n' * 300}")], []),
    "NUL": ([member(".anthias/a", pax_headers={"path": ".anthias/a\0/../../../evil"})], []),
    "PAX path": ([member(".anthias/a", pax_headers={"path": "../evil"})], []),
    "GNU sparse name": (
        [
            member(
                ".anthias/a",
                pax_headers={
                    "GNU.sparse.major": "1",
                    "GNU.sparse.minor": "0",
                    "GNU.sparse.name": "../evil",
                    "GNU.sparse.realsize": "4",
                },
            )
        ],
        [],
    ),
    "sparse": ([member(".anthias/a", b"", type=tarfile.GNUTYPE_SPARSE)], []),
    "FIFO": ([member(".anthias/fifo", b"", type=tarfile.FIFOTYPE)], []),
    "character device": (
        [member(".anthias/null", b"", type=tarfile.CHRTYPE, devmajor=1, devminor=3)],
        [],
    ),
    "block device": ([member(".anthias/disk", b"", type=tarfile.BLKTYPE, devmajor=8)], []),
    "symlink, then a file below it": (
        [link(".anthias/out", "../.."), member(".anthias/out/evil")],
        ["out/evil"],
    ),
    "symlink, then a file in its place": (
        [link(".anthias/out", "../../evil"), member(".anthias/out")],
        ["out"],
    ),
}


def files_in(folder: Path) -> list[str]:
    return [name for name, what in hash_tree(folder).items() if what != "directory"]


@pytest.mark.parametrize("kind", HOSTILE)
async def test_a_hostile_member_is_left_out_with_a_warning(
    home: Path, port: int, tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    # BK-34
    hostile, expected = HOSTILE[kind]
    (home / "beside").write_bytes(b"mine")
    answer = await upload(port, pack(*GOOD, *hostile))
    assert (answer.status, answer.body) == (200, DONE)
    assert files_in(tmp_path) == sorted(
        ["home/beside", "home/.anthias/good", *(f"home/.anthias/{name}" for name in expected)]
    )
    assert len(logged(caplog, logging.WARNING)) == 1
    assert not (Path("/tmp") / "evil-of-a-test").exists()


async def test_a_symlink_that_is_there_already_leads_nowhere(
    home: Path, port: int, tmp_path: Path
) -> None:
    # BK-34
    outside = tmp_path / "outside"
    outside.mkdir()
    (home / ".anthias/out").symlink_to(outside)
    (home / "anthias_assets/out").symlink_to(outside)
    files = member(".anthias/out/x"), member("anthias_assets/out/x")
    assert (await upload(port, pack(*GOOD, *files))).status == 200
    assert files_in(outside) == []
    assert files_in(home) == [".anthias/good", ".anthias/out/x", "anthias_assets/out/x"]


async def test_no_file_gets_the_rights_of_its_owner(home: Path, port: int) -> None:
    # BK-34
    files = [member(".anthias/x", mode=0o7777), member(".anthias/y", mode=0o2755)]
    assert (await upload(port, pack(*GOOD, *files))).status == 200
    for name in ("x", "y"):
        mode = (home / ".anthias" / name).stat().st_mode
        assert not mode & (stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX)


async def test_of_two_members_of_one_name_the_last_is_taken(home: Path, port: int) -> None:
    # BK-34
    files = member(".anthias/x", b"first"), member(".anthias/x", b"last")
    assert (await upload(port, pack(*GOOD, *files))).status == 200
    assert (home / ".anthias/x").read_bytes() == b"last"


# BK-35
LIMIT = 100 * MIB


@pytest.fixture
async def small_port(port: int) -> int:
    app.state.restorer.limits = ExtractLimits(max_size=LIMIT, max_members=50)
    return port


def bomb(header: bytes, mebibytes: int) -> bytes:
    """Give *header* and so many MiB of zeros, gzipped a thousandfold, without making them."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, 31)
    start = compressor.compress(header) + compressor.flush(zlib.Z_FULL_FLUSH)
    compressor.compress(bytes(MIB))
    compressor.flush(zlib.Z_FULL_FLUSH)
    block = compressor.compress(bytes(MIB)) + compressor.flush(zlib.Z_FULL_FLUSH)
    return start + block * mebibytes


def header_of(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT)


async def test_ten_gigabytes_of_zeros_are_413(home: Path, small_port: int) -> None:
    before = hash_tree(home)
    archive = bomb(header_of(".anthias/zeros", 10_000 * MIB), 10_000)
    assert len(archive) < 12 * MIB
    assert (await upload(small_port, archive)).status == 413
    assert hash_tree(home) == before


async def test_many_members_that_are_large_together_are_413(home: Path, small_port: int) -> None:
    before = hash_tree(home)
    each = bomb(header_of(".anthias/zeros", 60 * MIB), 60)
    archive = b"".join([each, bomb(header_of(".anthias/more", 60 * MIB), 60)[10:]])
    assert (await upload(small_port, archive)).status == 413
    assert hash_tree(home) == before


async def test_too_many_members_are_413(home: Path, small_port: int) -> None:
    before = hash_tree(home)
    files = [member(f".anthias/{number}", b"") for number in range(60)]
    assert (await upload(small_port, pack(*GOOD, *files))).status == 413
    assert hash_tree(home) == before


async def test_what_is_left_out_counts_too(home: Path, small_port: int) -> None:
    files = [member(f"other/{number}", b"") for number in range(60)]
    assert (await upload(small_port, pack(*GOOD, *files))).status == 413


async def test_zeros_in_front_of_an_archive_are_no_archive(home: Path, small_port: int) -> None:
    # Nor may they go on for ever: of what has no member nothing counts.
    before = hash_tree(home)
    answer = await upload(small_port, bomb(b"", 2_000))
    assert answer.status in (400, 413)
    assert hash_tree(home) == before


async def test_an_upload_of_many_parts_is_refused(home: Path, port: int) -> None:
    body = part("x", b"") * 2_000 + END
    async with open_form(port, len(body)) as raw:
        await send_what_is_taken(raw, body)
        status, _ = await raw.read_head()
    assert status == 413
    assert set(LIBRARY) <= set(files_in(home))


async def test_a_name_of_the_client_s_cannot_write_lines_into_the_log(
    port: int, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await upload(
        port, pack(*GOOD, member("a\nERROR forged")), path="/api/v2/recover/progress"
    )
    assert json.loads(answer.body.splitlines()[-1])["step"] == "done"
    assert not any("\n" in line for line in logged(caplog, logging.WARNING))


def test_both_trees_are_in_every_good_archive() -> None:
    assert {info.name for info, _ in GOOD} >= set(TREES)
