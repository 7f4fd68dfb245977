"""What is ready travels together, also through a transform that wraps the response."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol, runtime_checkable

import attrs
import pytest
import trio
from asgi import Server, make_app
from wire import RawConnection, open_guarded, open_raw

from tsstream import App, Response
from tsstream._http.writer import GATHERED, ITEMS_PER_CHECKPOINT


@runtime_checkable
class ReadyChannel(Protocol):
    """What the writer gathers from."""

    def receive_nowait(self) -> bytes: ...


class Iter:
    """An async iterator, and nothing else."""

    def __aiter__(self) -> Iter:
        return self

    async def __anext__(self) -> bytes:
        await trio.lowlevel.checkpoint()
        return b"a"


def wrap_channel(request: object, response: Response) -> Response:
    """Pass the chunks on, as a transform that looks only at the beginning and the end does."""

    @asynccontextmanager
    async def body() -> AsyncIterator[trio.abc.ReceiveChannel[bytes]]:
        async with response as chunks:
            yield chunks

    return attrs.evolve(response, content=body())


@pytest.mark.parametrize("wraps", [0, 1, 2])
async def test_items_that_are_ready_together_travel_together_through_transforms(
    wraps: int,
) -> None:
    @asynccontextmanager
    async def body() -> AsyncIterator[list[str]]:
        yield ["a", "b", "", "c"]

    async def handler(request: object) -> Response:
        return Response(body())

    server = Server()
    await server.call(make_app(handler, transforms=[wrap_channel] * wraps))
    assert server.chunks == [b"abc"]
    assert server.ok


async def test_receive_nowait_gives_what_is_ready_until_the_end() -> None:
    send_channel, receive_channel = trio.open_memory_channel[object](3)
    async with Response(receive_channel) as chunks:
        assert isinstance(chunks, ReadyChannel)
        with pytest.raises(trio.WouldBlock):
            chunks.receive_nowait()
        for item in (b"", "é"):  # empty chunks are left out here too
            send_channel.send_nowait(item)
        assert chunks.receive_nowait() == "é".encode()
        with pytest.raises(trio.WouldBlock):
            chunks.receive_nowait()
        send_channel.close()
        with pytest.raises(trio.EndOfChannel):
            chunks.receive_nowait()


class Endless(trio.abc.ReceiveChannel[bytes]):
    """Small items that are always ready."""

    def __init__(self) -> None:
        self.given = 0

    async def receive(self) -> bytes:
        await trio.lowlevel.checkpoint()
        return self.receive_nowait()

    def receive_nowait(self) -> bytes:
        self.given += 1
        return b"twenty bytes, or so.\n"

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


async def read_on(raw: RawConnection) -> None:
    while await raw.stream.receive_some():
        pass


async def test_items_that_are_always_ready_let_others_run_after_a_batch() -> None:
    # HOST fault 8: also where a batch is sent on the spot
    app, items, steps = App(), Endless(), []

    @app.get("/")
    async def handler(request: object) -> Response:
        return Response(items)

    async with open_guarded(app) as port, open_raw(port) as raw:
        await raw.request("GET", "/")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_on, raw)
            for _ in range(1000):
                before = items.given
                await trio.lowlevel.checkpoint()
                steps.append(items.given - before)
            nursery.cancel_scope.cancel()
    # Twice, as Trio wakes tasks in any order: the writer last in one step, first in the next.
    assert 0 < max(steps) <= 2 * (GATHERED + ITEMS_PER_CHECKPOINT)


async def test_an_iterator_has_nothing_ready() -> None:
    # only by waiting can it be asked for more
    async with Response(Iter()) as chunks:
        assert isinstance(chunks, ReadyChannel)
        with pytest.raises(trio.WouldBlock):
            chunks.receive_nowait()
        assert await chunks.receive() == b"a"


async def test_an_end_that_receive_nowait_saw_lets_the_body_leave_by_itself() -> None:
    # AC-14: only a body that was left before its end is cancelled
    log: list[str] = []

    @asynccontextmanager
    async def body() -> AsyncIterator[list[bytes]]:
        yield []
        await trio.lowlevel.checkpoint()
        log.append("exit")

    async with Response(body()) as chunks:
        assert isinstance(chunks, ReadyChannel)
        with pytest.raises(trio.EndOfChannel):
            chunks.receive_nowait()
    assert log == ["exit"]
