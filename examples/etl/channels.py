"""Where the bytes of an object come from: always a receive channel, opened anew for each try."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TypeAlias
from urllib.parse import unquote

import httpcore2
import trio

from tsstream import HTTPError

Chunks: TypeAlias = trio.abc.ReceiveChannel[bytes]
Source: TypeAlias = Callable[[], AbstractAsyncContextManager[Chunks]]

CHUNK_SIZE = 256 * 1024  # bytes: what one read of a local object asks for
# Seconds; a target may be silent for as long as a client that uploads.
TIMEOUTS = {"timeout": {"connect": 10.0, "read": 60.0, "write": 60.0, "pool": None}}
# Not httpx2, which is built on this: leaving one of its streams (2.16) early leaves a generator
# of its own to the garbage collector.
NETWORK_ERRORS = (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.TimeoutException)


class PulledChannel(trio.abc.ReceiveChannel[bytes]):
    """A channel of what *pull* gives, up to the first empty chunk; it closes nothing.

    Attributes:
      error: what *pull* has raised.
    """

    def __init__(self, pull: Callable[[], Awaitable[bytes]]) -> None:
        self._pull = pull
        self.error: Exception | None = None

    async def receive(self) -> bytes:
        """Give the next chunk."""
        try:
            chunk = await self._pull()
        except trio.EndOfChannel:
            raise
        except Exception as error:
            self.error = error
            raise
        if not chunk:
            raise trio.EndOfChannel
        return chunk

    async def aclose(self) -> None:
        """Do nothing: whoever has opened what is pulled from closes it."""
        await trio.lowlevel.checkpoint()


# [upstream]
@asynccontextmanager
async def open_upstream(
    pool: httpcore2.AsyncConnectionPool, url: str, headers: Mapping[str, str]
) -> AsyncIterator[Chunks]:
    """Get an object from the target, at the pace at which it is read."""
    fields = [("accept-encoding", "identity"), *headers.items()]
    async with pool.stream("GET", url, headers=fields, extensions=TIMEOUTS) as response:
        if 400 <= response.status <= 599:
            raise HTTPError(response.status, "Target request failed")
        if response.status != 200:  # empty, or a part, or about something else: not the object
            raise HTTPError(502, f"Target answered {response.status}")
        async with aclosing(response.aiter_stream()) as chunks:
            yield PulledChannel(lambda: anext(chunks, b""))


@asynccontextmanager
async def open_local(path: Path) -> AsyncIterator[Chunks]:
    """Read an object from a disk of this machine."""
    async with await trio.open_file(path, "rb") as file:
        yield PulledChannel(partial(file.read, CHUNK_SIZE))


# [fqn]
def find_local(fqn: str, roots: Iterable[Path]) -> Path:
    """Give the path of a local object. Blocks.

    The target percent-encodes it once more than a query needs.

    Raises:
      HTTPError: 403, with all links followed, it is not below one of the roots.
      FileNotFoundError: there is no such file. A directory is none, and a pipe, which would not
        be open before somebody writes, is none either.
    """
    try:
        path = Path(os.path.normpath("/" + unquote(fqn).lstrip("/"))).resolve()
        allowed = any(path.is_relative_to(root.resolve()) for root in roots)
    except (OSError, RuntimeError, ValueError):
        allowed = False  # a circle of links, or a NUL
    if not allowed:
        raise HTTPError(403, f"{fqn!r} is not below one of the ETL_FQN_ROOTS")
    if not os.path.isfile(path):  # that of a Path raises for a name too long
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    return path


# [bytes]
def channel_of(data: bytes) -> Chunks:
    """Give an object that is in memory."""
    send_channel, receive_channel = trio.open_memory_channel[bytes](1)
    with send_channel:
        if data:
            send_channel.send_nowait(data)
    return receive_channel
