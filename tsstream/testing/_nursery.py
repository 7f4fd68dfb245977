"""A nursery that nobody sees: what its block or its one failed child raises leaves as itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio


@asynccontextmanager
async def open_plain_nursery() -> AsyncIterator[trio.Nursery]:
    """Open a nursery whose own group is taken away again if it holds one exception.

    Unlike :func:`tsstream._util.unwrapping` it leaves a group alone that the application or the
    test raised itself.

    Raises:
      RuntimeError: somebody in it raised a Cancelled that was none of his. A nursery takes it for
        its own, so it would cancel the rest of the block, and the test would pass.
    """
    try:
        async with trio.open_nursery() as nursery:
            yield nursery
        if nursery.cancel_scope.cancelled_caught:  # we cancel it nowhere
            raise RuntimeError(
                "cancelled outside any scope of this block: a Cancelled was kept and raised again, "
                "by the application's lifespan, by the content of a request or by the test"
            )
    except BaseExceptionGroup as group:
        error, *others = group.exceptions
        if others:
            raise
        context = error.__context__
        try:
            raise error
        finally:
            error.__context__ = context  # "raise" has just put the group there
            del error, others, context, group
