"""The lifespan protocol of ASGI, from the server's side."""

from __future__ import annotations

import logging
from enum import Enum, auto
from typing import Any, Final

import trio

from .._asgi import ASGIApp, Message

logger = logging.getLogger("tsstream.testing")


class Phase(Enum):
    """How far the application's life has come."""

    STARTING = auto()
    SERVING = auto()
    STOPPING = auto()
    OVER = auto()


STARTUP = "lifespan.startup"
SHUTDOWN = "lifespan.shutdown"
# In which phase the application may say what, and what phase that leads to.
TABLE: Final = {
    f"{STARTUP}.complete": (Phase.STARTING, Phase.SERVING),
    f"{STARTUP}.failed": (Phase.STARTING, Phase.OVER),
    f"{SHUTDOWN}.complete": (Phase.STOPPING, Phase.OVER),
    f"{SHUTDOWN}.failed": (Phase.STOPPING, Phase.OVER),
}


class Lifespan:
    """One call of the application with the ``lifespan`` scope.

    Attributes:
      state: what the application keeps for its requests; each gets a copy.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.state: dict[str, Any] = {}
        self._app = app
        self._phase = Phase.STARTING
        self._events = [STARTUP]  # what receive() gives next
        self._failure: str | None = None  # what a ".failed" message said
        self._error: Exception | None = None  # what the application raised after that
        self._changed = trio.Event()
        self._returned = trio.Event()

    async def run(self) -> None:
        """Call the application; raise what it raises once it has started.

        An exception before that means that it has no lifespan.
        """
        scope = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": self.state,
        }
        try:
            await self._app(scope, self._receive, self._send)
        except Exception as error:
            if self._failure is not None:
                self._error = error
            elif self._phase is Phase.STARTING:
                logger.info("no lifespan: the application raised on its scope", exc_info=True)
            else:
                raise
        finally:
            self._enter(Phase.OVER)
            self._returned.set()

    async def startup(self) -> None:
        """Wait until the application serves.

        Raises:
          RuntimeError: it said that its startup failed, and raised nothing itself.
        """
        while self._phase is Phase.STARTING:
            await self._changed.wait()
        await self._check_failure("startup")

    async def shutdown(self) -> None:
        """Tell the application to shut down and wait until it has.

        Raises:
          RuntimeError: it said that its shutdown failed, and raised nothing itself.
        """
        if self._phase is Phase.OVER:
            return
        self._events.append(SHUTDOWN)
        self._enter(Phase.STOPPING)
        await self._returned.wait()
        await self._check_failure("shutdown")

    async def _check_failure(self, what: str) -> None:
        if self._failure is None:
            return
        await self._returned.wait()
        if self._error is not None:
            raise self._error
        raise RuntimeError(f"the {what} of the application failed: {self._failure}")

    def _enter(self, phase: Phase) -> None:
        self._phase = phase
        self._changed.set()
        self._changed = trio.Event()

    async def _receive(self) -> Message:
        await trio.lowlevel.checkpoint()
        while not self._events:
            if self._phase is Phase.OVER:
                raise AssertionError("receive(): the lifespan is over; return")
            await self._changed.wait()
        return {"type": self._events.pop(0)}

    async def _send(self, message: Message) -> None:
        kind = message["type"]
        before, after = TABLE.get(kind, (None, Phase.OVER))
        if self._phase is not before:
            raise AssertionError(
                f"send() of {kind!r} on the lifespan scope while {self._phase.name}: "
                f"answer {STARTUP!r} and {SHUTDOWN!r} each once, with '.complete' or '.failed'"
            )
        if kind.endswith(".failed"):
            self._failure = message.get("message", "") or "it gave no message"
        self._enter(after)
        await trio.lowlevel.checkpoint()
