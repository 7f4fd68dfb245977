"""Where each member of a tar archive begins, known before a byte of it is read."""

from __future__ import annotations

import hashlib
import stat
import struct
import sys
import tarfile
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from copy import copy
from functools import lru_cache
from typing import Literal, NamedTuple, cast

BLOCK_SIZE = 512  # bytes: headers and contents are multiples of it
RECORD_SIZE = 20 * BLOCK_SIZE  # bytes: the archive is a multiple of it, as tarfile makes it

ENCODING = "utf-8"
ERRORS = "surrogateescape"  # names are bytes on the disk, and come out as they were

# One member: its Identity, then mtime, mode, uid, gid, uname and gname of its header. Its name is
# kept apart. About 150 bytes in all, so that 20,000 members take 3 MB.
_RECORD = struct.Struct("<QqqQQqIIIII")

# Numbers below these, and ASCII no longer than these, need no PAX or GNU record.
_MAX_ID = 8**7
_MAX_NUMBER = 8**11
_MAX_NAME = 100
_MAX_USER = 31


class Identity(NamedTuple):
    """What tells one state of a file from another one; the times are in nanoseconds.

    A new content comes with a new ctime, which no program can set.
    """

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    device: int


class Layout:
    """The members of an archive in their order: files and directories.

    Their headers are the bytes that ``tarfile.open(mode="w|")`` writes for the same ``TarInfo``
    objects, names being in UTF-8.

    Args:
      format: ``tarfile.PAX_FORMAT``, ``GNU_FORMAT`` or ``USTAR_FORMAT``.
    """

    def __init__(self, *, format: int = tarfile.PAX_FORMAT) -> None:  # noqa: A002 (as tarfile)
        self.format = format
        self._starts = array("q", [0])  # bytes; and, as the last one, where the end mark begins
        self._records = bytearray()
        self._names = bytearray()
        self._name_ends = array("q", [0])
        self._users: dict[str, int] = {}  # names of users and groups: their numbers
        self._odd: dict[int, tarfile.TarInfo] = {}  # what no record holds
        self._sources: dict[int, str] = {}  # those that are not the name

    def __len__(self) -> int:
        return len(self._starts) - 1

    def add(self, info: tarfile.TarInfo, identity: Identity, source: str) -> None:
        """Add a member; *info* may be changed and used again.

        Args:
          info: a file's, of the size in *identity*; or a directory's, of size 0.
          identity: of the file that the content comes from.
          source: what the caller knows the file by.

        Raises:
          ValueError: the format has no way to say this.
        """
        plain = _is_plain(info)
        if plain or _fits_record(info):
            users = self._users
            fields = (
                int(info.mtime),
                info.mode & 0o7777 | (stat.S_IFDIR if info.isdir() else stat.S_IFREG),
                info.uid,
                info.gid,
                users.setdefault(info.uname, len(users)),
                users.setdefault(info.gname, len(users)),
            )
        else:
            self._odd[len(self)] = copy(info)
            fields = (0, stat.S_IFREG, 0, 0, 0, 0)
        if info.name != source:
            self._sources[len(self)] = source
        self._records += _RECORD.pack(*identity, *fields)
        self._names += info.name.encode(ENCODING, ERRORS)
        self._name_ends.append(len(self._names))
        header_size = BLOCK_SIZE if plain else len(_by_tarfile(info, self.format))
        size = header_size + info.size
        self._starts.append(self._starts[-1] + size + -size % BLOCK_SIZE)

    @property
    def content_end(self) -> int:
        """Where the end mark begins: zeros, up to *length*."""
        return self._starts[-1]

    @property
    def length(self) -> int:
        """The size of the whole archive in bytes."""
        return self.content_end + len(end_mark(self.content_end))

    def span(self, index: int) -> tuple[int, int]:
        """Give where the member begins, with its header, and where the next one does."""
        return self._starts[index], self._starts[index + 1]

    def find(self, offset: int) -> int:
        """Give the index of the member that *offset* is in; ``len()`` for the end mark."""
        return min(bisect_right(self._starts, offset) - 1, len(self))

    def info(self, index: int) -> tarfile.TarInfo:
        """Give a member as it was added."""
        if index in self._odd:
            return copy(self._odd[index])
        info = tarfile.TarInfo(self._name(index))
        record = _RECORD.unpack_from(self._records, index * _RECORD.size)
        info.mtime, mode, info.uid, info.gid, uname, gname = record[5:]
        info.mode = stat.S_IMODE(mode)
        if stat.S_ISDIR(mode):
            info.type = tarfile.DIRTYPE
        else:
            info.size = record[0]
        users = self._user_names()
        info.uname, info.gname = users[uname], users[gname]
        return info

    def identity(self, index: int) -> Identity:
        """Give the state of the file that the member's content comes from."""
        return Identity(*_RECORD.unpack_from(self._records, index * _RECORD.size)[:5])

    def source(self, index: int) -> str:
        """Give what the caller knows the member's file by."""
        return self._sources.get(index) or self._name(index)

    def header(self, index: int) -> bytes:
        """Give the bytes before the member's content."""
        return to_header(self.info(index), self.format)

    def etag(self) -> str:
        """Give a strong entity tag (RFC 9110, 8.8.3).

        The same for the same members, made of the same states of files, by the same version of
        the code that writes headers; it depends on no content.
        """
        digest = hashlib.sha256(repr((sys.version_info[:2], self.format)).encode())
        for column in self._columns():
            digest.update(len(column).to_bytes(8, "little"))
            digest.update(column)
        return f'"{digest.hexdigest()[:32]}"'

    def _columns(self) -> Iterator[bytes | bytearray]:
        yield self._starts.tobytes()
        yield self._records
        yield self._names
        yield self._name_ends.tobytes()
        for name in self._users:
            yield name.encode(ENCODING, ERRORS)
        for index, info in self._odd.items():
            yield repr((index, info.get_info(), info.pax_headers)).encode(ENCODING, ERRORS)

    def _name(self, index: int) -> str:
        name = self._names[self._name_ends[index] : self._name_ends[index + 1]]
        return name.decode(ENCODING, ERRORS)

    def _user_names(self) -> list[str]:
        return list(self._users)


def to_header(info: tarfile.TarInfo, format: int) -> bytes:  # noqa: A002 (as tarfile)
    """Give the bytes before a member's content; a multiple of 512.

    Raises:
      ValueError: the format has no way to say this.
    """
    if not _is_plain(info):
        return _by_tarfile(info, format)
    # Four times as fast: most members share with another one what _frame() keeps.
    name = (info.name + "/" if info.isdir() else info.name).encode()
    numbers = b"%011o\0%011o\0" % (info.size, int(info.mtime))
    owner, rest, total = _frame(
        info.mode & 0o7777, info.uid, info.gid, info.type, info.uname, info.gname, format
    )
    checksum = b"%06o\0 " % (total + sum(name) + sum(numbers))
    return b"".join((name.ljust(_MAX_NAME, b"\0"), owner, numbers, checksum, rest))


@lru_cache(256)
def _frame(
    mode: int,
    uid: int,
    gid: int,
    type: bytes,  # noqa: A002 (as tarfile)
    uname: str,
    gname: str,
    format: int,  # noqa: A002 (as tarfile)
) -> tuple[bytes, bytes, int]:
    """Give a header's bytes between its name and its size, those behind its checksum, their sum.

    They are tarfile's own, so that they are right for every version of it.
    """
    info = tarfile.TarInfo("x")
    info.mode, info.uid, info.gid, info.type = mode, uid, gid, type
    info.uname, info.gname = uname, gname
    block = _by_tarfile(info, format)
    owner, rest = block[100:124], block[156:]
    return owner, rest, sum(owner) + sum(rest) + 8 * ord(" ")  # in place of the checksum


def _by_tarfile(info: tarfile.TarInfo, format: int) -> bytes:  # noqa: A002 (as tarfile)
    return info.tobuf(cast("Literal[0, 1, 2]", format), ENCODING, ERRORS)


def end_mark(position: int) -> bytes:
    """Give the zeros that end an archive whose members end at *position*."""
    return bytes(2 * BLOCK_SIZE + -(position + 2 * BLOCK_SIZE) % RECORD_SIZE)


def padding(size: int) -> bytes:
    """Give the zeros behind a content of *size* bytes."""
    return bytes(-size % BLOCK_SIZE)


def _is_plain(info: tarfile.TarInfo) -> bool:
    """Say that, at a glance, the header is one block in any format."""
    name = info.name
    return (
        len(name) < _MAX_NAME  # with the slash of a directory
        and name.isascii()
        and not name.endswith("/")
        and info.size < _MAX_NUMBER
        and type(info.mtime) is int
        and 0 <= info.mtime < _MAX_NUMBER
        and 0 <= info.uid < _MAX_ID
        and 0 <= info.gid < _MAX_ID
        and len(info.uname) <= _MAX_USER
        and info.uname.isascii()
        and len(info.gname) <= _MAX_USER
        and info.gname.isascii()
        and not info.pax_headers
        and not info.linkname
    )


def _fits_record(info: tarfile.TarInfo) -> bool:
    return (
        not info.pax_headers
        and not info.linkname
        and type(info.mtime) is int
        and -(2**63) <= info.mtime < 2**63
        and 0 <= info.uid < 2**32
        and 0 <= info.gid < 2**32
    )
