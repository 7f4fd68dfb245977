"""One call of the application under test, and what it does wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

import trio

from tsstream._asgi import ASGIApp, Receive, Send
from tsstream._http.cancellation import cancellation_within, error_within, stray_cancellation
from tsstream._util import leaves


class Call:
    """One call of the application, in a task that ends when the client has gone, too.

    Attributes:
      left: set when the client has gone.
      problem: what the application raised, or how it broke the ASGI specification.
      raises_errors: whether what it raised comes out of the client; how it broke the
        specification always does.
      returned: the application has returned, and not because the test was cancelled.
    """

    def __init__(
        self, app: ASGIApp, scope: MutableMapping[str, Any], *, raises_errors: bool
    ) -> None:
        self.left = trio.Event()
        self.problem: Exception | None = None
        self.raises_errors = raises_errors
        self.returned = False
        self._app = app
        self._scope = scope
        self._running = trio.CancelScope()
        self._violation: AssertionError | None = None
        self._problem_seen = False

    async def run(self, receive: Receive, send: Send, on_end: Callable[[], None]) -> None:
        """Call the application; when the client has left, raise what nobody has seen."""
        cancellation = None
        try:
            cancellation = await self._call_app(receive, send)
        finally:
            on_end()  # which may note one more violation
            self.problem = _combine(self.problem, self._violation)
        # Shielded, or a cancelled test would lose the error; its block is being left then.
        with trio.CancelScope(shield=True):
            await self.left.wait()
        try:
            if self.problem is not None and self.raises_problem and not self._problem_seen:
                raise self.problem
            if cancellation is not None:
                raise cancellation
        finally:
            del cancellation  # its traceback holds this frame

    async def _call_app(self, receive: Receive, send: Send) -> BaseException | None:
        """Note what the application raises; give the cancellation if it is the test's own."""
        try:
            with self._running:
                await self._app(self._scope, receive, send)
            self.returned = not _is_cancelled()
        except Exception as error:
            self.problem = error
        except BaseException as error:  # noqa: ASYNC103 (it is raised at the end of run())
            self.problem = error_within(error)
            if _is_cancelled():
                return cancellation_within(error)  # noqa: ASYNC104, ASYNC910 (run() raises it)
            # Our nursery would take it for its own: cancel the test, and let it pass.
            self.problem = self.problem or stray_cancellation(error)
        return None  # noqa: ASYNC910 (run() has one)

    def note_violation(self, error: AssertionError) -> None:
        """Keep the first breach of the specification, and end the application.

        It may well catch the error, and then wait for what never comes.
        """
        self._violation = self._violation or error
        self._running.cancel(reason=f"the application broke the ASGI specification: {error}")

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


def _is_cancelled() -> bool:
    return trio.current_effective_deadline() == -math.inf


def _combine(error: Exception | None, violation: AssertionError | None) -> Exception | None:
    """Give the error, the violation, or both if the error does not show the violation."""
    if error is None or violation is None or violation in _history(error):
        return error or violation
    return ExceptionGroup("the application broke the ASGI specification", [violation, error])


def _history(error: BaseException) -> Iterator[BaseException]:
    """Give what a traceback shows of *error*."""
    waiting, seen = [error], set[int]()
    while waiting:
        for leaf in leaves(waiting.pop()):
            if id(leaf) not in seen:
                seen.add(id(leaf))
                yield leaf
                waiting += [each for each in (leaf.__cause__, leaf.__context__) if each]
