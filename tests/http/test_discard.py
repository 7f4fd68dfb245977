"""Bodies that are never entered: what their handlers opened is closed all the same."""

from __future__ import annotations

import io
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio
from asgi import Server, make_app

from tsstream import Response


@asynccontextmanager
async def manage(content: Any) -> AsyncIterator[Any]:
    yield content


class Resource:
    """A blocking iterator that notes its closing."""

    closed = 0

    def __iter__(self) -> Iterator[bytes]:
        return iter([b"a"])

    def close(self) -> None:
        self.closed += 1


async def test_what_a_handler_opened_is_closed_if_it_is_not_entered() -> None:
    # D35, D43
    resource, file, channel = Resource(), io.BytesIO(b"a"), trio.open_memory_channel[bytes](0)[1]
    contents = iter([resource, file, channel])

    async def handler(request: object) -> Any:
        return next(contents)

    app = make_app(handler)
    for _ in range(3):
        server = Server()
        await server.call(app, "HEAD")
        assert server.status == 200
    assert resource.closed == 1
    assert file.closed
    assert channel.statistics().open_receive_channels == 0


class BadClose(Resource):
    """A blocking iterator that cannot be closed."""

    def close(self) -> None:
        super().close()
        raise OSError("cannot close")


async def test_the_hook_is_told_though_what_was_opened_cannot_be_closed() -> None:
    # AC-53, D43
    endings: list[object] = []

    async def handler(request: object) -> Any:
        return BadClose()

    app = make_app(handler, on_end=lambda request, ending: endings.append(ending))
    server = Server()
    await server.call(app, "HEAD")
    assert server.ok
    assert len(endings) == 1


async def test_a_blocking_iterator_that_a_transform_has_passed_on_is_left_to_its_thread() -> None:
    # AC-53, D43: closing it here would be "generator already executing"
    inside, go_on = threading.Event(), threading.Event()
    endings: list[object] = []

    def items() -> Iterator[bytes]:
        yield b"a"
        inside.set()
        go_on.wait(10)
        yield b"b"

    async def handler(request: object) -> Response:
        return Response(items())

    def wrap(request: object, response: Response) -> Response:
        return attrs.evolve(response, content=manage(response.content))

    app = make_app(
        handler, transforms=[wrap], on_end=lambda request, ending: endings.append(ending)
    )
    server = Server()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.call, app)
        await trio.to_thread.run_sync(inside.wait)
        server.leave()
        await server.over.wait()
        go_on.set()
    assert server.error is None
    assert len(endings) == 1


async def test_a_content_that_a_transform_has_passed_on_is_not_closed_under_it() -> None:
    # D43: the first response was not entered, but its content was
    async def handler(request: object) -> Response:
        return Response(io.BytesIO(b"abc"))

    def wrap(request: object, response: Response) -> Response:
        return attrs.evolve(response, content=manage(response.content))

    server = Server()
    await server.call(make_app(handler, transforms=[wrap]))
    assert (server.body, server.complete, server.error) == (b"abc", True, None)


async def test_what_a_handler_opened_is_closed_if_its_response_cannot_start() -> None:
    # D43: the body is streamed, but a header fails before it is entered
    channel = trio.open_memory_channel[bytes](0)[1]

    async def handler(request: object) -> Response:
        return Response(channel, headers={"content-length": "many"})

    server = Server()
    await server.call(make_app(handler))
    assert server.status == 500
    assert channel.statistics().open_receive_channels == 0
