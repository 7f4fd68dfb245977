"""The body of a request as a channel: one chunk ahead, one reader, and no false end."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
from asgi import NO_BODY, chunk, make_app
from inboxed import Inboxed, Kind, Reader, ask, on_each_source, read_all
from trio.testing import MockClock, wait_all_tasks_blocked

from tsstream import BodyConsumed, Request, Response, merge


@on_each_source
@pytest.mark.parametrize(
    ("requests", "chunks"),
    [
        ([{"type": "http.request"}], []),  # RQ-7
        ([chunk(b"", more=False)], []),  # RQ-8
        ([chunk(b"a", more=False)], [b"a"]),  # RQ-8
        ([{"type": "http.request", "body": b"a"}], [b"a"]),  # RQ-7
        ([chunk(b"a"), chunk(b""), chunk(b"b"), chunk(b"", more=False)], [b"a", b"b"]),  # RQ-6
        ([chunk(b"a"), chunk(b"b", more=False)], [b"a", b"b"]),
        ([chunk(b"a"), {"type": "http.request", "more_body": True}, NO_BODY], [b"a"]),  # RQ-7
    ],
)
async def test_chunks_in_order_and_never_empty(
    kind: Kind, requests: list[Any], chunks: list[bytes]
) -> None:
    found, server = await ask(kind, read_all, *requests)
    assert found == chunks
    assert server.ok


@on_each_source
@pytest.mark.parametrize(
    ("method", "version"), [("GET", "1.1"), ("HEAD", "1.1"), ("POST", "1.0"), ("GET", "2")]
)
async def test_a_body_is_a_body_whatever_its_method_and_version(
    kind: Kind, method: str, version: str
) -> None:
    async def handler(request: Request[Any]) -> bytes:
        seen.append(await request.read())
        return b"ok"

    seen: list[bytes] = []
    headers = [(b"content-length", b"3")]
    server = kind(chunk(b"a"), chunk(b"bc", more=False))
    await server.call(make_app(handler), method, http_version=version, headers=headers)
    assert (server.ok, seen) == (True, [b"abc"])


@on_each_source
async def test_no_more_than_one_chunk_is_read_ahead(kind: Kind) -> None:
    # RQ-1
    ahead: list[int] = []

    async def handler(request: Request[Any]) -> Response:
        number = 0
        async for data in request.body:
            assert data == b"%d" % number
            await wait_all_tasks_blocked()
            ahead.append(server.reads - number)
            number += 1
        return Response(b"ok")

    server = kind(*[chunk(b"%d" % number, more=number < 99) for number in range(100)])
    await server.call(make_app(handler), "POST")
    assert server.ok
    assert len(ahead) == 100
    assert max(ahead) <= 2


async def test_on_the_guarded_server_nothing_is_received_that_nobody_asks_for() -> None:
    # RQ-1: what is read ahead is the server's, and so is the time of 100 Continue
    async def look(request: Request[Any]) -> int:
        await wait_all_tasks_blocked()
        return server.reads

    async def handler(request: Request[Any]) -> Response:
        reads.append(await look(request))
        assert await request.body.receive() == b"a"
        reads.append(await look(request))
        return Response(b"ok")

    reads: list[int] = []
    server = Inboxed(chunk(b"a"), chunk(b"b"), NO_BODY)
    await server.call(make_app(handler), "POST")
    assert reads == [0, 1]


# One reader


@on_each_source
async def test_receive_has_one_reader_and_nothing_of_the_body_is_lost(kind: Kind) -> None:
    # RQ-31: Server.receive() raises if it is called by two tasks
    async def look(request: Request[Any]) -> bytes:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(request.disconnected.wait)
            data = await request.read()
            nursery.cancel_scope.cancel()
        return data

    found, server = await ask(kind, look, *[chunk(b"a")] * 100, chunk(b"", more=False))
    assert found == b"a" * 100
    assert server.error is None
    assert not isinstance(server, Inboxed) or server.inbox.most_readers == 1


@on_each_source
async def test_an_echo_that_watches_for_the_disconnect_loses_nothing(kind: Kind) -> None:
    # RQ-31
    async def send_back(request: Any, send_channel: trio.MemorySendChannel[bytes]) -> None:
        async for data in request.body:
            await send_channel.send(data)

    @asynccontextmanager
    async def echo(request: Request[Any]) -> AsyncIterator[Response]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(request.disconnected.wait)
            async with merge(partial(send_back, request)) as chunks:
                yield Response(chunks)
            nursery.cancel_scope.cancel()

    server = kind(*[chunk(b"%d," % number, more=number < 99) for number in range(100)])
    await server.call(make_app(echo), "POST")
    assert server.body == b"".join(b"%d," % number for number in range(100))
    assert server.ok
    assert not isinstance(server, Inboxed) or server.inbox.most_readers == 1


@on_each_source
async def test_two_tasks_cannot_read_one_body(kind: Kind) -> None:
    # RQ-18
    async def handler(request: Request[Any]) -> Response:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(first.receive_into, request)
            await wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError, match="let one task read it and pass on"):
                await request.body.receive()
            with pytest.raises(trio.BusyResourceError):
                await read_all(request)
            server.put(chunk(b"a"))
        assert first.got == [b"a"]
        server.put(chunk(b"b", more=False))
        assert await read_all(request) == [b"b"]
        return Response(b"ok")

    first = Reader()
    server = kind(chunk(b""))
    await server.call(make_app(handler), "POST")
    assert server.ok


# Once is once


@on_each_source
async def test_a_body_that_was_iterated_cannot_be_iterated_again(kind: Kind) -> None:
    # RQ-17, first case
    async def look(request: Request[Any]) -> None:
        assert await read_all(request) == [b"a", b"b"]
        for again in (read_all, Request.read):
            with pytest.raises(BodyConsumed):
                await again(request)
        with pytest.raises(trio.EndOfChannel):
            await request.body.receive()

    _, server = await ask(kind, look, chunk(b"a"), chunk(b"b", more=False))
    assert server.ok


@on_each_source
@pytest.mark.parametrize("data", [b"", b"ab"])
async def test_a_body_that_was_read_is_iterated_once_as_one_chunk(kind: Kind, data: bytes) -> None:
    # RQ-17, second case
    async def look(request: Request[Any]) -> None:
        assert await request.read() == data
        assert await read_all(request) == ([data] if data else [])
        with pytest.raises(BodyConsumed):
            await read_all(request)
        assert await request.read() == data  # RQ-15: it is kept all the same

    _, server = await ask(kind, look, *[chunk(bytes([byte])) for byte in data], NO_BODY)
    assert server.ok


@on_each_source
async def test_the_rest_of_a_body_is_not_taken_for_the_whole(kind: Kind) -> None:
    # RQ-17, third case
    async def look(request: Request[Any]) -> None:
        async for data in request.body:
            assert data == b"a"
            break
        with pytest.raises(BodyConsumed, match="or a part of it"):
            await request.read()
        assert await read_all(request) == [b"b"]  # to go on is another thing

    _, server = await ask(kind, look, chunk(b"a"), chunk(b"b", more=False))
    assert server.ok


@on_each_source
async def test_a_body_that_is_not_kept_is_read_once(kind: Kind) -> None:
    # RQ-16
    async def look(request: Request[Any]) -> None:
        assert await request.read(cache=False) == b"ab"
        for again in (Request.read, Request.text, read_all):
            with pytest.raises(BodyConsumed):
                await again(request)

    _, server = await ask(kind, look, chunk(b"a"), chunk(b"b", more=False))
    assert server.ok


@on_each_source
@pytest.mark.parametrize("at", [0.5, 1.5], ids=["before the first chunk", "in the middle"])
async def test_a_read_that_was_cancelled_is_not_repeated_with_the_rest(
    kind: Kind, at: float, autojump_clock: MockClock
) -> None:
    # RQ-17
    async def look(request: Request[Any]) -> None:
        with trio.move_on_after(at) as scope:
            await request.read()
        assert scope.cancelled_caught
        with pytest.raises(BodyConsumed):
            await request.read()
        assert b"".join(await read_all(request)) == b"ab"[int(at) :]  # which is there all the same

    async def handler(request: Request[Any]) -> Response:
        await look(request)
        return Response(b"ok")

    server = kind(chunk(b""))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(server.call, make_app(handler), "POST"))
        for data, more in ((b"a", True), (b"b", False)):
            await trio.sleep(1)
            server.put(chunk(data, more=more))
    assert server.ok


# Cancellation


@on_each_source
@pytest.mark.parametrize("seed", range(10))
async def test_a_receive_that_is_cancelled_loses_nothing(
    kind: Kind, seed: int, autojump_clock: MockClock
) -> None:
    # STYLE S11: timers only round waits that are atomic, and this is one
    rng = random.Random(seed)
    sent = [b"%d," % number for number in range(100)]

    async def handler(request: Request[Any]) -> Response:
        got: list[bytes] = []
        while True:  # noqa: ASYNC913
            with trio.move_on_after(rng.choice([0, 0, 1, 2, 3])):  # noqa: ASYNC912
                try:
                    got.append(await request.body.receive())
                except trio.EndOfChannel:
                    return Response(got)

    async def feed() -> None:
        for data in sent:
            await trio.sleep(rng.choice([0, 0, 0, 1, 2]))
            server.put(chunk(data))
        server.put(NO_BODY)

    server = kind(chunk(b""))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(server.call, make_app(handler), "POST"))
        nursery.start_soon(feed)
    assert server.body == b"".join(sent)
    assert server.ok
