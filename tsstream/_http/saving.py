"""Chunks into a file that is there as a whole, or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

import trio

from tsstream._pieces import Pieces
from tsstream._util import RunLimiter

T = TypeVar("T")

# Threads that write at once. Neither Trio's own, nor those of the streams: these wait for clients,
# and a slow one is not to keep everybody from the disk.
THREADS = 40
BATCH_SIZE = 256 * 1024  # bytes: what one hop into the thread carries, unless the rest is less


_disk_limiter = RunLimiter("tsstream disk", THREADS).get


async def save_chunks(
    receive: Callable[[], Awaitable[bytes]],
    path: str | os.PathLike[str],
    *,
    sync: Callable[[int], None] = os.fsync,
) -> int:
    """Write what *receive* gives, until ``EndOfChannel``, to *path*; give the size in bytes.

    See ``Part.save``.

    Args:
      sync: called with the file descriptor; returns when all of the file is on the disk.
    """
    file = await _run(_NewFile, os.fspath(path))
    size = 0
    try:
        while batch := await _gather(receive):
            size += await _run(file.write, batch)
        # Not waited for if it is cancelled: a slow disk may take minutes to have all of it.
        await _run(file.sync, sync, abandon=True)
        await _run(file.publish)
    except BaseException:
        # It blocks for as long as the file system takes to unlink. A limiter of its own, so that
        # it waits for nothing else.
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(file.discard, limiter=trio.CapacityLimiter(1))
        raise
    return size


async def _run(fn: Callable[..., T], *args: object, abandon: bool = False) -> T:
    return await trio.to_thread.run_sync(
        fn, *args, abandon_on_cancel=abandon, limiter=_disk_limiter()
    )


async def _gather(receive: Callable[[], Awaitable[bytes]]) -> bytes:
    """Wait for at least BATCH_SIZE bytes, or for the end."""
    batch = Pieces()
    while batch.size < BATCH_SIZE:
        try:
            batch.add(await receive())
        except trio.EndOfChannel:
            break
    return batch.join()  # noqa: ASYNC910 (receive() was one)


class _NewFile:
    """A file beside *path* that takes its place or goes. All of it is for worker threads."""

    def __init__(self, path: str) -> None:
        if os.path.isdir(path):
            raise IsADirectoryError(f"{path!r} is a directory; give the path of a file")
        self._path = path
        # Not tempfile: its files are for their owner alone.
        name = f".{secrets.token_hex(16)}.incomplete"
        self._temporary = os.path.join(os.path.dirname(path), name)
        self._file = open(self._temporary, "xb", buffering=0)  # noqa: SIM115 (publish, discard)

    def write(self, data: bytes) -> int:
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]
        return len(data)

    def sync(self, sync: Callable[[int], None]) -> None:
        sync(self._file.fileno())

    def publish(self) -> None:
        self._file.close()
        os.replace(self._temporary, self._path)

    def discard(self) -> None:
        with suppress(OSError):
            self._file.close()
        with suppress(OSError):
            os.unlink(self._temporary)
