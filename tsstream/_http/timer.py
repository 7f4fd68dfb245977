"""The clock of one stream: it knows what the stream waits for, and when that is too long."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, TypeAlias

import attrs
import trio

from .alarm import Alarm
from .policy import StreamPolicy

Phase: TypeAlias = Literal["handler", "first_item", "idle", "exit"]


@attrs.define(eq=False)
class _Limit:
    """One of the limits: when it is reached, and what it is then called."""

    name: str = ""
    seconds: float = math.inf
    at: float = math.inf


class Timer:
    """Watch the limits of a :class:`StreamPolicy`, from a task of its own.

    Timeouts cannot go round the waits themselves: a shielded ``send()`` does not hear them, and a
    cancelled async iterator is a dead one. So the writer says what it waits for (``enter``), and
    an alarm says when it is too long.

    Args:
      policy: the limits.
      on_expired: called with the name of the limit and its seconds.
      on_silence: called when nothing was sent for ``policy.heartbeat`` seconds, again and again.
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
        self._stopped = False
        self._alarm = Alarm(self._check)
        self._phase = _Limit()
        self._send = _Limit()
        self._lifetime = _Limit()
        self._silence = _Limit()

    def start(self, nursery: trio.Nursery) -> None:
        """Run from now on, if not already."""
        self._alarm.start(nursery)

    def adopt(self, policy: StreamPolicy) -> None:
        """Watch the limits of another policy from now on."""
        self.policy = policy

    def start_lifetime(self) -> None:
        """Let the ``lifetime`` limit begin."""
        self._set(self._lifetime, "lifetime", self.policy.lifetime)

    def enter(self, phase: Phase) -> None:
        """Wait for something else of the user's."""
        limit: float | None = getattr(self.policy, phase)
        self._set(self._phase, phase, limit)

    def pause(self) -> None:
        """Wait for nothing of the user's: it is the client's turn."""
        self._phase.at = math.inf

    def begin_send(self) -> None:
        """Wait for the client to take a message."""
        self._set(self._send, "send", self.policy.send)

    def end_send(self) -> None:
        """The client has taken it; the silence begins here."""
        self._send.at = math.inf
        self._set(self._silence, "heartbeat", self.policy.heartbeat)

    def stop(self) -> None:
        """Wait for nothing any more."""
        self._stopped = True
        for limit in (self._phase, self._send, self._lifetime, self._silence):
            limit.at = math.inf

    def _set(self, limit: _Limit, name: str, seconds: float | None) -> None:
        if seconds is None or self._stopped:
            limit.at = math.inf
            return
        limit.name, limit.seconds = name, seconds
        limit.at = trio.current_time() + seconds
        if limit.at < self._alarm.at:
            self._alarm.set(limit.at)

    def _check(self) -> None:
        now = trio.current_time()
        for limit in (self._lifetime, self._send, self._phase):
            if limit.at <= now:
                self.stop()
                self._on_expired(limit.name, limit.seconds)
                return
        if self._silence.at <= now:
            self._on_silence()
            self._set(self._silence, "heartbeat", self.policy.heartbeat)
        limits = (self._phase, self._send, self._lifetime, self._silence)
        self._alarm.set(min(limit.at for limit in limits))
