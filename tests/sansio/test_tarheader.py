"""Headers of tar archives: read as tarfile writes them, refused if damaged."""

from __future__ import annotations

import io
import stat
import tarfile
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsstream._sansio.tarheader import Member, parse_records, read_member

NAMES = st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=300
).filter(lambda name: not name.endswith("/"))
FORMATS: list[Literal[1, 2]] = [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]


def read(data: bytes) -> Member | None:
    file = io.BytesIO(data)

    def take(size: int) -> bytes:
        taken = file.read(size)
        if len(taken) != size:
            raise tarfile.ReadError("cut")
        return taken

    return read_member(take, {})


@given(
    name=NAMES,
    mode=st.integers(0, 0o7777),
    size=st.integers(0, 2**40),
    mtime=st.integers(0, 2**34 - 1),
    tar_format=st.sampled_from(FORMATS),
)
def test_what_tarfile_writes_is_read(
    name: str, mode: int, size: int, mtime: int, tar_format: Literal[1, 2]
) -> None:
    info = tarfile.TarInfo(name)
    info.mode, info.size, info.mtime = mode, size, mtime
    expected = Member(name, stat.S_IFREG | mode, size, mtime * 10**9)
    assert read(info.tobuf(tar_format, "utf-8", "surrogateescape")) == expected


@given(st.binary(max_size=2000))
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(tarfile.ReadError):
        read(data + b"\1" * 1024)


@given(st.binary(max_size=200))
def test_records_are_read_or_refused(data: bytes) -> None:
    try:
        assert all(key for key, _ in parse_records(data))
    except tarfile.ReadError:
        pass


@pytest.mark.parametrize(
    ("data", "records"),
    [
        (b"", []),
        (b"6 a=b\n", [("a", "b")]),
        (b"6 a=b\n5 c=\n", [("a", "b"), ("c", "")]),
        (b"7 a=\n=\n", [("a", "\n=")]),
        (b"6 a=b\n\0\0", [("a", "b")]),
        (b"6 a=\xff\n", [("a", "\udcff")]),
    ],
)
def test_records(data: bytes, records: list[tuple[str, str]]) -> None:
    assert list(parse_records(data)) == records


@pytest.mark.parametrize(
    "data", [b"x", b"6 a=b", b"5 a=b\n", b"7 a=b\n", b"6 =bc\n", b"5 ab\n", b"0 a=b\n", b"-6 a=b\n"]
)
def test_damaged_records_are_refused(data: bytes) -> None:
    with pytest.raises(tarfile.ReadError):
        list(parse_records(data))


def test_end_is_two_blocks_of_zeros() -> None:
    assert read(bytes(1024)) is None
    for data in (b"", bytes(512), bytes(1000), bytes(1023) + b"\1"):
        with pytest.raises(tarfile.ReadError):
            read(data)
