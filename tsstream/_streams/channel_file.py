"""A file to read, whose bytes are the chunks of a channel."""

from __future__ import annotations

import io
import sys
from collections import deque
from typing import Any

from tsstream._errors import HTTPError
from tsstream._pieces import Pieces

from .prefetch import Prefetch

NO_SEEK = (
    "this file is read from a channel, once and in order; for what has to seek, like zipfile, "
    "copy it with shutil.copyfileobj() into a tempfile.SpooledTemporaryFile first"
)


class ChannelFile(io.BufferedIOBase):
    """What a thread reads: ``read(n)`` gives *n* bytes, unless the end comes first.

    That is what a buffered file promises and a raw one does not, and tarfile and many others count
    on it. ``read1()`` and ``readinto()`` wait for no more than one byte: so a wrapper like
    io.BufferedReader or io.TextIOWrapper gives a line as soon as it has come.

    Args:
      prefetch: where the chunks come from.
      max_read: in bytes; how much one ``read()`` without a size, or one line, may hold.
    """

    def __init__(self, prefetch: Prefetch, *, max_read: int | None) -> None:
        self._prefetch = prefetch
        self._max_read = sys.maxsize - 1 if max_read is None else max_read
        self._too_large: HTTPError | None = None
        self._chunks: deque[bytes] = deque()
        self._chunk = b""
        self._start = 0  # of what is left of the chunk

    def read(self, size: int | None = -1, /) -> bytes:
        """Read *size* bytes, fewer only at the end; without a size up to the end.

        Raises:
          HTTPError: 413, *size* was not given, and there is more than *max_read*.
          trio.Cancelled: whoever waits for the thread has been cancelled.
          ValueError: the file is closed.
          whatever the channel raised.
        """
        if size is None or size < 0:
            return self._within_max(self._read_up_to(self._max_read + 1))
        return self._read_up_to(size)

    def read1(self, size: int | None = -1, /) -> bytes:
        """Read what there is, but not more than *size*: a byte at least, unless at the end."""
        self._check()
        return self._next(sys.maxsize if size is None or size < 0 else size)

    def readinto(self, buffer: Any, /) -> int:
        """Read what there is into *buffer*: a byte at least, unless at the end."""
        view = memoryview(buffer).cast("B")
        data = self.read1(len(view))
        view[: len(data)] = data
        return len(data)

    def readline(self, size: int | None = -1, /) -> bytes:
        r"""Read up to the next ``\n``, but not more than *size*; raises as :meth:`read` does."""
        self._check()
        if size is None or size < 0:
            return self._within_max(self._read_line(self._max_read + 1))
        return self._read_line(size)

    def readlines(self, hint: int | None = -1, /) -> list[bytes]:
        """Read the lines up to the end; without a *hint* in all not more than *max_read*."""
        if hint is None or hint <= 0:
            return io.BytesIO(self.read()).readlines()
        return super().readlines(hint)

    def readable(self) -> bool:
        """Say yes."""
        return True

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Refuse, and so does ``tell()``, with what to do instead."""
        raise io.UnsupportedOperation(NO_SEEK)

    def close(self) -> None:
        """Read no more; what still arrives is not waited for."""
        if not self.closed:
            super().close()
            self._too_large = None  # its traceback refers to us
            self._prefetch.close_soon()

    def _check(self) -> None:
        self._prefetch.check()
        if self.closed:
            raise ValueError("I/O operation on closed file")
        if self._too_large is not None:
            raise self._too_large

    def _read_up_to(self, size: int) -> bytes:
        self._check()
        if not size or not self._fill(size):
            return b""
        if size <= len(self._chunk) - self._start:
            return self._next(size)
        pieces = Pieces()
        while size and self._fill(size):
            rest = len(self._chunk) - self._start
            whole = not self._start and rest <= size
            # A view of a piece, so that no byte is copied twice.
            piece = self._chunk if whole else memoryview(self._chunk)[self._start :][:size]
            self._skip(len(piece))
            pieces.add(piece)
            size -= len(piece)
        return pieces.join()

    def _read_line(self, size: int) -> bytes:
        pieces = Pieces()
        while size and self._fill(1):
            end = self._chunk.find(b"\n", self._start, self._start + size) + 1
            piece = self._next(end - self._start if end else size)
            pieces.add(piece)
            if end:
                break
            size -= len(piece)
        return pieces.join()

    def _next(self, size: int) -> bytes:
        """Give what is left of a chunk, up to *size*, none at the end; do not copy a whole one."""
        if not size or not self._fill(1):
            return b""
        data = self._chunk[self._start : self._start + size]
        self._skip(len(data))
        return data

    def _skip(self, size: int) -> None:
        self._start += size
        if self._start == len(self._chunk):
            self._chunk, self._start = b"", 0

    def _fill(self, need: int) -> bool:
        """Have a byte in the chunk, waiting for *need* if there is none; say whether there is."""
        if not self._chunk:
            if not self._chunks:
                self._chunks = self._prefetch.take(need)
                if not self._chunks:
                    return False
            self._chunk = self._chunks.popleft()
        return True

    def _within_max(self, data: bytes) -> bytes:
        if len(data) > self._max_read:
            self._too_large = HTTPError(
                413, f"More than {self._max_read} bytes were to be held in memory at once."
            )
            raise self._too_large
        return data
