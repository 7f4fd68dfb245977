"""Trees that take the place of others: all or none, whatever fails (BK-37)."""

from __future__ import annotations

import errno
import itertools
import logging
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
from tar_kit import files_of, read_tree
from tools import run_tool

from tsstream._files.swap import Replacement, _rename, open_replacement

NAMES = ("a", "b", "c")
OLD = {"a/old": b"a", "b": b"a file", "other/x": b"stays"}
NEW = {"a/new": b"1", "b/new": b"2", "c/new": b"3"}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    make_files(tmp_path, OLD)
    return tmp_path


def make_files(root: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(data)


def fill(replacement: Replacement) -> None:
    make_files(Path(f"/dev/fd/{replacement.new}"), NEW)


@attrs.define
class Failing:
    """A rename that fails at these times."""

    times: tuple[int, ...]
    calls: int = 0

    def rename(self, name: str, source: int, target: int) -> None:
        self.calls += 1
        if self.calls in self.times:
            raise OSError(errno.EBUSY, "mounted")
        _rename(name, source, target)


def test_all_are_swapped_and_nothing_else_is_left(home: Path) -> None:
    with open_replacement(home) as replacement:
        fill(replacement)
        assert replacement.names() == set(NAMES)
        replacement.swap(NAMES)
    assert files_of(home) == {**NEW, "other/x": b"stays"}
    assert sorted(os.listdir(home)) == ["a", "b", "c", "other"]


@pytest.mark.parametrize("time", [1, 2, 3, 4, 5, 6])
def test_all_is_as_before_if_a_rename_fails(time: int, home: Path) -> None:
    before = read_tree(home)
    failing = Failing((time,))
    with pytest.raises(OSError, match="mounted"):
        with open_replacement(home, rename=failing.rename) as replacement:
            fill(replacement)
            replacement.swap(NAMES)
    assert failing.calls >= time
    assert read_tree(home) == before


def test_what_cannot_be_put_back_is_kept_and_named(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    failing = Failing((4, 6))  # the new "b" cannot be put in place, nor the old "a" back
    with pytest.raises(OSError, match="mounted"):
        with open_replacement(home, rename=failing.rename) as replacement:
            fill(replacement)
            replacement.swap(NAMES)
    (kept,) = home.glob(".*.incomplete")
    assert files_of(kept / "old") == {"a/old": b"a"}
    assert all(record.levelno == logging.ERROR for record in caplog.records)
    assert str(kept / "old") in caplog.text
    assert (home / "b").read_bytes() == b"a file"


def test_all_is_as_before_without_a_swap(home: Path) -> None:
    before = read_tree(home)
    with open_replacement(home) as replacement:
        fill(replacement)
    assert read_tree(home) == before


def test_directory_is_for_its_owner_alone(home: Path) -> None:
    with open_replacement(home):
        (made,) = home.glob(".*.incomplete")
        assert made.stat().st_mode & 0o777 == 0o700
        assert made.stat().st_dev == home.stat().st_dev


def test_two_at_once_come_one_after_the_other(home: Path) -> None:
    with open_replacement(home) as first, open_replacement(home) as second:
        fill(first)
        fill(second)
        first.swap(NAMES)
        second.swap(NAMES)
    assert files_of(home) == {**NEW, "other/x": b"stays"}


def test_swap_waits_for_another_that_has_begun(home: Path) -> None:
    begun, go_on, second_done = threading.Event(), threading.Event(), threading.Event()

    def rename(name: str, source: int, target: int) -> None:
        begun.set()
        assert go_on.wait(10)
        _rename(name, source, target)

    def swap_second() -> None:
        with open_replacement(home) as second:
            fill(second)
            second.swap(NAMES)
        second_done.set()

    with open_replacement(home, rename=rename) as first:
        fill(first)
        threads = [threading.Thread(target=first.swap, args=(NAMES,))]
        threads[0].start()
        assert begun.wait(10)
        threads.append(threading.Thread(target=swap_second))
        threads[1].start()
        assert not second_done.wait(0.1)
        go_on.set()
        for thread in threads:
            thread.join(10)
    assert second_done.is_set()
    assert files_of(home) == {**NEW, "other/x": b"stays"}


@pytest.fixture
def deep_home(home: Path) -> Iterator[Path]:
    directory = os.open(home / "a", os.O_RDONLY)
    for _ in range(sys.getrecursionlimit() + 10):
        os.mkdir("d", dir_fd=directory)
        inner = os.open("d", os.O_RDONLY, dir_fd=directory)
        os.close(directory)
        directory = inner
    os.close(directory)
    yield home
    run_tool("rm", "-rf", home)  # pytest could not


def test_old_tree_that_is_too_deep_to_be_removed_fails_nothing(
    deep_home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with open_replacement(deep_home) as replacement:
        fill(replacement)
        replacement.swap(NAMES)
    if sys.version_info < (3, 13):  # which goes down without recursion
        assert "cannot be removed" in caplog.text
    assert files_of(deep_home / "a") == {"new": b"1"}


def test_link_is_replaced_and_not_its_target(home: Path) -> None:
    (home / "c").symlink_to(home / "other")
    with open_replacement(home) as replacement:
        fill(replacement)
        replacement.swap(["c"])
    assert (home / "other/x").read_bytes() == b"stays"
    assert not (home / "c").is_symlink()


def test_no_descriptor_is_left_open(home: Path) -> None:
    count = len(os.listdir("/dev/fd"))
    for number in itertools.repeat(home, 5):
        with open_replacement(number) as replacement:
            fill(replacement)
    with pytest.raises(NotADirectoryError), open_replacement(home / "b"):
        pass
    assert len(os.listdir("/dev/fd")) == count
