"""Exception groups: one error leaves as itself, several as the group; limiters; names to log."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import overload

import trio


def leaves(error: BaseException) -> Iterator[BaseException]:
    """Give the exceptions that are not groups, in the order in which the groups hold them."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    else:
        yield error


@overload
def unwrapped(error: Exception) -> Exception: ...
@overload
def unwrapped(error: BaseException) -> BaseException: ...
def unwrapped(error: BaseException) -> BaseException:
    """Give the only leaf of a group, or *error* itself if there are several."""
    found = list(leaves(error))
    return found[0] if len(found) == 1 else error


@contextmanager
def unwrapping() -> Iterator[None]:
    """Let an exception that is alone in its group leave as itself.

    For nurseries that are an implementation detail: their users write ``except ValueError``.
    The exception keeps its own ``__cause__`` and ``__context__``.
    """
    try:
        yield
    except BaseExceptionGroup as group:
        error = unwrapped(group)
        if error is group:
            raise
        context = error.__context__
        try:
            raise error
        finally:
            # "raise" has just put the group there: the wrapping that this function hides.
            error.__context__ = context
            del error, context, group


# What is no error of the code that it comes from. Anything else is, even if it is no Exception,
# like asyncio's CancelledError.
NO_ERRORS = (trio.Cancelled, KeyboardInterrupt, SystemExit, GeneratorExit)


def split_cancelled(error: BaseException) -> tuple[BaseException | None, BaseException | None]:
    """Take *error* apart: a cancellation, or what else is no error, and the errors."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(NO_ERRORS)
    return (error, None) if isinstance(error, NO_ERRORS) else (None, error)


class RunLimiter:
    """A limiter of threads, of which every run of Trio has its own.

    Args:
      name: for those who look into a run.
      places: threads that work at once.
    """

    def __init__(self, name: str, places: int) -> None:
        self._places = places
        self._limiter: trio.lowlevel.RunVar[trio.CapacityLimiter] = trio.lowlevel.RunVar(name)

    def get(self) -> trio.CapacityLimiter:
        """Give that of this run."""
        try:
            return self._limiter.get()
        except LookupError:
            limiter = trio.CapacityLimiter(self._places)
            self._limiter.set(limiter)
            return limiter


def name_of(fn: object) -> str:
    """Give the name for the log: a function's own, for anything else its ``repr()``."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    return getattr(fn, "__qualname__", None) or repr(fn)
