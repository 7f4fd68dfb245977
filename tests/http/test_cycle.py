"""The order of one exchange, its one task, its one exit, and what may cancel it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
from asgi import START, Server, make_app
from bodies import Body
from trio.testing import wait_all_tasks_blocked

from tsstream import Response
from tsstream._asgi import Message

# Order and task


async def test_the_order_of_events() -> None:
    # AC-10
    body = Body(b"a", b"b")

    def transform(request: object, response: Response) -> Response:
        body.note("transform")
        return response

    async def on_send(message: Message) -> None:
        data = message.get("body", b"").decode()
        body.log.append("start" if message["type"] == START else f"send {data}")

    server = Server(on_send=on_send)
    await server.call(make_app(body.handler, transforms=[transform]))
    assert body.log == [
        *("handler", "transform", "enter"),
        *("start", "send a", "next", "send b", "next", "close"),
        *("exit", "send "),
    ]
    assert server.ok


def shouting(request: object, response: Response) -> Response:
    @asynccontextmanager
    async def body() -> AsyncIterator[AsyncGenerator[bytes, None]]:
        async with response as chunks:
            yield (chunk.upper() async for chunk in chunks)

    return attrs.evolve(response, content=body())


@pytest.mark.parametrize("count", [0, 1, 3])
async def test_all_of_a_body_runs_in_the_task_of_its_handler(count: int) -> None:
    # AC-11, also through transforms
    body = Body(b"a", b"b")
    server = Server()
    await server.call(make_app(body.handler, transforms=[shouting] * count))
    assert server.body == (b"AB" if count else b"ab")
    assert body.log == ["handler", "enter", "next", "next", "close", "exit"]
    assert set(body.tasks) == {trio.lowlevel.current_task()}


async def test_transforms_are_applied_in_the_order_in_which_they_are_given() -> None:
    def add(letter: str) -> Any:
        def transform(request: object, response: Response) -> Response:
            return attrs.evolve(response, headers=response.headers.add("x-seen", letter))

        return transform

    server = Server()
    await server.call(make_app(Body().handler, transforms=[add("a"), add("b")]))
    assert server.headers.getlist("x-seen") == ["a", "b"]


async def test_the_app_returns_though_receive_would_wait_for_ever() -> None:
    # RQ-34
    server = Server()
    await server.call(make_app(Body(b"a").handler))
    assert server.ok
    assert server.error is None


# The exit runs once, always (AC-13)


async def test_exit_after_success() -> None:
    body = Body(b"a")
    await Server().call(make_app(body.handler))
    assert body.log.count("exit") == 1


@pytest.mark.parametrize("items", [(ValueError(),), (b"a", ValueError())], ids=["first", "later"])
async def test_exit_after_an_error_of_the_iterator(items: Any) -> None:
    body = Body(*items)
    server = Server()
    await server.call(make_app(body.handler))
    assert not (server.complete and server.status == 200)
    assert body.log.count("exit") == 1


@pytest.mark.parametrize("items", [(None,), (b"a", None)], ids=["before the start", "after it"])
async def test_exit_after_a_disconnect(items: Any) -> None:
    # AC-13, AC-49, AC-50, D15, D17
    body = Body(*items)
    server = Server()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.call, make_app(body.handler))
        await wait_all_tasks_blocked()
        server.leave()
        await server.over.wait()
        assert body.log[-2:] == ["close", "exit"]
        assert body.cancelled == ["client disconnected"]
    assert not server.complete
    assert server.error is None
    assert len(server.sent) == (0 if items == (None,) else 2)


async def test_exit_after_an_error_of_send() -> None:
    async def fail(message: Message) -> None:
        raise RuntimeError("the server broke")

    body = Body(b"a", None)
    server = Server(on_send=fail)
    await server.call(make_app(body.handler))
    assert body.log.count("exit") == 1
    assert str(server.error) == "the server broke"


@pytest.mark.parametrize("content", [b"small", [b"stream"], []], ids=["small", "stream", "empty"])
async def test_nothing_is_sent_after_a_send_that_failed(content: Any) -> None:
    # D45
    tried: list[Message] = []
    reasons: list[str] = []

    async def fail(message: Message) -> None:
        tried.append(message)
        raise RuntimeError("the server broke")

    async def handler(request: object) -> Response:
        return Response(content)

    app = make_app(handler, on_end=lambda request, ending: reasons.append(ending.reason))
    server = Server(on_send=fail)
    await server.call(app)
    assert [message["type"] for message in tried] == [START]
    assert str(server.error) == "the server broke"
    assert reasons == ["error"]


async def test_exit_after_an_oserror_of_send_as_after_a_disconnect() -> None:
    # ASGI 2.4: send() raises OSError once the client has gone
    async def fail(message: Message) -> None:
        raise BrokenPipeError

    body = Body(b"a", None)
    server = Server(on_send=fail)
    await server.call(make_app(body.handler))
    assert body.cancelled == ["client disconnected"]
    assert server.error is None


async def test_no_exit_where_nothing_was_entered() -> None:
    # D35
    body = Body(b"a")
    server = Server()
    await server.call(make_app(body.handler), "HEAD")
    assert (server.status, server.body, server.complete) == (200, b"", True)
    assert body.log == ["handler"]


# Cancelled from elsewhere


@pytest.mark.parametrize(
    ("items", "sent"), [((None,), 0), ((b"a", None), 2)], ids=["before the start", "after it"]
)
async def test_a_cancellation_from_outside_propagates(items: Any, sent: int) -> None:
    # AC-52, D40
    body = Body(*items)
    server = Server()
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.call, make_app(body.handler))
            await wait_all_tasks_blocked()
            scope.cancel(reason="the server stops")
    assert scope.cancelled_caught
    assert body.cancelled == ["the server stops"]
    assert body.log[-1] == "exit"
    assert len(server.sent) == sent
    assert not server.complete


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("items", [(), (b"a",)], ids=["before the start", "after it"])
async def test_an_interrupt_propagates(stop: type[BaseException], items: Any) -> None:
    # D41
    def interrupt() -> None:
        raise stop

    server = Server()
    with pytest.raises(stop):
        await server.call(make_app(Body(*items, on_exit=interrupt).handler))
    assert not server.complete
    assert len(server.sent) == 2 * len(items)


async def test_an_interrupt_in_a_producers_group_propagates() -> None:
    # D41
    async def interrupt() -> None:
        raise KeyboardInterrupt

    @asynccontextmanager
    async def body() -> AsyncIterator[Any]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(interrupt)
            yield Body(None).iterate()

    async def handler(request: object) -> Response:
        return Response(body())

    server = Server()
    with pytest.raises(KeyboardInterrupt):
        await server.call(make_app(handler))
    assert server.sent == []


async def stray() -> None:
    """Raise a Cancelled that belongs to a scope which has been left."""
    kept: list[trio.Cancelled] = []
    with trio.CancelScope() as scope:  # noqa: ASYNC912
        scope.cancel()
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled as cancelled:  # noqa: ASYNC103
            kept.append(cancelled)
    raise kept[0]


async def test_a_stray_cancelled_before_the_start_is_an_error() -> None:
    # D39
    async def handler(request: object) -> Response:
        await stray()
        raise AssertionError

    server = Server()
    await server.call(make_app(handler))
    assert (server.status, server.complete) == (500, True)


async def test_a_stray_cancelled_after_the_start_is_an_error() -> None:
    # D39
    server = Server()
    await server.call(make_app(Body(b"a", on_exit=stray).handler))
    assert server.status == 200
    assert not server.complete
    assert "outside any scope of this request" in str(server.error)


async def test_an_error_beside_a_stray_cancelled_is_that_error() -> None:
    # D39
    async def handler(request: object) -> Response:
        try:
            await stray()
        except trio.Cancelled as cancelled:
            raise BaseExceptionGroup("both", [cancelled, ValueError("mine")]) from None  # noqa: ASYNC104
        raise AssertionError

    errors: list[Any] = []
    app = make_app(handler, on_end=lambda request, ending: errors.append(ending.error))
    server = Server()
    await server.call(app)
    assert (server.status, server.complete) == (500, True)
    assert [str(error) for error in errors] == ["mine"]


async def test_a_handler_may_cancel_itself() -> None:
    async def handler(request: object) -> Response:
        with trio.move_on_after(0):
            await trio.sleep_forever()
        return Response(b"moved on")

    server = Server()
    await server.call(make_app(handler))
    assert server.body == b"moved on"


async def test_a_send_that_is_cancelled_is_not_tried_again() -> None:
    # DESIGN 6: the state moves before the await
    tried: list[str] = []

    async def stuck(message: Message) -> None:
        tried.append(message["type"])
        await trio.sleep_forever()

    async def handler(request: object) -> Response:
        return Response(b"a")

    server = Server(on_send=stuck)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.call, make_app(handler))
        await wait_all_tasks_blocked()
        server.leave()
    assert tried == [START]
