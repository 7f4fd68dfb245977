"""What goes out on one connection: in order, without waiting while the kernel takes it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TypeAlias

import trio

from tsstream._server.errors import ClientGone
from tsstream._server.transport import Transport

BACKLOG = 64 * 1024  # bytes: above it, whoever makes more of them has to wait
ENCRYPTED = 256 * 1024  # bytes: 16 records of TLS, about 0.3 ms
WRITES_PER_CHECKPOINT = 8  # a write that does not wait is a schedule point every so many times

Piece: TypeAlias = bytes | memoryview


class Output:
    """A backlog, and the task that sends it.

    What is written is offered to the kernel on the spot; what it does not take is the backlog
    (HOST fault 18).

    Cancelling who writes never tears a piece: it is on its way all the same.

    Args:
      nursery: the connection's.
      transport: the socket.
      tls: round it, if the connection is encrypted.
      on_broken: called once, when nothing can be sent any more.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        transport: Transport,
        tls: trio.SSLStream[Transport] | None,
        on_broken: Callable[[Exception], None],
    ) -> None:
        self._nursery = nursery
        self._transport = transport
        self._tls = tls
        self._on_broken = on_broken
        self._backlog: deque[Piece] = deque()
        self._queued = self._sent = 0  # bytes, ever
        self._sender_started = False
        self._sending = False  # by that task, or about to be
        self._broken = False
        self._woken = trio.lowlevel.ParkingLot()
        self._advanced = trio.lowlevel.ParkingLot()
        self._unscheduled = 0  # writes since anything else could run

    @property
    def backlog(self) -> int:
        """Bytes that the kernel has not taken yet."""
        return self._queued - self._sent

    @property
    def idle(self) -> bool:
        """What is written now goes to the kernel on the spot, as far as there is room."""
        return not (self._sending or self._broken or self._tls is not None)

    async def write(self, *pieces: Piece) -> None:
        """Send *pieces*, and wait until the kernel has them.

        Raises:
          ClientGone: the connection is lost.
        """
        self.write_soon(*pieces)
        self._check()
        self._unscheduled += 1
        if self._sending:
            await self.wait_sent()
        elif self._unscheduled >= WRITES_PER_CHECKPOINT:
            self._unscheduled = 0
            await trio.lowlevel.checkpoint()

    def write_soon(self, *pieces: Piece) -> None:
        """Send *pieces* behind what was written before, without waiting; nothing if it is lost."""
        if self._broken:
            return
        for piece in pieces:
            if piece:
                self._backlog.append(piece)
                self._queued += len(piece)
        if not self._sending:
            self._send_now()

    async def wait_room(self) -> None:
        """Wait until the backlog is small; at once if it is.

        Raises:
          ClientGone: the connection is lost.
        """
        while self._queued - self._sent > BACKLOG and not self._broken:
            await self._advanced.park()
        self._check()

    async def wait_sent(self) -> None:
        """Wait until the kernel has all that was written until now.

        Raises:
          ClientGone: the connection is lost.
        """
        position = self._queued
        while self._sent < position and not self._broken:
            await self._advanced.park()
        if self._sent < position:
            self._check()

    def close(self) -> None:
        """Send nothing any more; whoever waits hears that the client has gone."""
        self._broken = True
        self._backlog.clear()
        self._advanced.unpark_all()
        self._woken.unpark_all()

    def _check(self) -> None:
        if self._broken:
            raise ClientGone("the client has gone")

    def _send_now(self) -> None:
        """Send what the kernel takes, and leave the rest to the task."""
        if self._tls is None:
            try:
                self._offer()
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                self._break(error)
        if self._backlog:
            self._send_soon()

    def _send_soon(self) -> None:
        self._sending = True
        if self._sender_started:
            self._woken.unpark()
        else:
            self._sender_started = True
            self._nursery.start_soon(self._run_sender)

    def _offer(self) -> None:
        """Offer the backlog to the kernel until that is full."""
        while self._backlog:
            taken = sent = self._transport.send_nowait(self._backlog)
            if not taken:
                return
            self._sent += taken
            while sent:
                piece = self._backlog[0]
                if sent < len(piece):
                    self._backlog[0] = memoryview(piece)[sent:]
                    return
                sent -= len(piece)
                self._backlog.popleft()

    async def _run_sender(self) -> None:
        try:
            while not self._broken:
                if self._tls is None:
                    await self._send_plain()
                else:
                    await self._send_encrypted(self._tls)
                self._sending = False
                if not self._broken:
                    await self._woken.park()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self._break(error)

    async def _send_plain(self) -> None:
        self._offer()
        self._advanced.unpark_all()
        while self._backlog:
            await self._transport.wait_writable()
            self._offer()
            self._advanced.unpark_all()

    async def _send_encrypted(self, tls: trio.SSLStream[Transport]) -> None:
        while self._backlog:
            data = self._take_some()
            await tls.send_all(data)
            self._sent += len(data)
            self._advanced.unpark_all()

    def _take_some(self) -> bytes:
        """Take what is encrypted at once; more would hold the event loop."""
        pieces, room = [], ENCRYPTED
        while self._backlog and room:
            piece = self._backlog.popleft()
            if len(piece) > room:
                self._backlog.appendleft(memoryview(piece)[room:])
                piece = memoryview(piece)[:room]
            pieces.append(piece)
            room -= len(piece)
        return b"".join(pieces)

    def _break(self, error: Exception) -> None:
        if not self._broken:
            self.close()
            self._on_broken(error)
