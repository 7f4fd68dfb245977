"""Small chunks of a response that follow each other closely leave together."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

SMALL = 4 * 1024  # bytes: of a larger chunk its own system call costs less than it does
FULL = 64 * 1024  # bytes: what one write carries, in HTTP/2 as four frames
PUTS_PER_CHECKPOINT = 8  # a put that does not wait is a schedule point every so many times
GATHERING = 0.001  # seconds: the longest that chunks are gathered, if they keep coming


class Gatherer:
    """Send small chunks in as few pieces as that takes no time.

    A chunk is sent on the spot if nothing was sent before it since other tasks could run. Those
    that follow are gathered, and sent as soon as other tasks have run and no more have come, or
    when they are enough: so a stream of small chunks costs a system call for many of them (HOST
    fault 18), and a chunk that is alone waits for nothing.

    Args:
      nursery: the connection's.
      send: sends one piece.
    """

    def __init__(self, nursery: trio.Nursery, send: Callable[[bytes], Awaitable[None]]) -> None:
        self._nursery = nursery
        self._send = send
        self._chunks: list[bytes] = []
        self._size = 0  # bytes
        self._puts = 0  # since other tasks could run
        self._started = self._awake = self._closed = False
        self._failure: Exception | None = None
        self._woken = trio.lowlevel.ParkingLot()
        self._sending = trio.Lock()

    def put(self, chunk: bytes) -> bool:
        """Take *chunk*, to be sent now or soon; say whether to ``await pause()`` before the next.

        Not async, and short: this is what each chunk of a busy stream costs.
        """
        self._chunks.append(chunk)
        self._size += len(chunk)
        self._puts += 1
        if self._failure is not None:
            return True
        if self._awake:
            return self._puts >= PUTS_PER_CHECKPOINT or self._size >= FULL
        if self._puts > 1:
            self._wake()
            return False
        return True

    async def pause(self) -> None:
        """Send what is to be sent now, and let other tasks run; wait if the client is behind.

        Raises:
          Exception: what sending has raised, now or before: ClientGone, if the client has gone.
        """
        if self._puts == 1 or self._size >= FULL or self._failure is not None:
            await self.flush()
        else:
            await trio.lowlevel.checkpoint()
            self._puts = 0

    async def flush(self) -> None:
        """Send what was gathered, and wait for what is being sent.

        Raises:
          Exception: as :meth:`pause` does.
        """
        async with self._sending:
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
        self._woken.unpark_all()

    def _wake(self) -> None:
        self._awake = True
        if self._started:
            self._woken.unpark()
        else:
            self._started = True
            self._nursery.start_soon(self._run)

    async def _run(self) -> None:
        try:
            while not self._closed:
                if self._chunks:
                    await self._wait_for_more()
                    await self.flush()
                else:
                    self._awake, self._puts = False, 0
                    await self._woken.park()
        except Exception as error:
            self._failure = error  # it is for the task of the application

    async def _wait_for_more(self) -> None:
        """Let who has more to send put it, so that it is sent in the same piece."""
        seen, until = 0, trio.current_time() + GATHERING
        while seen < self._size and trio.current_time() < until:
            seen = self._size
            await trio.lowlevel.checkpoint()
