"""What an application does wrong is its own error, once, and ends nothing but its response."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing
from guarded import FINAL, answer, body, http, open_guarded_on, records, start
from h11 import LocalProtocolError
from probes import IN_TIME, Calls, get
from wire import Truncated, open_guarded, open_raw

from tsstream._asgi import Receive, Send
from tsstream._server.errors import ClientGone

FAILED = "ERROR Error in ASGI Framework"


@pytest.mark.parametrize("last", [True, False])
async def test_a_body_that_is_longer_than_announced_is_the_error_of_a_send(
    last: bool, caplog: pytest.LogCaptureFixture
) -> None:
    # Small chunks are gathered, and sent by another task.
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await send(start(content_length="50"))
        for _ in range(20):
            await send(body(b"x" * 10))
        await send(body(b"", more=not last))

    calls = Calls(http(app))
    async with open_guarded(calls) as port, open_raw(port) as raw:
        assert await get(raw) == 200
        with trio.fail_after(IN_TIME):
            assert len(await raw.read_until_closed()) <= 50
        await calls.wait_returned()
    assert [type(error) for error in calls.raised] == [LocalProtocolError]
    assert records(caplog) == [FAILED]


async def test_a_body_that_turns_out_to_be_too_long_at_the_return_is_an_error_too(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await send(start(content_length="10"))
        for _ in range(4):  # the last two wait to be sent together
            await send(body(b"1234"))

    async with open_guarded(http(app)) as port, open_raw(port) as raw:
        with trio.fail_after(IN_TIME), pytest.raises(Truncated):
            assert await get(raw) == 200
            await raw.read_body()
    assert FAILED in records(caplog)
    assert not any("connection" in record for record in records(caplog))


@pytest.mark.parametrize("headers", [{}, {"upgrade": "foo", "connection": "upgrade"}])
@pytest.mark.parametrize("status", [101, 100, 199])
async def test_an_informational_status_is_a_500(
    status: int, headers: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await send(start(status))
        await send(FINAL)

    async with open_guarded(http(app)) as port, open_raw(port) as raw:
        await raw.request("GET", "/", headers)
        with trio.fail_after(IN_TIME):
            assert (await raw.read_head())[0] == 500
    assert records(caplog) == [FAILED]


@pytest.mark.parametrize("raises", [True, False])
async def test_a_response_of_which_nothing_has_left_becomes_a_500(
    raises: bool, caplog: pytest.LogCaptureFixture
) -> None:
    # The head leaves with the first of the body.
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await send(start(content_length="5", x_start="mine"))
        if raises:
            raise LookupError("no body")

    async with open_guarded(http(app)) as port, open_raw(port) as raw:
        await raw.request("GET", "/")
        with trio.fail_after(IN_TIME):
            status, headers = await raw.read_head()
            assert (status, headers["connection"]) == (500, "close")
            assert "x-start" not in headers
            assert await raw.read_until_closed() == b""
    assert raw.ended == "fin"
    (record,) = records(caplog)
    assert record.startswith("ERROR ")


async def test_trailers_that_were_announced_cost_nothing_of_the_body() -> None:
    # There is no such extension in HTTP/1.1, so the announcement means nothing.
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        assert "http.response.trailers" not in scope["extensions"]
        await send({**start(), "trailers": True})
        await send(body(b"first "))
        await send(body(b"last", more=False))

    async with open_guarded(http(app)) as port, open_raw(port) as raw:
        for _ in range(2):
            await raw.request("GET", "/", {"te": "trailers"})
            assert (await raw.read_head())[0] == 200
            with trio.fail_after(IN_TIME):
                assert await raw.read_body() == b"first last"


@pytest.mark.parametrize("error", [asyncio.CancelledError, BaseException])
async def test_an_error_that_is_no_exception_ends_its_own_response_only(
    error: Callable[[], BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    # asyncio.CancelledError comes out of libraries that were not made for Trio.
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        if scope["path"] == "/fails":
            raise error()
        await send(start())
        await send(body(b"first "))
        await go_on.wait()
        await send(body(b"last", more=False))

    go_on = trio.Event()
    async with open_guarded(http(app)) as port, open_raw(port) as raw, open_raw(port) as other:
        assert await get(other) == 200
        assert await get(raw, "/fails") == 500
        await trio.testing.wait_all_tasks_blocked(0.02)
        go_on.set()
        assert await other.read_body() == b"first last"
    assert records(caplog) == [FAILED]


@pytest.mark.parametrize("transport", ["tcp", "tls"])
@pytest.mark.parametrize("size", [1, 3000, 8000])
async def test_what_a_second_task_still_sends_at_the_end_is_never_in_the_next_response(
    transport: Any, size: int
) -> None:
    # A heartbeat, say: it is an error there, or a part of its own response.
    raised: list[Exception] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        if scope["path"] == "/next":
            await answer(send)
            return

        async def beat() -> None:
            try:
                while True:
                    await send(body(b"y" * size))
                    await trio.lowlevel.checkpoint()
            except OSError as error:
                raised.append(error)

        await send(start())
        await send(body(b"first"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(beat)
            for _ in range(5):
                await trio.lowlevel.checkpoint()
            await send(body(b"z" * 100_000, more=False))

    async with open_guarded_on(transport, http(app), send_buffer=20_000) as connect:
        async with connect(receive_buffer=10_000) as raw:
            for _ in range(5):
                assert await get(raw) == 200
                with trio.fail_after(IN_TIME):
                    assert (await raw.read_body()).endswith(b"z" * 100_000)
                    assert await get(raw, "/next") == 200
                    assert await raw.read_body() == b"ok"
    assert {type(error) for error in raised} == {ClientGone}
