"""Async generators in a task and blocking iterators in a thread, as bodies of responses."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import pytest
import trio

from tsstream import App, Response
from tsstream.testing import TruncatedBodyError, open_client


async def read(response: Response) -> bytes:
    async with response as chunks:
        return b"".join([chunk async for chunk in chunks])


async def test_a_handler_may_itself_be_an_async_generator() -> None:
    # D31
    app: App[None] = App()

    @app.get("/")
    async def handler(request: object) -> AsyncGenerator[bytes, None]:
        yield b"a"
        yield b"b"

    async with open_client(app) as client:
        assert (await client.get("/")).content == b"ab"


@pytest.mark.parametrize("children", [0, 1])
async def test_a_bare_generator_may_hold_a_nursery_round_its_yield(children: int) -> None:
    # AC-40, D31
    async def items() -> AsyncGenerator[bytes, None]:
        async with trio.open_nursery() as nursery:
            for _ in range(children):
                nursery.start_soon(trio.sleep_forever)
            yield b"a"  # noqa: ASYNC101, ASYNC119
            yield b"b"  # noqa: ASYNC101, ASYNC119
            nursery.cancel_scope.cancel()

    async with Response(items()) as chunks:
        assert await chunks.receive() == b"a"
    assert await read(Response(items())) == b"ab"


async def test_an_error_of_a_nursery_round_a_yield_is_the_bodys() -> None:
    # AC-40
    async def fail() -> None:
        raise ValueError("broken")

    async def items() -> AsyncGenerator[bytes, None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail)
            yield b"a"  # noqa: ASYNC101, ASYNC119
            await trio.sleep_forever()

    with pytest.raises(ValueError, match="broken"):
        await read(Response(items()))


async def test_an_error_while_a_generator_is_closed_is_the_bodys() -> None:
    async def items() -> AsyncGenerator[bytes, None]:
        try:
            async with trio.open_nursery():
                yield b"a"  # noqa: ASYNC101, ASYNC119
        finally:
            raise ValueError("cleanup")

    with pytest.raises(ValueError, match="cleanup"):
        async with Response(items()) as chunks:
            await chunks.receive()


# Blocking iterators


def test_no_blocking_iterator_is_touched_before_it_is_sent() -> None:
    # AC-2
    def items() -> Iterator[bytes]:
        raise AssertionError
        yield b""

    Response(items())


async def test_a_blocking_iterator_streams_from_one_thread_and_is_closed_there() -> None:
    # AC-31, D29
    threads: list[int] = []
    go_on = threading.Event()

    def items() -> Iterator[bytes]:
        threads.append(threading.get_ident())
        try:
            yield b"a"
            go_on.wait(10)
            yield b"b"
        finally:
            threads.append(threading.get_ident())

    async with Response(items()) as chunks:
        assert await chunks.receive() == b"a"  # while the iterator blocks: no list()
        go_on.set()
        assert await chunks.receive() == b"b"
        with pytest.raises(trio.EndOfChannel):
            await chunks.receive()
    assert len(threads) == 2
    assert len({*threads, threading.get_ident()}) == 2


async def test_a_blocking_iterator_is_at_most_one_item_ahead() -> None:
    # AC-31
    given: list[int] = []

    def items() -> Iterator[bytes]:
        for number in range(1000):
            given.append(number)
            yield b"%d" % number

    async with Response(items()) as chunks:
        for number in range(100):
            assert await chunks.receive() == b"%d" % number
            assert len(given) <= number + 2


async def test_a_blocking_iterator_that_is_left_early_is_closed_in_its_thread() -> None:
    # AC-31
    closed = threading.Event()
    threads: list[int] = []

    def items() -> Iterator[bytes]:
        try:
            while True:
                threads.append(threading.get_ident())
                yield b"a"
        finally:
            threads.append(threading.get_ident())
            closed.set()

    async with Response(items()) as chunks:
        await chunks.receive()
    assert await trio.to_thread.run_sync(closed.wait, 10)
    assert len(set(threads)) == 1


async def test_an_error_of_a_blocking_iterator_is_the_bodys() -> None:
    def items() -> Iterator[bytes]:
        yield b"a"
        raise ValueError("broken")

    app: App[None] = App()

    @app.get("/")
    async def handler(request: object) -> Any:
        return items()

    async with open_client(app) as client:
        async with client.stream("GET", "/") as response:
            assert await response.body.receive() == b"a"
            with pytest.raises(TruncatedBodyError) as caught:
                await response.body.receive()
    assert isinstance(caught.value.__cause__, ValueError)
