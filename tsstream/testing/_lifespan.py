"""The lifespan protocol of ASGI, from the server's side."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from enum import Enum, auto
from typing import Any, Final

import trio

from tsstream._asgi import ASGIApp, Message

logger = logging.getLogger("tsstream.testing")


class Phase(Enum):
    """How far the application's life has come."""

    STARTING = auto()
    SERVING = auto()
    STOPPING = auto()
    OVER = auto()


STARTUP = "lifespan.startup"
SHUTDOWN = "lifespan.shutdown"
# What the application may say in which phase, and what phase that leads to.
TABLE: Final[Mapping[tuple[Phase, str], Phase]] = {
    (Phase.STARTING, f"{STARTUP}.complete"): Phase.SERVING,
    (Phase.STARTING, f"{STARTUP}.failed"): Phase.OVER,
    (Phase.SERVING, f"{SHUTDOWN}.failed"): Phase.OVER,  # by itself: it broke while it served
    (Phase.STOPPING, f"{SHUTDOWN}.complete"): Phase.OVER,
    (Phase.STOPPING, f"{SHUTDOWN}.failed"): Phase.OVER,
}


class _Over(AssertionError):
    """The application asked for more than there is."""


class Lifespan:
    """One call of the application with the ``lifespan`` scope.

    Attributes:
      state: what the application keeps for its requests; each gets a copy.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.state: dict[str, Any] = {}
        self._app = app
        self._running = trio.CancelScope()
        self._violation: AssertionError | None = None
        self._phase = Phase.STARTING
        self._events = [STARTUP]  # what receive() gives next
        self._failure: str | None = None  # what a ".failed" message said
        self._error: Exception | None = None  # what the application raised while waited for
        self._waited_for = True
        self._answered = trio.Event()
        self._changed = trio.Event()
        self._returned = trio.Event()

    async def run(self) -> None:
        """Call the application; raise what it raises while it serves.

        What it raises later comes out of :meth:`shutdown`. What it raises before it has answered
        means that it has no lifespan.
        """
        scope = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": self.state,
        }
        await trio.lowlevel.checkpoint()  # the application may return or raise without one
        try:
            with self._running:
                await self._app(scope, self._receive, self._send)
            if self._violation is not None:
                raise self._violation
        except Exception as error:
            if self._phase is Phase.STARTING:
                logger.info("no lifespan: the application raised on its scope", exc_info=True)
            elif not self._waited_for:
                raise
            elif not isinstance(error, _Over):
                self._error = error
        finally:
            self._enter(Phase.OVER)
            self._returned.set()

    async def startup(self) -> None:
        """Wait until the application serves.

        Raises:
          RuntimeError: it said that its startup failed.
          whatever it raised after it had said so, instead.
        """
        await self._answered.wait()
        if self._failure is not None:
            await self._returned.wait()
        self._waited_for = False
        self._raise_failure("startup")

    async def shutdown(self) -> None:
        """Tell the application to shut down and wait until it has.

        Raises:
          RuntimeError: it said that its shutdown failed.
          whatever it raised, instead.
        """
        self._waited_for = True
        if self._phase is Phase.SERVING:
            self._events.append(SHUTDOWN)
            self._enter(Phase.STOPPING)
        await self._returned.wait()
        self._raise_failure("shutdown")

    def _raise_failure(self, what: str) -> None:
        if self._error is not None:
            raise self._error
        if self._failure is not None:
            raise RuntimeError(f"the {what} of the application failed: {self._failure}")

    def _enter(self, phase: Phase) -> None:
        self._phase = phase
        self._answered.set()
        self._changed.set()
        self._changed = trio.Event()

    async def _receive(self) -> Message:
        await trio.lowlevel.checkpoint()
        while not self._events:
            if self._phase is Phase.OVER:
                raise _Over("receive(): the lifespan is over; return")
            await self._changed.wait()
        return {"type": self._events.pop(0)}

    async def _send(self, message: Message) -> None:
        kind = message["type"]
        if (self._phase, kind) not in TABLE:
            self._violation = AssertionError(
                f"send() of {kind!r} on the lifespan scope while {self._phase.name}: "
                f"answer {STARTUP!r} and {SHUTDOWN!r} each once, with '.complete' or '.failed'"
            )
            self._running.cancel()  # it may catch the error, and then wait for what never comes
            raise self._violation
        if kind.endswith(".failed"):
            self._failure = message.get("message", "") or "it gave no message"
        self._enter(TABLE[self._phase, kind])
        await trio.lowlevel.checkpoint()
