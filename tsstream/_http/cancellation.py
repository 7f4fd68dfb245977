"""What a cancellation brings along on its way up: errors beside it, and errors behind it."""

from __future__ import annotations

from collections.abc import Iterator
from traceback import walk_tb
from types import FrameType

import trio

from tsstream._util import leaves, unwrapped

# Exceptions that only steer: a cancellation that arrives while one is handled hides no error.
STEERING = (
    trio.Cancelled,
    trio.WouldBlock,
    trio.EndOfChannel,
    trio.BrokenResourceError,
    trio.ClosedResourceError,
    StopAsyncIteration,
    StopIteration,
)


def error_within(error: BaseException) -> Exception | None:
    """Give what is an error in a mixture of errors and cancellations.

    Raises:
      BaseException: there is something in it that is not for us, such as KeyboardInterrupt.
    """
    if not all(isinstance(leaf, Exception | trio.Cancelled) for leaf in leaves(error)):
        raise error
    rest = error.split(trio.Cancelled)[1] if isinstance(error, BaseExceptionGroup) else None
    return unwrapped(rest) if isinstance(rest, Exception) else None


def cancellation_within(error: BaseException) -> BaseException:
    """Give what is cancellation in such a mixture."""
    part = error.split(trio.Cancelled)[0] if isinstance(error, BaseExceptionGroup) else error
    return error if part is None else part


def stray_cancellation(error: BaseException) -> Exception:
    """Give an error for a Cancelled that is none of ours, nor from outside (D39)."""
    stray = RuntimeError(
        "cancelled outside any scope of this request: a Cancelled was kept and raised again"
    )
    stray.__cause__ = error
    return stray


def hidden_errors(error: BaseException) -> Iterator[Exception]:
    """Give the errors that were in flight when a Cancelled took their place.

    Only those of the task that was cancelled: a Cancelled is made in the task that cancels, so
    its context may also be what that task was handling.
    """
    seen = list(leaves(error))
    for leaf in list(seen):
        frames = _frames(leaf)
        inner = leaf.__context__ if isinstance(leaf, trio.Cancelled) else None
        while inner is not None and inner not in seen:
            seen.append(inner)
            hidden = _without_steering(inner)
            if hidden is not None and frames & _frames(inner):
                yield hidden
            inner = inner.__context__


def _frames(error: BaseException) -> set[FrameType]:
    return {frame for frame, _ in walk_tb(error.__traceback__)}


def _without_steering(error: BaseException) -> Exception | None:
    """Give what is an error in *error*: nothing, all of it, or a part if it is a group."""
    if isinstance(error, BaseExceptionGroup):
        rest = error.split(STEERING)[1]
        return unwrapped(rest) if isinstance(rest, Exception) else None
    return error if isinstance(error, Exception) and not isinstance(error, STEERING) else None
