"""A clock that is set again and again: it goes off at the time set last, once, and on time."""

from __future__ import annotations

import math
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest
import trio
from trio.testing import MockClock

from tsstream._http.alarm import Alarm


class Bell:
    """An alarm, and the times at which it went off."""

    def __init__(self, *again: float) -> None:
        self.times: list[float] = []
        self.again = list(again)
        self.alarm = Alarm(self.ring)

    def ring(self) -> None:
        self.times.append(trio.current_time())
        if self.again:
            self.alarm.set(self.again.pop(0))


@asynccontextmanager
async def open_bell(*again: float) -> AsyncIterator[Bell]:
    bell = Bell(*again)
    async with trio.open_nursery() as nursery:
        bell.alarm.start(nursery)
        yield bell
        nursery.cancel_scope.cancel()


async def test_it_goes_off_once(autojump_clock: MockClock) -> None:
    async with open_bell() as bell:
        bell.alarm.set(5)
        await trio.sleep(100)
        assert bell.times == [5]
        assert bell.alarm.at == math.inf


@pytest.mark.parametrize("pause", [0, 1], ids=["before it runs", "when it runs"])
@pytest.mark.parametrize(
    ("settings", "times"),
    [
        ([5, 7], [7]),  # put off
        ([7, 5], [5]),  # brought forward
        ([5, 9, 7], [7]),
        ([9, 5, 7], [7]),
        ([5, math.inf], []),  # unset
        ([5, math.inf, 8], [8]),
        ([math.inf], []),
    ],
)
async def test_what_was_set_last_counts(
    settings: list[float], times: list[float], pause: float, autojump_clock: MockClock
) -> None:
    async with open_bell() as bell:
        for at in settings:
            await trio.sleep(pause)
            bell.alarm.set(at)
        await trio.sleep(100)
        assert bell.times == times


async def test_what_was_put_off_while_it_slept_is_not_late(autojump_clock: MockClock) -> None:
    # as who sets it by an assignment does: it wakes once at the time that was set first
    async with open_bell() as bell:
        bell.alarm.set(5)
        await trio.sleep(3)
        bell.alarm.at = math.inf
        await trio.sleep(3)
        assert bell.times == []
        bell.alarm.set(7)
        await trio.sleep(100)
        assert bell.times == [7]


async def test_a_time_that_has_passed_is_now(autojump_clock: MockClock) -> None:
    async with open_bell() as bell:
        await trio.sleep(10)
        bell.alarm.set(3)
        await trio.sleep(1)
        assert bell.times == [10]


async def test_whoever_is_called_may_set_it_again(autojump_clock: MockClock) -> None:
    async with open_bell(6, 4, math.inf) as bell:  # 4 has passed by then
        bell.alarm.set(5)
        await trio.sleep(100)
        assert bell.times == [5, 6, 6]


async def test_it_may_be_started_twice_and_late(autojump_clock: MockClock) -> None:
    bell = Bell()
    bell.alarm.set(5)
    await trio.sleep(7)
    assert bell.times == []
    async with trio.open_nursery() as nursery:
        for _ in range(2):
            bell.alarm.start(nursery)
        await trio.sleep(1)
        assert bell.times == [7]
        assert len(nursery.child_tasks) == 1
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("seed", range(20))
async def test_it_is_on_time_however_often_it_is_set(seed: int, autojump_clock: MockClock) -> None:
    rng = random.Random(seed)
    settings: list[tuple[float, float]] = []  # when, and to what time, which is never another when
    async with open_bell() as bell:
        for _ in range(100):
            await trio.sleep(rng.randrange(4))
            now = trio.current_time()
            at = now + rng.choice([0.5, 1.5, 2.5, 9.5, math.inf])
            bell.alarm.set(at)
            settings.append((now, at))
        await trio.sleep(100)
    settings.append((math.inf, 0))
    assert bell.times == [at for (_, at), (then, _) in pairwise(settings) if at < then]
