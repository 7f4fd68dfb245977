"""Zip archives, written in a thread to a file that cannot seek."""

from __future__ import annotations

import os
import stat
import time
import zlib
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from typing import IO, NamedTuple
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

import attrs

from tsstream._sansio.ziplayout import needs_zip64

from .rules import warn_left_out
from .tree import Entry, Opener, Root, read_entry, walk

PROBE_SIZE = 8 * 1024  # bytes of a file: enough to see whether it is worth compressing
PROBED_FROM = 64 * 1024  # bytes: a smaller file is compressed in the time that a probe takes
INCOMPRESSIBLE = 0.95  # of its size a probe keeps: video, images and archives keep all of theirs
MAX_NAME = 0xFFFF  # bytes (APPNOTE.TXT 4.4.10), the slash behind a directory's included
FIRST_DATE = (1980, 1, 1, 0, 0, 0)  # what a zip archive can express (APPNOTE.TXT 4.4.6)
LAST_DATE = (2107, 12, 31, 23, 59, 58)
AFTER_LAST_DATE = 5_000_000_000  # seconds since the epoch; every localtime() knows it

# Python 3.13 has made the name public.
_LEVEL = "compress_level" if hasattr(ZipInfo, "compress_level") else "_compresslevel"


@attrs.frozen(kw_only=True)
class ZipOptions:
    """How a zip archive is made.

    Args:
      level: of deflate, 1 to 9; ``None`` stores every member.
      deterministic: no dates, and permissions 755 or 644.
      opener: as that of :func:`open`.
    """

    level: int | None = None
    deterministic: bool = False
    opener: Opener = os.open


class Member(NamedTuple):
    """A member to write. Of the many there may be nothing more is held than what is needed."""

    path: str
    info: ZipInfo


def find_members(roots: Sequence[Root], options: ZipOptions) -> Iterator[Member]:
    """Give what goes into the archive; warn of each name that a zip archive cannot hold.

    Raises:
      OSError: as :func:`walk`.
    """
    for entry in walk(roots):
        if fault := _fault_of_zip_name(entry.name):
            warn_left_out(entry.name, fault)
        else:
            yield Member(entry.path, _to_info(entry, options))


def write_zip(file: IO[bytes], members: Iterable[Member], options: ZipOptions) -> None:
    """Write the archive; of each file exactly the bytes that it had when it was found (BK-17).

    Raises:
      OSError: a file cannot be read, or has become shorter (BK-18).
    """
    archive = ZipFile(file, "w")
    try:
        for member in members:
            _add(archive, member, options)
        archive.close()
    except BaseException:
        # Else close(), which __del__ calls too, would write the end of a whole archive (BK-21).
        archive.fp = None
        raise


def _fault_of_zip_name(name: str) -> str | None:
    if "\\" in name:
        return "other systems take the backslash in its name for a separator"
    try:
        encoded = name.encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    return "its name is too long for zip" if len(encoded) >= MAX_NAME else None


def _to_info(entry: Entry, options: ZipOptions) -> ZipInfo:
    mode, is_directory = entry.stat.st_mode, stat.S_ISDIR(entry.stat.st_mode)
    date = to_date(entry.stat.st_mtime)
    if options.deterministic:
        mode = stat.S_IFMT(mode) | (0o755 if is_directory or mode & 0o100 else 0o644)
        date = FIRST_DATE
    info = ZipInfo(f"{entry.name}/" if is_directory else entry.name, date)
    info.create_system = 3  # Unix, whose modes these are
    info.external_attr = mode << 16
    if is_directory:
        info.external_attr |= 0x10  # as MS-DOS has it
        info.CRC = info.compress_size = 0
    else:
        info.file_size = entry.stat.st_size
    return info


def to_date(seconds: float) -> tuple[int, int, int, int, int, int]:
    """Give the local date of a time since the epoch, or the nearest that zip can express."""
    date = time.localtime(min(max(seconds, 0), AFTER_LAST_DATE))[:6]
    return min(max(FIRST_DATE, date), LAST_DATE)


def _add(archive: ZipFile, member: Member, options: ZipOptions) -> None:
    info = member.info
    if info.is_dir():
        archive.mkdir(info)
        return
    with closing(_read(member, options.opener)) as pieces:
        first = next(pieces, b"")
        _choose_method(info, first, options.level)
        with archive.open(info, "w", force_zip64=needs_zip64(info.file_size)) as file:
            file.write(first)
            for piece in pieces:
                file.write(piece)


def _read(member: Member, opener: Opener) -> Generator[bytes, None, None]:
    size = member.info.file_size
    known = os.stat_result((stat.S_IFREG, 0, 0, 0, 0, 0, size, 0, 0, 0))
    yield from read_entry(Entry(member.info.filename, member.path, known), opener)


def _choose_method(info: ZipInfo, first: bytes, level: int | None) -> None:
    """Store a member, deflate it, or store it inside of deflate if it does not get smaller.

    The last, because a deflated member says itself where it ends. Where a stored one does stands
    behind it, so that a program that unpacks while the archive arrives may not find it.
    """
    if level is None:
        info.compress_type = ZIP_STORED
        return
    info.compress_type = ZIP_DEFLATED
    setattr(info, _LEVEL, level if _is_compressible(info.file_size, first) else 0)


def _is_compressible(size: int, first: bytes) -> bool:
    if size < PROBED_FROM:
        return True
    middle = len(first) // 2  # headers are at the beginning, and compress
    probe = first[middle : middle + PROBE_SIZE]
    return len(zlib.compress(probe, 1)) < INCOMPRESSIBLE * len(probe)
