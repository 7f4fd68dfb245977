"""Blocking code at one end of a channel, in a worker thread."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import IO, TypeVar, TypeVarTuple, Unpack, cast

import trio

from tsstream._adapters import _stream_limiter
from tsstream._util import RunLimiter, name_of, unwrapping

from .channel_file import ChannelFile
from .prefetch import Prefetch
from .producer_file import ProducerFile
from .thread_channel import ThreadChannel
from .worker import THREAD_GRACE, Worker

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

MAX_READ = 16 * 1024 * 1024  # bytes: what one read() without a size may hold; as Request.read()
FLUSH_INTERVAL = 0.25  # seconds: soon enough for a person who watches a download begin
# Threads that produce at once. Each waits for a client, which may be slow, so there are many; and
# they are no others' places, so that the slow ones starve nobody (BK-9).
PRODUCERS = 500

_producer_limiter = RunLimiter("tsstream producers", PRODUCERS).get


def open_thread_producer(
    fn: Callable[[IO[bytes], Unpack[Ts]], object],
    *args: *Ts,
    thread_grace: float = THREAD_GRACE,
    flush_interval: float = FLUSH_INTERVAL,
) -> AbstractAsyncContextManager[trio.abc.ReceiveChannel[bytes]]:
    """Run ``fn(file, *args)`` in a worker thread, and give the channel of what it writes.

    *file* is a binary file, open for writing, that cannot seek. It works under tarfile with
    ``w|``, zipfile, gzip, csv and io.TextIOWrapper. Chunks of 64 KiB arrive on the channel, and
    smaller ones at the very beginning, after ``file.flush()``, and when *fn* has given less for
    *flush_interval*. ``write()`` waits while the reader is 256 KiB behind. The channel ends when
    *fn* returns.

    An error in *fn* leaves the block as itself. What was written but has not left by then is
    dropped, and so is what an archive writer adds while it is closed because of that error: a
    broken archive has no proper end (BK-20, BK-21).

    Leaving the block before the channel has ended, closing the channel, or being cancelled makes
    the next ``write()`` in the thread raise ``trio.Cancelled``, and all later ones. It is no
    ``Exception``, so ``except Exception`` in *fn* does not hold it up; ``finally`` blocks run in
    the thread, which gets *thread_grace* seconds to end. A thread that does not end is abandoned,
    with a warning in the log (BK-26). There are 500 places for such threads; who finds none waits
    for one. Code that writes seldom can look for the cancellation with
    :func:`trio.from_thread.check_cancelled`.

    Example::

        def write_rows(file: IO[bytes], rows: Iterable[Row]) -> None:
            csv.writer(io.TextIOWrapper(file, newline="", write_through=True)).writerows(rows)

        return Response(open_thread_producer(write_rows, rows), media_type="text/csv")

    Args:
      fn: a blocking function.
      args: further arguments of *fn*.
      thread_grace: in seconds; how long leaving the block waits for a cancelled thread.
      flush_interval: in seconds; how long less than 64 KiB waits for more.

    Raises:
      ValueError: *thread_grace* or *flush_interval* is negative.
      whatever *fn* raises, as itself.
    """
    _check_seconds("thread_grace", thread_grace)
    _check_seconds("flush_interval", flush_interval)
    return _open_producer(fn, args, thread_grace, flush_interval)


@asynccontextmanager
async def _open_producer(
    fn: Callable[[IO[bytes], Unpack[Ts]], object],
    args: tuple[*Ts],
    thread_grace: float,
    flush_interval: float,
) -> AsyncIterator[trio.abc.ReceiveChannel[bytes]]:
    scope = trio.CancelScope()
    channel = ThreadChannel(flush_interval=flush_interval, scope=scope)
    worker = Worker(
        partial(_produce, fn, channel, args),
        name=name_of(fn),
        limiter=_producer_limiter(),
        grace=thread_grace,
        stop=channel.stop,
    )
    with unwrapping():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_run_producer, worker, scope)
            try:
                yield channel
            finally:
                channel.close()


async def _run_producer(worker: Worker[object], scope: trio.CancelScope) -> None:
    with scope:
        await worker.run()
        worker.result()


def _produce(
    fn: Callable[[IO[bytes], Unpack[Ts]], object], channel: ThreadChannel, args: tuple[*Ts]
) -> object:
    file = ProducerFile(channel)
    try:
        value = fn(cast("IO[bytes]", file), *args)
        if inspect.isgenerator(value) or inspect.isasyncgen(value):
            raise TypeError(
                f"{name_of(fn)} is a generator, and of that nothing has run; let it write to the "
                "file instead of yielding, or give the generator itself as a body"
            )
        if not inspect.iscoroutine(value):  # of which our caller complains
            file.finish()
    except BaseException:
        channel.drop()
        raise
    finally:
        file.close()
    return value


async def run_thread_consumer(
    fn: Callable[[IO[bytes], Unpack[Ts]], T],
    channel: trio.abc.ReceiveChannel[bytes],
    *args: *Ts,
    thread_grace: float = THREAD_GRACE,
    max_read: int | None = MAX_READ,
) -> T:
    """Run ``fn(file, *args)`` in a worker thread, *file* reading from *channel*.

    *file* is a binary file, open for reading, that cannot seek. It works under io.BufferedReader,
    io.TextIOWrapper, gzip, csv and tarfile with ``r|*``. For what has to seek copy it with
    ``shutil.copyfileobj()`` into a ``tempfile.SpooledTemporaryFile`` first: seeking is
    io.UnsupportedOperation, which zipfile reports as a file that is no zip file. ``read(n)`` waits
    until there are *n* bytes or the channel has ended; ``read1()``, ``readinto()`` and
    ``readline()`` wait for no more than they must. Of the channel at most 1 MiB and two chunks are
    held, so it goes as fast as *fn* reads, and it is not touched before *fn* reads for the first
    time. Reads of 256 KiB are the fastest.

    An error of the channel is raised by the read that comes to it, and by all later ones: the end
    of the file is always that of the channel. Once *fn* has ended, or has closed *file*, the
    channel is closed: what was received ahead could not be given back to it.

    Cancelling the caller makes the read in the thread raise ``trio.Cancelled`` at once, and all
    later ones. It is no ``Exception``, so ``except Exception`` in *fn* does not hold it up;
    ``finally`` blocks run in the thread, which gets *thread_grace* seconds to end. What *fn* then
    returns is dropped. A thread that does not end is abandoned, with a warning in the log. It keeps
    its place until it ends; later reads still raise, and an error that it raises later is logged.
    There are 100 places for threads that work for streams; who finds none waits for one. Code that
    reads seldom can look for the cancellation with :func:`trio.from_thread.check_cancelled`.

    *fn* may call :func:`trio.from_thread.run`. It runs that in a system task, which is not
    cancelled with the caller, so give it no wait without an end.

    Example::

        def count_rows(file: IO[bytes]) -> int:
            return sum(1 for row in csv.reader(io.TextIOWrapper(file, newline="")))

        rows = await run_thread_consumer(count_rows, request.body)

    Args:
      fn: a blocking function.
      channel: of chunks, each any bytes-like object; of another kind than bytes it is copied.
      args: further arguments of *fn*.
      thread_grace: in seconds; how long a cancelled caller waits for the thread.
      max_read: in bytes; what one ``read()`` or ``readlines()`` without a size, or one line, may
        hold. ``None`` sets no limit.

    Raises:
      HTTPError: 413, by a read in the thread that would hold more than *max_read*.
      ValueError: *thread_grace* or *max_read* is negative.
      whatever *fn* raises, as itself.
    """
    _check_seconds("thread_grace", thread_grace)
    if max_read is not None and max_read < 0:
        raise ValueError(f"max_read is a number of bytes or None, not {max_read!r}")
    prefetch = Prefetch()
    file = ChannelFile(prefetch, max_read=max_read)
    worker = Worker(
        partial(_consume, fn, file, args),
        name=name_of(fn),
        limiter=_stream_limiter(),
        grace=thread_grace,
        stop=prefetch.stop,
    )
    with unwrapping():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(prefetch.run, channel)
            try:
                await worker.run()
            finally:
                prefetch.close()
    return worker.result()


def _consume(fn: Callable[[IO[bytes], Unpack[Ts]], T], file: ChannelFile, args: tuple[*Ts]) -> T:
    with file:
        return fn(cast("IO[bytes]", file), *args)


def _check_seconds(name: str, value: float) -> None:
    if not value >= 0:
        raise ValueError(f"{name} is a number of seconds, not {value!r}")
