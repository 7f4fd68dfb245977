"""Archives that unpack to too much, and disks that are full (BK-35, BK-36)."""

from __future__ import annotations

import errno
import io
import os
import tarfile
import tracemalloc
from collections.abc import Iterator
from itertools import chain, repeat
from pathlib import Path

import attrs
import pytest
from extract_kit import LARGE, assert_refused, make_home, unpack_into
from tar_kit import CODINGS, dribble, make_tar, member, nothing, read_tree

from tsstream._errors import HTTPError
from tsstream._files import extract
from tsstream._files.extract import Extraction, ExtractLimits, extract_tar
from tsstream._files.swap import open_replacement
from tsstream._files.tar_reader import TarReader
from tsstream._files.unpack import unpack

KIB, MIB = 1024, 1024 * 1024
END = 2 * tarfile.BLOCKSIZE  # bytes: of the end mark


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return make_home(tmp_path)


def bomb(size: int) -> Iterator[bytes]:
    info, _ = member("tree/zeros", size=size)
    yield info.tobuf()
    for _ in range(size // MIB):
        yield bytes(MIB)


def test_bomb_is_refused_by_its_header(home: Path) -> None:
    before = read_tree(home)
    with pytest.raises(HTTPError, match="413"):
        extract_tar(
            dribble([next(bomb(10**10)), AssertionError("read on")]),
            home,
            limits=ExtractLimits(max_size=10**8),
            sync=nothing,
        )
    assert read_tree(home) == before


@pytest.mark.parametrize(
    ("limits", "fits"),
    [
        (ExtractLimits(max_members=31), True),
        (ExtractLimits(max_members=30), False),
        (ExtractLimits(max_member=29 * 900), True),
        (ExtractLimits(max_member=29 * 900 - 1), False),
        (ExtractLimits(max_size=435 * 900), True),
        (ExtractLimits(max_size=435 * 900 - 1), False),
    ],
)
def test_limits(limits: ExtractLimits, fits: bool, home: Path) -> None:
    if fits:
        assert unpack_into(home, LARGE, limits=limits).members == 31
    else:
        assert_refused(home, LARGE, 413, limits=limits)


@pytest.mark.parametrize(
    ("asked_for", "status"),
    [((), 413), (("max_size",), 413), (("max_member",), 413), (("max_size", "max_member"), 400)],
)
def test_more_than_most_of_the_free_disk_is_refused_unless_asked_for(
    asked_for: tuple[str, ...], status: int, home: Path
) -> None:
    free = os.statvfs(home).f_bavail * os.statvfs(home).f_frsize
    limits = ExtractLimits(**dict.fromkeys(asked_for, 2 * free))
    with pytest.raises(HTTPError) as caught:
        extract_tar(dribble([next(bomb(free))]), home, limits=limits, sync=nothing)
    assert caught.value.status_code == status  # 400: it was read on, and is cut


@attrs.define
class FullDisk:
    """os.write(), until the disk is full."""

    free: int
    error: int = errno.ENOSPC

    def write(self, file: int, data: memoryview) -> int:
        if not self.free:
            raise OSError(self.error, "no")
        written = os.write(file, data[: self.free])
        self.free -= written
        return written


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_is_answered_with_507(error: int, home: Path) -> None:
    before = read_tree(home)
    disk = FullDisk(100_000, error)
    extraction = Extraction(known=frozenset(), limits=ExtractLimits(), write=disk.write)
    with pytest.raises(HTTPError) as caught:
        with extract._translating(), open_replacement(home) as replacement:
            extraction.run(io.BytesIO(LARGE), replacement.new)
    assert caught.value.status_code == 507
    assert disk.free == 0
    assert read_tree(home) == before


def test_full_disk_noticed_by_sync_is_answered_with_507(home: Path) -> None:
    before = read_tree(home)

    def sync() -> None:
        raise OSError(errno.ENOSPC, "no")

    with pytest.raises(HTTPError, match="507"):
        extract_tar(io.BytesIO(LARGE), home, sync=sync)
    assert read_tree(home) == before


@pytest.mark.parametrize("large", [False, True])
def test_memory_is_flat_however_many_or_large_the_members(large: bool) -> None:
    zeros = bytes(MIB)
    names = (member(f"tree/{n:06}/{n}")[0].tobuf() for n in range(4_000))
    head = member("tree/zeros", size=4096 * MIB)[0].tobuf()
    pieces = chain([head], repeat(zeros, 4096)) if large else names
    reader = TarReader(chain(pieces, [bytes(END)]))
    tracemalloc.start()
    try:
        assert sum(1 for _ in reader) == (1 if large else 4_000)
        assert tracemalloc.get_traced_memory()[1] < MIB // 2
    finally:
        tracemalloc.stop()


def test_little_that_unpacks_to_much_comes_in_pieces() -> None:
    for coding, compress in CODINGS.items():
        packed = compress(bytes(16 * MIB))
        sizes = [len(piece) for piece in unpack(io.BytesIO(packed))]
        assert sum(sizes) == 16 * MIB, coding
        assert max(sizes) <= 256 * KIB, coding


def test_extended_headers_count(home: Path) -> None:
    size = 200 * KIB
    header = {"comment": "x" * size}
    archive = make_tar(*(member(f"tree/{n}", pax_headers=header) for n in range(9)))
    assert unpack_into(home, archive, limits=ExtractLimits(max_size=10 * size)).members == 9
    assert_refused(home, archive, 413, limits=ExtractLimits(max_size=8 * size))


def test_holes_count(home: Path) -> None:
    fields = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "8000000"}
    archive = make_tar(member("tree/x", b"0\n".ljust(512, b"\0"), pax_headers=fields))
    for name in ("max_size", "max_member"):
        assert_refused(home, archive, 413, limits=ExtractLimits(**{name: 7_999_999}))
    assert unpack_into(home, archive, limits=ExtractLimits(max_size=8_001_000)).size == 8_000_000
    assert os.stat(home / "tree" / "x").st_size == 8_000_000
