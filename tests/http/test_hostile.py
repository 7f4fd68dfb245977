"""What a hostile client can send: it gets an answer, and neither an alarm nor the log's pen."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from typing import Any

import pytest
import trio
from asgi import DISCONNECT, NO_BODY, Server, chunk, make_app
from trio.testing import MockClock

from tsstream import App, HTTPError, Request, Response, StreamPolicy
from tsstream._asgi import Message

FORGERIES = {
    "line feed": "/a\n2030-01-01 CRITICAL tsstream: forged",
    "carriage return": "/a\rCRITICAL forged",
    "ANSI escape": "/a\x1b[2J\x1b[31mCRITICAL forged",
    "C1 control": "/a\x9b2JCRITICAL forged",
    "line separator": "/a\u2028CRITICAL forged",
    "right to left": "/a\u202egniht rehto",
    "NUL": "/a\0CRITICAL",
}


@pytest.fixture(autouse=True)
def _all_levels(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "tsstream")


async def fail_late() -> AsyncGenerator[bytes, None]:
    yield b"a"
    raise ValueError


async def wait_late() -> AsyncGenerator[bytes, None]:
    yield b"a"
    await trio.sleep_forever()


def broken_hook(request: object, ending: object) -> None:
    raise ValueError


async def cut(request: object) -> Response:
    return Response(fail_late())


async def wait(request: object) -> Response:
    return Response(wait_late())


async def fail(request: object) -> Response:
    raise ValueError


async def answer(request: object) -> Response:
    return Response(b"ok")


async def fail_twice(request: object) -> Response:
    try:
        await trio.sleep_forever()
    finally:
        raise ValueError


async def hide_error(request: object) -> Response:
    try:
        raise ValueError
    finally:
        await trio.sleep_forever()  # noqa: ASYNC102


STRANGE: Message = {"type": "http.surprise\nCRITICAL forged"}

# What is logged: the handler, the options of the app, what the server tells, and its scope.
LOGGED: dict[str, tuple[Any, dict[str, Any], list[Any], dict[str, Any]]] = {
    "answered 500": (fail, {}, [], {}),
    "stream failed": (cut, {}, [], {}),
    "undetectable truncation": (cut, {}, [], {"http_version": "1.0"}),
    "client disconnected": (wait, {}, [DISCONNECT], {}),
    "failed while it was being cancelled": (fail_twice, {}, [DISCONNECT], {}),
    "a cancellation replaced this error": (hide_error, {}, [DISCONNECT], {}),
    "limit of": (wait, {"policy": StreamPolicy(idle=1)}, [], {}),
    "hook failed": (answer, {"on_end": broken_hook}, [], {}),
    "the server sent": (wait, {}, [STRANGE], {}),
}


@pytest.mark.parametrize("path", FORGERIES.values(), ids=FORGERIES)
@pytest.mark.parametrize("text", LOGGED)
async def test_a_path_cannot_forge_a_line_of_the_log(
    text: str, path: str, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    handler, options, told, scope = LOGGED[text]
    app: App[None] = App(**options)
    app.get("/{name:path}")(handler)
    await Server(NO_BODY, *told).call(app, path=path, **scope)
    assert text in caplog.text
    for record in caplog.records:
        message = record.getMessage()
        assert message.isascii()
        assert message.isprintable()


async def test_a_path_is_logged_as_its_client_wrote_it(caplog: pytest.LogCaptureFixture) -> None:
    app: App[None] = App()
    app.get("/{name:path}")(fail)
    await Server().call(app, path="/caf\u00e9/a b/~x;y=1,(2)!@:$&'*+")
    assert caplog.records[0].getMessage() == (
        "GET /caf%C3%A9/a%20b/~x;y=1,(2)!@:$&'*+: answered 500"
    )


async def test_a_method_cannot_forge_a_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    # Hypercorn's HTTP/2 passes on whatever h2 takes for the value of a header.
    app: App[None] = App()
    app.get("/")(answer)
    await Server(on_send=lost).call(app, "GET\x1b[2J\x1b[31mCRITICAL forged")
    assert caplog.records
    for record in caplog.records:
        assert record.getMessage().isprintable()


async def lost(message: Message) -> None:
    raise OSError("gone")


LOST = [OSError("gone"), trio.BrokenResourceError("gone"), trio.ClosedResourceError("gone")]


async def refused(server: Server, status: int, **options: Any) -> None:
    async def refuse(request: object) -> Response:
        raise HTTPError(400)

    method, path = {400: ("GET", "/"), 404: ("GET", "/no"), 405: ("DELETE", "/")}[status]
    await server.call(make_app(refuse, **options), method, path)


@pytest.mark.parametrize("error", LOST, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("status", [400, 404, 405])
async def test_a_client_that_leaves_before_its_refusal_is_a_disconnect(
    status: int, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    # RQ-30; ASGI 2.4 has send() raise, and so does Hypercorn
    reasons: list[str] = []

    async def lose(message: Message) -> None:
        raise error

    server = Server(on_send=lose)
    await refused(server, status, on_end=lambda request, ending: reasons.append(ending.reason))
    assert server.error is None
    assert reasons == ["disconnect"]
    assert {record.levelname for record in caplog.records} == {"DEBUG"}


@pytest.mark.parametrize("status", [400, 404, 405])
async def test_a_client_that_does_not_take_its_refusal_is_no_error(
    status: int, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    # D24: a client that sends requests and reads nothing fills the buffers with its refusals
    async def stuck(message: Message) -> None:
        await trio.sleep_forever()

    server = Server(on_send=stuck)
    await refused(server, status)
    assert trio.current_time() <= 61
    assert not isinstance(server.error, HTTPError)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "send limit of 60 s reached" in record.getMessage()


async def test_an_error_that_a_lost_client_is_not_told_of_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # D14: a refusal is nothing, but this is ours
    server = Server(on_send=lost)
    await server.call(make_app(fail))
    assert server.error is None
    errors = [record.getMessage() for record in caplog.records if record.levelname != "DEBUG"]
    assert errors == ["GET / failed, and the client has gone"]


@pytest.mark.parametrize("data", [b"[" * 100_000, b'{"a":' * 100_000], ids=["lists", "objects"])
async def test_json_that_is_nested_too_deep_is_a_400(
    data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(request: Request[Any]) -> Response:
        await request.json()
        raise AssertionError

    server = Server(chunk(data, more=False))
    await server.call(make_app(handler), "POST")
    assert (server.status, server.complete) == (400, True)
    assert b"nested too deep" in server.body
    assert not caplog.records


@pytest.mark.parametrize("status", [400, 500])
async def test_an_error_that_quotes_half_a_surrogate_pair_is_answered(status: int) -> None:
    # JSON may hold one, and UTF-8 may not
    async def handler(request: Request[Any]) -> Response:
        raise HTTPError(status, f"unknown name {await request.json()}")

    server = Server(chunk(b'"\\ud800"', more=False))
    await server.call(make_app(handler), "POST")
    assert (server.status, server.complete, server.error) == (status, True, None)
    assert server.body == b"unknown name ?"


async def test_a_traceback_with_half_a_surrogate_pair_is_shown() -> None:
    async def handler(request: Request[Any]) -> Response:
        raise ValueError(await request.json())

    server = Server(chunk(b'"\\ud800 it was"', more=False))
    await server.call(make_app(handler, debug=True), "POST")
    assert (server.status, server.complete) == (500, True)
    assert b"it was" in server.body
