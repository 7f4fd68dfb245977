"""Compressed tar archives, made from what is found on the way."""

from __future__ import annotations

import errno
import gzip
import io
import os
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from tars import by_tarfile, make_tree, to_plan, write

from tsstream._files.compression import open_compressor
from tsstream._files.tar import Filter, Plan, write_tar

open_gzip = partial(open_compressor, "gzip")


def archive(plan: Plan) -> bytes:
    file = io.BytesIO()
    write_tar(file, plan, open_gzip)
    return gzip.decompress(file.getvalue())


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_archive_is_that_of_tarfile(tmp_path: Path, format: int) -> None:  # noqa: A002 (its name)
    # BK-10, BK-12
    root = make_tree(tmp_path / "tree")
    assert archive(to_plan(root, format=format)) == by_tarfile(root, format=format)


def rename(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.name = f"moved/{info.name}"
    return info


def leave_out_sizes(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if info.name.endswith("sizes") else info


def leave_out_a_file(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if info.name.endswith("large") else info


def disown(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    info.mode = 0o600
    info.mtime = 0.5
    info.pax_headers = {"comment": "mine"}
    return info


def end_directories_with_a_slash(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.name += "/" if info.isdir() else ""
    return info


FILTERS: list[Filter] = [
    rename,
    leave_out_sizes,
    leave_out_a_file,
    disown,
    end_directories_with_a_slash,
]


@pytest.mark.parametrize("keep", FILTERS)
def test_filter_does_what_that_of_tarfile_does(tmp_path: Path, keep: Filter) -> None:
    root = make_tree(tmp_path / "tree")
    assert archive(to_plan(root, filter=keep)) == by_tarfile(root, filter=keep)


def enlarge(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.size += 1
    return info


def turn(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.type = tarfile.SYMTYPE
    return info


def end_with_a_slash(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.name += "/"
    return info


def lead_out(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.name = "../" + info.name
    return info


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (enlarge, "has changed the type or the size of 'tree'"),
        (turn, "has changed the type or the size of 'tree'"),
        (end_with_a_slash, "the name 'tree/.*/', but one of its components is empty"),
        (lead_out, "the name '../tree', but it leads upwards"),
    ],
)
def test_filter_that_asks_for_what_cannot_be_is_an_error(
    tmp_path: Path, keep: Filter, message: str
) -> None:
    # BK-19
    with pytest.raises(ValueError, match=message):
        archive(to_plan(make_tree(tmp_path / "tree"), filter=keep))


def test_deterministic_archives_of_equal_trees_are_equal(tmp_path: Path) -> None:
    made = []
    for name, umask in (("a", 0o022), ("b", 0o077)):
        root = tmp_path / name
        before = os.umask(umask)
        try:
            for inner in ("2", "1", "d/3"):
                write(root / inner, b"same")
        finally:
            os.umask(before)
        (root / "2").chmod(0o777 & ~umask)
        os.utime(root / "1", (umask, umask))
        made.append(archive(to_plan(root, deterministic=True)))
    assert made[0] == made[1]
    with tarfile.open(fileobj=io.BytesIO(made[0])) as opened:
        assert [(info.name, info.mode, info.mtime, info.uname) for info in opened] == [
            ("tree", 0o755, 0, ""),
            ("tree/1", 0o644, 0, ""),
            ("tree/2", 0o755, 0, ""),
            ("tree/d", 0o755, 0, ""),
            ("tree/d/3", 0o644, 0, ""),
        ]


def open_after(change: Callable[[Path], object]) -> Callable[[str, int], int]:
    """Give an opener that has each file changed when it has just been opened."""

    def opener(path: str, flags: int) -> int:
        descriptor = os.open(path, flags)
        change(Path(path))
        return descriptor

    return opener


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def shrink(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def test_files_that_grow_are_archived_as_long_as_they_were(tmp_path: Path) -> None:
    # BK-17
    root = make_tree(tmp_path / "tree")
    before = by_tarfile(root)
    assert archive(to_plan(root, opener=open_after(grow))) == before


def test_file_that_shrinks_is_an_error_that_names_it(tmp_path: Path) -> None:
    # BK-18
    write(tmp_path / "tree" / "log", b"x" * 1000)
    with pytest.raises(OSError, match=r"became shorter.*log"):
        archive(to_plan(tmp_path / "tree", opener=open_after(shrink)))


def test_archive_that_fails_has_no_end(tmp_path: Path) -> None:
    # BK-21
    def fail_at_last(path: str, flags: int) -> int:
        if path.endswith("last"):
            raise OSError(errno.EIO, "Input/output error")
        return os.open(path, flags)

    write(tmp_path / "tree" / "first", b"x" * 1000)
    write(tmp_path / "tree" / "last", b"x")
    file = io.BytesIO()
    with pytest.raises(OSError, match="last"):
        write_tar(file, to_plan(tmp_path / "tree", opener=fail_at_last), open_gzip)
    with pytest.raises(EOFError):
        gzip.decompress(file.getvalue())


def test_first_bytes_hold_the_first_header_before_a_file_is_opened(tmp_path: Path) -> None:
    # BK-3
    written: list[bytes] = []

    def look(path: str, flags: int) -> int:
        start = io.BytesIO(file.getvalue())
        with gzip.open(start) as opened:
            written.append(opened.read(512))
        raise InterruptedError

    write(tmp_path / "tree" / "file", b"x")
    file = io.BytesIO()
    with pytest.raises(InterruptedError):
        write_tar(file, to_plan(tmp_path / "tree", opener=look), open_gzip)
    assert written[0].startswith(b"tree/\0")
    assert len(written[0]) == 512
