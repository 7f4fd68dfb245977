"""The body of a request as a channel: one chunk ahead, one reader, and no false end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from asgi import Server, chunk, make_app
from trio.testing import wait_all_tasks_blocked

from tsstream import Request, Response


async def ask(look: Any, *requests: Any) -> tuple[Any, Server]:
    """Give what *look* makes of the request, and the server that made it."""
    seen: list[Any] = []

    async def handler(request: Request[Any]) -> Response:
        found = look(request)
        seen.append(await found if hasattr(found, "__await__") else found)
        return Response(b"ok")

    server = Server(*requests)
    await server.call(make_app(handler), "POST")
    return (seen[0] if seen else None), server


@pytest.mark.parametrize(
    ("requests", "chunks"),
    [
        ([{"type": "http.request"}], []),  # RQ-7
        ([chunk(b"", more=False)], []),  # RQ-8
        ([chunk(b"a", more=False)], [b"a"]),  # RQ-8
        ([{"type": "http.request", "body": b"a"}], [b"a"]),  # RQ-7
        ([chunk(b"a"), chunk(b""), chunk(b"b"), chunk(b"", more=False)], [b"a", b"b"]),  # RQ-6
        ([chunk(b"a"), chunk(b"b", more=False)], [b"a", b"b"]),
    ],
)
async def test_chunks_in_order_and_never_empty(requests: list[Any], chunks: list[bytes]) -> None:
    async def look(request: Request[Any]) -> list[bytes]:
        return [data async for data in request.body]

    found, server = await ask(look, *requests)
    assert found == chunks
    assert server.ok


async def test_no_more_than_one_chunk_is_read_ahead() -> None:
    # RQ-1
    ahead: list[int] = []

    async def look(request: Request[Any]) -> None:
        number = 0
        async for data in request.body:
            assert data == b"%d" % number
            await wait_all_tasks_blocked()
            ahead.append(server.reads - number)
            number += 1

    async def handler(request: Request[Any]) -> Response:
        await look(request)
        return Response(b"ok")

    server = Server(*[chunk(b"%d" % number, more=number < 99) for number in range(100)])
    await server.call(make_app(handler), "POST")
    assert server.ok
    assert len(ahead) == 100
    assert max(ahead) <= 2


async def test_receive_has_one_reader_and_nothing_of_the_body_is_lost() -> None:
    # RQ-31: Server.receive() raises if it is called by two tasks
    async def look(request: Request[Any]) -> bytes:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(request.disconnected.wait)
            data = await request.read()
            nursery.cancel_scope.cancel()
        return data

    found, server = await ask(look, *[chunk(b"a")] * 100, chunk(b"", more=False))
    assert found == b"a" * 100
    assert server.error is None


async def test_two_tasks_cannot_read_one_body() -> None:
    # RQ-18
    async def look(request: Request[Any]) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(request.body.receive)
            await wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError, match="let one task read it and pass on"):
                await request.body.receive()
            nursery.cancel_scope.cancel()
        assert await request.body.receive() == b"a"

    late = trio.Event()

    class Late(Server):
        async def receive(self) -> Any:
            await late.wait()
            return await super().receive()

    async def handler(request: Request[Any]) -> Response:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(look, request)
            await wait_all_tasks_blocked()
            late.set()
        return Response(b"ok")

    server = Late(chunk(b"a", more=False))
    await server.call(make_app(handler), "POST")
    assert server.ok


async def test_reading_when_the_handler_has_returned_tells_what_to_do() -> None:
    app = make_app(late_reader)
    server = Server(chunk(b"a"), chunk(b"b", more=False))
    await server.call(app, "POST")
    assert isinstance(server.error, trio.ClosedResourceError)
    assert "@asynccontextmanager" in str(server.error)


async def late_reader(request: Request[Any]) -> Response:
    await request.body.receive()

    async def items() -> AsyncIterator[bytes]:
        yield b"x"
        yield await request.body.receive()

    return Response(items())


async def test_a_reader_is_cancelled_when_the_client_leaves() -> None:
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

    server = Server(chunk(b"a"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.call, make_app(handler), "POST")
        await wait_all_tasks_blocked()
        server.leave()
    assert reasons == ["client disconnected"]
    assert server.sent == []


async def test_a_shielded_reader_never_takes_a_disconnect_for_the_end() -> None:
    # RQ-19
    seen: list[Exception] = []

    async def handler(request: Request[Any]) -> Response:
        with trio.CancelScope(shield=True):  # noqa: ASYNC912
            try:
                await request.read()
            except Exception as error:
                seen.append(error)
        return Response(b"")

    server = Server(chunk(b"a"))
    server.leave()
    await server.call(make_app(handler), "POST")
    assert isinstance(seen[0], trio.BrokenResourceError)
    assert "before the request body was complete" in str(seen[0])


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


async def test_a_client_that_has_left_is_an_event_and_nothing_to_poll() -> None:
    # RQ-30
    found, _ = await ask(lambda request: request.disconnected)
    assert isinstance(found, trio.Event)
    assert not found.is_set()
