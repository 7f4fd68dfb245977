"""Blocking iterators in a worker thread of their own, one item at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import IO, TypeVar

import trio

from ._util import unwrapping

T = TypeVar("T")

CHUNK_SIZE = 64 * 1024  # bytes: what one read of a file asks for
THREADS = 100  # streams that block at once; Trio's own 40 stay free for everybody else (BK-9)

_limiter: trio.lowlevel.RunVar[trio.CapacityLimiter] = trio.lowlevel.RunVar("tsstream threads")


@asynccontextmanager
async def open_iterator_thread(
    iterable: Iterable[T],
) -> AsyncIterator[trio.MemoryReceiveChannel[T]]:
    """Iterate in a worker thread, and yield the channel that carries the items.

    The thread is at most one item ahead. It also closes the iterator, where it has a ``close()``,
    so that nothing of the iterator ever runs in two threads (BK-25). Leaving early does not wait
    for a thread that blocks: it ends at its next item.
    """
    send_channel, receive_channel = trio.open_memory_channel[T](0)
    with unwrapping():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_run_iterator, iterable, send_channel)
            with receive_channel:
                yield receive_channel
            if receive_channel.statistics().open_send_channels:
                nursery.cancel_scope.cancel(reason="nobody takes the items of this thread any more")


async def _run_iterator(iterable: Iterable[T], send_channel: trio.MemorySendChannel[T]) -> None:
    with send_channel:
        await trio.to_thread.run_sync(
            _iterate, iterable, send_channel, abandon_on_cancel=True, limiter=_stream_limiter()
        )


def _iterate(iterable: Iterable[T], send_channel: trio.MemorySendChannel[T]) -> None:
    iterator = iter(iterable)
    try:
        for item in iterator:
            trio.from_thread.run(send_channel.send, item)
    finally:
        close = getattr(iterator, "close", None)
        if close is not None:
            close()


def read_chunks(file: IO[bytes] | IO[str]) -> Iterator[bytes | str]:
    """Read a file to its end and close it; everything in the thread that iterates."""
    with file:
        while chunk := file.read(CHUNK_SIZE):
            yield chunk


def _stream_limiter() -> trio.CapacityLimiter:
    try:
        return _limiter.get()
    except LookupError:
        limiter = trio.CapacityLimiter(THREADS)
        _limiter.set(limiter)
        return limiter
