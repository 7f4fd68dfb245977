"""A tar archive that is nowhere: any of its bytes, made from the files that it consists of."""

from __future__ import annotations

import errno
import os
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import IO

from tsstream._sansio.tarlayout import Identity, Layout, to_header

from .identity import TICK, TRIES, has_changed, is_settled, to_identity
from .tar import Plan, describe
from .tree import PIECE_SIZE, READ_FLAGS, naming, read_some


class Snapshot:
    """The members of an archive as they were found, and the way to their files.

    Args:
      plan: what goes into the archive.
      check: called now and then on the way; raises to give up.

    Attributes:
      layout: where everything is.
      etag: a strong entity tag; None if a file was changed too lately to notice another change.

    Raises:
      OSError, ValueError: see :func:`describe`.
    """

    def __init__(self, plan: Plan, check: Callable[[], object] = lambda: None) -> None:
        self._plan = plan
        for _ in range(TRIES):
            lately = self._look(check)
            self.etag = None if lately else self.layout.etag()
            if not lately:
                break
            time.sleep(max(0, min(TICK, lately + TICK - time.time_ns())) / 1e9)

    def _look(self, check: Callable[[], object]) -> int:
        """Look at the whole tree; give the newest ctime, in ns, if that was just now, or 0."""
        self.layout = layout = Layout(format=self._plan.format)
        self._bases: list[tuple[str, str]] = []
        self._base_starts: list[int] = []
        name = path = "\0"  # of the root that we are below
        begun, lately = time.time_ns(), 0
        for entry, info in describe(self._plan):
            if not len(layout) % 256:
                check()
            if path + entry.name.removeprefix(name) != entry.path:
                name, path = entry.name, entry.path.rstrip("/")
                self._base_starts.append(len(layout))
                self._bases.append((name, path))
            identity = to_identity(entry.stat)
            if not is_settled(identity, begun, time.time_ns()):
                lately = max(lately, identity.ctime_ns)
            layout.add(info, identity, entry.name)
        return lately

    def path(self, index: int) -> str:
        """Give the path of a member's file."""
        name, path = self._bases[bisect_right(self._base_starts, index) - 1]
        return path + self.layout.source(index).removeprefix(name) or "/"

    def write(self, file: IO[bytes], start: int, stop: int) -> None:
        """Write the bytes from *start* up to *stop*; only files that they come from are touched.

        The whole archive is written although files have grown since (BK-17). Of a part nobody
        could say which state of the file the rest is from, so that any change is an error.

        Raises:
          OSError: a file is missing, cannot be read, or has changed, be it meanwhile.
        """
        layout = self.layout
        growing = (start, stop) == (0, layout.length)
        for index in range(layout.find(start), len(layout)):
            first, last = layout.span(index)
            if first >= stop:
                break
            self._write_member(
                file, index, max(start - first, 0), min(stop, last) - first, growing=growing
            )
        zeros = stop - max(start, layout.content_end)
        if zeros > 0:
            file.write(bytes(zeros))

    def _write_member(
        self, file: IO[bytes], index: int, start: int, stop: int, *, growing: bool
    ) -> None:
        """Write a part of a member with its header and padding, which begin at 0."""
        info = self.layout.info(index)
        header = to_header(info, self.layout.format)
        # Small files leave in one piece with what is round them.
        parts, held = [header[start:stop]], 0
        start, stop = max(start - len(header), 0), stop - len(header)
        if start < min(stop, info.size):
            for piece in self._read(index, start, min(stop, info.size), growing=growing):
                parts.append(piece)
                held += len(piece)
                if held >= PIECE_SIZE:  # of several pieces, where a file system reads less at once
                    file.write(b"".join(parts))
                    parts, held = [], 0
        if (zeros := stop - max(start, info.size)) > 0:
            parts.append(bytes(zeros))
        if parts:
            file.write(b"".join(parts))

    def _read(self, index: int, start: int, stop: int, *, growing: bool) -> Iterator[bytes]:
        path, identity = self.path(index), self.layout.identity(index)
        with naming(path):
            descriptor = self._plan.opener(path, READ_FLAGS)
            try:
                _check(descriptor, identity, growing=growing)
                if start:
                    os.lseek(descriptor, start, os.SEEK_SET)
                while start < stop:
                    piece = read_some(descriptor, min(PIECE_SIZE, stop - start))
                    start += len(piece)
                    if start == stop:  # before anybody has all of it
                        _check(descriptor, identity, growing=growing)
                    yield piece
            finally:
                os.close(descriptor)


def _check(descriptor: int, expected: Identity, *, growing: bool) -> None:
    """Raise OSError if a file is not what it was; if *growing*, it may have got longer."""
    if has_changed(expected, to_identity(os.fstat(descriptor)), growing=growing):
        raise OSError(errno.EIO, "the file has changed since the archive was begun")
