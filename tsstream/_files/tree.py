"""The files and directories that go into an archive: found, opened and read."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, TypeAlias

import attrs

from tsstream._streams.thread_channel import CHUNK_SIZE

from .rules import fault_of_name, warn_left_out, why_left_out

StrPath: TypeAlias = str | os.PathLike[str]
Opener: TypeAlias = Callable[[str, int], int]

PIECE_SIZE = CHUNK_SIZE  # bytes: what one hop from the thread carries
# Of a file that has become a symbolic link or a FIFO since it was looked at neither the target is
# read, nor does opening it wait for a writer.
READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@attrs.frozen
class Root:
    """A file or directory that was asked for, and its name in the archive."""

    path: str
    name: str


class Entry(NamedTuple):
    """A regular file or a directory: its name in the archive, its path, what lstat() said."""

    name: str
    path: str
    stat: os.stat_result


def to_roots(
    paths: StrPath | Iterable[StrPath], arcname: str | Sequence[str] | None = None
) -> tuple[Root, ...]:
    """Name what goes into an archive; nothing is looked at.

    Args:
      paths: one, or several.
      arcname: the name of the one, or one name for each; else the last component of each path.

    Raises:
      ValueError: there is not one name for each path, or it is no good name, or is there twice.
    """
    given = [paths] if isinstance(paths, str | os.PathLike) else paths
    found = [os.fspath(path) for path in given]
    if arcname is None:
        names = [os.path.basename(os.path.abspath(path)) for path in found]
    else:
        names = [arcname] if isinstance(arcname, str) else list(arcname)
    if len(names) != len(found):
        raise ValueError(f"arcname has {len(names)} names for {len(found)} paths; give one each")
    for index, name in enumerate(names):
        _check_name(name, names[:index])
    return tuple(Root(path, name) for path, name in zip(found, names, strict=True))


def _check_name(name: str, others: Sequence[str]) -> None:
    fault = fault_of_name(name)
    if fault is None and name in others:
        fault = "another path has it, too"
    if fault is not None:
        raise ValueError(f"{name!r} is no name in an archive: {fault}; give another as arcname")


def walk(roots: Sequence[Root], pruned: Container[str] = ()) -> Iterator[Entry]:
    """Give each root and, after a directory, what is in it, sorted as ``TarFile.add()`` does.

    All roots are looked at before the first entry comes (BK-20). A root that is a symbolic link
    is followed; what else is neither a file nor a directory is left out, with a warning (BK-19).
    No more than one directory's names for each level are held.

    Args:
      roots: what was asked for.
      pruned: names of directories that are not entered; asked after such a directory was given.

    Raises:
      OSError: a root is missing or nothing that can be archived; a directory cannot be read; a
        file has gone between being listed and being looked at (BK-18).
    """
    # In a list, so that each entry's fate is decided before the first is given.
    for entry in [_look_at_root(root) for root in roots]:
        yield entry
        if stat.S_ISDIR(entry.stat.st_mode) and entry.name not in pruned:
            yield from _walk_below(entry, pruned)


def _look_at_root(root: Root) -> Entry:
    path = os.path.realpath(root.path) if os.path.islink(root.path.rstrip("/")) else root.path
    found = os.stat(path)
    if reason := why_left_out(found.st_mode):
        raise OSError(errno.EINVAL, f"this cannot be archived, because {reason}", root.path)
    return Entry(root.name, path, found)


def _walk_below(directory: Entry, pruned: Container[str]) -> Iterator[Entry]:
    lstat, S_ISREG, S_ISDIR = os.lstat, stat.S_ISREG, stat.S_ISDIR
    stack = [_list(directory)]
    while stack:
        name_prefix, path_prefix, names = stack[-1]
        for name in names:
            found = lstat(path_prefix + name)
            mode = found.st_mode
            if S_ISREG(mode):
                yield Entry(name_prefix + name, path_prefix + name, found)
            elif S_ISDIR(mode):
                entry = Entry(name_prefix + name, path_prefix + name, found)
                yield entry
                if entry.name not in pruned:
                    stack.append(_list(entry))
                    break
            elif reason := why_left_out(mode):
                warn_left_out(name_prefix + name, reason)
        else:
            stack.pop()


def _list(directory: Entry) -> tuple[str, str, Iterator[str]]:
    # Names, and no os.scandir(): its entries take several times the memory, and are lstat'ed, too.
    names = iter(sorted(os.listdir(directory.path)))
    return directory.name + "/", os.path.join(directory.path, ""), names


def open_entry(path: str, opener: Opener = os.open) -> int:
    """Open a regular file to read; give its descriptor.

    Raises:
      OSError: it cannot be opened, or is no regular file any more; its path is in the message.
    """
    with naming(path):
        descriptor = opener(path, READ_FLAGS)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(errno.EINVAL, "this is no regular file any more")
        except BaseException:
            os.close(descriptor)
            raise
    return descriptor


def read_entry(
    entry: Entry, opener: Opener = os.open, *, size: int = PIECE_SIZE
) -> Iterator[bytes]:
    """Give pieces of a file, of *size* bytes, as much as it had when it was looked at (BK-17).

    Raises:
      OSError: it cannot be read, or has become shorter (BK-18).
    """
    left = entry.stat.st_size
    descriptor = open_entry(entry.path, opener)
    try:
        with naming(entry.path):
            while left:
                data = read_some(descriptor, min(size, left))
                left -= len(data)
                yield data
    finally:
        os.close(descriptor)


def read_some(descriptor: int, size: int) -> bytes:
    """Read up to *size* bytes, and at least one.

    Raises:
      OSError: there are none.
    """
    data = os.read(descriptor, size)
    if not data:
        raise OSError(errno.EIO, "the file became shorter while it was archived")
    return data


@contextmanager
def naming(path: str) -> Iterator[None]:
    """Put *path* into the message of an OSError that names none, as those of reads do."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = path
        raise
