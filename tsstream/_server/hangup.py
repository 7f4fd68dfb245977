"""Hear a client hang up while nobody reads its connection."""

from __future__ import annotations

import select
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import trio


class HangupWatch:
    """One epoll for all connections that are not being read at the moment.

    A connection is not read while the application is behind with a body, or while a request waits
    for the one before it. A FIN or a reset behind those bytes would not be heard before they are
    read (HOST fault 9), but the kernel tells of it apart (EPOLLRDHUP). Elsewhere than on Linux
    nothing is heard until the connection is read again.

    Args:
      half_close: a FIN alone is no hang-up.
    """

    def __init__(self, *, half_close: bool = False) -> None:
        self._callbacks: dict[int, Callable[[bool], None]] = {}
        if sys.platform == "linux":
            # ERR and HUP, which a reset gives, are always told.
            self._events = select.EPOLLONESHOT | (0 if half_close else select.EPOLLRDHUP)

    @contextmanager
    def watching(self, fileno: int, on_hangup: Callable[[bool], None]) -> Iterator[None]:
        """Call *on_hangup*, once, if the peer hangs up within the block, or has before.

        Args:
          on_hangup: is told whether it was by a reset, so that nothing more can be read.
        """
        if sys.platform != "linux" or fileno < 0:
            yield
            return
        self._callbacks[fileno] = on_hangup
        self._epoll.register(fileno, self._events)
        try:
            yield
        finally:
            # If the socket was closed meanwhile the kernel has forgotten it by itself, and its
            # number may be another connection's by now.
            if self._callbacks.get(fileno) is on_hangup:
                del self._callbacks[fileno]
                try:
                    self._epoll.unregister(fileno)
                except (OSError, ValueError):
                    pass  # ValueError: the watch itself has ended

    async def run_watch(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Watch until cancelled."""
        if sys.platform != "linux":
            task_status.started()
            await trio.sleep_forever()
        with select.epoll() as self._epoll:
            task_status.started()
            while True:
                await trio.lowlevel.wait_readable(self._epoll.fileno())
                for fileno, events in self._epoll.poll(0):
                    if (on_hangup := self._callbacks.pop(fileno, None)) is not None:
                        self._epoll.unregister(fileno)
                        on_hangup(bool(events & (select.EPOLLERR | select.EPOLLHUP)))
