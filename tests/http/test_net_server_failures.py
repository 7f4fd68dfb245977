"""Errors that are the server's, or of another scope: they end the request, and never as a hang."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import trio
from leaks import assert_no_leaks
from probes import IDLE, Calls, Endings, Life, get, logged
from wire import Truncated, open_raw, open_server

from tsstream import App, Request, merge
from tsstream._asgi import ASGIApp, Receive, Send
from tsstream._http.content import Content

pytestmark = pytest.mark.usefixtures("each_host")


class BodyError(Exception):
    """What these tests fail with."""


def with_a_strange_server(app: ASGIApp, strange: trio.Event) -> ASGIApp:
    """Let *app*'s second message of an HTTP request be one that no server sends."""

    async def wrapper(scope: Any, receive: Receive, send: Send) -> None:
        received = 0

        async def receive_strangely() -> object:
            nonlocal received
            received += 1
            if received == 2 and scope["type"] == "http":
                await strange.wait()
                return {"type": "http.strange"}
            return await receive()

        await app(scope, receive_strangely, send)

    return wrapper


@pytest.mark.parametrize("started", [False, True])
async def test_message_that_no_server_sends_ends_the_request(started: bool) -> None:
    # RQ-33, AC-55
    life, endings, strange = Life(), Endings(), trio.Event()
    app = App(on_end=endings)

    async def produce(send_channel: trio.MemorySendChannel[bytes]) -> None:
        with life.of("producer"):
            if started:
                await send_channel.send(b"one,")
            strange.set()
            await trio.sleep_forever()

    @app.get("/")
    async def handler(request: Request) -> Content:
        return merge(produce)

    calls = Calls(with_a_strange_server(app, strange))
    async with open_server(calls, keep_alive_timeout=IDLE) as port, assert_no_leaks():
        async with open_raw(port) as raw:
            if started:
                assert await get(raw) == 200
                with trio.fail_after(2), pytest.raises(Truncated) as caught:
                    await raw.read_body()
                assert caught.value.body == b"one,"
            else:
                assert await get(raw) == 500
            await life.wait_gone()
            await calls.wait_returned()
    assert len(endings.seen) == 1


async def test_message_that_no_server_sends_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # RQ-33, AC-55
    app = App()
    strange = trio.Event()

    @app.get("/")
    async def handler(request: Request) -> str:
        strange.set()
        await trio.sleep_forever()
        return "never"

    async with open_server(with_a_strange_server(app, strange)) as port, open_raw(port) as raw:
        assert await get(raw) == 500
        await raw.read_body()
    assert logged(caplog) == ["ERROR GET /: answered 500"]


async def test_requests_cancelled_because_the_server_fails_log_no_error_of_theirs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # D40: an error of whoever cancels is none of the request's, though Trio's Cancelled was
    # made while that error was being handled.
    app = App()
    life = Life()

    @app.get("/")
    async def handler(request: Request) -> str:
        with life.of("handler"):
            await trio.sleep_forever()
        return "never"

    with pytest.raises(BodyError):
        async with open_server(app) as port, open_raw(port) as raw:
            await raw.request("GET", "/")
            await life.wait_running(1)
            raise BodyError("somewhere else")
    assert logged(caplog) == []


async def test_cancelled_of_another_scope_is_an_error_and_no_disconnect(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # D39
    kept: list[trio.Cancelled] = []

    async def keep() -> None:
        try:
            await trio.sleep_forever()
        except trio.Cancelled as error:
            kept.append(error)
            raise

    app = App()

    @app.get("/")
    async def handler(request: Request) -> str:
        with trio.move_on_after(0):
            await keep()
        raise kept[0]

    caplog.set_level(logging.DEBUG, "tsstream")
    async with open_server(app, keep_alive_timeout=IDLE) as port, assert_no_leaks():
        async with open_raw(port) as raw:
            assert await get(raw) == 500
            await raw.read_body()
    assert logged(caplog, logging.DEBUG) == ["ERROR GET /: answered 500"]
