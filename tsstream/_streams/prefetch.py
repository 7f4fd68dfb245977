"""The chunks of a channel, received ahead of the thread that takes them."""

from __future__ import annotations

import copy
import threading
from collections import deque
from contextlib import suppress

import trio

# Bytes: what waits for a thread that is busy, and up to a chunk more. The thread takes all that
# waits at once, so there is at most twice as much. At four hops for each MiB they cost little.
PREFETCH = 512 * 1024
CHUNK_COST = 64  # bytes: counted for each chunk besides its own, so that tiny ones are bounded too


class Prefetch:
    """What lies between a task that receives and a thread that takes.

    Nothing is received before the thread has asked for the first time.
    """

    def __init__(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        # Shielded, so that a cancellation has one way out, through the task that waits for the
        # thread: that one always calls stop().
        self._scope = trio.CancelScope(shield=True)
        self._wanted = trio.Event()
        self._changed = threading.Condition()  # guards what follows
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._needed = PREFETCH  # the size at which somebody who waits is woken
        self._paused = True  # the task waits until it is asked for more
        self._end: Exception | None = None  # trio.EndOfChannel, or what the channel raised
        self._stopped: BaseException | None = None

    # In the Trio thread.

    async def run(  # noqa: ASYNC910 (a task of its own)
        self, channel: trio.abc.ReceiveChannel[bytes]
    ) -> None:
        """Receive until the channel ends or fails, or :meth:`stop` is called; close it then."""
        with self._scope:
            try:
                await self._receive_all(channel)
            except Exception as error:
                # A client that leaves breaks the channel and has our caller cancelled, at the same
                # moment. In the thread it must be the cancellation, so that one goes first.
                await trio.lowlevel.cancel_shielded_checkpoint()
                self._put_end(error)
            finally:
                await _close(channel)  # noqa: ASYNC102 (it does not wait)

    def stop(self, error: BaseException) -> None:
        """Receive no more; who takes gets a copy of *error* from now on. The first one holds."""
        with self._changed:
            if self._stopped is None:
                self._stopped = error
            self._end = None  # its traceback refers to us
            self._changed.notify_all()
        self._scope.cancel(reason="the thread reads no more")

    def close(self) -> None:
        """Stop because nobody reads any more."""
        self.stop(ValueError("I/O operation on closed file"))

    async def _receive_all(self, channel: trio.abc.ReceiveChannel[bytes]) -> None:
        receive_nowait = getattr(channel, "receive_nowait", None)
        await self._wanted.wait()
        aiter(channel)  # a channel may refuse to be read twice, as a request's body does (RQ-17)
        while True:
            self._put(await channel.receive())
            if receive_nowait is not None:
                with suppress(trio.WouldBlock):
                    while self._size < PREFETCH:
                        self._put(receive_nowait())
            if self._must_pause():
                await self._wanted.wait()

    def _must_pause(self) -> bool:
        with self._changed:
            if self._size >= PREFETCH:
                self._paused, self._wanted = True, trio.Event()
                return True
            return False

    def _put(self, chunk: bytes) -> None:
        if type(chunk) is not bytes:
            chunk = bytes(memoryview(chunk))  # a copy of what its producer could change
        if chunk:
            with self._changed:
                self._chunks.append(chunk)
                self._size += len(chunk) + CHUNK_COST
                if self._size >= self._needed:
                    self._needed = PREFETCH
                    self._changed.notify_all()

    def _put_end(self, error: Exception) -> None:
        with self._changed:
            if self._stopped is None:
                self._end = error
            self._changed.notify_all()

    # In the thread of the reader.

    def take(self, need: int) -> deque[bytes]:
        """Wait for chunks, and take all that there are; none at the end of the channel.

        Args:
          need: in bytes; with fewer the caller can do nothing yet, so the thread is not woken for
            each chunk of them. What it gets may still be less.

        Raises:
          whatever the channel raised, as itself and each time, after the chunks before it.
          trio.Cancelled: the task that waits for the thread has been cancelled.
        """
        with self._changed:
            need = min(need, PREFETCH)
            while self._size < need and self._end is None and self._stopped is None:
                self._ask()
                self._needed = min(self._needed, need)
                self._changed.wait()
            self.check()
            chunks, self._chunks = self._chunks, deque()
            self._size = 0
            self._ask()
            if (
                not chunks
                and self._end is not None
                and not isinstance(self._end, trio.EndOfChannel)
            ):
                raise self._end
            return chunks

    def check(self) -> None:
        """Raise if :meth:`stop` was called."""
        if self._stopped is not None:
            raise copy.copy(self._stopped)  # threads must not share a traceback

    def close_soon(self) -> None:
        """Close; without a lock, as the garbage collector may call it in any thread at any time."""
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self.close)

    def _ask(self) -> None:
        if self._paused:
            self._paused = False
            self._token.run_sync_soon(self._wanted.set)


async def _close(  # noqa: ASYNC910 (a step of run())
    channel: trio.abc.ReceiveChannel[bytes],
) -> None:
    close = getattr(channel, "close", None)
    if close is None:
        await trio.aclose_forcefully(channel)
    else:
        close()
