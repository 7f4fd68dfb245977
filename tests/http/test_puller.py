"""On the guarded server: whoever reads the body receives it, and else nobody does."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import attrs
import pytest
import trio
from asgi import DISCONNECT, NO_BODY, chunk, make_app
from inboxed import CHUNKED, Inboxed
from probes import Endings, logged
from trio.testing import MockClock, wait_all_tasks_blocked

from tsstream import BodyLimits, HTTPError, Request, Response

MIB = 1024 * 1024


async def wait(request: object) -> Response:
    await trio.sleep_forever()
    raise AssertionError


async def read_on(request: Any) -> Response:
    await request.read()
    raise AssertionError


async def endless(request: object) -> Response:
    async def items() -> AsyncIterator[bytes]:
        yield b"a"
        await trio.sleep_forever()

    return Response(items())


@asynccontextmanager
async def yield_endless(request: Any) -> AsyncIterator[Response]:
    yield await endless(request)


WAITING = [wait, read_on, endless, yield_endless]


# The client's leaving is told, not received


@pytest.mark.parametrize("handler", WAITING)
async def test_a_client_that_has_left_before_the_app_is_called_has_left(
    handler: Any, caplog: pytest.LogCaptureFixture
) -> None:
    # RQ-28: its head and its FIN may come at once; or a middleware took its time
    told = Endings()
    server = Inboxed(chunk(b"a"), chunk(b"b"))
    server.leave()
    await server.call(make_app(handler, on_end=told), "POST")
    assert told.reasons == ["disconnect"]
    assert (server.error, server.complete, logged(caplog)) == (None, False, [])


async def test_a_client_that_leaves_a_first_call_of_the_app_has_left_the_second_too() -> None:
    # a middleware that tries again
    async def handler(request: Any) -> Response:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(request.body.receive)
            await wait_all_tasks_blocked()
            server.leave()
        raise AssertionError

    told = Endings()
    app = make_app(handler, on_end=told)

    async def twice(scope: Any, receive: Any, send: Any) -> None:
        for _ in range(2):
            await app(scope, receive, send)

    server = Inboxed(chunk(b""))
    await server.call(twice, "POST")
    assert told.reasons == ["disconnect"] * 2


@pytest.mark.parametrize("handler", WAITING)
async def test_a_disconnect_is_heard_once_all_that_came_before_was_dropped_or_not(
    handler: Any,
) -> None:
    # RQ-22, RQ-27 to RQ-29: whoever waits, wherever, whatever is pending
    told = Endings()
    server = Inboxed(*[chunk(b"a")] * 50)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(server.call, make_app(handler, on_end=told), "POST"))
        await wait_all_tasks_blocked()
        assert told.seen == []
        server.leave()
        for _ in range(10):  # passes of the scheduler
            await trio.lowlevel.checkpoint()
        assert told.reasons == ["disconnect"]
    assert server.error is None


async def test_the_app_says_that_it_minds_the_silence() -> None:
    # RQ-14: its own limit decides, not serve(body_timeout=)
    async def handler(request: object) -> bytes:
        seen.append(server.client.times_body)
        return b"ok"

    seen: list[bool] = []
    server = Inboxed()
    await server.call(make_app(handler), "POST")
    assert seen == [True]


async def test_a_middleware_that_receives_for_the_app_is_asked_and_nobody_else() -> None:
    # RQ-31: what it does with the messages must be seen
    async def handler(request: Any) -> bytes:
        times.append(server.client.times_body)
        data: bytes = await request.read()
        return data

    app = make_app(handler)

    async def shouting(scope: Any, receive: Any, send: Any) -> None:
        async def receive_louder() -> Any:
            message = await receive()
            return {**message, "body": message.get("body", b"").upper()}

        await app(scope, receive_louder, send)

    times: list[bool] = []
    server = Inboxed(chunk(b"a"), chunk(b"b", more=False))
    await server.call(shouting, "POST")
    assert (server.body, server.ok) == (b"AB", True)
    assert times == [False]
    assert server.inbox.most_readers == 1


# 100 Continue


async def refuse(request: object) -> Response:
    raise HTTPError(401)


async def answer(request: object) -> Response:
    await wait_all_tasks_blocked()
    return Response(b"ok")


async def stream(request: object) -> Response:
    async def items() -> AsyncIterator[bytes]:
        for _ in range(3):
            await wait_all_tasks_blocked()
            yield b"a"

    return Response(items())


@asynccontextmanager
async def yield_stream(request: Any) -> AsyncIterator[Response]:
    yield await stream(request)


@asynccontextmanager
async def refuse_to_yield(request: Any) -> AsyncIterator[Response]:
    raise HTTPError(413)
    yield Response()


@asynccontextmanager
async def open_and_yield(request: Any) -> AsyncIterator[Response]:
    assert request.body is not None
    yield await stream(request)


async def read_too_much(request: Any) -> Response:
    return Response(await request.read(limit=5))


async def stream_too_much(request: Any) -> Response:
    request.body_limits = BodyLimits(max_stream=5)
    return Response(await request.body.receive())


async def close(request: Any) -> Response:
    request.body.close()
    return await stream(request)


@pytest.mark.parametrize(
    ("handler", "status"),
    [
        (refuse, 401),
        (answer, 200),
        (stream, 200),
        (yield_stream, 200),
        (refuse_to_yield, 413),
        (open_and_yield, 200),
        (read_too_much, 413),
        (stream_too_much, 413),
        (close, 200),
    ],
)
async def test_a_client_that_waits_is_not_invited_if_nobody_reads(
    handler: Any, status: int
) -> None:
    headers = [(b"content-length", b"100"), (b"expect", b"100-continue")]
    server = Inboxed(chunk(b""))
    await server.call(make_app(handler), "POST", headers=headers)
    assert (server.status, server.complete) == (status, True)
    assert not server.wanted


async def test_a_client_that_waits_is_invited_when_somebody_reads() -> None:
    async def handler(request: Any) -> bytes:
        await wait_all_tasks_blocked()
        assert not server.wanted
        async with trio.open_nursery() as nursery:
            nursery.start_soon(request.body.receive)
            await wait_all_tasks_blocked()
            assert server.wanted
            server.put(chunk(b"ab", more=False))
        return b"ok"

    headers = [(b"content-length", b"2"), (b"expect", b"100-continue")]
    server = Inboxed(chunk(b""))
    await server.call(make_app(handler), "POST", headers=headers)
    assert server.ok


# What nobody reads is dropped


@pytest.mark.parametrize("expect", [b"", b"100-continue", b"100-Continue"])
@pytest.mark.parametrize("opened", [False, True])
@pytest.mark.parametrize("left", [False, True])
async def test_what_nobody_reads_is_dropped_while_the_response_goes_on(
    opened: bool, left: bool, expect: bytes
) -> None:
    # RQ-22, RQ-23: also of a client that said it would wait to be invited, and then did not
    @asynccontextmanager
    async def handler(request: Any) -> AsyncIterator[Response]:
        if opened:
            await request.body.receive()
            await request.body.aclose()
        yield Response(until_all_is_dropped())

    async def until_all_is_dropped() -> AsyncIterator[bytes]:
        yield b"a"
        await wait_all_tasks_blocked()
        assert not server._script
        assert not server.inbox.size
        yield b"b"

    headers = [*CHUNKED, (b"expect", expect)]
    server = Inboxed(*[chunk(bytes(64 * 1024))] * 80, DISCONNECT if left else NO_BODY)
    await server.call(make_app(handler), "POST", headers=headers)
    assert server.error is None
    assert server.body in ([b"", b"a"] if left else [b"ab"])
    assert server.ok is not left


async def test_who_drops_a_body_of_tiny_chunks_lets_others_run() -> None:
    async def handler(request: Any) -> Response:
        return Response(items(request))

    async def items(request: Any) -> AsyncIterator[bytes]:
        yield b"a"
        before = server.reads
        await trio.lowlevel.checkpoint()
        assert server.reads - before < 10
        yield b"b"

    server = Inboxed(*[chunk(b"a")] * 1000, NO_BODY)
    await server.call(make_app(handler), "POST")
    assert server.ok


# Chunks, closing, silence and leaving, all in one moment


@attrs.define
class Moments:
    """Pauses of every kind; one is as long as the limit of silence."""

    rng: random.Random
    limit: float = 10.0  # seconds

    async def pause(self) -> None:
        kind = self.rng.randrange(6)
        for _ in range(kind):
            await trio.lowlevel.checkpoint()
        if kind == 4:
            await trio.sleep(self.limit)
        elif kind == 5:
            await wait_all_tasks_blocked()


class Talk:
    """One upload, and those who meddle with it at random moments."""

    def __init__(self, seed: int) -> None:
        rng = random.Random(seed)
        self.moments = Moments(rng)
        self.sent = [b"%d," % number for number in range(rng.randrange(12))]
        self.got: list[bytes] = []
        self.ends: list[object] = []
        self.patience = rng.choice([0, 1, 10, 1000])
        self.closes, self.leaves = rng.random() < 0.4, rng.random() < 0.3
        self.server = Inboxed(chunk(b""))

    async def feed(self) -> None:
        for data in self.sent:
            await self.moments.pause()
            self.server.put(chunk(data))
        await self.moments.pause()
        self.server.put(NO_BODY)

    async def leave(self) -> None:
        for _ in range(5):
            await self.moments.pause()
        self.server.leave()

    async def handler(self, request: Request[Any]) -> Response:
        request.body_limits = BodyLimits(timeout=self.moments.limit)
        async with trio.open_nursery() as nursery:
            if self.closes:
                nursery.start_soon(self.close, request)
            await self.read(request)
            nursery.cancel_scope.cancel()
        return Response(b"ok")

    async def close(self, request: Request[Any]) -> None:
        for _ in range(5):
            await self.moments.pause()
        request.body.close()

    async def read(self, request: Request[Any]) -> None:
        while not self.ends:
            with trio.move_on_after(self.patience):  # noqa: ASYNC912
                try:
                    self.got.append(await request.body.receive())
                except (trio.EndOfChannel, trio.ClosedResourceError, HTTPError) as error:
                    self.ends.append(error)
            self.patience = self.patience or 1

    async def run(self) -> list[str]:
        """Give what came of it, for the hook."""
        told = Endings()
        app = make_app(self.handler, on_end=told)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.feed)
            if self.leaves:
                nursery.start_soon(self.leave)
            await self.server.call(app, "POST")
            nursery.cancel_scope.cancel()
        return told.reasons


@pytest.mark.parametrize("seed", range(60))
async def test_whatever_happens_in_one_moment_a_body_is_whole_or_says_that_it_is_not(
    seed: int, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    # RQ-13, RQ-14, RQ-19, RQ-31
    talk = Talk(seed)
    with trio.fail_after(10_000):
        (reason,) = await talk.run()
    assert talk.got == talk.sent[: len(talk.got)]
    end = talk.ends[0] if talk.ends else None
    if isinstance(end, trio.EndOfChannel):
        assert talk.got == talk.sent
    elif end is None:
        assert talk.leaves
        assert reason == "disconnect"
    else:
        assert isinstance(end, HTTPError) or talk.closes
    assert talk.server.error is None
    assert logged(caplog) == []
