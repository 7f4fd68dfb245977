"""Maps of sparse files: read, or refused if they make no sense."""

from __future__ import annotations

import io
import tarfile
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsstream._sansio.tarsparse import (
    MAX_SEGMENTS,
    MAX_SIZE,
    read_numbers,
    read_old_numbers,
    to_number,
    to_segments,
    to_sparse,
)


@pytest.mark.parametrize(
    ("numbers", "size", "stored"),
    [
        ([], 0, 0),
        ([], 10, 0),
        ([0, 10], 10, 10),
        ([2, 3, 5, 1, 9, 1], 10, 5),
        ([0, 5, 10, 0], 10, 5),
    ],
)
def test_segments(numbers: list[int], size: int, stored: int) -> None:
    found = list(to_segments(array("q", numbers), size=size, stored=stored))
    assert [number for segment in found for number in segment] == numbers


@pytest.mark.parametrize(
    ("numbers", "size", "stored"),
    [
        ([], 0, 1),
        ([0], 10, 0),
        ([0, 11], 10, 11),
        ([11, 0], 10, 0),
        ([5, 1, 5, 1], 10, 2),
        ([5, 1, 0, 1], 10, 2),
        ([-1, 1], 10, 1),
        ([5, -1], 10, -1),
        ([0, MAX_SIZE, MAX_SIZE, MAX_SIZE], MAX_SIZE, MAX_SIZE),
        ([0, 5], 10, 4),
        ([0, 5], 10, 6),
    ],
)
def test_segments_that_make_no_sense_are_refused(
    numbers: list[int], size: int, stored: int
) -> None:
    with pytest.raises(tarfile.ReadError):
        list(to_segments(array("q", numbers), size=size, stored=stored))


@given(st.lists(st.tuples(st.integers(0, MAX_SIZE), st.integers(0, MAX_SIZE)), max_size=100))
def test_numbers_in_front_of_the_data(segments: list[tuple[int, int]]) -> None:
    numbers = [number for segment in segments for number in segment]
    data = "".join(f"{number}\n" for number in [len(segments), *numbers]).encode()
    blocks = -(-len(data) // 512)
    file = io.BytesIO(data.ljust(blocks * 512, b"\0") + b"data")
    assert read_numbers(file.read).tolist() == numbers
    assert file.read() == b"data"


@pytest.mark.parametrize(
    "data",
    [b"", b"x\n", b"-1\n", b"1\n0\n-5\n", b"1\n\n", b"1" * 600, b"1\n99999999999999999999\n1\n"],
)
def test_damaged_numbers_are_refused(data: bytes) -> None:
    with pytest.raises(tarfile.ReadError):
        read_numbers(io.BytesIO(data.ljust(2048, b"\0")).read)


def test_map_without_an_end_is_refused() -> None:
    for count in (MAX_SEGMENTS + 1, 10**18):
        file = io.BytesIO(b"%d\n" % count + b"0\n" * 3 * MAX_SEGMENTS)
        with pytest.raises(tarfile.ReadError, match="too many holes"):
            read_numbers(file.read)


def test_old_map_without_an_end_is_refused() -> None:
    header = bytes(482) + b"\1" + bytes(29)
    for entry, message in ((bytes(24), "damaged"), (b"00000000000\0" * 2, "too many holes")):
        blocks = [entry * 21 + b"\1" + bytes(7)] * (MAX_SEGMENTS // 20)
        file = io.BytesIO(b"".join(blocks))
        with pytest.raises(tarfile.ReadError, match=message):
            to_sparse(0, read_old_numbers(header, file.read))


def test_size_beyond_any_file_is_refused() -> None:
    assert to_sparse(MAX_SIZE, [0, MAX_SIZE]).size == MAX_SIZE
    for size, numbers in ((MAX_SIZE + 1, []), (5, [0, MAX_SIZE + 1])):
        with pytest.raises(tarfile.ReadError):
            to_sparse(size, numbers)


@pytest.mark.parametrize(
    ("field", "number"),
    [
        (b"00000000017\0", 15),
        (b"         17 ", 15),
        (bytes(12), 0),
        (b"\x80" + bytes(7) + b"\0\0\x01\0", 256),
        (b"\x80" + (2**40).to_bytes(11, "big"), 2**40),
    ],
)
def test_number(field: bytes, number: int) -> None:
    assert to_number(field) == number


@pytest.mark.parametrize("field", [b"8", b"-7", b"0x7", b"1_0", b"7 7"])
def test_damaged_number_is_refused(field: bytes) -> None:
    with pytest.raises(tarfile.ReadError):
        to_number(field)
