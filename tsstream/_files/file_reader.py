"""One file's bytes, read piece by piece in worker threads, of one state of the file."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import attrs
import trio

from tsstream._errors import HTTPError
from tsstream._sansio.ranges import Span
from tsstream._sansio.tarlayout import Identity
from tsstream._util import RunLimiter

from .identity import TICK, TRIES, has_changed, is_settled, to_identity
from .tree import naming

T = TypeVar("T")

PIECE_SIZE = 256 * 1024  # bytes: one hop into a thread; with 64 KiB it is half as fast
# Reads at once. No thread is held while a client stalls, so these are few; but one that hangs on
# a dead network disk holds its place.
THREADS = 40

_files_limiter = RunLimiter("tsstream files", THREADS).get


@attrs.frozen
class State:
    """What tells one state of a file from another."""

    identity: Identity
    links: int

    @classmethod
    def of(cls, descriptor: int) -> State:
        """Look at an open file."""
        found = os.fstat(descriptor)
        return cls(to_identity(found), found.st_nlink)

    def check(self, now: State, *, growing: bool) -> None:
        """Raise OSError if *now* the content is another one.

        Args:
          growing: that it has become longer is none.
        """
        identity = now.identity
        if self.links != now.links:
            # One that is unlinked, as when another takes its place, has a new ctime by that alone.
            identity = identity._replace(ctime_ns=self.identity.ctime_ns)
        if has_changed(self.identity, identity, growing=growing):
            raise OSError(errno.EIO, "the file changed while it was sent")

    def etag(self) -> str:
        """Give a strong entity tag, which does not tell what it is made of."""
        return f'"{hashlib.sha256(repr(tuple(self.identity)).encode()).hexdigest()[:32]}"'


def look(
    open_it: Callable[[], int], *, now: Callable[[], int] = time.time_ns
) -> tuple[State, bool]:
    """Give the state of a file, and whether a later one can be told from it. For a thread.

    Args:
      open_it: gives a descriptor, which is closed.
      now: in ns since the epoch.

    Raises:
      OSError: whatever *open_it* raises.
    """
    descriptor = open_it()
    try:
        for left in reversed(range(TRIES)):
            begun = now()
            state = State.of(descriptor)
            settled = is_settled(state.identity, begun, now())
            if settled or not left:
                break
            time.sleep(TICK / 1e9)
        return state, settled
    finally:
        os.close(descriptor)


@asynccontextmanager
async def open_part(
    open_it: Callable[[], int], path: str, state: State, span: Span
) -> AsyncIterator[trio.abc.ReceiveChannel[bytes]]:
    """Yield the channel of a part of a file, which must stay as it was.

    The file is opened when the first piece is received. The last piece comes when the file has
    been looked at again, so that a change is seen before the client has all of the length.
    """
    channel = _FileChannel(FileReader(open_it, path, state, span))
    try:
        yield channel
    finally:
        channel.close()


class _FileChannel(trio.abc.ReceiveChannel[bytes]):
    """The pieces of a file; a ``receive()`` that is cancelled loses nothing.

    A read that hangs is left behind when it is cancelled.
    """

    def __init__(self, reader: FileReader) -> None:
        self._reader = reader
        self._position, self._stop = reader.span
        self._open = False  # or may be

    async def receive(self) -> bytes:
        if self._position >= self._stop:
            await trio.lowlevel.checkpoint()
            raise trio.EndOfChannel
        self._open = True
        piece = await run_hop(self._reader.read, self._position)
        self._position += len(piece)
        self._open = self._position < self._stop
        return piece

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """Close the file, once the read that is going on has come back, if it ever does."""
        self._position = self._stop
        if self._open:
            self._open = False
            # In a thread: closing a file may block, too.
            trio.lowlevel.start_thread_soon(self._reader.close, lambda _: None)


class FileReader:
    """What the threads do, one at a time."""

    def __init__(self, open_it: Callable[[], int], path: str, state: State, span: Span) -> None:
        self.span = span
        self._open_it = open_it
        self._path = path
        self._state = state
        self._growing = span == (0, state.identity.size)
        self._descriptor: int | None = None
        self._lock = threading.Lock()
        self._closed = False

    def read(self, position: int) -> bytes:
        """Give a piece from *position* on; close the file after the last.

        Raises:
          HTTPError: the file has gone (404), or is another one (503: it can be asked for again).
          OSError: it cannot be read, or changed meanwhile.
        """
        with self._lock, naming(self._path):
            if self._closed:
                raise trio.ClosedResourceError
            if self._descriptor is None:
                self._descriptor = self._open()
            piece = os.pread(self._descriptor, min(PIECE_SIZE, self.span.stop - position), position)
            if not piece:
                raise OSError(errno.EIO, "the file became shorter while it was sent")
            if position + len(piece) == self.span.stop:
                self._state.check(State.of(self._descriptor), growing=self._growing)
                self._close()
            return piece

    def _open(self) -> int:
        descriptor = self._open_it()
        try:
            self._state.check(State.of(descriptor), growing=self._growing)
        except OSError as error:
            os.close(descriptor)
            text = "The file has just been changed."
            raise HTTPError(503, text, {"retry-after": "1"}) from error
        return descriptor

    def close(self) -> None:
        """Wait for a read that is going on, and close the file."""
        with self._lock:
            self._closed = True
            self._close()

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


async def run_hop(fn: Callable[..., T], *args: object) -> T:
    """Run what only looks or reads in a thread; leave it behind when cancelled."""
    return await trio.to_thread.run_sync(
        fn, *args, abandon_on_cancel=True, limiter=_files_limiter()
    )
