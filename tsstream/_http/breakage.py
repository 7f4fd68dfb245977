"""The errors that producers raise only because nobody reads their channel any more."""

from __future__ import annotations

import trio

from tsstream._util import leaves, unwrapped


def is_breakage(error: BaseException) -> bool:
    """Say whether *error* is nothing but closed channels, so that it can be dropped (AC-15)."""
    return all(_says_closed(leaf) for leaf in leaves(error))


def without_breakage(error: Exception) -> Exception:
    """Give *error* without the closed channels that it has caused in others, as far as it can be.

    A body that fails in its reader closes the channel under its producers, so that these come
    out with it, in one group.
    """
    if isinstance(error, ExceptionGroup):
        rest = error.split(_says_closed)[1]
        return unwrapped(error if rest is None else rest)
    return error


def _says_closed(error: BaseException) -> bool:
    # A memory channel raises them bare; those of a broken socket or TLS stream have a text or a
    # cause, and are about another peer.
    return (
        isinstance(error, trio.BrokenResourceError | trio.ClosedResourceError)
        and not error.args
        and error.__cause__ is None
    )
