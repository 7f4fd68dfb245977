"""Headers of tar archives: read as tarfile writes them, refused if damaged."""

from __future__ import annotations

import io
import stat
import tarfile
from contextlib import nullcontext
from typing import Literal

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsstream._sansio.tarheader import MAX_RECORDS, Member, parse_records, read_member

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
    found = read(info.tobuf(tar_format, "utf-8", "surrogateescape"))
    assert found is not None
    assert attrs.evolve(found, extra=0) == expected
    assert found.extra == 0 or tar_format == tarfile.PAX_FORMAT or len(name.encode()) > 100


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


def test_records_have_an_end() -> None:
    info = tarfile.TarInfo("x")
    info.type = tarfile.XHDTYPE
    for count, refused in ((MAX_RECORDS, False), (MAX_RECORDS + 1, True)):
        info.size = 6 * count
        header = info.tobuf() + (b"6 a=b\n" * count).ljust(-(-info.size // 512) * 512, b"\0")
        archive = header + tarfile.TarInfo("y").tobuf()
        with pytest.raises(tarfile.ReadError, match="records") if refused else nullcontext():
            assert read(archive) is not None


def test_prefix_is_only_that_of_posix() -> None:
    # Behind its header GNU tar has times there, and others have nothing they care for.
    block = bytearray(tarfile.TarInfo("x").tobuf(tarfile.USTAR_FORMAT))
    for magic, name in ((b"ustar\x0000", "01/x"), (b"ustar  \0", "x"), (bytes(8), "x")):
        block[257:265], block[345:347] = magic, b"01"
        block[148:156] = b"%06o\0 " % (sum(block[:148]) + 8 * 32 + sum(block[156:512]))
        found = read(bytes(block))
        assert found is not None
        assert found.name == name


def test_end_is_two_blocks_of_zeros() -> None:
    assert read(bytes(1024)) is None
    for data in (b"", bytes(512), bytes(1000), bytes(1023) + b"\1"):
        with pytest.raises(tarfile.ReadError):
            read(data)
