"""No error is lost: each is raised or logged, also if it is the second, or a cancellation hides it.

And none is logged that is only a refusal of a client that has gone.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from asgi import DISCONNECT, NO_BODY, Server, make_app
from trio.testing import MockClock

from tsstream import HTTPError, Response
from tsstream._asgi import Message
from tsstream._util import leaves


class BodyError(Exception):
    """What the bodies of these tests fail with."""


@pytest.fixture(autouse=True)
def _all_levels(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "tsstream")


def told(caplog: pytest.LogCaptureFixture, level: int = logging.WARNING) -> list[str]:
    """Give what each record at *level* or above is about: the types of its exceptions."""
    return [
        ", ".join(type(leaf).__name__ for leaf in leaves(record.exc_info[1]))
        for record in caplog.records
        if record.levelno >= level and record.exc_info and record.exc_info[1]
    ]


# The server fails first


async def fail_in_cleanup(request: object) -> Response:
    try:
        await trio.sleep_forever()
    finally:
        raise BodyError


FAULTS: dict[str, Any] = {
    "receive() raises": RuntimeError("the server broke"),
    "receive() is strange": {"type": "http.surprise"},
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_an_error_of_the_cleanup_after_an_error_of_the_server_is_logged(
    fault: Any, caplog: pytest.LogCaptureFixture
) -> None:
    await Server(NO_BODY, fault).call(make_app(fail_in_cleanup))
    assert "BodyError" in told(caplog)
    assert "GET / failed while it was being cancelled" in caplog.messages


async def test_an_error_of_the_cleanup_after_an_error_of_send_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @asynccontextmanager
    async def body() -> AsyncIterator[list[bytes]]:
        try:
            yield [b"a"]
        finally:
            raise BodyError

    async def handler(request: object) -> Response:
        return Response(body())

    async def fail(message: Message) -> None:
        raise RuntimeError("the server broke")

    server = Server(on_send=fail)
    await server.call(make_app(handler))
    assert str(server.error) == "the server broke"
    assert "BodyError" in told(caplog)


# A cancellation takes the place of an error


async def fail_after_a_second() -> None:
    await trio.sleep(1)
    raise BodyError


async def clean_up_slowly() -> None:
    try:
        await trio.sleep_forever()
    finally:
        with trio.CancelScope(shield=True):
            await trio.sleep(0.5)


async def clean_up_at_once() -> None:
    await trio.sleep_forever()


def leave_slowly_after_a_nursery(sibling: Callable[[], Any]) -> Any:
    """A nursery in which one task fails and another is cancelled, and a cleanup that waits."""

    @asynccontextmanager
    async def handler(request: object) -> AsyncIterator[trio.MemoryReceiveChannel[bytes]]:
        send_channel, receive_channel = trio.open_memory_channel[bytes](0)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fail_after_a_second)
                nursery.start_soon(sibling)
                with send_channel, receive_channel:
                    yield receive_channel
        finally:
            await trio.sleep(1)  # noqa: ASYNC102

    return handler


@pytest.mark.parametrize("sibling", [clean_up_slowly, clean_up_at_once])
@pytest.mark.parametrize("left_at", [1.2, 1.6])
async def test_a_producers_error_that_a_disconnect_hides_is_logged(
    left_at: float,
    sibling: Callable[[], Any],
    caplog: pytest.LogCaptureFixture,
    autojump_clock: MockClock,
) -> None:
    # AC-39: the nursery raises the error in one group with the Cancelled of its other task
    server = Server()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.call, make_app(leave_slowly_after_a_nursery(sibling)))
        await trio.sleep(left_at)
        server.leave()
    assert told(caplog).count("BodyError") == 1


async def test_a_producers_error_that_a_cancellation_from_outside_hides_is_logged(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    # AC-39, D40
    with trio.move_on_after(1.6) as scope:
        await Server().call(make_app(leave_slowly_after_a_nursery(clean_up_slowly)))
    assert scope.cancelled_caught
    assert told(caplog).count("BodyError") == 1


async def test_what_only_steered_in_such_a_group_is_not_logged(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    @asynccontextmanager
    async def handler(request: object) -> AsyncIterator[trio.MemoryReceiveChannel[bytes]]:
        send_channel, receive_channel = trio.open_memory_channel[bytes](0)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send_after_a_second, send_channel)
                with receive_channel:
                    yield receive_channel.clone()
        finally:
            await trio.sleep(1)  # noqa: ASYNC102

    async def send_after_a_second(send_channel: trio.MemorySendChannel[bytes]) -> None:
        try:
            await trio.sleep_forever()
        finally:
            send_channel.send_nowait(b"a")

    server = Server()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.call, make_app(handler))
        await trio.sleep(1)
        server.leave()
    assert told(caplog) == []


# What is nothing to anybody


@pytest.mark.parametrize("status", [400, 404, 499])
async def test_a_refusal_of_a_client_that_has_gone_is_not_logged(
    status: int, caplog: pytest.LogCaptureFixture
) -> None:
    # D2: none is logged below 500
    async def handler(request: object) -> Response:
        try:
            await trio.sleep_forever()
        finally:
            raise HTTPError(status)

    server = Server(NO_BODY, DISCONNECT)
    await server.call(make_app(handler))
    assert server.error is None
    assert [record.levelname for record in caplog.records] == ["DEBUG"]


@pytest.mark.parametrize(("status", "logged"), [(404, []), (502, ["ConnectionRefusedError"])])
async def test_an_error_with_a_status_counts_as_that_also_when_the_client_has_gone(
    status: int, logged: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(request: object) -> Response:
        try:
            await trio.sleep_forever()
        finally:
            raise ConnectionRefusedError

    app = make_app(handler, errors={ConnectionRefusedError: status})
    await Server(NO_BODY, DISCONNECT).call(app)
    assert told(caplog) == logged
