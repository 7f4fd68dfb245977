"""Small chunks leave together, each soon and in order; none is lost, and nothing is left."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from probes import IN_TIME

from tsstream._server.gatherer import FULL, PUTS_PER_CHECKPOINT, Gatherer


class Wire:
    """Takes pieces, as a connection would.

    Attributes:
      pieces: what was taken.
      error: raised instead, if it is set.
    """

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.error: Exception | None = None
        self._free = trio.Event()
        self.unblock()

    def block(self) -> None:
        """Let whoever sends wait after the piece."""
        self._free = trio.Event()

    def unblock(self) -> None:
        self._free.set()

    async def send(self, piece: bytes) -> None:
        if self.error is not None:
            raise self.error
        self.pieces.append(piece)
        await self._free.wait()


@asynccontextmanager
async def gathering(wire: Wire) -> AsyncIterator[Gatherer]:
    """Gather for *wire*; fail if the gatherer's task does not end."""
    with trio.fail_after(IN_TIME):  # noqa: ASYNC100
        async with trio.open_nursery() as nursery:
            yield Gatherer(nursery, wire.send)


async def put(gatherer: Gatherer, *chunks: bytes) -> None:
    for chunk in chunks:
        if gatherer.put(chunk):
            await gatherer.pause()


async def test_the_first_chunk_is_sent_on_the_spot() -> None:
    wire = Wire()
    async with gathering(wire) as gatherer:
        await put(gatherer, b"0")
        assert wire.pieces == [b"0"]


async def test_a_burst_leaves_in_one_piece_by_itself() -> None:
    wire = Wire()
    async with gathering(wire) as gatherer:
        await put(gatherer, b"0", b"1", b"2", b"3")
        await trio.testing.wait_all_tasks_blocked()
        assert wire.pieces == [b"0", b"123"]


async def test_what_is_large_together_is_waited_for() -> None:
    wire = Wire()
    chunk = b"x" * (FULL // 4)
    async with gathering(wire) as gatherer:
        assert gatherer.put(b"0")
        await gatherer.pause()
        assert [gatherer.put(chunk) for _ in range(4)] == [False, False, False, True]
        await gatherer.pause()
        assert wire.pieces == [b"0", chunk * 4]


async def test_other_tasks_run_during_a_stream_without_end() -> None:
    wire = Wire()
    async with gathering(wire) as gatherer:
        with trio.CancelScope() as scope:
            for count in range(100):
                if count == 50:
                    scope.cancel()
                await put(gatherer, b"x")
        assert scope.cancelled_caught
        assert count < 50 + PUTS_PER_CHECKPOINT + 1


@pytest.mark.parametrize("checkpoints", range(8))
async def test_a_chunk_that_comes_while_others_are_sent_needs_no_next_one(checkpoints: int) -> None:
    # Put at any step of what the task does.
    wire = Wire()
    async with gathering(wire) as gatherer:
        await put(gatherer, b"0")
        wire.block()
        assert not gatherer.put(b"1")
        for _ in range(checkpoints):
            await trio.lowlevel.checkpoint()
        assert not gatherer.put(b"2")
        await trio.testing.wait_all_tasks_blocked()
        wire.unblock()
        await trio.testing.wait_all_tasks_blocked()
        assert b"".join(wire.pieces) == b"012"


async def test_flush_sends_all_that_was_put_in_its_order() -> None:
    wire = Wire()
    async with gathering(wire) as gatherer:
        await put(gatherer, b"0")
        wire.block()
        gatherer.put(b"1")
        await trio.testing.wait_all_tasks_blocked()  # the task sends it
        gatherer.put(b"2")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(gatherer.flush)
            await trio.testing.wait_all_tasks_blocked()
            assert wire.pieces == [b"0", b"1"]
            wire.unblock()
        assert wire.pieces == [b"0", b"1", b"2"]


@pytest.mark.parametrize("how", ["put", "flush"])
async def test_an_error_of_the_sending_is_raised_by_the_next_call(how: str) -> None:
    # Not in the task, where it would end the whole connection.
    wire = Wire()
    async with gathering(wire) as gatherer:
        await put(gatherer, b"0")
        wire.error = LookupError("no place")
        gatherer.put(b"1")
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(LookupError):
            await (put(gatherer, b"2") if how == "put" else gatherer.flush())


@pytest.mark.parametrize("checkpoints", range(8))
async def test_the_task_ends_when_it_is_closed_at_any_moment(checkpoints: int) -> None:
    wire = Wire()
    async with gathering(wire) as gatherer:
        await put(gatherer, b"0", b"1", b"2")
        for _ in range(checkpoints):
            await trio.lowlevel.checkpoint()
        gatherer.close()


async def test_nothing_is_sent_once_it_is_closed() -> None:
    wire = Wire()
    async with gathering(wire) as gatherer:
        await put(gatherer, b"0", b"1")
        gatherer.close()
        await gatherer.flush()
        await trio.testing.wait_all_tasks_blocked()
        assert wire.pieces == [b"0"]
