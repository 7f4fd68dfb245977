"""Archives that are cut or damaged: never taken for whole, and nothing changes (BK-32)."""

from __future__ import annotations

import errno
import io
import os
import random
import tarfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from extract_kit import LARGE, SMALL, assert_refused, make_home
from tar_kit import CODINGS, dribble, nothing, read_tree

from tsstream._errors import HTTPError
from tsstream._files.extract import extract_tar
from tsstream._files.tar_reader import MAX_REST, TarReader
from tsstream._files.unpack import INFLATE, unpack

KIB = 1024
NAMES = ["tree", "tree/a", "tree/b"]
END = 2 * tarfile.BLOCKSIZE  # bytes: of the end mark


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return make_home(tmp_path)


def read_whole(data: bytes) -> dict[str, bytes]:
    """Read an archive without a disk."""
    reader = TarReader(unpack(io.BytesIO(data)))
    return {found.name: b"".join(map(bytes, reader.read_data())) for found in reader}


def end_of_data(archive: bytes) -> int:
    """Give where the end mark begins."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as read:
        return read.getmembers()[-1].offset_data + 1024


# Cut


def test_archive_cut_anywhere_is_refused() -> None:
    end = end_of_data(SMALL) + END
    for offset in range(end):
        with pytest.raises(tarfile.ReadError):
            read_whole(SMALL[:offset])
    for offset in range(end, len(SMALL) + 1, 97):  # its padding is missing
        assert list(read_whole(SMALL[:offset])) == NAMES


@pytest.mark.parametrize("coding", CODINGS)
def test_compressed_archive_cut_anywhere_is_refused(coding: str) -> None:
    data = CODINGS[coding](SMALL)
    for offset in range(len(data)):
        with pytest.raises(tarfile.ReadError):
            read_whole(data[:offset])
    assert list(read_whole(data)) == NAMES


@pytest.mark.parametrize("coding", ["none", *CODINGS])
def test_nothing_changes_if_the_archive_is_cut(coding: str, home: Path) -> None:
    data = LARGE[: -(10 * KIB)] + bytes(END) if coding == "none" else CODINGS[coding](LARGE)
    for offset in range(0, len(data), len(data) // 20 + 1):
        assert_refused(home, data[:offset])
    for offset in range(len(data) - 12, len(data)):
        assert_refused(home, data[:offset])


@pytest.mark.parametrize("at", [0, 1, 3])
def test_nothing_changes_if_the_archive_ends_at_a_border_of_members(at: int, home: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(LARGE)) as read:
        offset = read.getmembers()[at].offset
    assert_refused(home, LARGE[:offset])
    assert_refused(home, LARGE[:offset] + bytes(512))  # half an end mark
    assert_refused(home, CODINGS["gzip"](LARGE[:offset]))


def test_error_of_the_file_is_raised_as_itself(home: Path) -> None:
    before = read_tree(home)
    for error in (OSError(errno.EIO, "broken"), HTTPError(408), KeyboardInterrupt()):
        with pytest.raises(type(error)) as caught:
            extract_tar(dribble([LARGE[:70_000], error]), home, sync=nothing)
        assert caught.value is error
    assert read_tree(home) == before


def test_file_is_read_to_its_end_before_anything_changes(home: Path) -> None:
    before = read_tree(home)
    with pytest.raises(HTTPError, match="408"):
        extract_tar(dribble([SMALL, HTTPError(408)]), home, sync=nothing)
    assert read_tree(home) == before


# Damaged


@pytest.mark.parametrize("inflate", [INFLATE, zlib.decompressobj])
def test_flipped_bit_in_gzip_is_noticed(inflate: Callable[[int], Any]) -> None:
    data = CODINGS["gzip"](SMALL)
    unnoticed = 0
    for bit in range(10 * 8, len(data) * 8):  # behind the header, which says nothing of the data
        with suppress(tarfile.ReadError):
            assert b"".join(unpack(io.BytesIO(flip(data, bit)), inflate=inflate)) == SMALL
            unnoticed += 1
    assert unnoticed < 20  # those that fill up the last byte, and codes that nothing uses


@pytest.mark.parametrize("coding", CODINGS)
def test_flipped_bit_never_gives_other_data(coding: str) -> None:
    data, whole = CODINGS[coding](SMALL), read_whole(SMALL)
    refused = 0
    for bit in range(0, len(data) * 8, 3):
        try:
            assert read_whole(flip(data, bit)) == whole
        except tarfile.ReadError:
            refused += 1
    assert refused > len(data) * 8 / 3 * 0.8


def test_flipped_bit_in_a_header_is_noticed() -> None:
    for bit in range(512 * 8):
        try:
            assert list(read_whole(flip(SMALL, bit))) == NAMES
        except tarfile.ReadError:
            continue
        # Spaces, zeros and NULs around the checksum itself mean the same.
        assert 148 * 8 <= bit < 156 * 8


@pytest.mark.parametrize("coding", ["none", *CODINGS])
def test_damage_is_an_answer_and_no_failure(coding: str, home: Path) -> None:
    data = LARGE if coding == "none" else CODINGS[coding](LARGE)
    rng = random.Random(coding)
    for _ in range(40):
        at = rng.randrange(len(data) - 60)
        broken = data[:at] + rng.randbytes(rng.randrange(1, 50)) + data[at + 3 :]
        assert_refused(home, broken, required=["tree", "never there"])


def flip(data: bytes, bit: int) -> bytes:
    flipped = bytearray(data)
    flipped[bit // 8] ^= 1 << bit % 8
    return bytes(flipped)


GZIPPED = CODINGS["gzip"](SMALL)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no archive",
        b"\x1f\x8b\x08",
        os.urandom(5000),
        b"\0" * 512,
        SMALL + b"x",
        SMALL + SMALL,
        GZIPPED + b"garbage",
        GZIPPED + b"\0\0\0x",
        GZIPPED + CODINGS["gzip"](b"x"),
        CODINGS["gzip"](GZIPPED),
        SMALL + bytes(MAX_REST),
    ],
    ids=range(12),
)
def test_what_is_no_archive_and_nothing_else_is_refused(data: bytes, home: Path) -> None:
    assert_refused(home, data)
