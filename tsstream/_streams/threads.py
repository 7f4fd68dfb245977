"""Blocking code at one end of a channel, in a worker thread."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import IO, TypeVar, TypeVarTuple, Unpack, cast

import trio

from tsstream._util import name_of, unwrapping

from .channel_file import ChannelFile
from .prefetch import Prefetch
from .worker import THREAD_GRACE, Worker

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

MAX_READ = 16 * 1024 * 1024  # bytes: what one read() without a size may hold; as Request.read()


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
    if not thread_grace >= 0:
        raise ValueError(f"thread_grace is a number of seconds, not {thread_grace!r}")
    if max_read is not None and max_read < 0:
        raise ValueError(f"max_read is a number of bytes or None, not {max_read!r}")
    prefetch = Prefetch()
    file = ChannelFile(prefetch, max_read=max_read)
    worker = Worker(
        partial(_consume, fn, file, args),
        name=name_of(fn),
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
