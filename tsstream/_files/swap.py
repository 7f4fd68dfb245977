"""Trees that take the place of others, all at once or not at all."""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress

from .staging import DIRECTORY, remove

logger = logging.getLogger("tsstream")

_Rename = Callable[[str, int, int], None]  # this name, from one open directory to another


def _rename(name: str, source: int, target: int) -> None:
    os.rename(name, name, src_dir_fd=source, dst_dir_fd=target)


@contextmanager
def open_replacement(
    destination: str | os.PathLike[str], *, rename: _Rename = _rename
) -> Iterator[Replacement]:
    """Have a directory in *destination*, for what is to take the place of what is there.

    It is for its owner alone, and so on the same file system; it goes with all that is in it when
    the block is left. A process that is killed leaves it behind: its name ends in ``.incomplete``.

    Raises:
      OSError: there is no directory *destination*, or it cannot be written to.
    """
    replacement = Replacement(os.fspath(destination), rename)
    try:
        yield replacement
    finally:
        replacement.close()


class Replacement:
    """What is to take the place of what is in a directory.

    Attributes:
      new: a descriptor of the directory to make it in.
    """

    def __init__(self, destination: str, rename: _Rename) -> None:
        self._rename = rename
        self._name = f".{secrets.token_hex(16)}.incomplete"
        self._path = os.path.join(destination, self._name)
        self._destination = os.open(destination, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._precious = False
        self._open: list[int] = [self._destination]
        try:
            self._root = self._make(self._name, self._destination)
            self.new, self._old = self._make("new", self._root), self._make("old", self._root)
        except BaseException:
            self.close()
            raise

    def names(self) -> set[str]:
        """Give the names of what has been made."""
        return set(os.listdir(self.new))

    def swap(self, names: Iterable[str]) -> None:
        """Put what has been made under these names in the place of what is there.

        If that fails, what was there is put back. What other threads and processes do in the same
        way comes before or after. Between the renames others may see neither the old nor the new.

        Raises:
          OSError: one of them cannot be moved, like what is mounted or a directory of others.
        """
        done: list[tuple[str, int, int]] = []
        # It is let go when the descriptor is closed. Some file systems know no locks.
        with suppress(OSError):
            fcntl.flock(self._destination, fcntl.LOCK_EX)
        try:
            for name in names:
                with suppress(FileNotFoundError):
                    self._move(done, name, self._destination, self._old)
                self._move(done, name, self.new, self._destination)
            os.fsync(self._destination)
        except BaseException:
            self._undo(done)
            raise
        finally:
            with suppress(OSError):
                fcntl.flock(self._destination, fcntl.LOCK_UN)

    def close(self) -> None:
        """Remove the directory, and with it what was replaced."""
        try:
            if not self._precious:
                remove(self._name, self._destination)
        except FileNotFoundError:  # it was not even made
            pass
        except (OSError, RecursionError) as error:  # what was replaced may be deep
            logger.warning("%s cannot be removed: %s", self._path, error)
        finally:
            for descriptor in self._open:
                os.close(descriptor)

    def _make(self, name: str, directory: int) -> int:
        os.mkdir(name, 0o700, dir_fd=directory)
        made = os.open(name, DIRECTORY, dir_fd=directory)
        self._open.append(made)
        return made

    def _move(self, done: list[tuple[str, int, int]], name: str, source: int, target: int) -> None:
        self._rename(name, source, target)
        done.append((name, source, target))

    def _undo(self, done: list[tuple[str, int, int]]) -> None:
        for name, source, target in reversed(done):
            try:
                self._rename(name, target, source)
            except OSError as error:
                self._precious = True
                logger.error(
                    "%r could not be put back (%s); what was there before is in %s",
                    *(name, error, os.path.join(self._path, "old")),
                )
