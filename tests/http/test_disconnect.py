"""The client leaves: who is cancelled, when, and what is cleaned up."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
from asgi import DISCONNECT, NO_BODY, START, Server, make_app
from bodies import Body
from trio.testing import MockClock, wait_all_tasks_blocked

from tsstream import Response
from tsstream._asgi import Message


async def test_a_disconnect_while_the_handler_waits_cancels_it() -> None:
    # AC-49, D15, RQ-28
    reasons: list[str | None] = []

    async def handler(request: Any) -> Response:
        try:
            await trio.sleep_forever()
        except trio.Cancelled as cancelled:
            assert request.disconnected.is_set()
            reasons.append(cancelled.reason)
            raise
        raise AssertionError

    server = Server(NO_BODY, DISCONNECT)
    await server.call(make_app(handler))
    assert reasons == ["client disconnected"]
    assert server.sent == []
    assert server.error is None


async def test_a_disconnect_while_entering_cancels_the_entering(
    autojump_clock: MockClock,
) -> None:
    # D16
    log: list[str] = []

    @asynccontextmanager
    async def body() -> AsyncIterator[list[bytes]]:
        try:
            await trio.sleep(10)
        finally:
            log.append("cleaned")
        yield []
        log.append("exit")

    async def handler(request: object) -> Response:
        return Response(body())

    server = Server()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.call, make_app(handler))
        await trio.sleep(1)
        server.leave()
        await server.over.wait()
        assert trio.current_time() == 1
    assert log == ["cleaned"]
    assert server.sent == []


async def test_a_disconnect_while_a_send_is_stuck_frees_the_body_at_once() -> None:
    # D18: two tasks, because a server may shield its send()
    release = trio.Event()

    async def stuck(message: Message) -> None:
        if message.get("body"):
            with trio.CancelScope(shield=True):
                await release.wait()

    body = Body(b"a", b"b")
    server = Server(on_send=stuck)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.call, make_app(body.handler))
        await wait_all_tasks_blocked()
        server.leave()
        await wait_all_tasks_blocked()
        assert body.log[-1] == "exit"
        assert not server.over.is_set()
        release.set()
    assert not server.complete


async def test_a_disconnect_while_leaving_cancels_the_exit(autojump_clock: MockClock) -> None:
    # D19
    body = Body(b"a", on_exit=partial(trio.sleep, 2))
    server = Server()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.call, make_app(body.handler))
        await trio.sleep(1)
        server.leave()
        await server.over.wait()
        assert trio.current_time() == 1
    assert body.cancelled == ["client disconnected"]


async def test_shielded_cleanup_runs_to_its_end(autojump_clock: MockClock) -> None:
    # AC-16, AC-17
    @asynccontextmanager
    async def body() -> AsyncIterator[Any]:
        try:
            yield Body(None).iterate()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(1)
                log.append("cleaned")

    log: list[str] = []

    async def handler(request: object) -> Response:
        return Response(body())

    server = Server(NO_BODY, DISCONNECT)
    await server.call(make_app(handler))
    assert log == ["cleaned"]
    assert trio.current_time() == 1


@pytest.mark.parametrize("content", [b"whole", [b"streamed"], []], ids=["whole", "stream", "empty"])
async def test_a_disconnect_inside_the_final_send_means_nothing(content: Any) -> None:
    # D20, RQ-32, AC-51: Hypercorn reports the end of a response so
    endings: list[Any] = []

    async def last(message: Message) -> None:
        if message["type"] != START and not message["more_body"]:
            server.leave()
            await wait_all_tasks_blocked()

    async def handler(request: object) -> Response:
        return Response(content)

    server = Server(on_send=last)
    await server.call(make_app(handler, on_end=lambda request, ending: endings.append(ending)))
    assert server.ok
    assert server.error is None
    assert [ending.reason for ending in endings] == ["complete"]


async def test_an_error_that_nobody_is_there_to_be_told_of_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    reasons: list[str] = []

    async def handler(request: Any) -> Response:
        with trio.CancelScope(shield=True):
            await request.disconnected.wait()
        raise ValueError

    server = Server(NO_BODY, DISCONNECT)
    app = make_app(handler, on_end=lambda request, ending: reasons.append(ending.reason))
    await server.call(app)
    assert reasons == ["disconnect"]
    assert [record.levelname for record in caplog.records] == ["ERROR"]


async def test_a_body_that_needs_more_than_one_send_stops_between_them() -> None:
    # AC-28, D34
    async def first(message: Message) -> None:
        if message.get("body"):
            server.leave()
            await wait_all_tasks_blocked()

    async def handler(request: object) -> Response:
        return Response(bytes(1024 * 1024))

    server = Server(on_send=first)
    await server.call(make_app(handler))
    assert len(server.chunks) <= 1
