"""What waits for the application: in order, within bounds, and overtaken by the disconnect."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing
from probes import IN_TIME

from tsstream._http.host import INTERRUPTED
from tsstream._server.inbox import OVERHEAD, ROOM, Inbox

DISCONNECT = {"type": "http.disconnect"}


def message(body: bytes) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": True}


async def test_messages_are_received_in_order() -> None:
    inbox = Inbox()
    inbox.put(message(b"1"), 1)
    inbox.put(message(b"2"), 1)
    assert [(await inbox.receive())["body"] for _ in range(2)] == [b"1", b"2"]
    assert inbox.size == 0


async def test_receive_waits_for_a_message() -> None:
    inbox = Inbox()
    got: list[Any] = []

    async def receive() -> None:
        got.append(await inbox.receive())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        assert got == []
        inbox.put(message(b"1"), 1)
    assert got == [message(b"1")]


@pytest.mark.parametrize("early", [True, False])
async def test_each_of_two_receivers_gets_one_message(early: bool) -> None:
    inbox = Inbox()
    got: list[bytes] = []

    async def receive() -> None:
        got.append((await inbox.receive())["body"])

    if early:
        inbox.put(message(b"1"), 1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        assert len(got) == early
        for body in (b"2",) if early else (b"1", b"2"):
            inbox.put(message(body), 1)
    assert sorted(got) == [b"1", b"2"]


async def test_it_is_full_at_64_kib_of_body_and_what_holds_it() -> None:
    inbox = Inbox()
    inbox.put(message(b""), ROOM - OVERHEAD - 1)
    assert not inbox.full
    inbox.put(message(b"1"), 1)
    assert inbox.full
    await inbox.receive()
    assert not inbox.full


@pytest.mark.parametrize("size", [0, 1])
async def test_many_small_messages_fill_it_too(size: int) -> None:
    # A client that sends its body in chunks of one byte has it held some hundred times as large.
    inbox = Inbox()
    for _ in range(ROOM // OVERHEAD):
        inbox.put(message(b"x" * size), size)
    assert inbox.full
    for _ in range(ROOM // OVERHEAD):
        await inbox.receive()
    inbox.put(message(b""), ROOM - OVERHEAD - 1)
    assert not inbox.full  # nothing is left of them


async def test_whoever_waits_for_room_gets_it_when_there_is_some() -> None:
    inbox = Inbox()
    room = trio.Event()

    async def fill() -> None:
        await inbox.wait_room()
        room.set()

    for _ in range(3):
        inbox.put(message(b""), ROOM // 2)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fill)
        await inbox.receive()
        await trio.testing.wait_all_tasks_blocked()
        assert not room.is_set()
        await inbox.receive()


async def test_the_disconnect_overtakes_all_that_waits_and_comes_again_and_again() -> None:
    inbox = Inbox()
    inbox.put(message(b"1"), 1)
    inbox.disconnect(DISCONNECT)
    inbox.disconnect({"type": "another"})
    inbox.put(message(b"2"), 1)
    assert [await inbox.receive() for _ in range(3)] == [DISCONNECT] * 3
    assert (inbox.disconnected, inbox.size) == (True, 0)


async def test_the_disconnect_wakes_whoever_waits() -> None:
    full, empty = Inbox(), Inbox()
    full.put(message(b""), ROOM)
    with trio.fail_after(IN_TIME):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(empty.receive)
            nursery.start_soon(empty.receive)
            nursery.start_soon(full.wait_room)
            await trio.testing.wait_all_tasks_blocked()
            for inbox in (full, empty):
                inbox.disconnect(DISCONNECT)


async def test_the_first_disconnect_is_given_to_who_is_cancelled_too() -> None:
    # Starlette's request.is_disconnected() receives within a cancelled scope.
    inbox = Inbox()
    got: list[Any] = []

    async def poll() -> None:
        with trio.CancelScope() as scope:
            scope.cancel()
            got.append(await inbox.receive())

    await poll()
    assert got == []
    inbox.disconnect(DISCONNECT)
    await poll()
    assert got == [DISCONNECT]
    await poll()  # a loop that receives without end can be cancelled
    assert got == [DISCONNECT]


async def test_a_poll_takes_no_message() -> None:
    inbox = Inbox()
    inbox.put(message(b"1"), 1)
    with trio.CancelScope() as scope:
        scope.cancel()
        await inbox.receive()
    assert scope.cancelled_caught
    assert await inbox.receive() == message(b"1")


@pytest.mark.parametrize("disconnected", [False, True])
async def test_receiving_what_is_there_lets_others_run(disconnected: bool) -> None:
    inbox = Inbox()
    ran = trio.Event()

    async def run() -> None:
        ran.set()

    if disconnected:
        inbox.disconnect(DISCONNECT)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        for _ in range(2):
            inbox.put(message(b"1"), 1)
            await inbox.receive()
        assert ran.is_set()


async def test_who_asks_is_told_of_the_first_wait_and_of_what_was_taken() -> None:
    told: list[object] = []
    inbox = Inbox(on_taken=told.append, on_wanted=lambda: told.append("wanted"))
    inbox.put(message(b"abc"), 3)
    inbox.put(message(b""), 0)
    await inbox.receive()
    await inbox.receive()
    assert told == [3]
    for _ in range(2):
        with trio.move_on_after(0):
            await inbox.receive()
    assert told == [3, "wanted"]


# Discarding


async def test_what_is_discarded_has_been_taken_and_what_comes_after_it_too() -> None:
    taken: list[int] = []
    inbox = Inbox(on_taken=taken.append)
    inbox.put(message(b"a"), 1)
    inbox.discard()
    inbox.put(message(b"bc"), 2)
    assert taken == [1, 2]
    assert not inbox.ready
    assert inbox.size == 0


async def test_discarding_makes_room_and_wakes_who_waits_for_a_message() -> None:
    inbox = Inbox()
    got: list[Any] = []

    async def receive() -> None:
        got.append(await inbox.receive())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        inbox.discard()
    assert got == [INTERRUPTED]
    inbox = Inbox()
    inbox.put(message(b"a"), ROOM)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(inbox.wait_room)
        await trio.testing.wait_all_tasks_blocked()
        inbox.discard()


async def test_a_disconnect_is_received_although_the_body_is_discarded() -> None:
    inbox = Inbox()
    inbox.discard()
    inbox.disconnect({"type": "http.disconnect"})
    assert await inbox.receive() == {"type": "http.disconnect"}


# Interruptions


async def test_an_interruption_wakes_who_waits_and_is_nothing_but_that() -> None:
    taken: list[int] = []
    inbox = Inbox(on_taken=taken.append)
    got: list[Any] = []

    async def receive() -> None:
        got.append(await inbox.receive())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(2):  # the second finds nobody waiting
            inbox.interrupt()
            assert inbox.size == 0
    assert got == [INTERRUPTED]
    assert (inbox.ready, inbox.size, taken) == (False, 0, [])
    inbox.put(message(b""), ROOM - OVERHEAD - 1)
    assert not inbox.full  # nothing is left of it


@pytest.mark.parametrize("waiting", [True, False])
async def test_an_interruption_of_who_has_got_something_is_none(waiting: bool) -> None:
    inbox = Inbox()
    got: list[Any] = []

    async def receive() -> None:
        got.append(await inbox.receive())

    async with trio.open_nursery() as nursery:
        if waiting:
            nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
        inbox.put(message(b"1"), 1)
        inbox.interrupt()
        if not waiting:
            nursery.start_soon(receive)
    assert got == [message(b"1")]
    assert not inbox.ready


async def test_a_message_that_comes_with_an_interruption_is_not_lost() -> None:
    inbox = Inbox()
    got: list[Any] = []

    async def receive() -> None:
        for _ in range(2):
            got.append(await inbox.receive())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        inbox.interrupt()
        inbox.put(message(b"1"), 1)
    assert got == [INTERRUPTED, message(b"1")]


async def test_a_disconnect_overtakes_an_interruption() -> None:
    inbox = Inbox()
    got: list[Any] = []

    async def receive() -> None:
        got.append(await inbox.receive())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        inbox.interrupt()
        inbox.disconnect(DISCONNECT)
        inbox.interrupt()
    assert got == [DISCONNECT]
