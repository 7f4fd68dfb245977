"""Small chunks of a response that follow each other closely leave together."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

SMALL = 4 * 1024  # bytes: of a larger chunk its own system call costs less than it does
FULL = 64 * 1024  # bytes: what one write carries, in HTTP/2 as four frames
PUTS_PER_CHECKPOINT = 8  # a put that does not wait is a schedule point every so many times
GATHERING = 0.001  # seconds: the longest that chunks are gathered, if they keep coming


class Gatherer:
    """Send small chunks in as few pieces as takes no time.

    A chunk is sent on the spot, unless one was before it and no other task may have run since. In
    that case it is gathered, with those that follow, and sent by a task as soon as no more come, or
    they are enough. So a stream of small chunks costs a system call for many of them (HOST fault
    18), and no chunk waits for more than its turn.

    Args:
      nursery: the connection's.
      send: sends one piece.
    """

    def __init__(self, nursery: trio.Nursery, send: Callable[[bytes], Awaitable[None]]) -> None:
        self._nursery = nursery
        self._send = send
        self._chunks: list[bytes] = []
        self._size = 0  # bytes
        self._puts = 0  # since the task, or a checkpoint of ours
        self._gathering = False  # the task runs
        self._closed = False
        self._failure: Exception | None = None  # of the task
        self._turn = trio.Lock()

    @property
    def busy(self) -> bool:
        """What was put before has not all been sent, or could not be."""
        return bool(self._chunks) or self._gathering or self._failure is not None

    def put(self, chunk: bytes) -> bool:
        """Take *chunk*, to be sent now or soon; say whether to ``await pause()`` before the next.

        Not async, and short: this is what each chunk of a busy stream costs.
        """
        self._chunks.append(chunk)
        self._size += len(chunk)
        self._puts += 1
        if self._gathering:
            return self._puts >= PUTS_PER_CHECKPOINT or self._size >= FULL
        if self._puts == 1 or self._failure is not None:
            return True
        self._gathering = True
        self._nursery.start_soon(self._send_gathered)
        return False

    async def pause(self) -> None:
        """Send what is to be sent now, or let other tasks run; wait if the client is behind.

        Raises:
          Exception: what sending has raised, now or before: ClientGone, if the client has gone.
        """
        if self._puts >= PUTS_PER_CHECKPOINT and self._size < FULL:
            self._puts = 0
            await trio.lowlevel.checkpoint()
        else:
            await self.flush()

    async def flush(self) -> None:
        """Send what was gathered, and wait for what is being sent.

        Raises:
          Exception: as :meth:`pause` does.
        """
        async with self._turn:
            failure, self._failure = self._failure, None
            if failure is not None:
                raise failure
            if self._chunks and not self._closed:
                piece = b"".join(self._chunks)
                self._chunks.clear()
                self._size = 0
                await self._send(piece)

    def close(self) -> None:
        """Send nothing any more."""
        self._closed = True

    async def _send_gathered(self) -> None:
        try:
            while self._chunks and not self._closed:
                await self._wait_for_more()
                await self.flush()
        except Exception as error:
            self._failure = error  # for the application's task
        self._gathering, self._puts = False, 0

    async def _wait_for_more(self) -> None:
        """Let who has more to send put it, so that it is sent in the same piece."""
        seen, until = 0, trio.current_time() + GATHERING
        while seen < self._size and trio.current_time() < until:
            seen = self._size
            await trio.lowlevel.checkpoint()
