"""A channel whose sender is a thread that writes bytes."""

from __future__ import annotations

import copy
import math
import threading
from collections import deque

import trio

CHUNK_SIZE = 64 * 1024  # bytes: what one hop from the thread carries, unless it falls silent
HIGH_WATER = 4 * CHUNK_SIZE  # bytes: with so many waiting the thread waits, too
LOW_WATER = 2 * CHUNK_SIZE  # bytes: with so many it goes on; each such change costs some 20 us


class ThreadChannel(trio.abc.ReceiveChannel[bytes]):
    """What a thread puts in comes out in chunks of 64 KiB.

    Less than that comes out at the very beginning, at the end, after :meth:`flush`, and once it
    has waited for *flush_interval* (BK-3).

    Args:
      flush_interval: in seconds.
      scope: cancelled when the reader closes the channel before its end.
    """

    def __init__(self, *, flush_interval: float, scope: trio.CancelScope) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._trio_thread = threading.get_ident()
        self._flush_interval = flush_interval
        self._scope = scope
        self._readers = trio.lowlevel.ParkingLot()
        self._closed = False
        self._overdue_at = math.inf  # on Trio's clock: what is waiting waits no longer
        self._changed = threading.Condition()  # guards what follows
        self._pieces: deque[bytes | memoryview] = deque()
        self._size = 0  # of the pieces
        self._due = 0  # bytes that need not wait for more
        self._waiting = False  # somebody in the Trio thread is to be woken
        self._silent = False  # by any piece
        self._started = False
        self._full = False  # so that the thread waits
        self._ended = False
        self._stopped: BaseException | None = None

    # In the Trio thread.

    async def receive(self) -> bytes:
        """Give the next chunk, or raise :class:`trio.EndOfChannel`."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while not (chunk := self._take()):
            with trio.move_on_at(self._overdue_at):
                await self._readers.park()
        await trio.lowlevel.cancel_shielded_checkpoint()
        return chunk

    def receive_nowait(self) -> bytes:
        """Give a chunk that is ready, or raise :class:`trio.WouldBlock`."""
        if chunk := self._take():
            return chunk
        raise trio.WouldBlock

    def close(self) -> None:
        """Read no more: unless the thread has ended well, it is cancelled."""
        self._closed = True
        self._readers.unpark_all()
        if not self._ended:
            self._scope.cancel(reason="the channel was closed before its end")

    async def aclose(self) -> None:
        """Close, and be a checkpoint."""
        self.close()
        await trio.lowlevel.checkpoint()

    def stop(self, error: BaseException) -> None:
        """Give nothing more; who puts gets a copy of *error* from now on. The first one holds."""
        with self._changed:
            if self._stopped is None:
                self._stopped = error
            self._changed.notify_all()
        self.drop()

    def _take(self) -> bytes:
        """Take up to 64 KiB of what is due; nothing if that is to be waited for.

        Raises:
          trio.EndOfChannel: there is nothing left, and the thread has ended well.
          trio.ClosedResourceError: the channel is closed.
        """
        if self._closed:
            raise trio.ClosedResourceError("this channel of a thread was closed")
        with self._changed:
            if self._ended and not self._size:
                raise trio.EndOfChannel
            if not self._due:
                self._look_at_clock()
            self._waiting = not self._due
            if not self._due:
                return b""
            chunk = self._cut(min(self._due, CHUNK_SIZE))
            self._due -= len(chunk)
            self._overdue_at = math.inf
            if self._full and self._size <= LOW_WATER:
                self._full = False
                self._changed.notify_all()
            return chunk

    def _look_at_clock(self) -> None:
        """Make all due once a reader has had too little for the interval, polling or waiting.

        If it had nothing, it waits without an end, and is woken by the next piece. Before, it is
        not: pieces that come quickly are no hops.
        """
        now = trio.current_time()
        self._silent = self._silent and not self._size
        if self._silent:
            return
        self._overdue_at = min(self._overdue_at, now + self._flush_interval)
        if now >= self._overdue_at:
            self._due = self._size
            if not self._size:
                self._silent, self._overdue_at = True, math.inf

    def _cut(self, size: int) -> bytes:
        self._size -= size
        if len(self._pieces[0]) == size:
            return bytes(self._pieces.popleft())
        batch: list[bytes | memoryview] = []
        while size:
            piece = self._pieces.popleft()
            if len(piece) > size:
                view = memoryview(piece)
                self._pieces.appendleft(view[size:])
                piece = view[:size]
            batch.append(piece)
            size -= len(piece)
        return b"".join(batch)

    # In the thread.

    def put(self, data: bytes) -> None:
        """Hand *data* over; wait while 256 KiB are waiting already.

        Raises:
          trio.Cancelled: whoever waits for the thread has been cancelled.
          RuntimeError: this is the Trio thread, which must not wait here. Only the garbage
            collector gets that far: it runs in any thread, and closes an archive that was left.
        """
        if threading.get_ident() == self._trio_thread:
            raise RuntimeError("a file of a thread producer was written in the Trio thread")
        with self._changed:
            self._full = self._full or self._size >= HIGH_WATER  # others may wait already
            while self._full and self._stopped is None:
                self._changed.wait()
            self.check()
            empty = not self._size
            self._pieces.append(data)
            self._size += len(data)
            if not self._started:
                self._started = True
                self._due = self._size
            elif self._size >= CHUNK_SIZE:
                self._due = max(self._due, self._size // CHUNK_SIZE * CHUNK_SIZE)
            if self._due or (self._silent and empty):
                self._wake_soon()

    def flush(self) -> None:
        """Let what was put leave now."""
        with self._changed:
            self._due = self._size
            if self._due:
                self._wake_soon()

    def end(self) -> None:
        """Let the channel end after what was put; nothing is put any more."""
        with self._changed:
            self._ended = True
            self._due = self._size
            self._wake_soon()

    def drop(self) -> None:
        """Forget what was put and has not left, since it is no part of anything whole (BK-21)."""
        with self._changed:
            self._pieces.clear()
            self._size = self._due = 0

    def check(self) -> None:
        """Raise if :meth:`stop` was called."""
        if self._stopped is not None:
            raise copy.copy(self._stopped)  # threads must not share a traceback

    def _wake_soon(self) -> None:
        if self._waiting:
            self._waiting = False
            self._token.run_sync_soon(self._readers.unpark_all)
