"""How an exchange ended, as the log and the app's hook are told: once."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
from asgi import DISCONNECT, NO_BODY, Server, make_app
from trio.testing import MockClock, wait_all_tasks_blocked

from tsstream import Ending, HTTPError, Response, StreamPolicy, merge
from tsstream._asgi import Message


@pytest.fixture(autouse=True)
def _all_levels(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "tsstream")


class Told:
    """What the hook of an app was told."""

    def __init__(self) -> None:
        self.endings: list[Ending] = []

    def __call__(self, request: object, ending: Ending) -> None:
        self.endings.append(ending)

    @property
    def ending(self) -> Ending:
        (ending,) = self.endings
        return ending


async def stream(*items: object) -> AsyncGenerator[object, None]:
    for item in items:
        if item is None:
            await trio.sleep_forever()
        if isinstance(item, BaseException):
            raise item
        yield item


def handler_of(content: Any, **options: Any) -> Any:
    async def handler(request: object) -> Response:
        return Response(content() if callable(content) else content, **options)

    return handler


async def run(handler: Any, server: Server | None = None, **options: Any) -> Ending:
    told = Told()
    server = Server() if server is None else server
    await server.call(make_app(handler, on_end=told, **options))
    return told.ending


async def leave_when_idle(server: Server) -> None:
    await wait_all_tasks_blocked()
    server.leave()


# The hook


@pytest.mark.parametrize(
    ("handler", "status_code", "bytes_sent"),
    [
        (handler_of(b"abc"), 200, 3),
        (handler_of(lambda: stream(b"abc", b"de")), 200, 5),
        (handler_of([]), 200, 0),
        (handler_of(b"", status_code=204), 204, 0),
    ],
    ids=["whole", "stream", "empty stream", "204"],
)
async def test_the_hook_is_told_of_a_complete_response(
    handler: Any, status_code: int, bytes_sent: int, mock_clock: MockClock
) -> None:
    # AC-53
    assert await run(handler) == Ending(
        reason="complete", status_code=status_code, bytes_sent=bytes_sent, duration=0
    )


async def test_the_hook_is_told_of_an_error_that_was_answered() -> None:
    # AC-53
    error = ValueError()
    ending = await run(handler_of(lambda: stream(error)))
    assert (ending.reason, ending.status_code, ending.error) == ("complete", 500, error)


async def test_the_hook_is_told_of_a_cut() -> None:
    # AC-53
    error = ValueError()
    ending = await run(handler_of(lambda: stream(b"abc", error)))
    assert (ending.reason, ending.status_code, ending.bytes_sent) == ("error", 200, 3)
    assert ending.error is error


@pytest.mark.parametrize(
    ("items", "status_code"), [((None,), None), ((b"abc", None), 200)], ids=["before", "during"]
)
async def test_the_hook_is_told_of_a_disconnect(
    items: Any, status_code: int | None, nursery: trio.Nursery
) -> None:
    # AC-53
    server = Server()
    nursery.start_soon(leave_when_idle, server)
    ending = await run(handler_of(lambda: stream(*items)), server)
    assert (ending.reason, ending.status_code) == ("disconnect", status_code)
    assert ending.error is None


async def test_the_hook_is_told_of_a_cancellation() -> None:
    # AC-53, D40
    told = Told()
    with trio.move_on_after(0):
        await Server().call(make_app(handler_of(lambda: stream(None)), on_end=told))
    assert (told.ending.reason, told.ending.status_code) == ("cancelled", None)


async def test_the_hook_is_told_of_an_interrupt() -> None:
    # D41
    told = Told()
    with pytest.raises(KeyboardInterrupt):
        await Server().call(make_app(handler_of(lambda: stream(KeyboardInterrupt())), on_end=told))
    assert told.ending.reason == "cancelled"


async def test_the_hook_is_told_of_a_limit(autojump_clock: MockClock) -> None:
    ending = await run(handler_of(lambda: stream(b"a", None)), policy=StreamPolicy(idle=2))
    assert (ending.reason, ending.limit, ending.duration) == ("timeout", "idle", 2)


@pytest.mark.parametrize("path", ["/", "/nothing-here"])
async def test_the_hook_is_called_last_and_with_the_request(path: str) -> None:
    calls: list[tuple[str, bool]] = []
    server = Server()

    def on_end(request: Any, ending: Ending) -> None:
        calls.append((request.path, server.complete))

    await server.call(make_app(handler_of(b"a"), on_end=on_end), path=path)
    assert calls == [(path, True)]


async def test_a_hook_that_fails_is_logged_and_changes_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def on_end(request: object, ending: Ending) -> None:
        raise ValueError("the hook")

    server = Server()
    await server.call(make_app(handler_of(b"a"), on_end=on_end))
    assert server.ok
    assert server.error is None
    (record,) = caplog.records
    assert (record.levelno, record.getMessage()) == (logging.ERROR, "GET /: the on_end hook failed")
    assert record.exc_info is not None


# The log: what, at which level, with a traceback or not


@attrs.frozen
class Line:
    level: str
    text: str
    traceback: type[BaseException] | None = None


def lines(caplog: pytest.LogCaptureFixture) -> list[Line]:
    return [
        Line(record.levelname, record.getMessage(), (record.exc_info or (None,))[0])
        for record in caplog.records
    ]


def raising(error: BaseException) -> Any:
    def handler(request: object) -> Response:
        raise error

    return handler


RECORDS: dict[str, tuple[Any, list[Line]]] = {
    "complete": (handler_of(b"a"), []),
    "HTTPError below 500": (raising(HTTPError(404)), []),  # D2
    "HTTPError from 500": (
        raising(HTTPError(503)),
        [Line("ERROR", "GET /: answered 503", HTTPError)],
    ),
    "error of the handler": (  # D1
        raising(ValueError()),
        [Line("ERROR", "GET /: answered 500", ValueError)],
    ),
    "error of a producer": (  # BK-23
        handler_of(lambda: stream(b"abc", ValueError())),
        [Line("ERROR", "GET /: stream failed after 3 bytes", ValueError)],
    ),
    "errors of two producers": (  # AC-24
        handler_of(lambda: merge(fail_at_once, fail_at_once)),
        [Line("ERROR", "GET /: answered 500", ExceptionGroup)],
    ),
    "limit before the start": (  # D24: that it was answered says how many bytes were sent
        handler_of(lambda: stream(None), policy=StreamPolicy(first_item=2)),
        [
            Line(
                "WARNING",
                "GET /: 504 Gateway Timeout: first_item limit of 2 s reached",
            )
        ],
    ),
    "limit": (  # D24
        handler_of(lambda: stream(b"abc", None), policy=StreamPolicy(idle=2)),
        [Line("WARNING", "GET /: idle limit of 2 s reached after 3 bytes")],
    ),
}


@pytest.mark.parametrize(("handler", "expected"), RECORDS.values(), ids=RECORDS)
async def test_one_record_for_each_ending(
    handler: Any,
    expected: list[Line],
    caplog: pytest.LogCaptureFixture,
    autojump_clock: MockClock,
) -> None:
    await Server().call(make_app(handler))
    assert lines(caplog) == expected


@pytest.mark.parametrize(("items", "sent"), [((None,), 0), ((b"abc", None), 3)])
async def test_a_disconnect_is_worth_a_debug_record(
    items: Any, sent: int, caplog: pytest.LogCaptureFixture, nursery: trio.Nursery
) -> None:
    # BK-23, D15, D17
    server = Server()
    nursery.start_soon(leave_when_idle, server)
    await run(handler_of(lambda: stream(*items)), server)
    assert lines(caplog) == [Line("DEBUG", f"GET /: client disconnected after {sent} bytes")]


async def test_a_cancellation_from_outside_is_the_servers_to_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with trio.move_on_after(0):
        await Server().call(make_app(handler_of(lambda: stream(None))))
    assert lines(caplog) == []


async def test_an_error_of_the_cleanup_after_a_disconnect_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # D14
    await run(handler_of(lambda: failing_cleanup(ValueError())), Server(NO_BODY, DISCONNECT))
    assert lines(caplog) == [
        Line("ERROR", "GET / failed while it was being cancelled", ValueError),
        Line("DEBUG", "GET /: client disconnected after 0 bytes"),
    ]


@pytest.mark.parametrize("kind", [trio.BrokenResourceError, trio.ClosedResourceError])
async def test_a_channel_that_broke_because_we_closed_it_is_not_logged(
    kind: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    # D14, AC-15
    await run(handler_of(lambda: failing_cleanup(kind())), Server(NO_BODY, DISCONNECT))
    assert [line.level for line in lines(caplog)] == ["DEBUG"]


async def test_an_error_of_the_cleanup_after_a_cancellation_from_outside_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # D40
    told = Told()
    with trio.move_on_after(0) as scope:
        handler = handler_of(lambda: failing_cleanup(ValueError(), beside=True))
        await Server().call(make_app(handler, on_end=told))
    assert scope.cancelled_caught
    assert lines(caplog) == [Line("ERROR", "GET / failed, and was cancelled", ValueError)]
    assert isinstance(told.ending.error, ValueError)


@asynccontextmanager
async def failing_cleanup(error: Exception, *, beside: bool = False) -> AsyncIterator[Any]:
    async def fail() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise error

    if beside:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail)
            yield stream(None)
    else:
        try:
            yield stream(None)
        finally:
            raise error


async def fail_at_once(send_channel: object) -> None:
    raise ValueError


async def test_an_error_that_a_cancellation_replaced_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # AC-39, B30: "async with" on a channel end swallows the producer's error
    error = ValueError("lost")

    async def handler(request: object) -> Response:
        try:
            raise error
        finally:
            await trio.sleep_forever()  # noqa: ASYNC102

    await run(handler, Server(NO_BODY, DISCONNECT))
    assert lines(caplog)[0] == Line(
        "WARNING", "GET /: a cancellation replaced this error", ValueError
    )


@pytest.mark.parametrize(
    "error", [trio.EndOfChannel(), trio.WouldBlock(), StopIteration()], ids=repr
)
async def test_an_error_that_only_steered_is_not_lost(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(request: object) -> Response:
        try:
            raise error
        except type(error):
            await trio.sleep_forever()
        raise AssertionError

    await run(handler, Server(NO_BODY, DISCONNECT))
    assert [line.level for line in lines(caplog)] == ["DEBUG"]


@pytest.mark.parametrize(
    ("http_version", "headers", "warned"),
    [("1.0", {}, True), ("1.0", {"content-length": "9"}, False), ("1.1", {}, False)],
)
async def test_a_cut_that_a_client_cannot_see_is_warned_of(
    http_version: str, headers: Any, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    # D46
    handler = handler_of(lambda: stream(b"abc", ValueError()), headers=headers)
    await Server().call(make_app(handler), http_version=http_version)
    assert any("undetectable truncation" in line.text for line in lines(caplog)) is warned


async def test_a_server_that_fails_at_the_final_message_has_cut_the_response(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail(message: Message) -> None:
        if not message.get("more_body", True):
            raise RuntimeError("too late")

    ending = await run(handler_of(lambda: stream(b"a")), Server(on_send=fail))
    assert lines(caplog) == [Line("ERROR", "GET /: stream failed after 1 bytes", RuntimeError)]
    assert ending.reason == "error"
