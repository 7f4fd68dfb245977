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
    """
    try:
        async with trio.open_nursery() as nursery:
            yield nursery
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
