"""The file that a thread producer writes."""

from __future__ import annotations

import io
import sys
from typing import Any

from .thread_channel import CHUNK_SIZE, ThreadChannel

MAX_HELD = 128 * 1024  # bytes: more than what anybody writes in an except block


class ProducerFile(io.BufferedIOBase):
    """A file to write, whose bytes come out of *channel*; it cannot seek, but ``tell()``.

    Closing an archive writer, or leaving its ``with`` block, writes the end of the archive, also
    when an exception is on its way out: what comes out then looks whole, and is not. So what is
    written while an exception is being handled is held back. It leaves if the exception turns out
    to have been handled, and is dropped with it if not (BK-20, BK-21).
    """

    def __init__(self, channel: ThreadChannel) -> None:
        self._channel = channel
        self._held: list[bytes] = []
        self._held_size = 0
        self._position = 0

    def write(self, data: Any, /) -> int:
        """Write all of *data*; wait while the reader is behind.

        Raises:
          trio.Cancelled: nobody reads any more.
          RuntimeError: before, too much was written while an exception was being handled.
          ValueError: the file is closed.
        """
        self._check()
        view = memoryview(data).cast("B")
        if sys.exc_info()[1] is not None:
            self._hold(view)
        else:
            self._release()
            self._put(data if type(data) is bytes else view)
        self._position += len(view)
        return len(view)

    def flush(self) -> None:
        """Let the reader have at once what was written."""
        if not self.closed and not self._held_size:
            self._channel.flush()

    def tell(self) -> int:
        """Give the number of bytes written."""
        return self._position

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Refuse: what was written may have been sent."""
        raise io.UnsupportedOperation("this file is sent while it is written; it cannot seek")

    def writable(self) -> bool:
        """Say yes."""
        return True

    def finish(self) -> None:
        """Give the channel what is left, and its end."""
        self._release()
        self._channel.end()
        self.close()

    def _check(self) -> None:
        self._channel.check()
        if self.closed:
            raise ValueError("I/O operation on closed file")

    def _hold(self, view: memoryview) -> None:
        self._held_size += len(view)
        if self._held_size <= MAX_HELD:
            self._held.append(bytes(view))

    def _release(self) -> None:
        if self._held_size > MAX_HELD:
            raise RuntimeError(
                f"more than {MAX_HELD} bytes were written while an exception was being handled, "
                "and what an archive writer adds because of one must not be sent; write them "
                "after the except block"
            )
        if self._held:
            held, self._held, self._held_size = self._held, [], 0
            for data in held:
                self._put(data)

    def _put(self, data: bytes | memoryview) -> None:
        if len(data) <= CHUNK_SIZE:
            if data:
                self._channel.put(bytes(data))
            return
        view = memoryview(data)
        for start in range(0, len(view), CHUNK_SIZE):
            self._channel.put(bytes(view[start : start + CHUNK_SIZE]))
