"""A socket whose sends can be cancelled, and end when the client accepts nothing for too long."""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import Collection
from contextlib import suppress
from itertools import islice

import trio

RECEIVE_SIZE = 64 * 1024  # bytes
PIECES = 1024  # in one system call (IOV_MAX)
KERNEL_LIMIT = 60.0  # seconds: with 3 it dropped clients that read 20 kB/s (HOST fault 5)
RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # struct linger: on, with 0 seconds


class Stalled(trio.BrokenResourceError):
    """The client has accepted nothing for the whole stall limit; the connection was aborted."""


class Transport(trio.abc.Stream):
    """The bytes of one connection, below TLS.

    Hypercorn shields its sends, so that a client that has stopped reading makes them
    uncancellable (HOST fault 5). These are plain: who is cancelled in the middle of one has to
    :meth:`abort`, because part of the bytes may be on their way.

    Args:
      stream: what was accepted.
      stall_timeout: seconds; None for no limit.
    """

    def __init__(self, stream: trio.SocketStream, stall_timeout: float | None) -> None:
        self.socket = stream.socket
        self._stream = stream
        self._stall_timeout = stall_timeout
        self._closed = False
        self._more_expected = False
        if stall_timeout is not None and self.socket.family != socket.AF_UNIX:
            _limit_kernel(self.socket, stall_timeout)

    def send_nowait(self, pieces: Collection[bytes | memoryview]) -> int:
        """Send what the kernel takes of *pieces* at once; give its number of bytes, perhaps 0.

        Raises:
          trio.BrokenResourceError: the connection is lost.
          trio.ClosedResourceError: it was closed here.
        """
        if self._closed:
            raise trio.ClosedResourceError("the connection is closed")
        try:
            # Not the socket's own send(), which is a checkpoint: this is the fast path of every
            # chunk of every response (HOST fault 18).
            if len(pieces) == 1:
                return os.write(self.socket.fileno(), next(iter(pieces)))
            return os.writev(self.socket.fileno(), list(islice(pieces, PIECES)))
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            raise trio.BrokenResourceError(f"the connection is lost: {error}") from error

    async def wait_writable(self) -> None:
        """Wait until the kernel may take more.

        Raises:
          Stalled: the client has accepted nothing within the stall limit.
        """
        limit = self._stall_timeout
        if limit is None:
            await self._wait_writable()
            return
        # The kernel says "writable" only when about a third of its buffer, which may be
        # megabytes, has drained. So a slow reader is told from none by what is still queued.
        queued, since = self._queued(), trio.current_time()
        while True:
            with trio.move_on_after(limit / 4):
                await self._wait_writable()
                return
            if (now_queued := self._queued()) < queued:
                queued, since = now_queued, trio.current_time()
            elif trio.current_time() - since >= limit:
                self.abort()
                raise Stalled(f"the client has accepted nothing for {limit:g} s")

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send everything; cancelled, an unknown part of it."""
        await trio.lowlevel.checkpoint_if_cancelled()
        rest = memoryview(data)
        while rest:
            if sent := self.send_nowait([rest]):
                rest = rest[sent:]
            else:
                await self.wait_writable()
        await trio.lowlevel.cancel_shielded_checkpoint()

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the kernel may take more."""
        await self.wait_writable()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Receive what has arrived, by default up to 64 KiB; ``b""`` after a FIN.

        Raises:
          trio.BrokenResourceError: the connection is lost.
          trio.ClosedResourceError: it was closed here.
        """
        size = RECEIVE_SIZE if max_bytes is None else max_bytes
        # Who has sent much the last time will have more by now; others are better waited for.
        if self._more_expected and not self._closed:
            await trio.lowlevel.checkpoint()
            if (data := self._receive_nowait(size)) is not None:
                return data
        while True:
            if self._closed:
                raise trio.ClosedResourceError("the connection is closed")
            await trio.lowlevel.wait_readable(self.socket)
            if (data := self._receive_nowait(size)) is not None:
                return data

    def _receive_nowait(self, size: int) -> bytes | None:
        if self._closed:
            raise trio.ClosedResourceError("the connection is closed")
        try:
            data = os.read(self.socket.fileno(), size)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError as error:
            raise trio.BrokenResourceError(f"the connection is lost: {error}") from error
        self._more_expected = len(data) >= size // 4
        return data

    def drop_unread(self) -> bool:
        """Drop what has arrived and nobody has read; say whether there was anything."""
        try:
            return bool(self._receive_nowait(RECEIVE_SIZE))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return False

    async def send_eof(self) -> None:
        """Send a FIN behind all that was sent."""
        await self._stream.send_eof()

    def close(self) -> None:
        """Close the socket: a FIN goes out behind what the kernel still holds.

        If bytes of the client are waiting unread the kernel makes it a reset.
        """
        if not self._closed:
            self._closed = True
            self.socket.close()

    def abort(self) -> None:
        """Close the socket with a reset; what the kernel still holds is dropped."""
        if not self._closed:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            self.close()

    async def aclose(self) -> None:
        """Send a FIN, and do not close: TLS calls this, and the connection may linger."""
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await self.send_eof()

    async def _wait_writable(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("the connection is closed")
        await trio.lowlevel.wait_writable(self.socket)

    def _queued(self) -> int:
        """Give the bytes that the kernel holds until the client has acknowledged them."""
        if sys.platform != "linux" or self._closed:
            return 0
        import fcntl
        import termios

        answer = fcntl.ioctl(self.socket.fileno(), termios.TIOCOUTQ, bytes(4))  # SIOCOUTQ
        return int.from_bytes(answer, sys.byteorder)


def _limit_kernel(sock: trio.socket.SocketType, seconds: float) -> None:
    """Have what the kernel holds, when nobody waits in a send any more, dropped by the kernel."""
    if sys.platform == "linux":
        milliseconds = int(max(seconds, KERNEL_LIMIT) * 1000)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
