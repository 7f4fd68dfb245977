"""The clock of one stream: it knows what the stream waits for, and when that is too long."""

from __future__ import annotations

import math
from collections.abc import Callable

import trio

from .policy import StreamPolicy


class Timer:
    """Watch the limits of a :class:`StreamPolicy`, from a task of its own.

    Timeouts cannot go round the waits themselves: a shielded ``send()`` does not hear them, and a
    cancelled async iterator is a dead one. So the writer says what it waits for (``enter``), and
    this task says when it is too long. The alarm is only ever moved forward; when it goes off
    early it is set anew, so entering a phase costs an assignment.

    Args:
      policy: the limits.
      on_expired: called with the name of the limit and its seconds.
      on_silence: called when nothing was sent for ``policy.heartbeat`` seconds.
    """

    def __init__(
        self,
        policy: StreamPolicy,
        on_expired: Callable[[str, float], None],
        on_silence: Callable[[], None],
    ) -> None:
        self.policy = policy
        self._on_expired = on_expired
        self._on_silence = on_silence
        self._running = False
        self._alarm = trio.CancelScope()
        self._lifetime_at = math.inf
        self._phase: str | None = None
        self._phase_at = math.inf
        self._silence_at = math.inf

    def start(self, nursery: trio.Nursery) -> None:
        """Run from now on, if not already."""
        if not self._running:
            self._running = True
            nursery.start_soon(self._run)

    def adopt(self, policy: StreamPolicy) -> None:
        """Watch the limits of another policy."""
        self.policy = policy

    def start_lifetime(self) -> None:
        """Let the ``lifetime`` limit begin."""
        self._lifetime_at = trio.current_time() + (self.policy.lifetime or math.inf)
        self._move_alarm(self._lifetime_at)

    def enter(self, phase: str) -> None:
        """Wait for something else: ``handler``, ``first_item``, ``idle``, ``send``, ``exit``."""
        limit: float | None = getattr(self.policy, phase)
        self._phase = phase
        self._phase_at = math.inf if limit is None else trio.current_time() + limit
        self._move_alarm(self._phase_at)

    def stop(self) -> None:
        """Wait for nothing that has a limit."""
        self._phase_at = self._lifetime_at = self._silence_at = math.inf

    def expect_sign_of_life(self) -> None:
        """Something was sent, or may be from now on: count the silence from here."""
        if self.policy.heartbeat is not None:
            self._silence_at = trio.current_time() + self.policy.heartbeat
            self._move_alarm(self._silence_at)

    async def _run(self) -> None:
        while True:
            with trio.CancelScope(deadline=self._next()) as self._alarm:
                await trio.sleep_forever()
            self._check(trio.current_time())

    def _next(self) -> float:
        return min(self._phase_at, self._lifetime_at, self._silence_at)

    def _move_alarm(self, at: float) -> None:
        if at < self._alarm.deadline:
            self._alarm.deadline = at

    def _check(self, now: float) -> None:
        if self._lifetime_at <= now:
            self._expire("lifetime")
        elif self._phase_at <= now and self._phase is not None:
            self._expire(self._phase)
        elif self._silence_at <= now:
            self._on_silence()
            self.expect_sign_of_life()

    def _expire(self, limit: str) -> None:
        self.stop()
        self._on_expired(limit, getattr(self.policy, limit))
