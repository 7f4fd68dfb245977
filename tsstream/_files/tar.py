"""Tar archives, written in a thread: as a whole, or any part of one whose layout is known."""

from __future__ import annotations

import functools
import grp
import os
import pwd
import stat
import tarfile
from collections.abc import Callable, Iterator
from typing import IO, TypeAlias

import attrs

from tsstream._sansio.tarlayout import end_mark, padding, to_header

from .compression import Compressor
from .rules import fault_of_name
from .tree import Entry, Opener, Root, read_entry, walk

Filter: TypeAlias = Callable[[tarfile.TarInfo], tarfile.TarInfo | None]


@attrs.frozen(kw_only=True)
class Plan:
    """What goes into an archive, and how.

    Args:
      filter: as ``TarFile.add()``'s; it may change anything but a member's type and size.
      deterministic: the metadata are the same wherever and whenever the tree was made.
    """

    roots: tuple[Root, ...]
    format: int = tarfile.PAX_FORMAT
    filter: Filter | None = None
    deterministic: bool = False
    opener: Opener = os.open


def write_tar(file: IO[bytes], plan: Plan, open_compressor: Callable[[], Compressor]) -> None:
    """Write a compressed archive of the tree as it is found on the way.

    A file that grows meanwhile is archived as long as it was (BK-17).

    Raises:
      OSError: a file is missing, cannot be read, or has become shorter (BK-18, BK-20, BK-22).
    """
    compressor = open_compressor()
    position = 0
    for entry, info in describe(plan):
        header = to_header(info, plan.format)
        data = compressor.compress(header)
        if not position:
            data += compressor.flush()  # so that a reader has it at once (BK-3)
        _write(file, data)
        if info.isreg():
            for piece in read_entry(entry, plan.opener):
                _write(file, compressor.compress(piece))
            _write(file, compressor.compress(padding(info.size)))
        position += len(header) + info.size + len(padding(info.size))
    file.write(compressor.compress(end_mark(position)) + compressor.finish())


def _write(file: IO[bytes], data: bytes) -> None:
    if data:
        file.write(data)


def describe(plan: Plan) -> Iterator[tuple[Entry, tarfile.TarInfo]]:
    """Give the members of an archive. A ``TarInfo`` may be another one's after the next step.

    Raises:
      OSError: see :func:`walk`.
      ValueError: the filter has given what cannot be written.
      whatever the filter raises.
    """
    user_name, group_name = functools.cache(_user_name), functools.cache(_group_name)
    info = tarfile.TarInfo()
    pruned: set[str] = set()
    for entry in walk(plan.roots, pruned):
        found = entry.stat
        mode = found.st_mode
        if plan.filter is not None:
            info = tarfile.TarInfo()  # the filter may keep it
        info.name = entry.name
        info.mode = mode & 0o7777
        if stat.S_ISREG(mode):
            info.type, info.size = tarfile.REGTYPE, found.st_size
        else:
            info.type, info.size = tarfile.DIRTYPE, 0
        if plan.deterministic:
            info.mode = 0o755 if info.type == tarfile.DIRTYPE or mode & 0o100 else 0o644
        else:
            # Whole seconds: a fraction would cost a PAX record for every member.
            info.mtime = found.st_mtime_ns // 1_000_000_000
            info.uid, info.uname = found.st_uid, user_name(found.st_uid)
            info.gid, info.gname = found.st_gid, group_name(found.st_gid)
        if plan.filter is None:
            yield entry, info
        elif (kept := _apply(plan.filter, info)) is not None:
            yield entry, kept
        elif info.type == tarfile.DIRTYPE:
            pruned.add(entry.name)


def _apply(keep: Filter, info: tarfile.TarInfo) -> tarfile.TarInfo | None:
    name, kind, size = info.name, info.type, info.size
    kept = keep(info)
    if kept is None:
        return None
    if (kept.type, kept.size) != (kind, size):
        raise ValueError(f"the filter has changed the type or the size of {name!r}; it must not")
    # Of a file's name the slash would make a directory, for those who unpack it.
    if fault := fault_of_name(kept.name.removesuffix("/") if kept.isdir() else kept.name):
        raise ValueError(f"the filter has given {name!r} the name {kept.name!r}, but {fault}")
    return kept


def _user_name(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return ""


def _group_name(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return ""
