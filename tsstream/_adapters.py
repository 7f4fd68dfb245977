"""Channels from what is none: async generators in a task, blocking iterators in a thread."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import IO, TypeAlias, TypeVar, cast

import trio

from ._util import RunLimiter, unwrapping

T = TypeVar("T")
ChannelManager: TypeAlias = AbstractAsyncContextManager[trio.MemoryReceiveChannel[T]]

CHUNK_SIZE = 64 * 1024  # bytes: what one read of a file asks for
THREADS = 100  # streams that block at once; Trio's own 40 stay free for everybody else (BK-9)

_stream_limiter = RunLimiter("tsstream threads", THREADS).get


def open_generator_task(generator: AsyncGenerator[T, None]) -> ChannelManager[T]:
    """Run an async generator in a task of its own, and yield the channel of its items.

    So it may hold nurseries and cancel scopes round its ``yield`` (PEP 789, AC-40), and is closed
    in the task that ran it. It is at most one item ahead.

    Not :func:`trio.as_safe_channel`: that leaves a channel open when it is cancelled on entering
    (Trio 0.35), and its channel has no ``receive_nowait()``, by which the writer gathers.
    """
    return _open_feeder(partial(_run_generator, generator))


async def _run_generator(
    generator: AsyncGenerator[T, None], send_channel: trio.MemorySendChannel[T]
) -> None:
    try:
        async for item in generator:
            await send_channel.send(_snapshot(item))
    finally:
        # Not shielded: a cancelled generator may clean up, and shield that, itself.
        await close_generator(generator)  # noqa: ASYNC102


async def close_generator(generator: AsyncGenerator[object, None]) -> None:
    """Close *generator*; a GeneratorExit of ours that it gives back in a group is no error."""
    try:
        await generator.aclose()
    except BaseExceptionGroup as group:
        # A nursery round the yield has put our own GeneratorExit into a group.
        rest = group.split(GeneratorExit)[1]
        if rest is not None:
            raise rest from None


def open_iterator_thread(iterable: Iterable[T]) -> ChannelManager[T]:
    """Iterate in a worker thread, and yield the channel of the items.

    The thread is at most one item ahead. It also closes the iterator, where that has a
    ``close()``, so nothing of the iterator ever runs in two threads (BK-25). Leaving early does
    not wait for a thread that blocks: it ends at its next item.
    """
    return _open_feeder(partial(_run_iterator, iterable))


async def _run_iterator(iterable: Iterable[T], send_channel: trio.MemorySendChannel[T]) -> None:
    await trio.to_thread.run_sync(
        _iterate, iterable, send_channel, abandon_on_cancel=True, limiter=_stream_limiter()
    )


def _iterate(iterable: Iterable[T], send_channel: trio.MemorySendChannel[T]) -> None:
    iterator = iter(iterable)
    try:
        for item in iterator:
            trio.from_thread.run(send_channel.send, _snapshot(item))
    finally:
        close = getattr(iterator, "close", None)
        if close is not None:
            close()


def _snapshot(item: T) -> T:
    """Copy what its producer could change while it is on its way (AC-29)."""
    mutable = isinstance(item, bytearray) or (
        isinstance(item, memoryview) and not isinstance(item.obj, bytes)
    )
    return cast("T", bytes(cast("bytearray", item))) if mutable else item


def read_chunks(file: IO[bytes] | IO[str]) -> Iterator[bytes | str]:
    """Read a file to its end and close it; all of it in the thread that iterates."""
    with file:
        while chunk := file.read(CHUNK_SIZE):
            yield chunk


@asynccontextmanager
async def _open_feeder(
    feed: Callable[[trio.MemorySendChannel[T]], Awaitable[None]],
) -> AsyncIterator[trio.MemoryReceiveChannel[T]]:
    """Run one task that fills a channel, and yield the channel."""
    send_channel, receive_channel = trio.open_memory_channel[T](0)
    with unwrapping():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_run_feed, feed, send_channel)
            with receive_channel:
                try:
                    yield receive_channel
                finally:
                    # Before the channel is closed, so that the task sees Cancelled.
                    if receive_channel.statistics().open_send_channels:
                        nursery.cancel_scope.cancel(reason="the reader stopped before the end")


async def _run_feed(
    feed: Callable[[trio.MemorySendChannel[T]], Awaitable[None]],
    send_channel: trio.MemorySendChannel[T],
) -> None:
    with send_channel:
        await feed(send_channel)
