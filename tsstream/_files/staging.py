"""A new directory that files are unpacked into; nothing that is done in it can lead out of it."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterable, Sequence

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

Write = Callable[[int, memoryview], int]


class Staging:
    """Files and directories made below an open directory; the last of a name wins.

    Every name is looked up component by component, from one open directory to the next, and no
    symbolic link is ever followed. A directory keeps the time it was given, whatever is made in it
    later, so no list of directories has to be kept.

    Args:
      root: a descriptor of the directory, which stays the caller's.
      write: as :func:`os.write`.
    """

    def __init__(self, root: int, *, write: Write = os.write) -> None:
        self._root = root
        self._write = write
        self._parts: Sequence[str] = ()
        self._directory = -1  # that of the last file, of which the next is probably, too
        self._times = (0, 0)  # of that directory, in nanoseconds; set when it is left

    def add_directory(self, parts: Sequence[str], mode: int, mtime: int) -> None:
        """Make a directory, unless it is there; *mtime* in nanoseconds."""
        self._enter(parts)
        os.fchmod(self._directory, mode & 0o777 | 0o700)
        self._times = (mtime, mtime)

    def add_file(
        self, parts: Sequence[str], mode: int, mtime: int, data: Iterable[memoryview | int]
    ) -> None:
        """Make a file, readable and writable at least for its owner; *mtime* in nanoseconds.

        A number among the *data* is a hole of so many bytes.
        """
        self._enter(parts[:-1])
        file = self._create(parts[-1])
        try:
            for piece in data:
                self._add_piece(file, piece)
            # Neither set-user-ID nor set-group-ID (BK-34).
            os.fchmod(file, mode & 0o777 | 0o600)
            os.utime(file, ns=(mtime, mtime))
        finally:
            os.close(file)

    def close(self) -> None:
        """Leave the directory of the last file."""
        if self._directory >= 0:
            directory, self._directory, self._parts = self._directory, -1, ()
            try:
                os.utime(directory, ns=self._times)
            finally:
                os.close(directory)

    def _add_piece(self, file: int, piece: memoryview | int) -> None:
        if isinstance(piece, int):
            os.ftruncate(file, os.lseek(file, piece, os.SEEK_CUR))
            return
        while piece:
            piece = piece[self._write(file, piece) :]

    def _create(self, name: str) -> int:
        try:
            return os.open(name, FILE, 0o600, dir_fd=self._directory)
        except FileExistsError:
            remove(name, self._directory)
            return os.open(name, FILE, 0o600, dir_fd=self._directory)

    def _enter(self, parts: Sequence[str]) -> None:
        if self._directory >= 0 and parts == self._parts:
            return
        self.close()
        directory = os.dup(self._root)
        for part in parts:
            try:
                inner = _open_or_make(part, directory)
            finally:
                os.close(directory)
            directory = inner
        found = os.fstat(directory)
        self._parts, self._directory = parts, directory
        self._times = (found.st_atime_ns, found.st_mtime_ns)


def remove(name: str, directory: int) -> None:
    """Remove what has this name in the open *directory*, with all that is in it."""
    if stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
        shutil.rmtree(name, dir_fd=directory)
    else:
        os.unlink(name, dir_fd=directory)


def _open_or_make(name: str, directory: int) -> int:
    try:
        return os.open(name, DIRECTORY, dir_fd=directory)
    except (FileNotFoundError, NotADirectoryError) as error:
        found = os.fstat(directory)
        if isinstance(error, NotADirectoryError):
            os.unlink(name, dir_fd=directory)
    os.mkdir(name, dir_fd=directory)
    os.utime(directory, ns=(found.st_atime_ns, found.st_mtime_ns))
    return os.open(name, DIRECTORY, dir_fd=directory)
