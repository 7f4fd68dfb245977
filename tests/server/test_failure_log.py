"""One record for each connection or application that fails, and none for what is ordinary."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
import trio.testing
from guarded import answer, body, http, open_guarded_on, start
from probes import IN_TIME, Calls, get
from wire import Truncated, open_guarded, open_raw

from tsstream import App, Request
from tsstream._asgi import Receive, Send


def said(caplog: pytest.LogCaptureFixture) -> list[tuple[str, bool]]:
    """Give the level of each record but Hypercorn's "Running on", and if it has a traceback."""
    return [
        (record.levelname, record.exc_info is not None)
        for record in caplog.records
        if not record.getMessage().startswith("Running on ")
    ]


@pytest.mark.parametrize("started", [False, True])
async def test_an_app_that_fails_is_one_error_with_its_traceback(
    started: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        if started:
            await send(start())
            await send(body(b"first"))
        raise LookupError("no more")

    async with open_guarded(http(app)) as port, open_raw(port) as raw:
        with trio.fail_after(IN_TIME):
            assert await get(raw) == (200 if started else 500)
            await raw.read_until_closed()
    assert said(caplog) == [("ERROR", True)]


@pytest.mark.parametrize("started", [False, True])
async def test_a_tsstream_app_that_fails_is_one_error_too(
    started: bool, caplog: pytest.LogCaptureFixture
) -> None:
    # It has logged the error itself, with the request; the server does not say it again.
    caplog.set_level(logging.INFO)
    app: App[Any] = App()

    @app.get("/")
    async def handler(request: Request) -> AsyncIterator[bytes]:
        async def chunks() -> AsyncIterator[bytes]:
            if started:
                yield b"first"
            raise LookupError("no more")

        return chunks()

    async with open_guarded(app) as port, open_raw(port) as raw:
        assert await get(raw) == (200 if started else 500)
        if started:
            with pytest.raises(Truncated):
                await raw.read_body()
    assert said(caplog) == [("ERROR", True)]


async def test_an_app_that_returns_without_an_end_cuts_its_response(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await send(start())
        await send(body(b"first"))

    async with open_guarded(http(app)) as port, open_raw(port) as raw:
        assert await get(raw) == 200
        with trio.fail_after(IN_TIME), pytest.raises(Truncated):
            await raw.read_body()


@pytest.mark.parametrize(
    "data",
    [
        b"what is this?\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nnothing\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: minus\r\n\r\n",
    ],
)
async def test_a_protocol_error_is_one_info_without_a_traceback(
    data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        while (await receive())["type"] == "http.request":
            pass

    async with open_guarded(http(app)) as port, open_raw(port) as raw:
        await raw.send_all(data)
        with trio.fail_after(IN_TIME):
            assert (await raw.read_head())[0] == 400
    assert said(caplog) == [("INFO", False)]


@pytest.mark.parametrize("transport", ["tcp", "tls", "unix"])
async def test_what_is_ordinary_is_not_logged(
    transport: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        if scope["path"] == "/leave":
            await receive()
            assert (await receive())["type"] == "http.disconnect"
        await answer(send)

    calls = Calls(http(app))
    async with open_guarded_on(transport, calls, keep_alive_timeout=0.05) as connect:
        for way in ("close", "abort"):
            async with connect() as raw:  # without a request
                getattr(raw, way)()
            async with connect() as raw:  # after one
                assert await get(raw) == 200
                getattr(raw, way)()
            async with connect() as raw:  # within one
                await raw.request("GET", "/leave")
                getattr(raw, way)()
        async with connect() as raw:
            assert await get(raw) == 200
            assert await raw.read_body() == b"ok"
            with trio.fail_after(IN_TIME):
                assert await raw.read_until_closed() == b""
    assert said(caplog) == []


@pytest.mark.parametrize("parked", [False, True])
async def test_what_an_app_raises_when_it_is_told_of_a_hang_up_ends_nothing_else(
    parked: bool, caplog: pytest.LogCaptureFixture
) -> None:
    # It is called by a task of the server: the one that watches all connections not being read.
    def fail() -> None:
        raise LookupError("not now")

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        if scope["path"] == "/":
            scope["extensions"]["tsstream.client"].on_leave = fail
            begun.set()
            await trio.sleep_forever()
        await answer(send)

    begun = trio.Event()
    async with open_guarded(http(app)) as port, open_raw(port) as other:
        async with open_raw(port) as raw:
            await raw.request("POST", "/", {"content-length": "1000000"})
            await raw.send_all(b"x" * (80_000 if parked else 10))
            await begun.wait()
            await trio.testing.wait_all_tasks_blocked(0.01)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert await get(other, "/other") == 200
    assert said(caplog) == [("ERROR", True)]
