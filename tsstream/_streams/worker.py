"""A blocking function in a worker thread, and an end to the wait for it (BK-26)."""

from __future__ import annotations

import copy
import inspect
import logging
import threading
from collections.abc import Callable
from typing import Generic, TypeVar, cast

import trio

from tsstream._util import split_cancelled

T = TypeVar("T")

THREAD_GRACE = 5.0  # seconds: what a thread gets to end once its task has been cancelled

logger = logging.getLogger("tsstream")


class Worker(Generic[T]):
    """One run of a blocking function in a thread of its own.

    Args:
      fn: the function.
      name: what the thread and the log call it.
      limiter: of the places for such threads.
      grace: in seconds; how long :meth:`run` waits for the thread once it has been cancelled.
      stop: called in the Trio thread with a copy of the cancellation, so that the thread meets it
        wherever it waits for us.
    """

    def __init__(
        self,
        fn: Callable[[], T],
        *,
        name: str,
        limiter: trio.CapacityLimiter,
        grace: float,
        stop: Callable[[BaseException], None],
    ) -> None:
        self._fn = fn
        self._name = name
        self._grace = grace
        self._stop = stop
        self._place = _Place(limiter)
        self._lock = threading.Lock()  # of the two below
        self._ended = False
        self._abandoned = False
        self._value: T
        self._error: BaseException | None = None

    async def run(self) -> None:  # noqa: ASYNC910 (run_sync() is one)
        """Run the function; return when it has ended, whatever it raised: see :meth:`result`.

        Raises:
          trio.Cancelled: the caller was cancelled, and the thread has ended without an error, was
            abandoned, or has never run because no place was free.
        """
        try:
            await trio.to_thread.run_sync(
                self._call,
                thread_name=self._name,
                abandon_on_cancel=True,  # so that this returns at once, and the wait is ours
                limiter=cast("trio.CapacityLimiter", self._place),
            )
        except BaseException as error:  # noqa: ASYNC103 (fn's own error says more)
            if self._place.taken:
                self._stop(copy.copy(error))
                with trio.move_on_after(self._grace, shield=True):
                    await self._place.free.wait()
                if not self._place.free.is_set():
                    self._abandon()
            if not self._failed():
                raise

    def result(self) -> T:
        """Give what the function returned, or raise what it raised, once :meth:`run` is over."""
        if self._error is None:
            return self._value
        error, self._error = self._error, None  # its traceback refers to us
        try:
            raise error
        finally:
            del error

    def _failed(self) -> bool:
        """Say whether the function has ended with an error, be it the cancellation it was told."""
        with self._lock:
            return self._ended and self._error is not None

    def _abandon(self) -> None:
        with self._lock:
            self._abandoned = not self._ended
        if self._abandoned:
            logger.warning(
                "the thread of %s still runs %g s after it was cancelled; it is abandoned, and "
                "keeps one of the %d places for such threads until it ends",
                self._name,
                self._grace,
                self._place.count,
            )

    # In the thread.

    def _call(self) -> None:
        try:
            self._value = self._check(self._fn())
        except BaseException as error:  # noqa: ASYNC103 (result() raises it)
            self._error = error
        with self._lock:
            self._ended = True
        if self._abandoned:
            self._tell_late_error()

    def _check(self, value: T) -> T:
        if inspect.iscoroutine(value):
            value.close()  # or Python would warn that it was never awaited
            raise TypeError(
                f"{self._name} is async, and a worker thread runs blocking functions; await it "
                "where you are, and let it receive from the channel itself"
            )
        return value

    def _tell_late_error(self) -> None:
        error, self._error = self._error, None
        if error is not None and split_cancelled(error)[1] is not None:
            logger.error("the abandoned thread of %s has failed", self._name, exc_info=error)
        del error


class _Place:
    """A limiter for one thread, as Trio asks for it: one place of *limiter*, and what came of it.

    Attributes:
      taken: the place was got, so the thread has been started.
      free: set when the thread has ended.
    """

    def __init__(self, limiter: trio.CapacityLimiter) -> None:
        self.taken = False
        self.free = trio.Event()
        self._limiter = limiter

    @property
    def count(self) -> float:
        return self._limiter.total_tokens

    async def acquire_on_behalf_of(self, borrower: object) -> None:
        await self._limiter.acquire_on_behalf_of(borrower)
        self.taken = True

    def release_on_behalf_of(self, borrower: object) -> None:
        self._limiter.release_on_behalf_of(borrower)
        self.free.set()
