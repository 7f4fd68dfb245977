"""An allowance that is used up by single events and comes back with time."""

from __future__ import annotations

import attrs


@attrs.define(eq=False)
class Budget:
    """*size* events at once, and *refill* more in each second; time is the caller's.

    Args:
      size: events in hand when nothing has been spent for long.
      refill: events per second.
      now: the time of the caller's clock, in seconds.
    """

    size: float
    refill: float
    now: float
    left: float = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.left = self.size

    def spend(self, now: float) -> bool:
        """Count one event at the time *now*; give whether there was allowance for it."""
        self.left = min(self.size, self.left + (now - self.now) * self.refill)
        self.now = now
        self.left -= 1
        return self.left >= 0
