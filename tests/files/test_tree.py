"""What goes into an archive: found in one order, opened without surprises, read as it was."""

from __future__ import annotations

import errno
import logging
import os
import socket
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from tsstream._files.tree import PIECE_SIZE, Entry, Root, StrPath, read_entry, to_roots, walk


def make_tree(root: Path) -> Path:
    for name in ("b/2", "b/1", "a", "b.c", "é"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    (root / "empty").mkdir()
    return root


def names(entries: Iterable[Entry]) -> list[str]:
    return [entry.name for entry in entries]


def entry_of(path: Path) -> Entry:
    return Entry(path.name, str(path), path.stat())


def test_order_is_that_of_tarfile(tmp_path: Path) -> None:
    # BK-10
    root = make_tree(tmp_path / "tree")
    with tarfile.open(tmp_path / "t.tar", "w") as archive:
        archive.add(root, arcname="tree")
        assert names(walk(to_roots(root))) == archive.getnames()


def test_paths_and_states_belong_to_the_names(tmp_path: Path) -> None:
    root = make_tree(tmp_path / "tree")
    for entry in walk(to_roots(root, "x/y")):
        path = root / entry.name.removeprefix("x/y").lstrip("/")
        assert os.path.samefile(entry.path, path)
        assert entry.stat == path.lstat()


def test_what_is_neither_file_nor_directory_is_left_out_with_one_warning_each(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # BK-19
    root = make_tree(tmp_path / "tree")
    before = names(walk(to_roots(root)))
    (root / "link").symlink_to(root / "a")
    (root / "b" / "up").symlink_to("..")
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "socket"))
        assert names(walk(to_roots(root))) == before
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.WARNING, f"left out of the archive: 'tree/{name}', because it is a {kind}")
        for name, kind in [
            ("b/up", "symbolic link"),
            ("fifo", "FIFO"),
            ("link", "symbolic link"),
            ("socket", "socket"),
        ]
    ]


@pytest.mark.parametrize("slash", ["", "/"])
def test_root_that_is_a_symbolic_link_is_followed(tmp_path: Path, slash: str) -> None:
    root = make_tree(tmp_path / "tree")
    (tmp_path / "link").symlink_to("tree")
    entries = list(walk(to_roots(f"{tmp_path / 'link'}{slash}")))
    assert names(entries) == [name.replace("tree", "link", 1) for name in names(walk_of(root))]
    assert entries[1].path == str(root / "a")


def walk_of(root: Path) -> Iterable[Entry]:
    return walk(to_roots(root))


def test_missing_root_is_an_error_before_the_first_entry(tmp_path: Path) -> None:
    # BK-20
    entries = walk(to_roots([make_tree(tmp_path / "tree"), tmp_path / "missing"]))
    with pytest.raises(FileNotFoundError, match="missing"):
        next(entries)


def test_root_that_is_a_fifo_is_an_error(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError, match=r"because it is a FIFO: '.*/fifo'"):
        next(walk(to_roots(tmp_path / "fifo")))


def test_root_may_be_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    assert names(walk(to_roots([tmp_path / "a"], ["deep/b"]))) == ["deep/b"]


def test_pruned_directory_is_not_entered(tmp_path: Path) -> None:
    root = make_tree(tmp_path / "tree")
    pruned: set[str] = set()
    found = []
    for entry in walk(to_roots(root), pruned):
        found.append(entry.name)
        if entry.name == "tree/b":
            pruned.add(entry.name)
            (root / "b").rename(root / "gone")  # so that it could not be listed
    assert found == ["tree", "tree/a", "tree/b", "tree/b.c", "tree/empty", "tree/é"]


@pytest.mark.parametrize(
    ("paths", "arcname", "roots"),
    [
        ("some/tree", None, [("some/tree", "tree")]),
        (Path("some/tree"), "x", [("some/tree", "x")]),
        (["a", Path("/b")], None, [("a", "a"), ("/b", "b")]),
        (["a", "b"], ["x/y", "z"], [("a", "x/y"), ("b", "z")]),
        ("some/tree/", None, [("some/tree/", "tree")]),
        ("/", "all", [("/", "all")]),
    ],
)
def test_roots_are_named(
    paths: StrPath | Sequence[StrPath],
    arcname: str | Sequence[str] | None,
    roots: list[tuple[str, str]],
) -> None:
    assert to_roots(paths, arcname) == tuple(Root(*root) for root in roots)


@pytest.mark.parametrize(
    ("paths", "arcname", "message"),
    [
        (["a", "b"], "x", "1 names for 2 paths"),
        (["a"], ["x", "y"], "2 names for 1 paths"),
        ("/", None, "it is empty"),
        ("a", "../a", "it leads upwards"),
        ("a", "/a", "it is absolute"),
        (["x/a", "y/a"], None, "another path has it"),
    ],
)
def test_names_that_cannot_be_are_refused(
    paths: StrPath | Sequence[StrPath], arcname: str | Sequence[str] | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        to_roots(paths, arcname)


def test_file_that_has_grown_is_read_as_long_as_it_was(tmp_path: Path) -> None:
    # BK-17
    path = tmp_path / "log"
    path.write_bytes(b"x" * 2 * PIECE_SIZE)
    pieces = read_entry(entry_of(path))
    first = next(pieces)
    with path.open("ab") as file:
        file.write(b"y" * PIECE_SIZE)
    assert first + b"".join(pieces) == b"x" * 2 * PIECE_SIZE


def test_file_that_has_become_shorter_is_an_error_that_names_it(tmp_path: Path) -> None:
    # BK-18
    path = tmp_path / "log"
    path.write_bytes(b"x" * 2 * PIECE_SIZE)
    pieces = read_entry(entry_of(path))
    next(pieces)
    os.truncate(path, PIECE_SIZE + 1)
    with pytest.raises(OSError, match=r"became shorter.*log"):
        list(pieces)


def test_file_that_has_gone_is_an_error_that_names_it(tmp_path: Path) -> None:
    # BK-18
    path = tmp_path / "log"
    path.write_bytes(b"x")
    entry = entry_of(path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="log"):
        list(read_entry(entry))


def test_file_that_has_become_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x")
    entry = entry_of(path)
    path.unlink()
    path.symlink_to("/etc/passwd")
    with pytest.raises(OSError, match="file") as caught:
        list(read_entry(entry))
    assert caught.value.errno == errno.ELOOP


def test_file_that_has_become_a_fifo_does_not_block(tmp_path: Path) -> None:
    # BK-19
    path = tmp_path / "file"
    path.write_bytes(b"x")
    entry = entry_of(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(OSError, match=r"no regular file any more: '.*file'"):
        list(read_entry(entry))


def test_error_of_an_opener_names_the_file(tmp_path: Path) -> None:
    # BK-22
    def fail(path: str, flags: int) -> int:
        raise OSError(errno.EIO, "Input/output error")

    path = tmp_path / "file"
    path.write_bytes(b"x")
    with pytest.raises(OSError, match=r"Input/output error: '.*/file'"):
        list(read_entry(entry_of(path), fail))


def test_descriptors_are_closed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * (3 * PIECE_SIZE + 1))
    opened = []

    def note(path: str, flags: int) -> int:
        opened.append(os.open(path, flags))
        return opened[-1]

    pieces = read_entry(entry_of(path), note)
    next(pieces)
    del pieces  # left before its end, as by an error
    assert len(list(read_entry(entry_of(path), note))) == 4
    for descriptor in opened:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)
