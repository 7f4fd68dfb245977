"""Where the bytes of an object come from: always a receive channel, opened anew for each try."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    aclosing,
    asynccontextmanager,
    contextmanager,
)
from functools import partial
from pathlib import Path
from typing import TypeAlias

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
    """A channel of what *pull* gives, up to the first empty chunk; it closes nothing."""

    def __init__(self, pull: Callable[[], Awaitable[bytes]]) -> None:
        self._pull = pull

    async def receive(self) -> bytes:
        """Give the next chunk."""
        if chunk := await self._pull():
            return chunk
        raise trio.EndOfChannel

    async def aclose(self) -> None:
        """Do nothing: whoever has opened what is pulled from closes it."""
        await trio.lowlevel.checkpoint()


class WatchedChannel(trio.abc.ReceiveChannel[bytes]):
    """Another channel, and what went wrong with it."""

    def __init__(self, channel: Chunks) -> None:
        self._channel = channel
        self.error: Exception | None = None

    async def receive(self) -> bytes:
        """Give the next chunk."""
        try:
            return await self._channel.receive()
        except trio.EndOfChannel:
            raise
        except Exception as error:
            self.error = error
            raise

    async def aclose(self) -> None:
        """Close it."""
        await self._channel.aclose()


# [upstream]
@asynccontextmanager
async def open_upstream(
    pool: httpcore2.AsyncConnectionPool, url: str, headers: Mapping[str, str]
) -> AsyncIterator[Chunks]:
    """Get an object from the target, at the pace at which it is read."""
    fields = [("accept-encoding", "identity"), *headers.items()]
    with network_errors():
        async with pool.stream("GET", url, headers=fields, extensions=TIMEOUTS) as response:
            if response.status >= 400:
                raise HTTPError(response.status, "Target request failed")
            async with aclosing(response.aiter_stream()) as chunks:

                async def pull() -> bytes:
                    with network_errors():  # here too: the transform sees what its reads raise
                        return await anext(chunks, b"")

                yield PulledChannel(pull)


# [local]
@asynccontextmanager
async def open_local(path: Path) -> AsyncIterator[Chunks]:
    """Read an object from a disk of this machine."""
    async with await trio.open_file(path, "rb") as file:
        yield PulledChannel(partial(file.read, CHUNK_SIZE))


# [bytes]
def channel_of(data: bytes) -> Chunks:
    """Give an object that is in memory."""
    send_channel, receive_channel = trio.open_memory_channel[bytes](1)
    with send_channel:
        if data:
            send_channel.send_nowait(data)
    return receive_channel


async def read_whole(channel: Chunks) -> bytes:
    """Receive all that there is."""
    return b"".join([chunk async for chunk in channel])


@contextmanager
def network_errors() -> Iterator[None]:
    """Answer 502 if the target cannot be reached, or leaves in the middle of an object."""
    try:
        yield
    except NETWORK_ERRORS as error:
        raise HTTPError(502, f"Network error: {str(error) or type(error).__name__}") from error
