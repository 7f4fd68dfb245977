"""Archives of other programs, unpacked as GNU tar does."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path

import pytest
from tar_kit import nothing, read_tree
from tools import run_tool

from tsstream._files.extract import Extracted, ExtractLimits, extract_tar

MIB = 1024 * 1024
GNU, BSD = ["gnu", "oldgnu", "posix", "ustar", "v7"], ["pax", "gnutar", "ustar", "v7"]
PROGRAMS = [*(("tar", kind) for kind in GNU), *(("bsdtar", kind) for kind in BSD)]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    (source / "inner").mkdir(parents=True, mode=0o750)
    (source / "inner" / "a").write_bytes(b"alpha" * 200)
    (source / "b").write_bytes(b"")
    os.utime(source / "b", (1_000_000_000, 999_999_999))
    os.utime(source / "inner", (1_000_000_000, 1_234_567_890))
    return source


def unpack_into(target: Path, archive: bytes) -> Extracted:
    target.mkdir()
    limits = ExtractLimits(max_size=2**40, max_member=2**40)
    return extract_tar(io.BytesIO(archive), target, limits=limits, sync=nothing)


def pack(program: str, source: Path, *options: str | Path) -> bytes:
    code, archive = run_tool(program, "-C", source, *options)
    assert code == 0
    return archive


def times(root: Path) -> list[int]:
    return [int(path.stat().st_mtime) for path in sorted(root.rglob("*"))]


@pytest.mark.parametrize(("program", "kind"), PROGRAMS)
@pytest.mark.parametrize("what", [".", "./.", "././inner", "inner"])
def test_archive_of_others(
    program: str, kind: str, what: str, source: Path, tmp_path: Path
) -> None:
    archive = pack(program, source, f"--format={kind}", "-cf", "-", what)
    assert unpack_into(tmp_path / "target", archive).skipped == 0
    below = "inner" if "inner" in what else ""
    assert read_tree(tmp_path / "target" / below) == read_tree(source / below)
    assert times(tmp_path / "target" / below) == times(source / below)


@pytest.mark.parametrize("kind", ["gnu", "posix"])
@pytest.mark.parametrize("program", ["tar", "bsdtar"])
def test_names_that_need_an_extended_header(
    program: str, kind: str, source: Path, tmp_path: Path
) -> None:
    kind = kind if program == "tar" else {"gnu": "gnutar", "posix": "pax"}[kind]
    deep = source / ("x" * 80) / ("y" * 80)
    deep.mkdir(parents=True)
    for name in ("n" * 255, "é" * 100, os.fsdecode(b"lat\xe9n")):
        (deep / name).write_bytes(os.fsencode(name))
    archive = pack(program, source, f"--format={kind}", "-cf", "-", ".")
    assert unpack_into(tmp_path / "target", archive).skipped == 0
    assert read_tree(tmp_path / "target") == read_tree(source)


@pytest.mark.parametrize("option", ["-z", "-j", "-J", "--zstd"])
@pytest.mark.parametrize("program", ["tar", "bsdtar"])
def test_compressed_archive_of_others(
    program: str, option: str, source: Path, tmp_path: Path
) -> None:
    archive = pack(program, source, option, "-cf", "-", ".")
    assert unpack_into(tmp_path / "target", archive).skipped == 0
    assert read_tree(tmp_path / "target") == read_tree(source)


@pytest.mark.parametrize("name", ["BZhang", "BZh9"])
def test_name_that_begins_like_bzip2_is_a_name(name: str, source: Path, tmp_path: Path) -> None:
    (source / name).write_bytes(b"x")
    archive = pack("tar", source, "-cf", "-", name)
    assert unpack_into(tmp_path / "target", archive).members == 1
    assert os.listdir(tmp_path / "target") == [name]


@pytest.mark.parametrize("kind", ["gnu", "oldgnu", "posix"])
def test_backup_of_what_has_changed(kind: str, source: Path, tmp_path: Path) -> None:
    options = f"--format={kind}", "-g", tmp_path / "snapshot"
    archive = pack("tar", source, *options, "-cf", "-", "inner", "b")
    assert unpack_into(tmp_path / "target", archive).skipped == 0
    assert read_tree(tmp_path / "target") == read_tree(source)
    assert times(tmp_path / "target") == times(source)


SPARSE = [
    ("tar", "--format=gnu"),
    ("tar", "--format=oldgnu"),
    *(("tar", f"--format=posix --sparse-version={version}") for version in ("0.0", "0.1", "1.0")),
    ("bsdtar", "--format=pax"),
]


@pytest.mark.parametrize(("program", "options"), SPARSE)
def test_sparse_file_keeps_its_data_and_holes(
    program: str, options: str, source: Path, tmp_path: Path
) -> None:
    with (source / "sparse").open("wb") as file:
        for start in range(0, 40 * MIB, MIB):
            file.seek(start)
            file.write(b"x" * 4096)
        file.truncate(40 * MIB)  # a hole at its end
    with (source / "hole").open("wb") as file:
        file.truncate(3 * MIB)
    archive = pack(program, source, *options.split(), "-Scf", "-", ".")
    result = unpack_into(tmp_path / "target", archive)
    assert (result.skipped, result.size) == (0, 43 * MIB + 1000)
    assert read_tree(tmp_path / "target") == read_tree(source)
    assert os.stat(tmp_path / "target" / "sparse").st_blocks * 512 < 4 * MIB


@pytest.mark.parametrize(("program", "options"), SPARSE)
def test_size_of_more_than_8_gib(program: str, options: str, source: Path, tmp_path: Path) -> None:
    with (source / "large").open("wb") as file:
        file.seek(9 * 1024 * MIB)
        file.write(b"x" * 4096)
        file.truncate(10 * 1024 * MIB)
    archive = pack(program, source, *options.split(), "-Scf", "-", "large", "b")
    assert unpack_into(tmp_path / "target", archive).members == 2
    found = (tmp_path / "target" / "large").stat()
    assert stat.S_ISREG(found.st_mode)
    assert (found.st_size, found.st_blocks * 512 < MIB) == (10 * 1024 * MIB, True)
    with (tmp_path / "target" / "large").open("rb") as file:
        file.seek(9 * 1024 * MIB - 1)
        assert file.read(4098) == b"\0" + b"x" * 4096 + b"\0"


@pytest.mark.parametrize(
    "options", ["-b1", "-b20000", "-V label", "--format=posix --pax-option=comment=hello"]
)
def test_options_of_gnu_tar(options: str, source: Path, tmp_path: Path) -> None:
    archive = pack("tar", source, *options.split(), "-cf", "-", "inner", "b")
    unpack_into(tmp_path / "target", archive)
    assert read_tree(tmp_path / "target") == read_tree(source)
