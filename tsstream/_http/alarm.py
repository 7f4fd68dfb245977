"""A clock that is set again and again, and seldom goes off."""

from __future__ import annotations

import math
from collections.abc import Callable

import trio


class Alarm:
    """Call *callback* at a time that is put off all the while.

    Setting it costs an assignment, not a cancel scope: a task of its own sleeps until the time
    that was set first, and finds then that it has been moved. Each time it goes off it is unset.

    Args:
      callback: cannot wait; it may set the alarm again.
    """

    def __init__(self, callback: Callable[[], None]) -> None:
        self.at = math.inf
        self._callback = callback
        self._running = False
        self._sleep = trio.CancelScope()

    def start(self, nursery: trio.Nursery) -> None:
        """Run from now on, if not already, until *nursery* is cancelled."""
        if not self._running:
            self._running = True
            nursery.start_soon(self._run)

    def set(self, at: float) -> None:
        """Go off at this time of Trio's clock, or never if it is ``math.inf``."""
        self.at = at
        if at < self._sleep.deadline:
            self._sleep.deadline = at

    async def _run(self) -> None:
        while True:
            with trio.CancelScope(deadline=self.at) as self._sleep:
                await trio.sleep_forever()
            if self.at <= trio.current_time():
                self.at = math.inf
                self._callback()
