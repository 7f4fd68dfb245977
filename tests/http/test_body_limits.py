"""Limits of a request's body: 413 for its size, 408 for its silence, and once is for ever."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import attrs
import pytest
import trio
from asgi import NO_BODY, Server, chunk, make_app
from inboxed import CHUNKED, on_each_source
from trio.testing import MockClock

from tsstream import BodyLimits, HTTPError, Request, Response, merge
from tsstream._http.watcher import LINGER

Kind = type[Server]
MIB = 1024 * 1024


async def ask(
    kind: Kind, look: Any, *requests: Any, headers: Any = CHUNKED, **limits: Any
) -> tuple[Any, Server]:
    """Give what *look* makes of the request under these limits, and the server that made it."""
    seen: list[Any] = []

    async def handler(request: Request[Any]) -> Response:
        seen.append(await look(request))
        return Response(b"ok")

    server = kind(*requests)
    app = make_app(handler, body_limits=BodyLimits(**limits))
    await server.call(app, "POST", headers=headers)
    return (seen[0] if seen else None), server


async def count(request: Request[Any]) -> int:
    return sum([len(data) async for data in request.body])


def declared(length: bytes) -> list[tuple[bytes, bytes]]:
    return [(b"content-length", length)]


# Size

SIX = {
    "one chunk": [chunk(b"123456", more=False)],
    "six chunks": [*[chunk(b"1")] * 6, chunk(b"", more=False)],
    "never ends": [chunk(b"1234"), chunk(b"56")],
}
LENGTHS = [None, b"6", b"3", b"x", b"", b"-6", b"6, 6", b"\xb2", b"9" * 30, b"9" * 5000]
TOO_LARGE = b"The request body is larger than 5 bytes."

six = pytest.mark.parametrize("requests", SIX.values(), ids=SIX)


@on_each_source
@six
@pytest.mark.parametrize("length", LENGTHS)
async def test_a_body_over_the_limit_is_a_413(
    kind: Kind, requests: list[Any], length: bytes | None, autojump_clock: MockClock
) -> None:
    # RQ-9, RQ-11, RQ-12
    headers = CHUNKED if length is None else declared(length)
    read = partial(Request.read, limit=5)
    _, server = await ask(kind, read, *requests, headers=headers)
    assert (server.status, server.complete) == (413, True)
    assert server.body == TOO_LARGE


@on_each_source
@six
@pytest.mark.parametrize("length", LENGTHS)
async def test_a_stream_over_its_limit_is_a_413_at_the_chunk_that_crosses_it(
    kind: Kind, requests: list[Any], length: bytes | None, autojump_clock: MockClock
) -> None:
    # RQ-11, RQ-12: nothing past the limit is handed out
    got: list[bytes] = []

    async def look(request: Request[Any]) -> None:
        async for data in request.body:
            got.append(data)

    headers = CHUNKED if length is None else declared(length)
    _, server = await ask(kind, look, *requests, headers=headers, max_stream=5)
    assert (server.status, server.complete) == (413, True)
    assert server.body == TOO_LARGE
    refused = length == b"6"
    expected = [] if refused else [message["body"] for message in requests[:-1]][:5]
    assert got == expected


@on_each_source
@pytest.mark.parametrize("read", [partial(Request.read, limit=5), count], ids=["read", "stream"])
async def test_a_body_that_is_declared_too_large_is_refused_before_it_is_read(
    kind: Kind, read: Any
) -> None:
    # RQ-11: and it is raised in the handler's call, which may catch it
    async def look(request: Request[Any]) -> int:
        with pytest.raises(HTTPError, match="413"):
            await read(request)
        return server.reads

    async def handler(request: Request[Any]) -> Response:
        reads.append(await look(request))
        return Response(b"caught")

    reads: list[int] = []
    server = kind(chunk(b"123456", more=False))
    app = make_app(handler, body_limits=BodyLimits(max_stream=5))
    await server.call(app, "POST", headers=declared(b"6"))
    assert reads == [0]
    assert (server.ok, server.body) == (True, b"caught")


@on_each_source
@pytest.mark.parametrize(("size", "limit"), [(0, 1), (1, 1), (6, 6), (6, 7)])
@pytest.mark.parametrize("headers", [CHUNKED, None], ids=["chunked", "declared"])
async def test_a_body_of_just_the_limit_is_read(
    kind: Kind, size: int, limit: int, headers: Any
) -> None:
    requests = [*[chunk(b"1")] * size, NO_BODY]
    headers = headers or declared(b"%d" % size)
    read = partial(Request.read, limit=limit)
    found, _ = await ask(kind, read, *requests, headers=headers, max_stream=limit)
    assert found == b"1" * size
    found, _ = await ask(kind, Request.read, *requests, headers=headers, max_body=limit)
    assert found == b"1" * size
    found, _ = await ask(kind, count, *requests, headers=headers, max_stream=limit)
    assert found == size


@on_each_source
async def test_the_default_limit_is_16_mib_and_streams_have_none(kind: Kind) -> None:
    # RQ-9, RQ-10
    mebibyte = bytes(MIB)

    def requests(size: int) -> list[Any]:
        return [*[chunk(mebibyte)] * size, NO_BODY]

    found, _ = await ask(kind, Request.read, *requests(16))
    assert len(found) == 16 * MIB
    for content in (requests(20), [*requests(16)[:-1], chunk(b"1", more=False)]):
        _, server = await ask(kind, Request.read, *content)
        assert server.status == 413
    found, _ = await ask(kind, count, *requests(20))
    assert found == 20 * MIB


@on_each_source
async def test_a_limit_of_one_read_may_be_larger_than_that_of_the_app(kind: Kind) -> None:
    read = partial(Request.read, limit=6)
    found, _ = await ask(kind, read, chunk(b"123456", more=False), max_body=5)
    assert found == b"123456"


@on_each_source
async def test_a_handler_may_change_the_limits_of_its_request(kind: Kind) -> None:
    async def look(request: Request[Any]) -> int:
        request.body_limits = attrs.evolve(request.body_limits, max_stream=6)
        return await count(request)

    requests = [chunk(b"123456", more=False)]
    found, _ = await ask(kind, look, *requests, headers=declared(b"6"), max_stream=5)
    assert found == 6
    _, server = await ask(kind, count, *requests, headers=declared(b"6"), max_stream=5)
    assert server.status == 413  # the limits of the app are what they were


@on_each_source
@pytest.mark.parametrize("headers", [CHUNKED, declared(b"8")], ids=["chunked", "declared"])
@pytest.mark.parametrize("first", [partial(Request.read, limit=5), count], ids=["read", "stream"])
async def test_a_body_over_the_limit_stays_over_it(kind: Kind, first: Any, headers: Any) -> None:
    # RQ-13: a second read must not give the rest as if it were all
    async def look(request: Request[Any]) -> None:
        readers = (first, Request.read, partial(Request.read, limit=100), Request.text)
        for read in (*readers, Request.json, count, lambda request: request.body.receive()):
            with pytest.raises(HTTPError, match="413") as caught:
                await read(request)
            assert caught.value.detail.encode() == TOO_LARGE
            request.body_limits = BodyLimits()  # too late

    content = chunk(b"123456"), chunk(b"78", more=False)
    _, server = await ask(kind, look, *content, headers=headers, max_stream=5)
    assert server.ok


# Silence


async def drip(server: Server, *, count: int, every: float) -> None:
    """Send chunks of one byte, and then the end."""
    for _ in range(count):
        await trio.sleep(every)
        server.put(chunk(b"a"))
    await trio.sleep(every)
    server.put(NO_BODY)


async def ask_slowly(
    kind: Kind, look: Any, *, count: int, every: float, **limits: Any
) -> tuple[Any, Server]:
    """Give what *look* makes of a body that comes byte by byte."""
    seen: list[Any] = []

    async def handler(request: Request[Any]) -> Response:
        seen.append(await look(request))
        return Response(b"ok")

    server = kind(chunk(b""))
    app = make_app(handler, body_limits=BodyLimits(**limits))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(drip, server, count=count, every=every))
        await server.call(app, "POST", headers=CHUNKED)
        nursery.cancel_scope.cancel()
    return (seen[0] if seen else None), server


reading = pytest.mark.parametrize(
    ("read", "expected"), [(Request.read, b"a" * 12), (count, 12)], ids=["read", "stream"]
)


@on_each_source
@reading
async def test_a_body_may_take_as_long_as_it_likes_if_it_is_never_silent(
    kind: Kind, read: Any, expected: object, autojump_clock: MockClock
) -> None:
    # RQ-14: a chunk in 50 s, for ten minutes, with the default limit of 60 s
    found, server = await ask_slowly(kind, read, count=12, every=50)
    assert (server.ok, found) == (True, expected)
    assert trio.current_time() == 650


@on_each_source
@reading
@pytest.mark.parametrize("before", [0, 1])
async def test_silence_for_the_limit_is_a_408(
    kind: Kind, read: Any, expected: object, before: int, autojump_clock: MockClock
) -> None:
    # RQ-14: of 61 s, before the first chunk or after it
    async def look(request: Request[Any]) -> None:
        if before:
            server.put(chunk(b"a"))
        try:
            await read(request)
        finally:
            times.append(trio.current_time())

    async def handler(request: Request[Any]) -> Response:
        await look(request)
        raise AssertionError

    times: list[float] = []
    server = kind(chunk(b""))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(server.call, make_app(handler), "POST"))
        await trio.sleep(61)
        server.put(NO_BODY)
    assert times == [60]
    assert (server.status, server.complete) == (408, True)
    assert server.body == b"The request body has paused for 60 seconds."


@on_each_source
async def test_silence_over_the_limit_stays_an_error(kind: Kind, autojump_clock: MockClock) -> None:
    # RQ-13, RQ-14
    async def look(request: Request[Any]) -> None:
        for read in (count, Request.read, count, Request.json):
            with pytest.raises(HTTPError, match="408"):
                await read(request)
            server.put(chunk(b"a"))

    async def handler(request: Request[Any]) -> Response:
        await look(request)
        server.put(NO_BODY)
        return Response(b"ok")

    server = kind(chunk(b""))
    await server.call(make_app(handler), "POST")
    assert server.ok
    assert trio.current_time() == 60


@on_each_source
@pytest.mark.parametrize("limit", [300, None])
async def test_the_limit_of_one_request_can_be_changed(
    kind: Kind, limit: float | None, autojump_clock: MockClock
) -> None:
    # RQ-14
    async def look(request: Request[Any]) -> int:
        request.body_limits = attrs.evolve(request.body_limits, timeout=limit)
        return await count(request)

    every = 299 if limit else 100_000
    found, _ = await ask_slowly(kind, look, count=3, every=every)
    assert found == 3
    if limit:
        _, server = await ask_slowly(kind, look, count=3, every=301)
        assert server.status == 408


@on_each_source
async def test_a_limit_that_is_changed_between_two_chunks_holds_for_the_next(
    kind: Kind, autojump_clock: MockClock
) -> None:
    # RQ-14: longer, shorter, and none
    async def look(request: Request[Any]) -> list[float]:
        times = []
        for limit in (None, 20, 100, None):
            request.body_limits = BodyLimits(timeout=limit)
            assert await request.body.receive() == b"a"
            times.append(trio.current_time())
        request.body_limits = BodyLimits(timeout=5)
        with pytest.raises(HTTPError, match="408"):
            await request.body.receive()
        return [*times, trio.current_time()]

    found, _ = await ask_slowly(kind, look, count=10, every=15)
    assert found == [15, 30, 45, 60, 65]


@on_each_source
async def test_the_time_that_a_handler_takes_is_no_silence(
    kind: Kind, autojump_clock: MockClock
) -> None:
    # RQ-14: only who waits can be kept waiting
    async def look(request: Request[Any]) -> int:
        await trio.sleep(1000)
        got = 0
        async for data in request.body:
            got += len(data)
            await trio.sleep(1000)
        return got

    found, server = await ask_slowly(kind, look, count=12, every=50)
    assert (server.ok, found) == (True, 12)


@on_each_source
async def test_a_receive_that_was_cancelled_leaves_no_limit_behind(
    kind: Kind, autojump_clock: MockClock
) -> None:
    # RQ-14
    async def look(request: Request[Any]) -> bytes:
        with trio.move_on_after(45):
            await request.body.receive()
        assert trio.current_time() == 45
        await request.body.receive()  # at 50
        return await request.body.receive()  # at 100; the first wait would end at 60

    found, server = await ask_slowly(kind, look, count=2, every=50)
    assert (server.ok, found) == (True, b"a")


@on_each_source
async def test_who_polls_waits_all_the_same(kind: Kind, autojump_clock: MockClock) -> None:
    # RQ-14
    async def look(request: Request[Any]) -> bytes:
        while True:
            with trio.move_on_after(7):
                return await request.body.receive()
            await trio.sleep(1)  # nobody waits for the body here

    _, server = await ask_slowly(kind, look, count=1, every=100)
    assert server.status == 408
    assert 68 <= trio.current_time() <= 68 + LINGER


@on_each_source
@pytest.mark.parametrize("fault", ["silence", "size"])
async def test_a_limit_that_is_crossed_after_the_start_is_a_cut(
    kind: Kind, fault: str, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    # RQ-14, D24: the client's doing, which is not to write tracebacks
    async def send_back(request: Any, send_channel: trio.MemorySendChannel[bytes]) -> None:
        async for data in request.body:
            await send_channel.send(data)

    @asynccontextmanager
    async def echo(request: Request[Any]) -> AsyncIterator[Response]:
        async with merge(partial(send_back, request)) as chunks:
            yield Response(chunks)

    server = kind(chunk(b"ab"), *([chunk(b"cdef")] if fault == "size" else []))
    app = make_app(echo, body_limits=BodyLimits(max_stream=5))
    await server.call(app, "POST")
    assert (server.status, server.body, server.complete) == (200, b"ab", False)
    assert isinstance(server.error, HTTPError)
    assert server.error.status_code == (413 if fault == "size" else 408)
    assert [(r.levelname, r.exc_info) for r in caplog.records] == [("WARNING", None)]


@pytest.mark.parametrize("field", ["max_body", "max_stream", "timeout", "max_parts", "max_field"])
@pytest.mark.parametrize("value", [0, -1])
def test_a_limit_is_above_0(field: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{field} is a number above 0"):
        BodyLimits(**{field: value})
