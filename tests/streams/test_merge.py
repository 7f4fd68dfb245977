"""merge(): several producers, one channel (AC-14, AC-15, AC-23, AC-24, AC-33 to AC-39, B30)."""

from __future__ import annotations

import inspect
import itertools
import logging
import random
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any, assert_type, cast

import pytest
import trio
import trio.testing
from leaks import assert_no_leaks

from tsstream._errors import HTTPError
from tsstream._streams.feeds import websocket_feed
from tsstream._streams.merge import OnError, Producer, merge

SendInts = trio.abc.SendChannel[int]
SendStrs = trio.abc.SendChannel[str]


# Producers.


async def count(n: int, send_channel: SendInts) -> None:
    for i in range(n):
        await send_channel.send(i)


async def count_for_ever(send_channel: SendInts) -> None:
    for i in itertools.count():
        await send_channel.send(i)


async def label(name: str, n: int, send_channel: SendStrs) -> None:
    for i in range(n):
        await send_channel.send(f"{name}{i}")


async def fail(error: BaseException, send_channel: trio.abc.SendChannel[Any]) -> None:
    raise error


async def wait(send_channel: trio.abc.SendChannel[Any]) -> None:
    await trio.sleep_forever()


async def collect(merged: AbstractAsyncContextManager[trio.MemoryReceiveChannel[Any]]) -> list[Any]:
    async with merged as receive_channel:
        return [item async for item in receive_channel]


# What arrives.


async def test_one_producer() -> None:  # AC-33
    assert await collect(merge(partial(count, 3))) == [0, 1, 2]


async def test_all_items_of_all_producers_arrive_each_in_its_order() -> None:  # AC-34, AC-35
    producers = [partial(label, name, 50) for name in "abc"]
    got = await collect(merge(*producers))
    for name in "abc":
        assert [item for item in got if item[0] == name] == [f"{name}{i}" for i in range(50)]
    assert len(got) == 150


async def test_a_producer_that_ends_does_not_end_the_others() -> None:  # AC-38
    assert sorted(await collect(merge(partial(count, 1), partial(count, 3)))) == [0, 0, 1, 2]


async def test_a_producer_may_close_its_own_channel() -> None:
    async def closing(send_channel: trio.MemorySendChannel[int]) -> None:
        with send_channel:
            await send_channel.send(1)

    async def closing_async(send_channel: SendInts) -> None:
        async with send_channel:
            await send_channel.send(2)

    assert sorted(await collect(merge(closing, closing_async))) == [1, 2]


async def test_a_paused_reader_leaves_one_item_in_the_hand_of_each_producer() -> None:  # AC-36
    begun: list[str] = []

    async def eager(name: str, send_channel: SendStrs) -> None:
        for _ in range(5):
            begun.append(name)
            await send_channel.send(name)

    async with merge(partial(eager, "a"), partial(eager, "b")) as receive_channel:
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(begun) == ["a", "b"]
        await receive_channel.receive()
        await trio.testing.wait_all_tasks_blocked()
        assert len(begun) == 3
        assert receive_channel.statistics().max_buffer_size == 0


async def test_a_fast_producer_does_not_starve_a_slow_one(
    mock_clock: trio.testing.MockClock,
) -> None:  # AC-37
    async def tick(send_channel: trio.abc.SendChannel[tuple[str, float]]) -> None:
        for _ in range(100):
            await trio.sleep(0.010)
            await send_channel.send(("tick", trio.current_time()))

    async def flood(send_channel: trio.abc.SendChannel[tuple[str, float]]) -> None:
        while True:
            await send_channel.send(("flood", trio.current_time()))

    lags: list[float] = []
    async with merge(tick, flood) as receive_channel:
        async for name, sent_at in receive_channel:
            mock_clock.jump(0.001)  # seconds: what handling an item costs this reader
            if name == "tick":
                lags.append(trio.current_time() - sent_at)
                if len(lags) == 100:
                    break
    assert max(lags) < 0.050


async def test_merges_can_be_merged() -> None:
    async def letters(send_channel: SendStrs) -> None:
        async with merge(partial(label, "a", 3), partial(label, "b", 3)) as receive_channel:
            async for item in receive_channel:
                await send_channel.send(item)

    got = await collect(merge(letters, partial(label, "c", 3)))
    assert sorted(got) == ["a0", "a1", "a2", "b0", "b1", "b2", "c0", "c1", "c2"]


async def test_the_inner_merge_of_a_merge_is_cleaned_up_on_early_stop() -> None:
    async def inner(send_channel: SendInts) -> None:
        async with merge(count_for_ever, count_for_ever) as receive_channel:
            async for item in receive_channel:
                await send_channel.send(item)

    async with assert_no_leaks():
        async with merge(inner, inner) as receive_channel:
            await receive_channel.receive()


# Leaving early.


async def test_early_stop_cannot_hang(autojump_clock: trio.testing.MockClock) -> None:  # AC-14
    async with assert_no_leaks():
        async with merge(partial(count, 10), partial(count, 10), wait) as receive_channel:
            async for _ in receive_channel:
                break
    assert trio.current_time() == 0


async def test_producers_see_cancelled_and_no_broken_channel_on_early_stop() -> None:  # AC-15
    seen: list[type[BaseException]] = []

    async def watched(send_channel: SendInts) -> None:
        try:
            await count_for_ever(send_channel)
        except BaseException as error:
            seen.append(type(error))
            raise

    async with merge(watched, watched) as receive_channel:
        await receive_channel.receive()
        await trio.testing.wait_all_tasks_blocked()
    assert seen == [trio.Cancelled, trio.Cancelled]


async def test_producers_see_cancelled_when_the_reader_raises() -> None:  # AC-15
    seen: list[type[BaseException]] = []

    async def watched(send_channel: SendInts) -> None:
        try:
            await count_for_ever(send_channel)
        except BaseException as error:
            seen.append(type(error))
            raise

    with pytest.raises(KeyError):
        async with merge(watched) as receive_channel:
            await receive_channel.receive()
            await trio.testing.wait_all_tasks_blocked()
            raise KeyError
    assert seen == [trio.Cancelled]


@pytest.mark.parametrize("on_error", ["fail", "drop"])
async def test_a_reader_may_close_the_channel_before_it_leaves(
    on_error: OnError, caplog: pytest.LogCaptureFixture
) -> None:  # AC-15: the producers find their channel broken, and only the reader knows why
    async def in_a_nursery(send_channel: SendInts) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(count_for_ever, send_channel)
            nursery.start_soon(count_for_ever, send_channel)
            nursery.start_soon(wait, send_channel)

    async with assert_no_leaks():
        async with merge(count_for_ever, in_a_nursery, wait, on_error=on_error) as receive_channel:
            await receive_channel.receive()
            receive_channel.close()
            await trio.testing.wait_all_tasks_blocked()  # the block is not cancelled either
    assert caplog.records == []


async def test_a_farewell_on_early_stop_does_not_wait_for_the_reader() -> None:  # AC-14, AC-15
    async def polite(send_channel: SendStrs) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await send_channel.send("bye")

    async with merge(polite) as receive_channel:
        await trio.testing.wait_all_tasks_blocked()
        assert receive_channel.statistics().tasks_waiting_send == 0


async def test_the_channel_is_closed_afterwards() -> None:
    async with merge(partial(count, 1)) as receive_channel:
        assert [item async for item in receive_channel] == [0]
    with pytest.raises(trio.ClosedResourceError):
        receive_channel.receive_nowait()


async def test_an_error_of_the_cleanup_survives_early_stop() -> None:  # AC-15, AC-39, B30
    async def careless(send_channel: SendInts) -> None:
        try:
            await count_for_ever(send_channel)
        finally:
            raise ValueError("cleanup")

    with pytest.raises(ValueError, match="cleanup"):
        async with merge(careless, count_for_ever) as receive_channel:
            await receive_channel.receive()


async def test_what_is_no_lost_reader_survives_beside_one() -> None:  # AC-15
    async def mixed(send_channel: SendInts) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(count_for_ever, send_channel)
            try:
                await trio.sleep_forever()
            finally:
                raise ValueError("cleanup")

    with pytest.raises(ValueError, match="cleanup"):
        async with merge(mixed) as receive_channel:
            await receive_channel.receive()
            receive_channel.close()
            await trio.sleep_forever()


async def test_a_broken_stream_is_an_error_even_when_the_reader_has_left() -> None:  # AC-15
    async def quits_late(send_channel: SendInts) -> None:
        try:
            await count_for_ever(send_channel)
        finally:
            raise trio.BrokenResourceError("socket connection broken")

    with pytest.raises(trio.BrokenResourceError, match="socket connection broken"):
        async with merge(quits_late) as receive_channel:
            await receive_channel.receive()


async def test_a_broken_channel_of_its_own_is_an_error_while_the_reader_reads() -> None:  # AC-15
    async def broken(send_channel: SendInts) -> None:
        own_send, own_receive = trio.open_memory_channel[int](0)
        own_receive.close()
        await own_send.send(1)

    with pytest.raises(trio.BrokenResourceError):
        await collect(merge(broken, count_for_ever))


async def test_a_broken_channel_after_the_end_is_an_error() -> None:  # AC-15, AC-23
    async def broken(send_channel: trio.MemorySendChannel[int]) -> None:
        send_channel.close()
        await trio.testing.wait_all_tasks_blocked()
        raise trio.BrokenResourceError

    with pytest.raises(trio.BrokenResourceError):
        await collect(merge(broken))


# Errors.


async def test_an_error_cancels_the_others_and_comes_out_as_itself() -> None:  # AC-38, AC-39
    error = ValueError("x")
    error.__context__ = context = LookupError()
    with pytest.raises(ValueError, match="x") as caught:
        await collect(merge(count_for_ever, partial(fail, error), wait))
    assert caught.value is error
    assert error.__context__ is context


async def test_an_error_keeps_its_type_for_the_response() -> None:  # AC-24
    with pytest.raises(HTTPError):
        await collect(merge(partial(fail, HTTPError(503))))


async def test_two_errors_come_out_as_a_group_with_both() -> None:  # AC-24
    async def fail_in_cleanup(send_channel: SendInts) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise KeyError("second")

    with pytest.RaisesGroup(ValueError, KeyError):
        await collect(merge(partial(fail, ValueError("first")), fail_in_cleanup))


async def test_the_error_of_the_reader_comes_out_as_itself() -> None:
    with pytest.raises(ZeroDivisionError):
        async with merge(count_for_ever, wait) as receive_channel:
            await receive_channel.receive()
            _ = 1 / 0


async def test_an_error_after_the_end_still_comes_out(
    autojump_clock: trio.testing.MockClock,
) -> None:  # AC-23: a checksum that fails, a cleanup that fails
    async def checksum(send_channel: trio.MemorySendChannel[int]) -> None:
        with send_channel:
            await send_channel.send(1)
        await trio.sleep(5)
        raise ValueError("checksum")

    got: list[int] = []
    with pytest.raises(ValueError, match="checksum"):
        async with merge(checksum) as receive_channel:
            got += [item async for item in receive_channel]
    assert got == [1]
    assert trio.current_time() == 5


def test_the_loser_of_the_race_between_error_and_end_is_still_an_error() -> None:
    # AC-23: 1,000 runs. Trio shuffles each of them; the seed moves the steps against each other.
    ended_first = 0

    async def run(rng: random.Random) -> None:
        nonlocal ended_first

        async def pass_steps() -> None:
            for _ in range(rng.randrange(4)):
                await trio.lowlevel.checkpoint()

        async def fails(send_channel: SendInts) -> None:
            await pass_steps()
            if rng.random() < 0.5:
                await send_channel.send(1)
            await pass_steps()
            raise ValueError("last")

        async def ends(send_channel: SendInts) -> None:
            await pass_steps()

        producers = [fails] + [ends] * rng.randrange(3)
        rng.shuffle(producers)
        async with merge(*producers) as receive_channel:
            await pass_steps()
            async for _ in receive_channel:
                await pass_steps()
            ended_first += 1

    for seed in range(1000):
        with pytest.raises(ValueError, match="last"):
            trio.run(run, random.Random(seed))
    assert ended_first > 100  # the race that this test is about does happen


@pytest.mark.parametrize("inner", [ValueError("x"), ExceptionGroup("g", [ValueError("x")])])
async def test_drop_logs_the_error_once_and_the_others_go_on(
    inner: Exception, caplog: pytest.LogCaptureFixture
) -> None:  # AC-38
    got = await collect(merge(partial(fail, inner), partial(count, 3), on_error="drop"))
    assert got == [0, 1, 2]
    [record] = caplog.records
    assert (record.name, record.levelno) == ("tsstream", logging.WARNING)
    assert record.getMessage() == "dropped the producer fail: it failed"
    assert record.exc_info is not None
    assert record.exc_info[1] is inner
    assert inner.__traceback__ is not None


async def test_drop_ends_the_channel_when_all_have_failed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fails = partial(fail, ValueError()), partial(fail, KeyError())
    assert await collect(merge(*fails, on_error="drop")) == []
    assert len(caplog.records) == 2


async def test_drop_has_logged_before_the_reader_sees_the_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with merge(partial(fail, ValueError()), on_error="drop") as receive_channel:
        with pytest.raises(trio.EndOfChannel):
            await receive_channel.receive()
        assert len(caplog.records) == 1


async def test_drop_does_not_drop_the_error_of_the_reader() -> None:
    with pytest.raises(KeyError):
        async with merge(count_for_ever, on_error="drop"):
            raise KeyError


@pytest.mark.parametrize("on_error", ["fail", "drop"])
async def test_keyboard_interrupt_is_never_dropped(on_error: OnError) -> None:
    with pytest.raises(KeyboardInterrupt):
        await collect(merge(partial(fail, KeyboardInterrupt()), wait, on_error=on_error))


@pytest.mark.parametrize("on_error", ["fail", "drop"])
async def test_a_group_with_a_keyboard_interrupt_is_never_dropped(on_error: OnError) -> None:
    group = BaseExceptionGroup("both", [KeyboardInterrupt(), ValueError()])
    with pytest.RaisesGroup(KeyboardInterrupt, ValueError, flatten_subgroups=True):
        await collect(merge(partial(fail, group), on_error=on_error))


@pytest.mark.parametrize("on_error", ["fail", "drop"])
async def test_cancellation_from_outside_goes_through(
    on_error: OnError, autojump_clock: trio.testing.MockClock
) -> None:
    async with assert_no_leaks():
        with trio.move_on_after(1) as scope:
            await collect(merge(wait, wait, on_error=on_error))
            raise AssertionError("merge() has swallowed the cancellation")
        assert scope.cancelled_caught


async def test_an_error_beside_a_cancellation_from_outside_is_not_lost(
    autojump_clock: trio.testing.MockClock,
) -> None:  # B30
    async def careless(send_channel: SendInts) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("cleanup")

    with pytest.RaisesGroup(ValueError):
        with trio.move_on_after(1):
            await collect(merge(careless, wait))


async def test_the_cleanup_of_cancelled_producers_runs_to_its_end(
    autojump_clock: trio.testing.MockClock,
) -> None:
    cleaned: list[int] = []

    async def careful(send_channel: SendInts) -> None:
        try:
            await count_for_ever(send_channel)
        finally:
            with trio.move_on_after(10, shield=True):
                await trio.sleep(3)
                cleaned.append(1)

    async with merge(careful, careful) as receive_channel:
        await receive_channel.receive()
    assert cleaned == [1, 1]


# Arguments: each error at the call, before anything runs, with the remedy.


def test_no_producers() -> None:
    with pytest.raises(ValueError, match="at least one producer"):
        merge()


async def test_a_coroutine_for_a_function() -> None:
    send_channel, _ = trio.open_memory_channel[int](0)
    with pytest.raises(TypeError, match=r"not the coroutine count\(\.\.\.\).*functools\.partial"):
        merge(count(3, send_channel))  # type: ignore[arg-type]  # the mistake


def test_an_async_generator_function() -> None:
    @asynccontextmanager
    async def numbers(send_channel: SendInts) -> Any:
        yield 1

    with pytest.raises(TypeError, match=r"numbers is an async generator.*send_channel\.send"):
        merge(partial(inspect.unwrap(numbers)))


def test_a_context_manager() -> None:
    @asynccontextmanager
    async def body() -> Any:
        yield None

    with pytest.raises(TypeError, match="an async function that enters it"):
        merge(merge(count_for_ever))  # type: ignore[arg-type]  # the mistake
    with pytest.raises(TypeError, match="an async function that enters it"):
        merge(body())  # type: ignore[arg-type]  # the mistake


def test_something_that_cannot_be_called() -> None:
    with pytest.raises(TypeError, match=r"one parameter.*not \[1\]"):
        merge([1])  # type: ignore[arg-type]  # the mistake


def test_an_unknown_policy() -> None:
    with pytest.raises(ValueError, match='"fail" or "drop", not \'ignore\''):
        merge(count_for_ever, on_error=cast("Any", "ignore"))


async def test_tasks_have_the_names_of_their_producers() -> None:
    names: list[str] = []

    class Source:
        def __repr__(self) -> str:
            return "source(1)"

        async def __call__(self, send_channel: SendInts) -> None:
            names.append(trio.lowlevel.current_task().name)

    async def function(send_channel: SendInts) -> None:
        names.append(trio.lowlevel.current_task().name)

    await collect(merge(Source(), partial(function)))
    assert sorted(name.rpartition(".")[2] for name in names) == ["function", "source(1)"]


# Types; checked by mypy, not by running.


def typing_of_producers() -> None:
    async def wants_memory_channel(send_channel: trio.MemorySendChannel[int]) -> None: ...
    async def wants_any_channel(send_channel: trio.abc.SendChannel[int]) -> None: ...
    async def sends_str(send_channel: trio.abc.SendChannel[str]) -> None: ...

    feeds = merge(websocket_feed("ws://a"), websocket_feed("ws://b"))
    assert_type(
        feeds, AbstractAsyncContextManager[trio.MemoryReceiveChannel[str | bytes], bool | None]
    )
    ints = merge(wants_memory_channel, wants_any_channel)
    assert_type(ints, AbstractAsyncContextManager[trio.MemoryReceiveChannel[int], bool | None])
    feed: Producer[str | bytes] = websocket_feed("ws://a")
    mixed: AbstractAsyncContextManager[trio.MemoryReceiveChannel[str | bytes | int]]
    mixed = merge(feed, sends_str, wants_any_channel)
    del mixed

    wrong: AbstractAsyncContextManager[trio.MemoryReceiveChannel[int]]
    wrong = merge(sends_str)  # type: ignore[arg-type]  # sends str, not int
    del wrong


async def typing_of_the_channel() -> None:
    async with merge(websocket_feed("ws://a"), websocket_feed("ws://b")) as receive_channel:
        assert_type(receive_channel, trio.MemoryReceiveChannel[str | bytes])
