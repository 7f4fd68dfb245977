"""Handlers that yield their response: both directions are open until they are left."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
from asgi import DISCONNECT, Server, chunk, make_app
from inboxed import Inboxed, on_each_source
from trio.testing import MockClock, wait_all_tasks_blocked

from tsstream import HTTPError, Response, StreamPolicy, merge
from tsstream.testing import open_client


async def shout(body: Any, send_channel: trio.MemorySendChannel[bytes]) -> None:
    async for data in body:
        await send_channel.send(data.upper())


@asynccontextmanager
async def echo(request: Any) -> AsyncIterator[Response]:
    async with merge(partial(shout, request.body)) as chunks:
        yield Response(chunks)


async def test_a_chunk_is_answered_before_the_next_is_sent() -> None:
    # ET-15: lockstep
    upload, body = trio.open_memory_channel[bytes](0)
    async with open_client(make_app(echo)) as client:
        async with trio.open_nursery() as nursery:

            async def send(data: bytes) -> None:
                await upload.send(data)

            nursery.start_soon(send, b"a")
            async with client.stream("POST", "/", content=body) as response:
                assert await response.body.receive() == b"A"
                for letter in "bcd":
                    await upload.send(letter.encode())
                    assert await response.body.receive() == letter.upper().encode()
                await upload.aclose()
                with pytest.raises(trio.EndOfChannel):
                    await response.body.receive()


async def test_the_order_of_a_yielded_response() -> None:
    # AC-10
    log: list[str] = []
    tasks: list[trio.lowlevel.Task] = []

    def note(event: str) -> None:
        log.append(event)
        tasks.append(trio.lowlevel.current_task())

    @asynccontextmanager
    async def body() -> AsyncIterator[list[bytes]]:
        note("enter body")
        yield [b"a"]
        note("exit body")

    @asynccontextmanager
    async def handler(request: object) -> AsyncIterator[Response]:
        note("enter")
        yield Response(body())
        note("exit")

    async def on_send(message: Any) -> None:
        if not message.get("more_body", True):
            log.append("end")

    server = Server(on_send=on_send)
    await server.call(make_app(handler))
    assert log == ["enter", "enter body", "exit body", "exit", "end"]
    assert set(tasks) == {trio.lowlevel.current_task()}  # AC-11


async def test_a_yielded_response_is_transformed() -> None:
    @asynccontextmanager
    async def handler(request: object) -> AsyncIterator[Response]:
        yield Response(b"a")

    def transform(request: object, response: Response) -> Response:
        return Response(b"b", 201)

    server = Server()
    await server.call(make_app(handler, transforms=[transform]))
    assert (server.status, server.body) == (201, b"b")


@pytest.mark.parametrize("given", ["abc", b"abc", ["a", "bc"]], ids=repr)
async def test_what_is_yielded_may_be_any_content(given: Any) -> None:
    @asynccontextmanager
    async def handler(request: object) -> AsyncIterator[Any]:
        yield given

    server = Server()
    await server.call(make_app(handler))
    assert (server.body, server.complete) == (b"abc", True)


# Errors


@pytest.mark.parametrize(("error", "status"), [(ValueError(), 500), (HTTPError(415), 415)])
async def test_an_error_on_entering_is_a_status(error: Exception, status: int) -> None:
    # D4
    @asynccontextmanager
    async def handler(request: object) -> AsyncIterator[Response]:
        raise error
        yield Response()

    server = Server()
    await server.call(make_app(handler))
    assert (server.status, server.complete) == (status, True)


async def test_an_error_on_leaving_is_a_cut() -> None:
    # D12, AC-22
    @asynccontextmanager
    async def handler(request: object) -> AsyncIterator[Response]:
        yield Response([b"a"])
        raise ValueError

    server = Server()
    await server.call(make_app(handler))
    assert (server.body, server.complete) == (b"a", False)
    assert isinstance(server.error, ValueError)


async def test_an_error_on_leaving_an_empty_response_is_a_500() -> None:
    # D8
    @asynccontextmanager
    async def handler(request: object) -> AsyncIterator[Response]:
        yield Response([])
        raise ValueError

    server = Server()
    await server.call(make_app(handler))
    assert (server.status, server.complete) == (500, True)


class Failing:
    """A body that gives some items and then an error."""

    def __init__(self, *items: bytes, error: Exception) -> None:
        self.items = items
        self.error = error

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for item in self.items:
            yield item
        raise self.error


@pytest.mark.parametrize("items", [(), (b"a",)], ids=["before the start", "after it"])
async def test_a_handler_that_suppresses_the_error_of_its_body_does_not_hide_it(
    items: Any,
) -> None:
    # D11, AC-21
    seen: list[Exception] = []

    @asynccontextmanager
    async def handler(request: object) -> AsyncIterator[Response]:
        try:
            yield Response(Failing(*items, error=ValueError("broken")))
        except ValueError as error:
            seen.append(error)

    server = Server()
    await server.call(make_app(handler))
    assert len(seen) == 1
    if items:
        assert (server.status, server.complete) == (200, False)
        assert server.error is seen[0]
    else:
        assert (server.status, server.complete) == (500, True)


async def test_a_handler_that_suppresses_its_own_type_error_does_not_hide_it() -> None:
    # D3
    @asynccontextmanager
    async def handler(request: object) -> AsyncIterator[Any]:
        try:
            yield None
        except TypeError:
            pass

    server = Server()
    await server.call(make_app(handler))
    assert (server.status, server.complete) == (500, True)


async def test_an_exit_that_is_too_slow_is_cut(autojump_clock: MockClock) -> None:
    # D13
    @asynccontextmanager
    async def handler(request: object) -> AsyncIterator[Response]:
        yield Response([b"a"])
        await trio.sleep_forever()

    server = Server()
    await server.call(make_app(handler, policy=StreamPolicy(exit=3)))
    assert trio.current_time() == 3
    assert not server.complete


# HEAD and 204


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204)], ids=["HEAD", "204"])
async def test_a_handler_whose_response_gets_no_body_is_left_by_cancellation(
    method: str, status: int, autojump_clock: MockClock
) -> None:
    # D35, AC-14
    log: list[str] = []

    async def produce(send_channel: trio.MemorySendChannel[bytes]) -> None:
        try:
            while True:
                await send_channel.send(b"a")
        finally:
            log.append("produced")

    @asynccontextmanager
    async def handler(request: object) -> AsyncIterator[Response]:
        send_channel, receive_channel = trio.open_memory_channel[bytes](0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(produce, send_channel)
            yield Response(receive_channel) if status == 200 else Response(b"", status)

    server = Server()
    await server.call(make_app(handler), method)
    assert (server.status, server.body, server.complete) == (status, b"", True)
    assert log == ["produced"]
    assert trio.current_time() == 0


async def test_an_error_on_leaving_after_head_is_a_500() -> None:
    @asynccontextmanager
    async def handler(request: object) -> AsyncIterator[Response]:
        try:
            yield Response([b"a"])
        finally:
            raise ValueError

    server = Server()
    await server.call(make_app(handler), "HEAD")
    assert server.status == 500


async def test_producers_that_find_their_channel_closed_after_head_are_no_error() -> None:
    # AC-15, D35
    async def produce(send_channel: trio.MemorySendChannel[bytes]) -> None:
        with trio.CancelScope(shield=True):
            while True:
                await send_channel.send(b"a")

    @asynccontextmanager
    async def handler(request: object) -> AsyncIterator[Response]:
        send_channel, receive_channel = trio.open_memory_channel[bytes](0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(produce, send_channel)
            with receive_channel:
                yield Response(receive_channel)

    server = Server()
    await server.call(make_app(handler), "HEAD")
    assert (server.status, server.complete) == (200, True)


# The request's body meanwhile (RQ-23)


async def read_on(request: Any, seen: list[Any]) -> None:
    try:
        seen.append(await request.body.receive())
    except Exception as error:
        seen.append(error)


@on_each_source
@pytest.mark.parametrize("content", [[b"a"], b"a"], ids=["stream", "whole"])
async def test_a_body_that_nobody_opened_is_dropped_when_the_response_starts(
    kind: type[Server], content: Any
) -> None:
    # RQ-22, RQ-23
    seen: list[Any] = []

    @asynccontextmanager
    async def handler(request: Any) -> AsyncIterator[Response]:
        yield Response(content)
        await wait_all_tasks_blocked()
        assert server.reads >= 3
        await read_on(request, seen)

    server = kind(chunk(b"1"), chunk(b"2"), chunk(b"3", more=False))
    await server.call(make_app(handler), "POST")
    assert server.ok
    assert isinstance(seen[0], trio.ClosedResourceError)
    assert "write 'body = request.body' before yielding the response" in str(seen[0])


@on_each_source
async def test_a_body_that_was_opened_waits_for_its_reader(kind: type[Server]) -> None:
    # RQ-1, RQ-23
    seen: list[Any] = []

    @asynccontextmanager
    async def handler(request: Any) -> AsyncIterator[Response]:
        await read_on(request, seen)
        yield Response([b"a"])
        await wait_all_tasks_blocked()
        assert server.reads == (1 if isinstance(server, Inboxed) else 2)
        await read_on(request, seen)
        await read_on(request, seen)

    server = kind(chunk(b"1"), chunk(b"2"), chunk(b"3", more=False))
    await server.call(make_app(handler), "POST")
    assert seen == [b"1", b"2", b"3"]
    assert server.ok


@on_each_source
async def test_a_body_that_the_handler_closed_is_dropped(kind: type[Server]) -> None:
    # RQ-23
    @asynccontextmanager
    async def handler(request: Any) -> AsyncIterator[Response]:
        await request.body.receive()
        await request.body.aclose()
        yield Response([b"a"])
        await trio.sleep_forever()

    server = kind(*[chunk(b"1")] * 5, DISCONNECT)
    await server.call(make_app(handler), "POST")
    assert server.reads >= 5
    assert server.error is None


@on_each_source
async def test_a_body_that_was_read_to_its_end_does_not_hide_a_disconnect(
    kind: type[Server],
) -> None:
    # RQ-23, RQ-27
    @asynccontextmanager
    async def handler(request: Any) -> AsyncIterator[Response]:
        assert await request.read() == b"12"
        yield Response(trio.open_memory_channel[bytes](0)[1], live=True)

    server = kind(chunk(b"1"), chunk(b"2", more=False), DISCONNECT)
    await server.call(make_app(handler), "POST")
    assert not server.complete
    assert server.error is None


@on_each_source
async def test_a_handler_that_answers_before_it_has_read_everything_is_complete(
    kind: type[Server],
) -> None:
    @asynccontextmanager
    async def handler(request: Any) -> AsyncIterator[Response]:
        first = await request.body.receive()
        yield Response([first])

    server = kind(chunk(b"1"), chunk(b"2"), chunk(b"3", more=False))
    await server.call(make_app(handler), "POST")
    assert (server.body, server.complete) == (b"1", True)
    assert isinstance(server, Inboxed) or server.reads >= 3
