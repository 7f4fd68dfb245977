"""Pings to a client, to hear whether it still lives."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

import trio

from tsstream._server.errors import ClientGone


class Pinger:
    """Pings at an interval; anything that is heard in time after that counts as an answer.

    Args:
      send_ping: sends one.
      on_silence: called, once, when nothing was heard in time.
      listening: says whether anything can be heard; no silence counts if not.
      interval: seconds from one ping to the next; None for no pings.
      limit: seconds for the answer, None for no limit.
    """

    def __init__(
        self,
        send_ping: Callable[[], Awaitable[None]],
        on_silence: Callable[[], None],
        *,
        listening: Callable[[], bool],
        interval: float | None,
        limit: float | None,
    ) -> None:
        self._send_ping = send_ping
        self._on_silence = on_silence
        self._listening = listening
        self._interval = math.inf if interval is None else interval
        self._limit = math.inf if limit is None else limit
        self._silent_since: float | None = None  # the first ping after what was heard last
        self._running = trio.CancelScope()

    def heard(self) -> None:
        """Something was heard."""
        self._silent_since = None

    def stop(self) -> None:
        """End :meth:`run`."""
        self._running.cancel()

    async def run(self) -> None:
        """Ping until stopped; return at once if there is nothing to do."""
        if self._interval == math.inf:
            return
        with self._running:
            due = trio.current_time() + self._interval
            while True:
                await trio.sleep_until(min(due, self._deadline))
                if not self._listening():
                    self.heard()
                if trio.current_time() >= self._deadline:
                    self._on_silence()
                    return
                if trio.current_time() >= due:
                    due = trio.current_time() + self._interval
                    await self._ping()

    @property
    def _deadline(self) -> float:
        return math.inf if self._silent_since is None else self._silent_since + self._limit

    async def _ping(self) -> None:
        if self._silent_since is None:
            self._silent_since = trio.current_time()
        try:
            await self._send_ping()
        except ClientGone:
            self.stop()
