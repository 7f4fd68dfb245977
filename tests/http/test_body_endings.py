"""The body of a request that is closed, or cut, or kept for too long: who reads it is told so."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from asgi import DISCONNECT, NO_BODY, Server, chunk, make_app
from inboxed import Inboxed, Kind, Reader, ask, on_each_source, read_all
from probes import logged
from trio.testing import MockClock, wait_all_tasks_blocked

from tsstream import BodyConsumed, Request, Response

# Closing


async def close(request: Request[Any]) -> None:
    request.body.close()


async def aclose(request: Request[Any]) -> None:
    await request.body.aclose()


@on_each_source
@pytest.mark.parametrize("close", [close, aclose])
async def test_closing_wakes_who_receives(
    kind: Kind, close: Callable[[Request[Any]], Awaitable[None]]
) -> None:
    async def handler(request: Request[Any]) -> Response:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reader.receive_into, request)
            await wait_all_tasks_blocked()
            await close(request)
            for _ in range(5):  # passes of the scheduler, and nothing arrives meanwhile
                await trio.lowlevel.checkpoint()
            assert len(reader.got) == 1
        await reader.receive_into(request)
        server.put(NO_BODY)  # so that nothing waits for the rest, to drop it
        return Response(b"ok")

    reader = Reader()
    server = kind(chunk(b""))
    await server.call(make_app(handler), "POST")
    assert [type(error) for error in reader.got] == [trio.ClosedResourceError] * 2
    assert {str(error) for error in reader.got} == {"this request body was closed by its reader"}
    assert server.ok


@on_each_source
async def test_a_closed_body_stays_closed_and_is_closed_as_often_as_you_like(kind: Kind) -> None:
    async def look(request: Request[Any]) -> None:
        for _ in range(2):
            request.body.close()
            await request.body.aclose()
            with pytest.raises(trio.ClosedResourceError, match="closed by its reader"):
                await read_all(request)
        with pytest.raises(trio.ClosedResourceError):
            await request.read()

    _, server = await ask(kind, look, chunk(b"a"), chunk(b"b", more=False))
    assert server.ok


@on_each_source
async def test_aclose_is_a_checkpoint(kind: Kind) -> None:
    async def look(request: Request[Any]) -> None:
        with trio.CancelScope() as scope:
            scope.cancel()
            await request.body.aclose()
        assert scope.cancelled_caught
        with pytest.raises(trio.ClosedResourceError):  # and it is closed
            await request.body.receive()

    _, server = await ask(kind, look, NO_BODY)
    assert server.ok


@on_each_source
async def test_what_was_read_is_kept_though_the_body_is_closed(kind: Kind) -> None:
    # RQ-15
    async def look(request: Request[Any]) -> bytes:
        await request.read()
        request.body.close()
        return await request.read()

    found, _ = await ask(kind, look, chunk(b"a"), chunk(b"b", more=False))
    assert found == b"ab"


@on_each_source
async def test_reading_when_the_handler_has_returned_tells_what_to_do(kind: Kind) -> None:
    app = make_app(late_reader)
    server = kind(chunk(b"a"), chunk(b"b", more=False))
    await server.call(app, "POST")
    assert isinstance(server.error, trio.ClosedResourceError)
    assert "@asynccontextmanager" in str(server.error)


async def late_reader(request: Request[Any]) -> Response:
    await request.body.receive()

    async def items() -> AsyncIterator[bytes]:
        yield b"x"
        yield await request.body.receive()

    return Response(items())


@on_each_source
@pytest.mark.parametrize("ending", ["return", "error"])
async def test_a_task_that_keeps_the_body_of_a_request_that_is_over_is_told_so(
    kind: Kind, ending: str, autojump_clock: MockClock
) -> None:
    # RQ-23: it was waiting, or comes later
    async def handler(request: Request[Any]) -> Response:
        requests.append(request)
        app.nursery.start_soon(reader.read_to_the_end, request)
        await wait_all_tasks_blocked()
        if ending == "error":
            raise ValueError
        return Response(b"ok")

    requests: list[Request[Any]] = []
    reader = Reader()
    app = make_app(handler)
    server = kind(chunk(b"a"))
    async with app.open_lifespan():
        await server.call(app, "POST")
        await wait_all_tasks_blocked()
    await reader.receive_into(requests[0])
    data, *errors = reader.got
    assert data == b"a"
    assert [type(error) for error in errors] == [trio.ClosedResourceError] * 2
    assert "the handler has returned" in str(errors[0])


# A client that leaves


@on_each_source
async def test_a_reader_is_cancelled_when_the_client_leaves(kind: Kind) -> None:
    # RQ-19, RQ-27
    reasons: list[str | None] = []

    async def handler(request: Request[Any]) -> Response:
        assert await request.body.receive() == b"a"
        try:
            await request.body.receive()
        except trio.Cancelled as cancelled:
            reasons.append(cancelled.reason)
            raise
        raise AssertionError

    server = kind(chunk(b"a"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.call, make_app(handler), "POST")
        await wait_all_tasks_blocked()
        server.leave()
    assert reasons == ["client disconnected"]
    assert server.sent == []


@on_each_source
@pytest.mark.parametrize("read", [Request.read, read_all])
async def test_a_shielded_reader_never_takes_a_disconnect_for_the_end(
    kind: Kind, read: Callable[[Request[Any]], Awaitable[object]]
) -> None:
    # RQ-19
    seen: list[Exception] = []

    async def handler(request: Request[Any]) -> Response:
        with trio.CancelScope(shield=True):  # noqa: ASYNC912
            for _ in range(2):
                try:
                    await read(request)
                except Exception as error:
                    seen.append(error)
        return Response(b"")

    server = kind(chunk(b"a"), DISCONNECT)
    await server.call(make_app(handler), "POST")
    assert isinstance(seen[0], trio.BrokenResourceError)
    assert "before the request body was complete" in str(seen[0])
    assert isinstance(seen[1], trio.BrokenResourceError | BodyConsumed)


async def test_a_disconnect_behind_a_chunk_is_heard_when_that_is_taken() -> None:
    # RQ-29
    log: list[str] = []

    @asynccontextmanager
    async def handler(request: Request[Any]) -> AsyncIterator[Response]:
        body = request.body
        await wait_all_tasks_blocked()
        assert not request.disconnected.is_set()
        assert await body.receive() == b"a"
        log.append("taken")
        await trio.sleep_forever()
        yield Response()

    server = Server(chunk(b"a"))
    server.leave()
    await server.call(make_app(handler), "POST")
    assert log == ["taken"]


async def test_on_the_guarded_server_a_disconnect_overtakes_what_nobody_has_received() -> None:
    # RQ-28, RQ-29
    async def handler(request: Request[Any]) -> Response:
        await wait_all_tasks_blocked()
        server.leave()
        assert request.disconnected.is_set()
        with pytest.raises(trio.Cancelled):
            await request.body.receive()
        await trio.lowlevel.checkpoint()
        raise AssertionError

    server = Inboxed(chunk(b"a"), chunk(b"b"))
    await server.call(make_app(handler), "POST")
    assert server.error is None
    assert server.sent == []


@on_each_source
async def test_a_task_that_keeps_the_body_of_a_client_that_has_left_is_told_so(kind: Kind) -> None:
    # RQ-19: a task of the app's, which is not cancelled with the handler. It runs in the very pass
    # of the scheduler in which the exchange ends, or in another: so it is tried some times.
    async def keep(request: Request[Any]) -> None:
        await reader.read_to_the_end(request)
        request.body.close()
        reader.got.append("closed")

    async def handler(request: Request[Any]) -> Response:
        app.nursery.start_soon(keep, request)
        await trio.sleep_forever()
        raise AssertionError

    for _ in range(20):
        reader = Reader()
        app = make_app(handler)
        server = kind(chunk(b"a"))
        async with app.open_lifespan():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.call, app, "POST")
                await wait_all_tasks_blocked()
                server.leave()
            await wait_all_tasks_blocked()
        assert [type(item) for item in reader.got] == [bytes, trio.BrokenResourceError, str]


@on_each_source
async def test_a_client_that_has_left_is_an_event_and_nothing_to_poll(kind: Kind) -> None:
    # RQ-30
    found, _ = await ask(kind, lambda request: request.disconnected)
    assert isinstance(found, trio.Event)
    assert not found.is_set()


@on_each_source
@pytest.mark.parametrize("shielded", [False, True])
@pytest.mark.parametrize("last", [chunk(b"b", more=False), NO_BODY], ids=["a chunk", "nothing"])
async def test_a_client_that_leaves_at_the_end_of_its_body_has_sent_it_all(
    kind: Kind, last: Any, shielded: bool, caplog: pytest.LogCaptureFixture
) -> None:
    # RQ-19: it may have left before the reader has run, so it is tried some times
    async def handler(request: Request[Any]) -> Response:
        with trio.CancelScope(shield=shielded):
            await reader.read_to_the_end(request)
        await trio.sleep_forever()
        raise AssertionError

    for _ in range(20):
        reader = Reader()
        server = kind(chunk(b"a"), last, DISCONNECT)
        await server.call(make_app(handler), "POST")
        ends = [item for item in reader.got if not isinstance(item, bytes)]
        assert [type(end) for end in ends] == [trio.EndOfChannel][: len(ends)]
        assert len(ends) == 1 or not shielded
    assert logged(caplog) == []
