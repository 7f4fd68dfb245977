"""A body that is left before its end: nothing hangs, and no error is lost."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tsstream import Response, merge


async def test_stopping_before_the_end_cannot_hang(autojump_clock: MockClock) -> None:
    # AC-14: a plain exit would wait for producers that nobody reads any more
    log: list[str] = []

    @asynccontextmanager
    async def body() -> AsyncIterator[Any]:
        send_channel, receive_channel = trio.open_memory_channel[bytes](1)

        async def produce() -> None:
            try:
                for _ in range(10):
                    await send_channel.send(b"a")
            finally:
                log.append("produced")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(produce)
            nursery.start_soon(produce)
            yield aiter_only(receive_channel)

    with trio.fail_after(1):
        async with Response(body()) as chunks:
            await chunks.receive()
    assert log == ["produced", "produced"]
    assert trio.current_time() == 0


async def aiter_only(channel: trio.MemoryReceiveChannel[bytes]) -> AsyncGenerator[bytes, None]:
    async for item in channel:
        yield item


def stopped_body(error: Exception | None) -> Any:
    """Close both ends first, so that a producer that sends on sees a broken channel."""

    @asynccontextmanager
    async def body() -> AsyncIterator[trio.MemoryReceiveChannel[bytes]]:
        send_channel, receive_channel = trio.open_memory_channel[bytes](0)

        async def produce() -> None:
            try:
                with trio.CancelScope(shield=True):
                    while True:
                        await send_channel.send(b"a")
            except trio.BrokenResourceError:
                if error is not None:
                    raise error from None
                raise

        async with trio.open_nursery() as nursery:
            nursery.start_soon(produce)
            nursery.start_soon(produce)
            with receive_channel:
                yield receive_channel

    return body()


async def test_stopping_before_the_end_is_silent() -> None:
    # AC-15
    async with Response(stopped_body(None)) as chunks:
        await chunks.receive()


async def test_an_error_of_its_own_is_not_silent_when_a_body_is_stopped() -> None:
    # AC-15
    with pytest.RaisesGroup(ValueError, ValueError):
        async with Response(stopped_body(ValueError("cleanup"))) as chunks:
            await chunks.receive()


async def test_a_broken_channel_that_is_not_our_doing_is_an_error() -> None:
    # AC-15, D26
    @asynccontextmanager
    async def body() -> AsyncIterator[list[bytes]]:
        yield [b"a"]
        raise trio.BrokenResourceError("upstream")

    with pytest.raises(trio.BrokenResourceError, match="upstream"):
        async with Response(body()) as chunks:
            async for _ in chunks:
                pass


async def repeat(send_channel: trio.MemorySendChannel[bytes]) -> None:
    while True:
        await send_channel.send(b"a")


async def test_an_error_in_the_block_leaves_as_itself() -> None:
    with pytest.raises(KeyError, match="mine"):
        async with Response(merge(repeat)) as chunks:
            await chunks.receive()
            raise KeyError("mine")


async def test_closing_the_chunks_is_harmless() -> None:
    async with Response([b"a", b"b"]) as chunks:
        async with chunks:
            assert await chunks.receive() == b"a"
