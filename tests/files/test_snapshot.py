"""Any part of an archive that is nowhere: the same bytes as of the whole, or an error."""

from __future__ import annotations

import io
import os
import tarfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tars import by_tarfile, make_tree, to_plan, write

from tsstream._files.identity import TICK
from tsstream._files.snapshot import Snapshot
from tsstream._files.tar import Plan
from tsstream._files.tree import PIECE_SIZE, to_roots


def read(snapshot: Snapshot, start: int = 0, stop: int | None = None) -> bytes:
    file = io.BytesIO()
    snapshot.write(file, start, snapshot.layout.length if stop is None else stop)
    return file.getvalue()


def leave_alone(root: Path) -> None:
    """Wait until a change of a file in *root* would be noticed."""
    newest = max(path.stat().st_ctime_ns for path in (root, *root.rglob("*")))
    while time.time_ns() <= newest + 2 * TICK:
        time.sleep(0.001)


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_whole_is_that_of_tarfile(tmp_path: Path, format: int) -> None:  # noqa: A002 (its name)
    root = make_tree(tmp_path / "tree")
    assert read(Snapshot(to_plan(root, format=format))) == by_tarfile(root, format=format)


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return Snapshot(to_plan(make_tree(tmp_path_factory.mktemp("snapshot") / "tree")))


@pytest.fixture(scope="module")
def whole(snapshot: Snapshot) -> bytes:
    return read(snapshot)


@given(data=st.data())
def test_part_is_that_of_the_whole(snapshot: Snapshot, whole: bytes, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(whole)))
    stop = data.draw(st.integers(start, len(whole)))
    assert read(snapshot, start, stop) == whole[start:stop]


def test_parts_cut_at_and_beside_every_block_join_to_the_whole(
    snapshot: Snapshot, whole: bytes
) -> None:
    cuts = sorted(
        {
            min(max(0, place + step), len(whole))
            for index in range(len(snapshot.layout))
            for place in snapshot.layout.span(index)
            for step in (-512, -1, 0, 1, 511, 512, 513)
        }
        | {0, len(whole)}
    )
    assert b"".join(read(snapshot, start, stop) for start, stop in pairwise(cuts)) == whole


def test_only_the_files_in_a_range_are_touched(tmp_path: Path) -> None:
    opened = []

    def note(path: str, flags: int) -> int:
        opened.append(Path(path).name)
        return os.open(path, flags)

    for name in "abcde":
        write(tmp_path / "tree" / name, name.encode() * 10_000)
    snapshot = Snapshot(to_plan(tmp_path / "tree", opener=note))
    start, stop = snapshot.layout.span(2)[0], snapshot.layout.span(3)[1]
    assert read(snapshot, start + 600, stop - 9000)[:100] == b"b" * 100
    assert opened == ["b", "c"]


def test_several_roots_of_all_kinds(tmp_path: Path) -> None:
    root = make_tree(tmp_path / "tree")
    (tmp_path / "link").symlink_to("tree/sizes")
    write(tmp_path / "file", b"by itself")
    paths = [root, tmp_path / "link", tmp_path / "file", root / "names"]
    names = ["a", "a/below", "b/file", "tree"]
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w|") as archive:
        for path, name in zip(paths, names, strict=True):
            archive.add(path.resolve(), arcname=name, filter=to_whole_seconds)
    assert read(Snapshot(Plan(roots=to_roots(paths, names)))) == file.getvalue()


def to_whole_seconds(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.mtime = int(info.mtime)
    return info


def rename(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.name = f"moved/{info.name}"
    return info


def test_files_are_found_although_the_filter_has_renamed_them(tmp_path: Path) -> None:
    root = make_tree(tmp_path / "tree")
    assert read(Snapshot(to_plan(root, filter=rename))) == by_tarfile(root, filter=rename)


def test_empty_archive() -> None:
    assert read(Snapshot(Plan(roots=()))) == bytes(10240)


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def rewrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"other")


def replace(path: Path) -> None:
    other = path.with_name("other")
    write(other, path.read_bytes())
    other.replace(path)


def shrink(path: Path) -> None:
    os.truncate(path, 10)


CHANGES: list[Callable[[Path], None]] = [grow, rewrite, replace, shrink]


@pytest.mark.parametrize("change", CHANGES)
def test_change_of_a_file_is_an_error_of_a_part(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    # BK-17: never a mixture
    log = tmp_path / "tree" / "log"
    write(log, b"x" * 2 * PIECE_SIZE)
    leave_alone(tmp_path / "tree")
    snapshot = Snapshot(to_plan(tmp_path / "tree"))
    change(log)
    with pytest.raises(OSError, match=r"has changed since the archive was begun: '.*log'"):
        read(snapshot, 1)


@pytest.mark.parametrize("change", CHANGES)
def test_change_of_a_file_while_it_is_read_is_an_error_of_a_part(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    log = tmp_path / "tree" / "log"
    write(log, b"x" * 2 * PIECE_SIZE)
    leave_alone(tmp_path / "tree")

    snapshot = Snapshot(to_plan(tmp_path / "tree"))
    file = ChangingFile(lambda: change(log))
    with pytest.raises(OSError, match="log"):
        snapshot.write(file, 1, snapshot.layout.length)


def test_client_never_has_all_of_a_part_that_has_changed(tmp_path: Path) -> None:
    log = tmp_path / "tree" / "log"
    write(log, b"x" * 2 * PIECE_SIZE)
    leave_alone(tmp_path / "tree")
    snapshot = Snapshot(to_plan(tmp_path / "tree"))
    start = snapshot.layout.content_end - 2 * PIECE_SIZE
    file = ChangingFile(lambda: rewrite(log))
    with pytest.raises(OSError, match="log"):
        snapshot.write(file, start, start + 2 * PIECE_SIZE)
    assert file.tell() < 2 * PIECE_SIZE


def test_whole_is_sent_although_a_file_grows(tmp_path: Path) -> None:
    # BK-17
    log = tmp_path / "tree" / "log"
    write(log, b"x" * 2 * PIECE_SIZE)
    leave_alone(tmp_path / "tree")
    before = by_tarfile(tmp_path / "tree")
    snapshot = Snapshot(to_plan(tmp_path / "tree"))
    grow(log)
    file = ChangingFile(lambda: grow(log))
    snapshot.write(file, 0, snapshot.layout.length)
    assert file.getvalue() == before


def test_file_that_is_read_in_small_pieces_is_not_held_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # BK-4: some file systems give less than they are asked for
    root = make_tree(tmp_path / "tree")
    write(root / "large", b"x" * 5 * PIECE_SIZE)
    expected = by_tarfile(root)
    leave_alone(root)
    sizes = []

    class Pieces(io.BytesIO):
        def write(self, data: Any) -> int:
            sizes.append(len(data))
            return super().write(data)

    read_all = os.read
    monkeypatch.setattr(os, "read", lambda file, size: read_all(file, min(size, 1000)))
    snapshot, pieces = Snapshot(to_plan(root)), Pieces()
    snapshot.write(pieces, 0, snapshot.layout.length)
    assert pieces.getvalue() == expected
    assert max(sizes) < 2 * PIECE_SIZE


def test_longer_file_of_the_same_name_has_not_grown(tmp_path: Path) -> None:
    # BK-17
    log = tmp_path / "tree" / "log"
    write(log, b"x" * 2 * PIECE_SIZE)
    snapshot = Snapshot(to_plan(tmp_path / "tree"))
    write(tmp_path / "other", b"y" * 3 * PIECE_SIZE)
    (tmp_path / "other").replace(log)
    with pytest.raises(OSError, match="log"):
        read(snapshot)


@pytest.mark.parametrize("change", [rewrite, replace, shrink])
def test_whole_is_not_sent_if_a_file_changes_otherwise(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    # BK-18
    log = tmp_path / "tree" / "log"
    write(log, b"x" * 2 * PIECE_SIZE)
    leave_alone(tmp_path / "tree")
    snapshot = Snapshot(to_plan(tmp_path / "tree"))
    file = ChangingFile(lambda: change(log))
    with pytest.raises(OSError, match="log"):
        snapshot.write(file, 0, snapshot.layout.length)


class ChangingFile(io.BytesIO):
    """A file to write, at whose first large piece something happens."""

    def __init__(self, change: Callable[[], object]) -> None:
        super().__init__()
        self._change: Callable[[], object] | None = change

    def write(self, data: object, /) -> int:
        assert isinstance(data, bytes)
        if len(data) >= PIECE_SIZE and self._change is not None:
            change, self._change = self._change, None
            change()
        return super().write(data)


@pytest.mark.parametrize("change", CHANGES)
def test_etag_changes_with_a_file(tmp_path: Path, change: Callable[[Path], None]) -> None:
    log = tmp_path / "tree" / "log"
    write(log, b"x" * 1000)
    leave_alone(tmp_path / "tree")
    before = Snapshot(to_plan(tmp_path / "tree")).etag
    stamp = log.stat()
    change(log)
    os.utime(log, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    leave_alone(tmp_path / "tree")
    after = Snapshot(to_plan(tmp_path / "tree")).etag
    assert None not in (before, after)
    assert before != after


def test_tree_that_was_changed_just_now_is_looked_at_again(tmp_path: Path) -> None:
    # "racy git": the clock of the file system ticks every few milliseconds
    log = tmp_path / "tree" / "log"
    write(log, b"old")
    looks = 0

    def look() -> None:
        nonlocal looks
        looks += 1
        if looks == 1:
            log.write_bytes(b"longer")

    snapshot = Snapshot(to_plan(tmp_path / "tree"), look)
    assert looks > 1
    assert snapshot.etag is not None
    assert b"longer" in read(snapshot, 1)


def test_tree_that_changes_all_the_time_has_no_etag(tmp_path: Path) -> None:
    log = tmp_path / "tree" / "log"
    snapshot = Snapshot(to_plan(make_tree(tmp_path / "tree")), lambda: write(log, b"another"))
    assert snapshot.etag is None
    assert read(snapshot) == by_tarfile(tmp_path / "tree")


def test_look_can_be_given_up(tmp_path: Path) -> None:
    def give_up() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        Snapshot(to_plan(make_tree(tmp_path / "tree")), give_up)
