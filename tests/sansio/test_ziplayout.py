"""The computed length of a zip archive is that of what zipfile writes."""

from __future__ import annotations

import io
import zipfile
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsstream._sansio.ziplayout import measure_zip, needs_zip64

LIMIT = 300  # bytes, and members: small enough to be crossed in every way

names = st.text(
    st.characters(exclude_characters="\\", exclude_categories=("Cs", "Cc")), min_size=1, max_size=40
)
files = st.tuples(names.map(lambda name: f"{name}x"), st.integers(0, 2 * LIMIT))
folders = st.tuples(names.map(lambda name: f"{name}/"), st.just(0))
trees = st.lists(st.one_of(files, folders), max_size=8, unique_by=lambda member: member[0])


class Pipe(io.RawIOBase):
    """A file that cannot seek."""

    def __init__(self) -> None:
        self.data = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        self.data += data
        return len(data)


def write_zip(members: list[tuple[str, int]]) -> bytes:
    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w") as archive:
        for name, size in members:
            info = zipfile.ZipInfo(name)
            info.file_size = size
            if info.is_dir():
                info.CRC = info.compress_size = 0  # which mkdir() does for a name only
                archive.mkdir(info)
                continue
            with archive.open(info, "w", force_zip64=needs_zip64(size)) as member:
                member.write(bytes(size))
    return bytes(pipe.data)


@given(trees)
def test_the_length_is_what_zipfile_writes(members: list[tuple[str, int]]) -> None:
    assert measure_zip(members) == len(write_zip(members))


@given(trees)
def test_the_length_is_what_zipfile_writes_beyond_the_limits_of_zip(
    members: list[tuple[str, int]],
) -> None:
    # Sizes, offsets, the directory and the number of members need Zip64 already when small.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zipfile, "ZIP64_LIMIT", LIMIT)
        patch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 5)
        assert measure_zip(members) == len(write_zip(members))


@pytest.mark.parametrize(
    ("members", "length"),
    [
        ([], 22),
        ([("a/", 0)], 22 + 32 + 48),
        ([("a", 10)], 22 + 31 + 10 + 16 + 47),
        ([("é", 10)], 22 + 32 + 10 + 16 + 48),  # UTF-8
        ([("a", 5 * 2**30)], 22 + 76 + 31 + 20 + 5 * 2**30 + 24 + 47 + 20),
        ([("a", 2**31 - 1)], 22 + 76 + 31 + 20 + 2**31 - 1 + 24 + 47),
        ([("a", 0), ("b", 2 * 10**9), ("c", 10**9), ("d", 0)], 3_000_000_000 + 22 + 76 + 376 + 12),
    ],
)
def test_lengths(members: list[tuple[str, int]], length: int) -> None:
    assert measure_zip(members) == length
