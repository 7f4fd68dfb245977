"""What goes out: in order, at once if the kernel takes it, and to its end or an OSError."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
import trio
import trio.testing

from tsstream._server.errors import ClientGone
from tsstream._server.output import BACKLOG, ENCRYPTED, WRITES_PER_CHECKPOINT, Output


class Kernel:
    """A socket, as :class:`Transport` shows one, and TLS above it.

    Attributes:
      taken: what was sent.
      room: bytes that it takes before it is full.
      lost: there is no peer any more.
      sends: the size of each ``send_all()`` of TLS.
    """

    def __init__(self, room: int = 10**9) -> None:
        self.taken = bytearray()
        self.room = room
        self.lost = False
        self.sends: list[int] = []
        self._changed = trio.lowlevel.ParkingLot()

    def send_nowait(self, pieces: Any) -> int:
        if self.lost:
            raise trio.BrokenResourceError("reset")
        data = b"".join(pieces)[: self.room]
        self.taken += data
        self.room -= len(data)
        return len(data)

    async def wait_writable(self) -> None:
        while not self.room and not self.lost:
            await self._changed.park()

    async def send_all(self, data: bytes) -> None:
        self.sends.append(len(data))
        await trio.lowlevel.checkpoint()
        rest = data
        while rest:
            await self.wait_writable()
            rest = rest[self.send_nowait([rest]) :]

    def drain(self, size: int = 10**9) -> None:
        """Take *size* more bytes."""
        self.room += size
        self._changed.unpark_all()

    def lose(self) -> None:
        self.lost = True
        self._changed.unpark_all()


class Opened:
    """An output onto a kernel, and what it told of its end."""

    def __init__(self, nursery: trio.Nursery, kernel: Kernel, *, tls: bool = False) -> None:
        self.broken: list[Exception] = []
        self.nursery = nursery
        fake = cast(Any, kernel)
        self.output = Output(nursery, fake, fake if tls else None, self.broken.append)


@asynccontextmanager
async def opened(kernel: Kernel, *, tls: bool = False) -> AsyncIterator[Opened]:
    async with trio.open_nursery() as nursery:
        yield Opened(nursery, kernel, tls=tls)
        nursery.cancel_scope.cancel()


async def raises_gone(opened: Opened, *pieces: bytes) -> None:
    with pytest.raises(ClientGone):
        await opened.output.write(*pieces)


async def test_what_the_kernel_takes_is_sent_on_the_spot() -> None:
    kernel = Kernel()
    async with opened(kernel) as it:
        it.output.write_soon(b"ab", b"", b"cd")
        assert kernel.taken == b"abcd"
        assert it.output.backlog == 0


async def test_write_waits_until_the_kernel_has_all_of_it() -> None:
    kernel = Kernel(room=3)
    async with opened(kernel) as it:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(it.output.write, b"ab", b"cdef")
            await trio.testing.wait_all_tasks_blocked()
            assert kernel.taken == b"abc"
            kernel.drain(2)
            await trio.testing.wait_all_tasks_blocked()
            assert kernel.taken == b"abcde"
            assert nursery.child_tasks
            kernel.drain()
        assert kernel.taken == b"abcdef"


@pytest.mark.parametrize("tls", [False, True])
async def test_pieces_leave_in_the_order_in_which_they_were_written(tls: bool) -> None:
    kernel = Kernel(room=5)
    async with opened(kernel, tls=tls) as it:
        async with trio.open_nursery() as nursery:
            for piece in (b"1" * 10, b"2" * 10):
                nursery.start_soon(it.output.write, piece)
                await trio.testing.wait_all_tasks_blocked()
            it.output.write_soon(b"3")
            kernel.drain()
        await it.output.wait_sent()
        assert kernel.taken == b"1" * 10 + b"2" * 10 + b"3"


@pytest.mark.parametrize("tls", [False, True])
async def test_a_write_that_is_cancelled_tears_nothing(tls: bool) -> None:
    kernel = Kernel(room=3)
    async with opened(kernel, tls=tls) as it:
        with trio.move_on_after(0):
            await it.output.write(b"abcdef")
        it.output.write_soon(b"ghi")
        kernel.drain()
        await it.output.wait_sent()
        assert kernel.taken == b"abcdefghi"


async def test_a_write_is_a_schedule_point_every_few_times() -> None:
    kernel = Kernel()
    async with opened(kernel) as it:
        with trio.CancelScope() as scope:
            scope.cancel()
            for _ in range(100):
                await it.output.write(b"x")
        assert scope.cancelled_caught
        assert len(kernel.taken) <= WRITES_PER_CHECKPOINT


async def test_room_is_waited_for_above_64_kib_only() -> None:
    kernel = Kernel(room=0)
    async with opened(kernel) as it:
        it.output.write_soon(bytes(BACKLOG))
        await it.output.wait_room()
        it.output.write_soon(b"x")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(it.output.wait_room)
            await trio.testing.wait_all_tasks_blocked()
            assert nursery.child_tasks
            kernel.drain(1)


async def test_a_large_piece_is_encrypted_in_small_ones() -> None:
    # Each holds the event loop as long as it is encrypted.
    kernel = Kernel()
    data = bytes(range(256)) * (4 * ENCRYPTED // 256)
    async with opened(kernel, tls=True) as it:
        await it.output.write(b"head", data, b"end")
        assert kernel.taken == b"head" + data + b"end"
    assert max(kernel.sends) <= ENCRYPTED <= 1024 * 1024
    assert len(kernel.sends) == 5  # and small ones leave together


@pytest.mark.parametrize("tls", [False, True])
async def test_whoever_waits_hears_that_the_connection_is_lost_and_so_does_its_owner(
    tls: bool,
) -> None:
    kernel = Kernel(room=3)
    async with opened(kernel, tls=tls) as it:
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(raises_gone, it, b"abcdef")
            await trio.testing.wait_all_tasks_blocked()
            kernel.lose()
        await raises_gone(it, b"more")
        assert [type(error) for error in it.broken] == [trio.BrokenResourceError]


async def test_what_is_written_soon_to_a_lost_connection_is_nothing() -> None:
    # It is what the server says of its own accord: nobody is there to be told of the loss.
    kernel = Kernel()
    async with opened(kernel) as it:
        kernel.lose()
        for _ in range(2):
            it.output.write_soon(b"last words")
        assert len(it.broken) == 1
        assert it.output.backlog == 0 or kernel.taken == b""


@pytest.mark.parametrize("tls", [False, True])
async def test_a_write_has_succeeded_though_the_client_left_right_behind_its_last_byte(
    tls: bool,
) -> None:
    # The response was complete; the loss is found before the writing task runs again, or after.
    for _ in range(20):
        kernel = Kernel(room=0)
        async with opened(kernel, tls=tls) as it:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(it.output.write, b"whole")
                await trio.testing.wait_all_tasks_blocked()
                kernel.drain()
                while it.output.backlog:  # noqa: ASYNC110 (it is to be seen in the same tick)
                    await trio.lowlevel.checkpoint()
                it.output.close()
            assert kernel.taken == b"whole"
            await raises_gone(it, b"next")
