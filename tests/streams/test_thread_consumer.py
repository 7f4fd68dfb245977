"""run_thread_consumer(): one thread, a bounded read-ahead, errors, and cancellation (BK-26)."""

from __future__ import annotations

import contextvars
import gc
import logging
import random
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import IO, Any, assert_type

import pytest
import trio
import trio.testing
from leaks import assert_no_leaks
from probes import PROMPT, logged

from tsstream._adapters import _stream_limiter
from tsstream._errors import BodyConsumed, HTTPError
from tsstream._streams.prefetch import CHUNK_COST, PREFETCH, Prefetch
from tsstream._streams.threads import run_thread_consumer

WAIT = 10.0  # seconds: for what a thread waits for, so that a hang ends


class Source(trio.abc.ReceiveChannel[bytes]):
    """A channel with nothing but what every one has; an exception among its chunks is raised."""

    def __init__(self, *chunks: bytes | Exception) -> None:
        self.received = 0
        self.closed = trio.Event()
        self._chunks = iter(chunks)

    async def receive(self) -> bytes:
        await trio.lowlevel.checkpoint()
        if self.closed.is_set():
            raise trio.ClosedResourceError
        for chunk in self._chunks:
            self.received += 1
            if isinstance(chunk, Exception):
                raise chunk
            return chunk
        return await self.wait_end()

    async def wait_end(self) -> bytes:
        raise trio.EndOfChannel

    async def aclose(self) -> None:
        self.closed.set()
        await trio.lowlevel.checkpoint()


class Silent(Source):
    """A channel that never ends."""

    async def wait_end(self) -> bytes:
        await trio.sleep_forever()
        raise AssertionError


class Signal:
    """An event that a thread sets and a task waits for."""

    def __init__(self) -> None:
        self._event = trio.Event()
        self._token = trio.lowlevel.current_trio_token()

    def set(self) -> None:
        self._token.run_sync_soon(self._event.set)

    async def wait(self, within: float = WAIT) -> None:
        with trio.fail_after(within):
            await self._event.wait()


def read_all(file: IO[bytes]) -> bytes:
    return file.read()


# What it runs


async def test_it_gives_what_the_function_returns_and_types_it() -> None:
    def add(file: IO[bytes], number: int, text: str) -> str:
        return f"{file.read().decode()} {number} {text}"

    result = await run_thread_consumer(add, Source(b"a", b"b"), 5, "c")
    assert_type(result, str)
    assert result == "ab 5 c"


async def test_the_function_runs_in_one_worker_thread_with_the_callers_context() -> None:
    var: contextvars.ContextVar[str] = contextvars.ContextVar("var")
    var.set("here")
    seen: list[tuple[int, str, str]] = []

    def look(file: IO[bytes]) -> None:
        seen.append((threading.get_ident(), threading.current_thread().name, var.get()))

    await run_thread_consumer(look, Source())
    ((ident, name, value),) = seen
    assert ident != threading.get_ident()
    assert name.endswith("look")
    assert value == "here"


async def test_the_error_of_the_function_leaves_as_itself() -> None:
    for error in (ValueError("a"), ExceptionGroup("b", [ValueError("c")])):

        def fail(file: IO[bytes], error: Exception) -> None:
            raise error

        with pytest.raises(type(error)) as caught:
            await run_thread_consumer(fail, Source(b"a"), error)
        assert caught.value is error
        assert error.__context__ is None


async def test_an_async_function_is_refused_with_what_to_do_instead() -> None:
    async def wrong(file: IO[bytes]) -> None: ...

    with pytest.raises(TypeError, match=r"wrong is async"):
        await run_thread_consumer(wrong, Source())  # type: ignore[unused-coroutine]  # it is wrong


@pytest.mark.parametrize("options", [{"thread_grace": -1}, {"max_read": -1}])
async def test_options_are_checked_at_once(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="is a number of"):
        await run_thread_consumer(read_all, Source(), **options)


async def test_the_function_may_call_back_into_trio() -> None:
    def ask(file: IO[bytes]) -> bytes:
        trio.from_thread.run(trio.sleep, 0)
        assert trio.from_thread.run_sync(threading.get_ident) == loop
        trio.from_thread.check_cancelled()
        return file.read()

    loop = threading.get_ident()
    assert await run_thread_consumer(ask, Source(b"a")) == b"a"


async def test_other_threads_of_the_function_may_read() -> None:
    def copy(file: IO[bytes]) -> bytes:
        with subprocess.Popen(
            [sys.executable, "-c", "import sys; sys.stdout.write(sys.stdin.read().upper())"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None

            def pump(stdin: IO[bytes]) -> None:
                with stdin:
                    stdin.writelines(file)

            thread = threading.Thread(target=pump, args=[process.stdin])
            thread.start()
            upper = process.stdout.read()
            thread.join(WAIT)
            return upper

    assert await run_thread_consumer(copy, Source(b"a\n", b"b\nc")) == b"A\nB\nC"


class Failing(Source):
    """A channel that fails, and keeps nothing of the error."""

    async def wait_end(self) -> bytes:
        raise OSError


class Thing:
    """What can be watched going away."""


def read_and_fail(file: IO[bytes], thing: Thing) -> None:
    file.read(1)
    raise ValueError


@pytest.mark.parametrize(
    ("fn", "make", "error"),
    [
        (lambda file, thing: file.read(), lambda: Source(b"abc"), None),
        (read_and_fail, lambda: Source(b"abc"), ValueError),
        (lambda file, thing: file.read(), lambda: Failing(), OSError),
        (lambda file, thing: file.readline(), lambda: Source(b"abcdef"), HTTPError),
    ],
)
async def test_nothing_refers_to_itself_afterwards(
    fn: Callable[[IO[bytes], Thing], object],
    make: Callable[[], Source],
    error: type[Exception] | None,
) -> None:
    source, thing = make(), Thing()
    alive: list[weakref.ref[Any]] = [weakref.ref(source), weakref.ref(thing)]
    gc.collect()
    gc.disable()
    try:
        if error is None:
            await run_thread_consumer(fn, source, thing, max_read=5)
        else:
            with pytest.raises(error):
                await run_thread_consumer(fn, source, thing, max_read=5)
        del source, thing
        await run_thread_consumer(read_all, Source())  # the thread has forgotten the run before
        assert [ref() for ref in alive] == [None, None]
    finally:
        gc.enable()


# How much it reads ahead


async def test_nothing_is_received_before_the_first_read() -> None:
    source = Source(b"a")
    begun, go_on = Signal(), threading.Event()

    def wait(file: IO[bytes]) -> bytes:
        begun.set()
        go_on.wait(WAIT)
        return file.read()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_thread_consumer, wait, source)
        await begun.wait()
        await trio.testing.wait_all_tasks_blocked()
        assert source.received == 0
        go_on.set()
    assert source.received == 1


class ReadOne:
    """A function that reads one byte, and then waits until it is told to go on."""

    def __init__(self) -> None:
        self.read = Signal()
        self.go_on = threading.Event()

    def __call__(self, file: IO[bytes]) -> None:
        file.read(1)
        self.read.set()
        self.go_on.wait(WAIT)


@pytest.mark.parametrize("size", [1, 1000, 64 * 1024, 3 * PREFETCH])
@pytest.mark.parametrize("buffered", [None, 0, 5])
async def test_a_thread_that_stops_reading_stops_the_channel(
    size: int, buffered: int | None
) -> None:
    # RQ-20: bounded prefetch; from a channel without and with receive_nowait()
    most = PREFETCH // (size + CHUNK_COST) + 1
    sent = 0

    async def produce(send_channel: trio.MemorySendChannel[bytes]) -> None:
        nonlocal sent
        with send_channel, suppress(trio.BrokenResourceError):
            while True:
                await send_channel.send(bytes(size))
                sent += 1

    read_one = ReadOne()
    async with trio.open_nursery() as nursery:
        source = Source(*[bytes(size)] * (3 * most))
        if buffered is None:
            nursery.start_soon(run_thread_consumer, read_one, source)
        else:
            send_channel, receive_channel = trio.open_memory_channel[bytes](buffered)
            nursery.start_soon(produce, send_channel)
            nursery.start_soon(run_thread_consumer, read_one, receive_channel)
        await read_one.read.wait()
        await trio.testing.wait_all_tasks_blocked()
        # what the thread took at once, what waits for it, and what waits in the channel
        assert most <= (sent or source.received) <= 2 * most + (buffered or 0)
        read_one.go_on.set()


async def test_all_that_waits_is_taken_at_once() -> None:
    # RQ-20: "so that the thread hop is not paid per small chunk"
    prefetch = Prefetch()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(prefetch.run, Source(*[b"x" * 100] * 5000))
        first = await trio.to_thread.run_sync(prefetch.take, 1)
        await trio.testing.wait_all_tasks_blocked()
        second = await trio.to_thread.run_sync(prefetch.take, 1)
        assert len(first) + len(second) >= 1500
        prefetch.close()


async def test_a_read_is_not_woken_for_less_than_it_needs() -> None:
    # RQ-20: neither is a hop paid for what the thread could only wait on
    prefetch = Prefetch()
    taken: list[int] = []
    begun = Signal()

    def take() -> None:
        begun.set()
        taken.append(len(prefetch.take(1000)))

    send_channel, receive_channel = trio.open_memory_channel[bytes](0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(prefetch.run, receive_channel)
        nursery.start_soon(trio.to_thread.run_sync, take)
        await begun.wait()
        for _ in range(5):
            await send_channel.send(bytes(100))
            await trio.testing.wait_all_tasks_blocked(0.002)
            assert taken == []
        send_channel.close()  # it is told of the end, though that is less too
    assert taken == [5]


@pytest.mark.parametrize("needs", [(1, 1000), (1000, 1)])
async def test_readers_in_two_threads_are_each_woken_for_what_they_need(
    needs: tuple[int, int],
) -> None:
    prefetch = Prefetch()
    woken = {need: Signal() for need in needs}

    def take(need: int) -> None:
        prefetch.take(need)
        woken[need].set()

    send_channel, receive_channel = trio.open_memory_channel[bytes](0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(prefetch.run, receive_channel)
        for need in needs:
            nursery.start_soon(trio.to_thread.run_sync, take, need)
            await trio.testing.wait_all_tasks_blocked(0.005)  # until it waits
        await send_channel.send(b"a")
        await woken[1].wait()
        await send_channel.send(bytes(1000))
        await woken[1000].wait()
        send_channel.close()


async def test_every_byte_arrives_in_order_from_any_channel_at_any_pace() -> None:
    chance = random.Random(5)
    chunks = [chance.randbytes(chance.choice([1, 100, 70_000])) for _ in range(300)]

    def read_slowly(file: IO[bytes]) -> bytes:
        parts = []
        while part := file.read(chance.choice([1, 1000, 300_000])):
            parts.append(part)
            if len(parts) % 100 == 0:
                time.sleep(0.001)
        return b"".join(parts)

    async def produce(send_channel: trio.MemorySendChannel[bytes]) -> None:
        with send_channel:
            for chunk in chunks:
                await send_channel.send(chunk)

    expected = b"".join(chunks)
    assert await run_thread_consumer(read_slowly, Source(*chunks)) == expected
    for size in (0, 7):
        send_channel, receive_channel = trio.open_memory_channel[bytes](size)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(produce, send_channel)
            assert await run_thread_consumer(read_slowly, receive_channel) == expected


# Errors of the channel


@pytest.mark.parametrize(
    "error",
    [
        HTTPError(413),
        HTTPError(408),
        trio.BrokenResourceError("the client left"),
        ExceptionGroup("several", [OSError()]),
    ],
)
async def test_an_error_of_the_channel_is_raised_after_the_bytes_before_it_and_stays(
    error: Exception,
) -> None:
    # RQ-19, RQ-13
    read: list[object] = []

    def read_on(file: IO[bytes]) -> None:
        read.append(file.read(3))
        for _ in range(3):
            try:
                read.append(file.read(1))
            except Exception as caught:
                read.append(caught)
        file.readline()

    with pytest.raises(type(error)) as caught:
        await run_thread_consumer(read_on, Source(b"ab", b"c", error))
    assert read == [b"abc", error, error, error]
    assert caught.value is error


@pytest.mark.parametrize("way", ["read(9)", "read()", "readline()", "readlines()", "list"])
async def test_a_read_that_an_error_cuts_short_gives_no_bytes(way: str) -> None:
    # RQ-19: to whoever asked for nine bytes, three of them would be the end.
    ways: dict[str, Callable[[IO[bytes]], object]] = {
        "read(9)": lambda file: file.read(9),
        "read()": lambda file: file.read(),
        "readline()": lambda file: file.readline(),
        "readlines()": lambda file: file.readlines(),
        "list": list,
    }
    with pytest.raises(trio.BrokenResourceError):
        await run_thread_consumer(ways[way], Source(b"abc", trio.BrokenResourceError()))


async def test_a_channel_that_refuses_to_be_read_again_is_not_empty() -> None:
    # RQ-17
    class Consumed(Source):
        def __aiter__(self) -> Consumed:
            raise BodyConsumed

    with pytest.raises(BodyConsumed):
        await run_thread_consumer(read_all, Consumed())


async def test_a_function_may_handle_an_error_of_the_channel() -> None:
    def handle(file: IO[bytes]) -> str:
        try:
            file.read()
        except HTTPError as error:
            return f"handled {error}"
        return "none"

    channel = Source(HTTPError(413))
    assert (await run_thread_consumer(handle, channel)).startswith("handled 413")


# The end


@pytest.mark.parametrize("memory", [True, False])
@pytest.mark.parametrize("end", ["returns", "raises", "closes"])
async def test_the_channel_is_closed_when_nobody_reads_any_more(end: str, memory: bool) -> None:
    # ET-23: the framework may drop the rest of the body
    closed = Signal()
    go_on = threading.Event()

    def stop(file: IO[bytes]) -> None:
        file.read(1)
        if end == "raises":
            raise ValueError
        if end == "closes":
            file.close()
            go_on.wait(WAIT)

    async def produce(send_channel: trio.MemorySendChannel[bytes]) -> None:
        with send_channel:
            try:
                while True:
                    await send_channel.send(b"a")
            except trio.BrokenResourceError:
                closed.set()

    async def consume(channel: trio.abc.ReceiveChannel[bytes]) -> None:
        try:
            await run_thread_consumer(stop, channel)
        except ValueError:
            assert end == "raises"

    async with trio.open_nursery() as nursery:
        if memory:
            send_channel, receive_channel = trio.open_memory_channel[bytes](0)
            nursery.start_soon(produce, send_channel)
            nursery.start_soon(consume, receive_channel)
            await closed.wait()
        else:
            source = Silent(b"a")
            nursery.start_soon(consume, source)
            with trio.fail_after(WAIT):
                await source.closed.wait()
        go_on.set()


async def test_a_thread_left_behind_by_the_function_does_not_read_for_ever() -> None:
    ended = threading.Event()

    def leave(file: IO[bytes]) -> None:
        def read() -> None:
            try:
                file.read()
            except ValueError:
                ended.set()

        threading.Thread(target=read).start()
        while not source.received:
            time.sleep(0.001)

    source = Silent(b"a")
    async with assert_no_leaks():
        await run_thread_consumer(leave, source)
        assert await trio.to_thread.run_sync(ended.wait, WAIT)


# Cancellation


class Reader:
    """A function that reads for ever, swallows what is an Exception, and tells what it met."""

    def __init__(self) -> None:
        self.begun = Signal()
        self.raised: list[BaseException] = []
        self.cleaned_up_in: int | None = None
        self.ran_in: int | None = None

    def __call__(self, file: IO[bytes]) -> None:
        self.ran_in = threading.get_ident()
        self.begun.set()
        try:
            while True:
                try:
                    file.read(1)
                except Exception as error:
                    self.raised.append(error)
                except BaseException as error:
                    self.raised.append(error)
                    for _ in range(2):
                        self.note_again(file)
                    raise
        finally:
            self.cleaned_up_in = threading.get_ident()

    def note_again(self, file: IO[bytes]) -> None:
        try:
            file.readline()
        except BaseException as error:  # noqa: ASYNC103 (raised by the caller)
            self.raised.append(error)


@pytest.mark.parametrize("waiting", [True, False])
async def test_cancellation_is_raised_by_the_read_at_once_and_by_all_later_ones(
    waiting: bool,
) -> None:
    # BK-24, RQ-19: in a thread that waits for bytes, and in one that never has to
    reader = Reader()
    channel = Silent(b"a") if waiting else Silent(bytes(10_000_000))
    async with assert_no_leaks():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_thread_consumer, reader, channel)
            await reader.begun.wait()
            if waiting:
                await trio.testing.wait_all_tasks_blocked()
            start = time.monotonic()
            nursery.cancel_scope.cancel()
        assert time.monotonic() - start < PROMPT
    assert [type(error) for error in reader.raised] == [trio.Cancelled] * 3
    assert len(set(map(id, reader.raised))) == 3
    assert reader.cleaned_up_in == reader.ran_in != threading.get_ident()
    assert channel.closed.is_set()


class Breaking(Source):
    """A channel that breaks when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.now = trio.Event()

    async def receive(self) -> bytes:
        await self.now.wait()
        raise trio.BrokenResourceError


async def test_the_cancellation_goes_before_an_error_of_the_channel_at_the_same_moment() -> None:
    # RQ-19: a client that leaves is a cancellation, and no business of an "except Exception". The
    # order of the tasks is Trio's whim, so it is tried often; the pause lets the thread in.
    async def pause(now: trio.Event) -> None:
        await now.wait()
        time.sleep(0.001)  # noqa: ASYNC251  # holds the loop, and so the tasks that come later

    async with trio.open_nursery() as pauses:
        for _ in range(60):
            reader, channel = Reader(), Breaking()
            pauses.start_soon(pause, channel.now)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(run_thread_consumer, reader, channel)
                await reader.begun.wait()
                await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
                channel.now.set()
            assert [type(error) for error in reader.raised] == [trio.Cancelled] * 3


async def test_the_cancellation_in_the_thread_has_the_reason_of_the_callers() -> None:
    reader = Reader()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_thread_consumer, reader, Silent())
        await reader.begun.wait()
        nursery.cancel_scope.cancel(reason="client disconnected")
    assert "client disconnected" in str(reader.raised[0])


@pytest.mark.parametrize("abandoned", [True, False])
async def test_cancellation_leaves_as_itself_in_no_group(abandoned: bool) -> None:
    reader = Stuck() if abandoned else Reader()
    seen: list[BaseException] = []

    async def consume() -> None:
        try:
            await run_thread_consumer(reader, Silent(b"a"), thread_grace=0 if abandoned else 5)
        except BaseException as error:
            seen.append(error)
            raise

    async with trio.open_nursery() as nursery:
        nursery.start_soon(consume)
        await reader.begun.wait()
        nursery.cancel_scope.cancel()
    assert [type(error) for error in seen] == [trio.Cancelled]
    if isinstance(reader, Stuck):
        reader.released.set()
        await reader.ended.wait()


async def test_another_thread_that_reads_gets_the_cancellation_too() -> None:
    raised: list[BaseException] = []
    begun = Signal()

    def read_elsewhere(file: IO[bytes]) -> None:
        def read() -> None:
            begun.set()
            try:
                file.read(1)
            except BaseException as error:  # noqa: ASYNC103 (a thread of its own)
                raised.append(error)

        thread = threading.Thread(target=read)
        thread.start()
        thread.join(WAIT)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_thread_consumer, read_elsewhere, Silent())
        await begun.wait()
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert [type(error) for error in raised] == [trio.Cancelled]


async def test_what_is_returned_after_the_cancellation_is_dropped() -> None:
    # RQ-19: a function that swallows everything must not make a part look like a whole.
    begun = Signal()
    completed = False

    def swallow(file: IO[bytes]) -> int:
        begun.set()
        try:
            return len(file.read())
        except BaseException:  # noqa: ASYNC103 (what this is about)
            return 0  # noqa: ASYNC104

    async def consume() -> None:
        nonlocal completed
        await run_thread_consumer(swallow, Silent(b"a"))
        completed = True

    async with trio.open_nursery() as nursery:
        nursery.start_soon(consume)
        await begun.wait()
        nursery.cancel_scope.cancel()
    assert not completed


async def test_an_error_of_the_cleanup_is_raised_in_place_of_the_cancellation() -> None:
    begun = Signal()

    def fail(file: IO[bytes]) -> None:
        begun.set()
        try:
            file.read()
        finally:
            raise ValueError("cleanup")

    with pytest.RaisesGroup(pytest.RaisesExc(ValueError, match="cleanup")):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_thread_consumer, fail, Silent())
            await begun.wait()
            nursery.cancel_scope.cancel()


async def test_code_that_does_not_read_can_look_for_the_cancellation() -> None:
    begun = Signal()

    def work(file: IO[bytes]) -> None:
        begun.set()
        while True:
            trio.from_thread.check_cancelled()
            time.sleep(0.001)

    async with assert_no_leaks():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_thread_consumer, work, Silent())
            await begun.wait()
            nursery.cancel_scope.cancel()


async def test_a_call_back_into_trio_is_not_cancelled_with_the_caller() -> None:
    begun = Signal()
    events: list[str] = []

    async def work() -> None:
        begun.set()
        await trio.sleep(0.02)
        events.append("called back")

    def call_back(file: IO[bytes]) -> None:
        trio.from_thread.run(work)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_thread_consumer, call_back, Silent())
        await begun.wait()
        nursery.cancel_scope.cancel()
    assert events == ["called back"]


async def test_a_caller_that_is_cancelled_before_does_not_start_a_thread() -> None:
    ran: list[object] = []
    source = Source(b"a")
    with trio.CancelScope() as scope:
        scope.cancel()
        await run_thread_consumer(ran.append, source)
    assert scope.cancelled_caught
    assert ran == []
    assert source.received == 0


async def test_waiting_for_a_place_can_be_cancelled_and_then_the_function_never_runs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    limiter = _stream_limiter()
    borrowers = [object() for _ in range(int(limiter.available_tokens))]
    ran: list[object] = []
    source = Source(b"a")
    for borrower in borrowers:
        limiter.acquire_on_behalf_of_nowait(borrower)
    try:
        async with assert_no_leaks(), trio.open_nursery() as nursery:
            nursery.start_soon(run_thread_consumer, ran.append, source)
            await trio.testing.wait_all_tasks_blocked()
            assert limiter.statistics().tasks_waiting == 1
            nursery.cancel_scope.cancel()
        assert limiter.statistics().tasks_waiting == 0
    finally:
        for borrower in borrowers:
            limiter.release_on_behalf_of(borrower)
    assert ran == []
    assert source.received == 0
    assert logged(caplog) == []  # no thread was waited for


async def test_other_threads_of_trio_stay_free() -> None:
    # BK-9
    release = threading.Event()
    begun = 0

    def block(file: IO[bytes]) -> None:
        nonlocal begun
        begun += 1
        release.wait(WAIT)

    async with trio.open_nursery() as nursery:
        for _ in range(60):
            nursery.start_soon(run_thread_consumer, block, Silent())
        await trio.testing.wait_all_tasks_blocked()
        with trio.fail_after(1):
            await trio.to_thread.run_sync(threading.get_ident)
        assert _stream_limiter().borrowed_tokens == 60
        release.set()
    assert begun == 60


# Abandoned


class Stuck:
    """A function that blocks in what is no read of ours, until it is released."""

    def __init__(self, error: Exception | None = None) -> None:
        self.begun = Signal()
        self.ended = Signal()
        self.released = threading.Event()
        self.reads: list[BaseException] = []
        self._error = error

    def __call__(self, file: IO[bytes]) -> None:
        try:
            file.read(1)
            self.begun.set()
            self.released.wait(WAIT)
            try:
                file.read(1)
            except BaseException as error:  # noqa: ASYNC103 (what this is about)
                self.reads.append(error)
            if self._error is not None:
                raise self._error
        finally:
            self.ended.set()


async def abandon(stuck: Stuck, grace: float = 0.05) -> Source:
    """Cancel the run of *stuck* and return when it is over, which takes *grace*."""
    source = Silent(b"a")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(run_thread_consumer, thread_grace=grace), stuck, source)
        await stuck.begun.wait()
        start = time.monotonic()
        nursery.cancel_scope.cancel()
    assert grace <= time.monotonic() - start < grace + PROMPT
    return source


async def test_a_thread_that_does_not_end_is_abandoned_with_one_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # BK-26
    def stuck_function(file: IO[bytes]) -> None:
        stuck(file)

    stuck = Stuck()
    async with assert_no_leaks():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                partial(run_thread_consumer, thread_grace=0.05), stuck_function, Silent(b"a")
            )
            await stuck.begun.wait()
            nursery.cancel_scope.cancel()
        (warning,) = logged(caplog)
        assert warning.startswith("WARNING the thread of ")
        assert "stuck_function still runs 0.05 s after it was cancelled" in warning
        stuck.released.set()
        await stuck.ended.wait()
    assert len(logged(caplog)) == 1


async def test_an_abandoned_thread_keeps_its_place_until_it_ends() -> None:
    # BK-26
    limiter = _stream_limiter()
    borrowers = [object() for _ in range(int(limiter.total_tokens))]
    stuck = Stuck()
    async with assert_no_leaks():
        await abandon(stuck)
        assert limiter.borrowed_tokens == 1
        stuck.released.set()
        await stuck.ended.wait()
        with trio.fail_after(1):  # noqa: ASYNC912
            for borrower in borrowers:
                await limiter.acquire_on_behalf_of(borrower)
        for borrower in borrowers:
            limiter.release_on_behalf_of(borrower)


async def test_an_abandoned_thread_touches_nothing_when_it_goes_on() -> None:
    # BK-26
    stuck = Stuck()
    source = await abandon(stuck)
    received = source.received
    stuck.released.set()
    await stuck.ended.wait()
    assert [type(error) for error in stuck.reads] == [trio.Cancelled]
    assert source.received == received
    assert source.closed.is_set()


async def test_a_late_error_of_an_abandoned_thread_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stuck = Stuck(ValueError("too late"))
    async with assert_no_leaks():  # and so until the thread is over
        await abandon(stuck)
        caplog.clear()
        stuck.released.set()
        await stuck.ended.wait()
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("tsstream", logging.ERROR)
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "too late"


async def test_a_stuck_thread_costs_no_more_than_its_grace_by_default(
    mock_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    # BK-26: five seconds
    stuck = Stuck()
    over = trio.Event()

    async def consume() -> None:
        with trio.CancelScope() as scope:
            scopes.append(scope)
            await run_thread_consumer(stuck, Silent(b"a"))
        over.set()

    scopes: list[trio.CancelScope] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(consume)
        await stuck.begun.wait()
        scopes[0].cancel()
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(4.9)
        await trio.testing.wait_all_tasks_blocked()
        assert not over.is_set()
        mock_clock.jump(0.2)
        await over.wait()
        stuck.released.set()
        await stuck.ended.wait()
    assert "still runs 5 s" in caplog.text


def test_an_abandoned_thread_may_outlive_the_run(caplog: pytest.LogCaptureFixture) -> None:
    ended = threading.Event()
    stuck: list[Stuck] = []

    def fail_late(file: IO[bytes]) -> None:
        try:
            stuck[0](file)
        finally:
            ended.set()

    async def main() -> None:
        stuck.append(Stuck(ValueError("too late")))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                partial(run_thread_consumer, thread_grace=0), fail_late, Silent(b"a")
            )
            await stuck[0].begun.wait()
            nursery.cancel_scope.cancel()

    trio.run(main)
    stuck[0].released.set()
    assert ended.wait(WAIT)
    deadline = time.monotonic() + 1
    while len(caplog.records) < 2 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert [record.levelname for record in caplog.records] == ["WARNING", "ERROR"]


async def test_five_hundred_cancellations_at_any_moment_leave_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # BK-25's way of looking for a race
    chance = random.Random(6)
    ended: list[str] = []

    def read(file: IO[bytes], size: int) -> None:
        try:
            while file.read(size):
                pass
        finally:
            ended.append("ended")

    async def produce(send_channel: trio.MemorySendChannel[bytes]) -> None:
        with send_channel:
            while True:
                await send_channel.send(b"x" * chance.choice([1, 1000, 100_000]))

    started = 0

    async def run_once() -> None:
        nonlocal started
        send_channel, receive_channel = trio.open_memory_channel[bytes](chance.choice([0, 5]))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(produce, send_channel)
            nursery.start_soon(
                run_thread_consumer, read, receive_channel, chance.choice([1, 1000, 300_000])
            )
            for _ in range(chance.randrange(12)):
                await trio.lowlevel.checkpoint()
            if chance.random() < 0.3:
                await trio.sleep(chance.random() * 0.002)
            nursery.cancel_scope.cancel()

    async with assert_no_leaks():
        for _ in range(500):
            await run_once()
    assert _stream_limiter().borrowed_tokens == 0
    assert logged(caplog) == []
    assert len(ended) > 250
