"""Archives that are hostile: nothing of them lands outside (BK-34)."""

from __future__ import annotations

import logging
import os
import stat
import tarfile
from pathlib import Path
from typing import Any

import pytest
from extract_kit import SMALL, assert_refused, make_home, unpack_into
from tar_kit import directory, dribble, files_of, make_tar, member, nothing, read_tree

from tsstream._errors import HTTPError
from tsstream._files import extract
from tsstream._files.extract import extract_tar

MIB = 1024 * 1024


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return make_home(tmp_path)


LINK: dict[str, Any] = {"type": tarfile.SYMTYPE, "linkname": "/tmp"}
HARD: dict[str, Any] = {"type": tarfile.LNKTYPE, "linkname": "tree/good"}
SPARSE: dict[str, Any] = {"pax_headers": {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}}
SPARSE_NAME: dict[str, Any] = {
    "pax_headers": {
        **SPARSE["pax_headers"],
        "GNU.sparse.realsize": "4",
        "GNU.sparse.name": "../evil",
    }
}
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
    "strange sparse": [member("tree/x", b"1\n0\n5\n" + bytes(506) + b"alpha", **SPARSE)],
    "sparse name": [member("tree/x", b"0\n" + bytes(510), **SPARSE_NAME)],
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


def test_what_is_told_of_a_long_name_is_short(home: Path) -> None:
    name = "tree/" + "n" * 900_000
    result = unpack_into(home, make_tar(member(name)))
    assert result.name == name[: extract.MAX_NAME]


# Numbers that are no file's: permissions and times far beyond what the system has.
@pytest.mark.parametrize("number", [b"\x80" + b"\0" * 2 + b"\x01" * 5, b"\xff" * 8])
def test_impossible_permissions_are_cut_down(number: bytes, home: Path) -> None:
    block = bytearray(make_tar(member("tree/x")))
    block[100:108] = number
    block[148:156] = b"%06o\0 " % (sum(block[:148]) + 8 * 32 + sum(block[156:512]))
    unpack_into(home, bytes(block))
    assert stat.S_IMODE(os.stat(home / "tree" / "x").st_mode) in (0o601, 0o777)


def test_headers_for_no_member_have_an_end(home: Path) -> None:
    info, data = member("x", b"11 path=xx\n", type=b"g")
    header = info.tobuf(tarfile.USTAR_FORMAT) + data.ljust(512, b"\0")
    assert_refused(home, header * 100 + SMALL)
