"""One call of the application under test, and what it does wrong."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import Any

import trio

from tsstream._asgi import ASGIApp, Receive, Send


class Call:
    """One call of the application, in a task that ends when the client has gone, too.

    Attributes:
      left: set when the client has gone.
      problem: what the application raised, or how it broke the ASGI specification.
      raises_errors: whether what it raised comes out of the client; how it broke the
        specification always does.
    """

    def __init__(
        self, app: ASGIApp, scope: MutableMapping[str, Any], *, raises_errors: bool
    ) -> None:
        self.left = trio.Event()
        self.problem: Exception | None = None
        self.raises_errors = raises_errors
        self._app = app
        self._scope = scope
        self._violation: AssertionError | None = None
        self._problem_seen = False

    async def run(self, receive: Receive, send: Send, on_return: Callable[[], None]) -> None:
        """Call the application; when the client has left, raise what nobody has seen."""
        try:
            await self._app(self._scope, receive, send)
        except Exception as error:
            self.problem = error
        finally:
            on_return()  # which may note one more violation
            self.problem = self.problem or self._violation
        # Shielded, or a cancelled test would lose the error; its block is being left then.
        with trio.CancelScope(shield=True):
            await self.left.wait()
        if self.problem is not None and self.raises_problem and not self._problem_seen:
            raise self.problem

    def note_violation(self, error: AssertionError) -> None:
        """Keep the first breach of the specification: an application may well catch it."""
        self._violation = self._violation or error

    @property
    def raises_problem(self) -> bool:
        """What the application did wrong comes out of the client."""
        shown = self.raises_errors or self._violation is not None
        return shown and self.problem is not None

    def see_problem(self) -> Exception | None:
        """Give what the application did wrong to somebody who raises it."""
        self._problem_seen = self.problem is not None
        return self.problem

    def raise_problem(self) -> None:
        """Raise what the application did wrong, if the client raises such."""
        if self.problem is not None and self.raises_problem:
            self._problem_seen = True
            raise self.problem
