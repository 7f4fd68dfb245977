"""What is in a zip archive, and that other programs read it; where its writer stops."""

from __future__ import annotations

import io
import logging
import os
import stat
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
from tools import run_tool

from tsstream._files.tree import to_roots
from tsstream._files.zip import ZipOptions, find_members, to_date, write_zip
from tsstream._sansio.ziplayout import measure_zip

KIB = 1024
TEXT = b"Nobody expects the same line again. " * 10_000
NOISE = os.urandom(200 * KIB)
FILES = {"empty": b"", "text": TEXT, "noise": NOISE, "sub/café ☃.txt": b"hot", "sub/run": b"#!"}


class Pipe(io.RawIOBase):
    """A file that cannot seek."""

    def __init__(self) -> None:
        self.data = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        self.data += data
        return len(data)


def zip_of(path: Path, **options: Any) -> bytes:
    pipe, how = Pipe(), ZipOptions(**options)
    write_zip(pipe, find_members(to_roots(path), how), how)  # type: ignore[arg-type]
    return bytes(pipe.data)


def open_zip(data: bytes) -> zipfile.ZipFile:
    return zipfile.ZipFile(io.BytesIO(data))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "sub" / "nothing here").mkdir(parents=True)
    for name, data in FILES.items():
        (root / name).write_bytes(data)
    (root / "sub" / "run").chmod(0o754)
    os.utime(root / "text", (0, time.mktime((2016, 7, 19, 12, 42, 12, 0, 0, -1))))
    return root


@pytest.fixture(params=[None, 1, 9], ids=["stored", "level 1", "level 9"])
def level(request: pytest.FixtureRequest) -> int | None:
    given: int | None = request.param
    return given


def test_a_zip_has_every_file_and_directory(tree: Path, level: int | None) -> None:  # BK-10, BK-12
    with open_zip(zip_of(tree, level=level)) as archive:
        assert archive.namelist() == [
            "tree/",
            "tree/empty",
            "tree/noise",
            "tree/sub/",
            "tree/sub/café ☃.txt",
            "tree/sub/nothing here/",
            "tree/sub/run",
            "tree/text",
        ]
        assert {name: archive.read(f"tree/{name}") for name in FILES} == FILES


def test_a_zip_has_times_and_permissions(tree: Path) -> None:
    with open_zip(zip_of(tree)) as archive:
        assert archive.getinfo("tree/text").date_time == (2016, 7, 19, 12, 42, 12)
        assert archive.getinfo("tree/sub/run").external_attr >> 16 == stat.S_IFREG | 0o754
        assert archive.getinfo("tree/sub/").external_attr & 0x10


@pytest.mark.parametrize(
    ("seconds", "year"),
    [(-(2.0**60), 1980), (0, 1980), (4 * 10**9, 2096), (10**10, 2107), (2.0**60, 2107)],
)
def test_a_date_that_zip_cannot_express_is_the_nearest(seconds: float, year: int) -> None:
    assert to_date(seconds)[0] == year


def test_a_file_may_be_older_than_zip(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    os.utime(path, (0, 0))
    with open_zip(zip_of(path)) as archive:
        assert archive.getinfo("file").date_time == (1980, 1, 1, 0, 0, 0)


def test_other_programs_unpack_a_zip(tree: Path, tmp_path: Path, level: int | None) -> None:
    path = tmp_path / "x.zip"
    path.write_bytes(zip_of(tree, level=level))
    assert run_tool("unzip", "-tq", path)[0] == 0
    for name in ("from a file", "from a pipe"):
        (tmp_path / name).mkdir()
    assert run_tool("bsdtar", "-xf", path, "-C", tmp_path / "from a file")[0] == 0
    pipe = ("-xf", "-", "-C", tmp_path / "from a pipe")
    assert run_tool("bsdtar", *pipe, data=path.read_bytes())[0] == 0
    for name in ("from a file", "from a pipe"):
        unpacked = tmp_path / name / "tree"
        assert {name: (unpacked / name).read_bytes() for name in FILES} == FILES
        assert (unpacked / "sub" / "nothing here").is_dir()


def test_other_programs_unpack_a_zip_with_zip64(
    tree: Path, tmp_path: Path, level: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 100 * KIB)
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 3)
    path = tmp_path / "x.zip"
    path.write_bytes(zip_of(tree, level=level))
    assert b"PK\x06\x06" in path.read_bytes()  # the Zip64 end of the central directory
    assert run_tool("unzip", "-tq", path)[0] == 0
    out = tmp_path / "out"
    out.mkdir()
    assert run_tool("bsdtar", "-xf", path, "-C", out)[0] == 0
    assert {name: (out / "tree" / name).read_bytes() for name in FILES} == FILES


def test_what_does_not_get_smaller_is_not_compressed(tree: Path) -> None:
    mixed = NOISE + TEXT  # by the look of its beginning no byte could be saved
    (tree / "mixed").write_bytes(mixed)
    with open_zip(zip_of(tree, level=9)) as archive:
        assert archive.read("tree/mixed") == mixed
        known = {name: archive.getinfo(f"tree/{name}") for name in ("mixed", "text")}
    assert {info.compress_type for info in known.values()} == {zipfile.ZIP_DEFLATED}
    assert len(mixed) < known["mixed"].compress_size < len(mixed) * 1.001  # blocks of stored bytes
    assert known["text"].compress_size < len(TEXT) / 50


def test_a_deterministic_zip_depends_on_names_and_contents_alone(tmp_path: Path) -> None:
    archives = []
    for name, seconds, mode in (("one", 10**9, 0o600), ("two", 1.5 * 10**9, 0o664)):
        root = tmp_path / name / "tree"
        (root / "sub").mkdir(parents=True)
        for path in sorted([root / "b", root / "a", root / "sub" / "c"], reverse=name == "two"):
            path.write_bytes(TEXT)
            path.chmod(mode)
            os.utime(path, (seconds, seconds))
        (root / "a").chmod(mode | 0o100)
        archives.append(zip_of(root, deterministic=True))
    assert archives[0] == archives[1]
    with open_zip(archives[0]) as archive:
        modes = {info.filename: info.external_attr >> 16 for info in archive.infolist()}
    assert modes == {
        "tree/": stat.S_IFDIR | 0o755,
        "tree/a": stat.S_IFREG | 0o755,
        "tree/b": stat.S_IFREG | 0o644,
        "tree/sub/": stat.S_IFDIR | 0o755,
        "tree/sub/c": stat.S_IFREG | 0o644,
    }


def test_odd_members_are_left_out_with_a_warning_each(
    tree: Path, caplog: pytest.LogCaptureFixture
) -> None:  # BK-19
    os.mkfifo(tree / "fifo")
    (tree / "link").symlink_to("text")
    (tree / "back\\slash").touch()
    Path(os.fsdecode(os.fsencode(tree) + b"/Z\xfcrich")).touch()
    with open_zip(zip_of(tree)) as archive:
        names = archive.namelist()
    assert len(names) == 8
    assert not {"tree/fifo", "tree/link", "tree/back\\slash"} & set(names)
    warnings = [record.getMessage() for record in caplog.records]
    for name in ("tree/fifo", "tree/link", "tree/back\\\\slash", "tree/Z\\udcfcrich"):
        assert len([warning for warning in warnings if f"'{name}'" in warning]) == 1
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
    assert len(warnings) == 4


def test_a_file_that_has_grown_is_archived_as_it_was(tree: Path) -> None:  # BK-17
    pipe, how = Pipe(), ZipOptions()
    members = list(find_members(to_roots(tree), how))
    with (tree / "text").open("ab") as file:
        file.write(b"more")
    write_zip(pipe, members, how)  # type: ignore[arg-type]
    assert len(pipe.data) == measure_zip((info.filename, info.file_size) for _, info in members)
    with open_zip(bytes(pipe.data)) as archive:
        assert archive.read("tree/text") == TEXT


@pytest.mark.parametrize("fate", ["shrunk", "gone", "a directory", "a link", "a FIFO"])
def test_a_file_that_is_not_what_it_was_ends_the_archive_visibly(
    tree: Path, fate: str, level: int | None
) -> None:  # BK-18, BK-21
    pipe, how = Pipe(), ZipOptions(level=level)
    members = list(find_members(to_roots(tree), how))
    path = tree / "text"
    if fate == "shrunk":
        os.truncate(path, 100 * KIB)
    else:
        path.unlink()
    if fate == "a directory":
        path.mkdir()
    elif fate == "a link":
        path.symlink_to("noise")
    elif fate == "a FIFO":
        os.mkfifo(path)
    with pytest.raises(OSError, match="/text"):
        write_zip(pipe, members, how)  # type: ignore[arg-type]
    assert b"PK\x01\x02" not in pipe.data  # the central directory
    assert b"PK\x05\x06" not in pipe.data
    assert not zipfile.is_zipfile(io.BytesIO(pipe.data))


def test_a_file_that_cannot_be_opened_is_named(tree: Path) -> None:  # BK-22
    def refuse(path: str, flags: int) -> int:
        if path.endswith("/run"):
            raise PermissionError(13, "Permission denied")
        return os.open(path, flags)

    with pytest.raises(PermissionError, match="sub/run"):
        zip_of(tree, opener=refuse)
