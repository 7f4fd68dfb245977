"""Archives that are cut, damaged or hostile: never taken for whole, and nothing lands outside."""

from __future__ import annotations

import errno
import io
import logging
import os
import random
import tarfile
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import attrs
import pytest
from tar_kit import CODINGS, directory, dribble, files_of, make_tar, member, nothing, read_tree

from tsstream._errors import HTTPError
from tsstream._files import extract
from tsstream._files.extract import Extraction, ExtractLimits, extract_tar
from tsstream._files.swap import open_replacement
from tsstream._files.tar_reader import MAX_REST, TarReader
from tsstream._files.unpack import INFLATE, unpack

KIB, MIB = 1024, 1024 * 1024
NOISE = random.Random(32).randbytes(400_000)
SMALL = make_tar(directory("tree"), member("tree/a", b"alpha"), member("tree/b", b"beta" * 200))
LARGE = make_tar(
    directory("tree"), *(member(f"tree/{n}", NOISE[n * 10_000 :][: n * 900]) for n in range(30))
)
NAMES = ["tree", "tree/a", "tree/b"]
END = 2 * tarfile.BLOCKSIZE  # bytes: of the end mark


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    (home / "tree").mkdir(parents=True)
    (home / "tree" / "old").write_bytes(b"precious")
    (home / "other").write_bytes(b"mine")
    return home


def unpack_into(home: Path, data: bytes, **options: Any) -> extract.Extracted:
    return extract_tar(io.BytesIO(data), home, sync=nothing, **options)


def read_whole(data: bytes) -> dict[str, bytes]:
    """Read an archive without a disk."""
    reader = TarReader(unpack(io.BytesIO(data)))
    return {found.name: b"".join(map(bytes, reader.read_data())) for found in reader}


def assert_refused(home: Path, data: bytes, status: int = 400, **options: Any) -> None:
    before = read_tree(home)
    with pytest.raises(HTTPError) as caught:
        unpack_into(home, data, **options)
    assert caught.value.status_code == status
    assert read_tree(home) == before


def end_of_data(archive: bytes) -> int:
    """Give where the end mark begins."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as read:
        return read.getmembers()[-1].offset_data + 1024


# Cut. BK-32


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


# Damaged. BK-32


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


# Hostile. BK-34

LINK: dict[str, Any] = {"type": tarfile.SYMTYPE, "linkname": "/tmp"}
HARD: dict[str, Any] = {"type": tarfile.LNKTYPE, "linkname": "tree/good"}
SPARSE: dict[str, Any] = {"pax_headers": {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}}
HOSTILE: dict[str, list[tuple[tarfile.TarInfo, bytes]]] = {
    "upwards": [member("../evil", b"x")],
    "absolute": [member("/tmp/evil", b"x")],
    "upwards from within": [member("tree/../../evil", b"x")],
    "elsewhere": [member("elsewhere/x", b"x")],
    "with a dot": [member("./tree/q", b"x")],
    "dots only": [directory("./")],
    "symbolic link": [member("tree/link", **LINK)],
    "symbolic link for a tree": [member("tree", **LINK)],
    "hard link": [member("tree/link", **HARD)],
    "hard link with a size": [member("tree/link", **HARD, size=99)],
    "long name": [member("tree/" + "n" * 300, b"x")],
    "deep name": [member("tree/" + "d/" * 1000 + "x", b"x")],
    "longer name": [member("tree/" + ("n" * 200 + "/") * 40 + "x", b"x")],
    "NUL": [member("tree/x", b"x", pax_headers={"path": "tree/a\0b"})],
    "PAX path": [member("tree/x", b"x", pax_headers={"path": "../evil"})],
    "sparse": [member("tree/x", b"1\n0\n5\n" + bytes(506) + b"alpha", **SPARSE)],
    "device": [member("tree/x", type=tarfile.CHRTYPE, devmajor=1, devminor=3)],
    "block device": [member("tree/x", type=tarfile.BLKTYPE)],
    "FIFO": [member("tree/x", type=tarfile.FIFOTYPE)],
    "unknown": [member("tree/x", b"data" * 1000, type=b"Z")],
    "file for a tree": [member("tree", b"x")],
    "empty component": [member("tree//x", b"x")],
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_member_is_left_out_with_a_warning(
    case: str, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    archive = make_tar(
        directory("tree"), member("tree/good", b"1"), *HOSTILE[case], member("tree/z", b"2")
    )
    outside = read_tree(home.parent).keys() - {"home/tree/old"}
    result = unpack_into(home, archive, required=["tree"])
    assert files_of(home / "tree") == {"good": b"1", "z": b"2"}
    assert read_tree(home.parent).keys() - {"home/tree/good", "home/tree/z"} == outside
    assert (result.members, result.skipped, result.size) == (3, 1, 2)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_file_below_a_link_of_the_archive_stays_in_the_tree(home: Path) -> None:
    archive = make_tar(member("tree/link", **LINK), member("tree/link/evil", b"x"))
    unpack_into(home, archive, required=["tree"])
    assert files_of(home) == {"tree/link/evil": b"x", "other": b"mine"}
    assert not os.path.exists("/tmp/evil")


def test_nothing_is_written_through_a_link_of_the_destination(home: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (home / "tree" / "link").symlink_to(tmp_path / "outside")
    (home / "linked").symlink_to(tmp_path / "outside")
    unpack_into(home, make_tar(member("tree/link/x", b"x"), member("linked/y", b"y")))
    assert files_of(tmp_path / "outside") == {}
    assert files_of(home) == {"tree/link/x": b"x", "linked/y": b"y", "other": b"mine"}


def test_backslashes_are_characters(home: Path) -> None:
    unpack_into(home, make_tar(member("tree/..\\..\\x", b"x")))
    assert files_of(home / "tree") == {"..\\..\\x": b"x"}


def test_permissions_are_only_for_reading_writing_and_running(home: Path) -> None:
    archive = make_tar(member("tree/a", mode=0o6755), member("tree/b", mode=0o7000))
    unpack_into(home, archive)
    assert [mode for mode, _ in read_tree(home / "tree").values()] == [0o755, 0o600]


def test_warnings_have_an_end(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    count = extract.MAX_WARNINGS + 5
    result = unpack_into(home, make_tar(*[member("../x")] * count))
    assert result.skipped == count
    assert len(caplog.records) == extract.MAX_WARNINGS + 1


@pytest.mark.parametrize(
    "header",
    [
        member("x", type=b"x", size=2 * MIB),
        member("x", type=tarfile.GNUTYPE_LONGNAME, size=2**33),
        member("x", type=b"g", size=-512),
        member("x", size=-512),
    ],
)
def test_header_with_an_impossible_size_is_refused_at_once(
    header: tuple[tarfile.TarInfo, bytes], home: Path
) -> None:
    block = header[0].tobuf(tarfile.GNU_FORMAT)
    before = read_tree(home)
    with pytest.raises(HTTPError, match="400"):
        extract_tar(dribble([block, AssertionError("read on")]), home, sync=nothing)
    assert read_tree(home) == before


def test_headers_for_no_member_have_an_end(home: Path) -> None:
    info, data = member("x", b"11 path=xx\n", type=b"g")
    header = info.tobuf(tarfile.USTAR_FORMAT) + data.ljust(512, b"\0")
    assert_refused(home, header * 100 + SMALL)


# Bombs and full disks. BK-35, BK-36


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


def test_more_than_most_of_the_free_disk_is_refused_unless_asked_for(home: Path) -> None:
    free = os.statvfs(home).f_bavail * os.statvfs(home).f_frsize
    with pytest.raises(HTTPError, match="413"):
        extract_tar(dribble([next(bomb(free))]), home, sync=nothing)
    with pytest.raises(HTTPError, match="400"):  # as it goes on reading
        limits = ExtractLimits(max_size=2 * free, max_member=2 * free)
        extract_tar(dribble([next(bomb(free))]), home, limits=limits, sync=nothing)


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
