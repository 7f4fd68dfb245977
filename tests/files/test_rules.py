"""The one rule of what a member of an archive may be."""

from __future__ import annotations

import stat

import pytest

from tsstream._files.rules import fault_of_name, why_left_out


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        (stat.S_IFREG | 0o644, None),
        (stat.S_IFDIR | 0o755, None),
        (stat.S_IFLNK | 0o777, "it is a symbolic link"),
        (stat.S_IFIFO, "it is a FIFO"),
        (stat.S_IFSOCK, "it is a socket"),
        (stat.S_IFCHR, "it is a character device"),
        (stat.S_IFBLK, "it is a block device"),
        (0o644, "it is neither a file nor a directory"),
    ],
)
def test_only_files_and_directories_are_members(mode: int, reason: str | None) -> None:
    # BK-19
    assert why_left_out(mode) == reason


@pytest.mark.parametrize(
    "name", ["a", "a/b", "...", "..a/b..", "a b", "é" * 127, "x" * 255, "a\\b", "\udce9" * 255, "~"]
)
def test_good_names(name: str) -> None:
    assert fault_of_name(name) is None


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("", "it is empty"),
        ("/", "it is absolute"),
        ("/etc", "it is absolute"),
        ("..", "it leads upwards"),
        ("a/../b", "it leads upwards"),
        ("a/..", "it leads upwards"),
        ("a//b", "one of its components is empty or '.'"),
        ("a/", "one of its components is empty or '.'"),
        ("./a", "one of its components is empty or '.'"),
        ("a/.", "one of its components is empty or '.'"),
        ("a\0b", "it contains a NUL"),
        ("a/" + "x" * 256, "one of its components is longer than 255 bytes"),
        ("\ud800", "it is no name on this system"),
        ("é" * 128, "one of its components is longer than 255 bytes"),
    ],
)
def test_names_that_lead_elsewhere_or_nowhere(name: str, fault: str) -> None:
    # BK-35
    assert fault_of_name(name) == fault
