"""The lifespan of an application: started before the first connection, ended after the last."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Literal

import trio
from hypercorn.config import Config
from hypercorn.utils import LifespanFailureError

from tsstream._asgi import ASGIApp
from tsstream._http.host import EXTENSION, Host
from tsstream._server.inbox import Inbox
from tsstream._util import split_cancelled, unwrapped

Stage = Literal["startup", "shutdown"]


@asynccontextmanager
async def open_lifespan(
    app: ASGIApp, config: Config, host: Host, state: dict[str, Any]
) -> AsyncIterator[None]:
    """Start the lifespan of *app*, and end it whatever happens meanwhile.

    An application that knows no lifespan, because it raises or returns, is served without.

    Raises:
      LifespanFailureError: it failed to start or to end, or failed in between, or took longer
        than the ``startup_timeout`` or ``shutdown_timeout`` of *config*.
    """
    call = _Call(app, config, host, state)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(call.run)
        try:
            await call.wait(lambda: call.started, "startup", config.startup_timeout)
            nursery.start_soon(call.watch)
            try:
                yield
            finally:
                await call.end(config.shutdown_timeout)  # noqa: ASYNC102 (it is shielded)
        finally:
            nursery.cancel_scope.cancel(reason="the lifespan is over")
            call.scope.cancel(reason="the lifespan is over")


class _Call:
    """One call of the application for its lifespan; no cancellation but our own ends it.

    Attributes:
      scope: its own.
      started: it has said so, or will not.
    """

    def __init__(self, app: ASGIApp, config: Config, host: Host, state: dict[str, Any]) -> None:
        self.scope = trio.CancelScope(shield=True)
        self.started = False
        self._app = app
        self._config = config
        self._asgi_scope = {
            "type": "lifespan",
            "asgi": {"spec_version": "2.0", "version": "3.0"},
            "state": state,
            "extensions": {EXTENSION: host},
        }
        self._taken = False  # the application has received something
        self._inbox = Inbox(on_taken=self._note_taken)
        self._inbox.put({"type": "lifespan.startup"}, 1)
        self._ending = self._ended = self._over = False
        self._failure: LifespanFailureError | None = None
        self._changed = trio.lowlevel.ParkingLot()

    async def run(self) -> None:
        """Call the application."""
        failure = None
        try:
            with self.scope:
                await self._app(self._asgi_scope, self._receive, self._take)
        except BaseException as error:  # noqa: ASYNC103 (what is no error is raised)
            others, failure = split_cancelled(unwrapped(error))
            if others is not None:
                raise
        if failure is not None and self._failure is None and not self._ended:
            if self._ending:
                self._failure = LifespanFailureError("shutdown", str(failure))
            else:
                await self._log(failure)
        self.started = self._ended = self._over = True
        self._changed.unpark_all()

    async def wait(self, condition: Callable[[], bool], stage: Stage, limit: float) -> None:
        """Wait for *condition*, or raise the LifespanFailureError that comes first.

        Args:
          limit: in seconds.
        """
        with trio.move_on_after(limit) as scope:  # noqa: ASYNC912 (unless it is so already)
            while self._failure is None and not condition():
                await self._changed.park()
        if scope.cancelled_caught:
            raise LifespanFailureError(stage, f"it takes longer than {limit:g} s")
        if self._failure is not None:
            raise self._failure

    async def watch(self) -> None:
        """Raise if the lifespan fails while the application is served."""
        while not self._ending:
            if self._failure is not None:
                raise self._failure
            await self._changed.park()

    async def end(self, limit: float) -> None:
        """End the lifespan, also when we are being cancelled; at most for *limit* seconds."""
        if self._failure is not None:
            return  # watch() tells of it
        self._ending = True
        self._changed.unpark_all()
        self._inbox.put({"type": "lifespan.shutdown"})
        with trio.CancelScope(shield=True), trio.move_on_after(limit + 1):
            await self.wait(lambda: self._ended, "shutdown", limit)
            while not self._over:  # it may have more to clean up than it has told of
                await self._changed.park()

    async def _receive(self) -> dict[str, Any]:
        if self._ended:
            self._over = True  # it waits for what will not come
            self._changed.unpark_all()
        return await self._inbox.receive()

    def _note_taken(self, size: int) -> None:
        self._taken = True

    async def _take(self, message: Any) -> None:
        await trio.lowlevel.checkpoint()
        kind = message["type"]
        if kind == "lifespan.startup.complete":
            self.started = True
        elif kind == "lifespan.shutdown.complete":
            self._ended = True
        elif kind in ("lifespan.startup.failed", "lifespan.shutdown.failed"):
            stage: Stage = "startup" if "startup" in kind else "shutdown"
            self._failure = LifespanFailureError(stage, message.get("message", ""))
        else:
            raise RuntimeError(f"{kind!r} has no place in a lifespan")
        self._changed.unpark_all()

    async def _log(self, failure: BaseException) -> None:
        if self.started:
            text = "the lifespan of the application has failed; it is served on without"
            await self._config.log.error(text, exc_info=failure)
        else:
            text = "the application knows no lifespan (%r); it is served without"
            # If it has taken the startup, it seems to know one, and the reader wants to know more.
            details = failure if self._taken else None
            await self._config.log.warning(text, failure, exc_info=details)
