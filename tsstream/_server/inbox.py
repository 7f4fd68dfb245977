"""What waits for one call of the application to ``receive()`` it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import trio

from tsstream._http.host import INTERRUPTED

ROOM = 64 * 1024  # bytes: what is read ahead of the application before the client has to wait
OVERHEAD = 256  # bytes: what a message costs besides its body; a client may send many small ones


class Inbox:
    """A queue of ASGI messages whose bound its filler keeps, and which a disconnect overtakes.

    Putting never waits: whoever fills it stops reading its socket while the inbox is :attr:`full`.
    A full queue can therefore never stand in the way of ``http.disconnect`` (HOST fault 6).

    Args:
      on_taken: called with the size of each message that the application takes.
      on_wanted: called once, when the application first waits for a message.
    """

    def __init__(
        self,
        on_taken: Callable[[int], None] | None = None,
        on_wanted: Callable[[], None] | None = None,
    ) -> None:
        self._on_taken = on_taken
        self._on_wanted = on_wanted
        self._messages: deque[tuple[dict[str, Any], int]] = deque()
        self._farewell: dict[str, Any] | None = None
        self._told = False
        self._discarding = False
        self._arrived = trio.lowlevel.ParkingLot()
        self._taken = trio.lowlevel.ParkingLot()
        self._weight = 0  # bytes of memory, about
        self.size = 0  # bytes of body

    @property
    def full(self) -> bool:
        """Who fills the inbox should wait for room."""
        return self._weight >= ROOM

    @property
    def ready(self) -> bool:
        """A ``receive()`` need not wait."""
        return bool(self._messages) or self._farewell is not None

    @property
    def disconnected(self) -> bool:
        """Nothing but the disconnect will be received any more."""
        return self._farewell is not None

    def put(self, message: dict[str, Any], size: int = 0) -> None:
        """Add a message of *size* bytes."""
        if self._discarding:
            self._tell_taken(size)
        elif self._farewell is None:
            self._messages.append((message, size))
            self.size += size
            self._weight += size + OVERHEAD
            if self._arrived:
                self._arrived.unpark()

    def disconnect(self, message: dict[str, Any]) -> None:
        """Let every ``receive()`` from now on give *message*; the first one counts."""
        if self._farewell is None:
            self._farewell = message
            self._messages.clear()
            self.size = self._weight = 0
            for waiting in (self._arrived, self._taken):
                if waiting:
                    waiting.unpark_all()

    def interrupt(self) -> None:
        """Let a ``receive()`` that waits give :data:`INTERRUPTED`; that costs no cancel scope."""
        if self._arrived:
            self._messages.append((INTERRUPTED, 0))
            self._weight += OVERHEAD
            self._arrived.unpark()

    def discard(self) -> None:
        """Drop what waits, and what will be put; a ``receive()`` gives :data:`INTERRUPTED`."""
        self._discarding = True
        sizes = [size for _, size in self._messages]
        self._messages.clear()
        self.size = self._weight = 0
        self._taken.unpark_all()
        self._arrived.unpark_all()
        for size in sizes:
            self._tell_taken(size)

    async def receive(self) -> dict[str, Any]:
        """Give the next message: the application's ``receive()``."""
        if self._farewell is not None and not self._told:
            # The first time also to who is cancelled: Starlette asks so whether it has come.
            await trio.lowlevel.cancel_shielded_checkpoint()
        elif self._messages or self._farewell is not None:
            await trio.lowlevel.checkpoint()
        elif self._on_wanted is not None:
            self._on_wanted()
            self._on_wanted = None
        while not self._messages and self._farewell is None:
            if self._discarding:
                return INTERRUPTED
            await self._arrived.park()
        if self._farewell is not None:
            self._told = True
            return dict(self._farewell)
        message, size = self._messages.popleft()
        self.size -= size
        self._weight -= size + OVERHEAD
        if self._taken and not self.full:
            self._taken.unpark_all()
        self._tell_taken(size)
        return message

    def _tell_taken(self, size: int) -> None:
        if size and self._on_taken is not None:
            self._on_taken(size)

    async def wait_room(self) -> None:
        """Wait until the inbox is not full any more, or disconnected."""
        while self.full:
            await self._taken.park()
