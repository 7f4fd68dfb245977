"""Exception groups: one error leaves as itself, several as the group."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import overload


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


def split_cancelled(
    error: BaseException,
) -> tuple[BaseException | None, Exception | None]:
    """Take *error* apart: a cancellation, with what else is no Exception, and the errors."""
    if isinstance(error, BaseExceptionGroup):
        errors, others = error.split(Exception)
        return others, errors
    return (None, error) if isinstance(error, Exception) else (error, None)
