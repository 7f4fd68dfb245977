"""Which file a name leads to: below a root one that is there, and nothing else."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from leaks import assert_no_leaks

from tsstream import HTTPError
from tsstream._files.below import open_below, open_file

SECRET = b"secret"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A root with files in it, what must not be sent, and a secret beside it."""
    (tmp_path / "secret.txt").write_bytes(SECRET)
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (root / "a.txt").write_bytes(b"a")
    (root / "sub" / "b.txt").write_bytes(b"b")
    (root / "...").write_bytes(b"dots")
    (root / "link.txt").symlink_to(root / "a.txt")
    (root / "out.txt").symlink_to("../secret.txt")
    (root / "up").symlink_to("..")
    (root / "loop").symlink_to("loop")
    os.mkfifo(root / "fifo")
    return root


@pytest.mark.parametrize(
    ("name", "content"), [("a.txt", b"a"), ("sub/b.txt", b"b"), ("...", b"dots")]
)
async def test_a_name_below_the_root_is_opened(tree: Path, name: str, content: bytes) -> None:
    async with assert_no_leaks():
        descriptor = open_below(tree, name)
        try:
            assert os.read(descriptor, 99) == content
        finally:
            os.close(descriptor)


@pytest.mark.parametrize(
    "name",
    [
        # upwards
        *("../secret.txt", "sub/../../secret.txt", "sub/../a.txt", "..", "sub/..", "../root/a.txt"),
        *("/etc/passwd", "//etc/passwd", "/a.txt", "sub//b.txt", "./a.txt", "sub/./b.txt", "."),
        # through links
        *("out.txt", "up/secret.txt", "up/root/a.txt", "link.txt", "loop", "loop/a.txt"),
        # no files
        *("", "/", "sub", "sub/", "fifo", "socket", "a.txt/", "a.txt/b", "fifo/a"),
        # no names
        *("none", "none/none", "a.txt\0", "\0", "a" * 300, "a/" * 3000 + "a", "\ud800", "\udcff"),
        *("..\\secret.txt", "%2e%2e/secret.txt", "a.txt ", "A.TXT"),
    ],
)
async def test_no_other_name_leads_anywhere(tree: Path, name: str) -> None:
    server = socket.socket(socket.AF_UNIX)
    with server, directory(tree):
        server.bind("socket")
        async with assert_no_leaks():
            with pytest.raises(HTTPError) as caught:
                open_below(tree, name)
    assert caught.value.status_code == 404


@contextmanager
def directory(path: Path) -> Iterator[None]:
    """Be in *path*: the name of a socket has to be short."""
    before = os.getcwd()
    os.chdir(path)
    try:
        yield
    finally:
        os.chdir(before)


def test_every_file_of_the_system_is_out_of_reach(tree: Path) -> None:
    for up in range(1, 12):
        with pytest.raises(HTTPError):
            open_below(tree, "../" * up + "etc/passwd")


def test_a_root_may_be_a_link(tree: Path) -> None:
    link = tree.parent / "current"
    link.symlink_to(tree)
    os.close(open_below(link, "a.txt"))


def test_a_root_that_is_missing_is_no_404(tree: Path) -> None:
    # it is whoever runs the server who has to hear of it
    with pytest.raises(FileNotFoundError):
        open_below(tree / "none", "a.txt")


def test_a_directory_that_becomes_a_link_meanwhile_leads_nowhere(tree: Path) -> None:
    outside = tree.parent / "outside"
    outside.mkdir()
    (outside / "b.txt").write_bytes(SECRET)
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            os.rename(tree / "sub", tree / "hidden")
            os.symlink(outside, tree / "sub")
            os.unlink(tree / "sub")
            os.rename(tree / "hidden", tree / "sub")

    thread = threading.Thread(target=swap)
    thread.start()
    seen = set()
    try:
        for _ in range(2000):
            try:
                descriptor = open_below(tree, "sub/b.txt")
            except HTTPError:
                continue
            seen.add(os.read(descriptor, 99))
            os.close(descriptor)
    finally:
        stop.set()
        thread.join()
    assert seen <= {b"b"}


def test_a_path_of_ours_may_be_a_link(tree: Path) -> None:
    os.close(open_file(tree / "link.txt"))
    os.close(open_file(tree / "out.txt"))


@pytest.mark.parametrize("name", ["none", "sub", "fifo", "loop", "a.txt/b", "a" * 300])
def test_a_path_of_ours_that_is_no_file_is_404(tree: Path, name: str) -> None:
    with pytest.raises(HTTPError) as caught:
        open_file(tree / name)
    assert caught.value.status_code == 404
