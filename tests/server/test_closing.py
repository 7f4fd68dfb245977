"""At the shutdown no answer is lost, and nobody delays it who has had one."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import trio
import trio.testing
from guarded import TRANSPORTS, Transport, answer, body, http, open_ending, open_guarded_on, start
from guarded import records as records_of
from probes import IN_TIME, PROMPT
from wire import RawConnection, open_raw

from tsstream._asgi import Receive, Send

LONG = 5.0  # seconds: longer than any lingering


async def refuse(scope: Any, receive: Receive, send: Send) -> None:
    await answer(send, b"too large", 413)


async def flood(raw: RawConnection, data: bytes) -> None:
    try:
        await raw.send_all(data)
    except trio.BrokenResourceError:
        pass


async def test_a_client_that_has_just_connected_is_answered() -> None:
    # Its request is on the way; only who has nothing to say is closed.
    server = open_ending(http(refuse), graceful_timeout=LONG)
    async with server as (port, end, ends), open_raw(port) as raw, open_raw(port) as silent:
        await trio.testing.wait_all_tasks_blocked(0.01)  # both are accepted
        end()
        await trio.testing.wait_all_tasks_blocked(0.01)
        await raw.request("GET", "/")
        with trio.fail_after(2 * PROMPT):
            status, headers = await raw.read_head()
            assert (status, headers["connection"]) == (413, "close")
            assert await raw.read_body() == b"too large"
            assert await silent.read_until_closed() == b""
    assert ends.took < 2 * PROMPT


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_response_is_whole_though_requests_wait_behind_it(transport: Transport) -> None:
    # Closing a socket with unread bytes makes a reset, which takes away what is on the way.
    size = 400_000
    go_on, stop = trio.Event(), trio.Event()

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await send(start(content_length=str(size)))
        await send(body(b"y"))
        await go_on.wait()
        await send(body(b"y" * (size - 1), more=False))

    server = open_guarded_on(
        transport, http(app), shutdown_trigger=stop.wait, graceful_timeout=LONG
    )
    async with server as connect, connect(receive_buffer=4096) as raw:
        await raw.request("GET", "/")
        assert (await raw.read_head())[0] == 200
        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood, raw, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n" * 6000)
            await trio.testing.wait_all_tasks_blocked(0.02)
            stop.set()
            await trio.testing.wait_all_tasks_blocked(0.02)
            go_on.set()
            with trio.fail_after(IN_TIME):
                assert await raw.read_body() == b"y" * size
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("version", [b"HTTP/1.1\r\nhost: a\r\nconnection: close", b"HTTP/1.0"])
async def test_a_connection_that_was_to_be_closed_is_closed_though_its_client_keeps_it(
    version: bytes,
) -> None:
    server = open_ending(http(refuse), graceful_timeout=LONG)
    async with server as (port, end, ends), open_raw(port) as raw:
        await raw.send_all(b"GET / " + version + b"\r\n\r\n")
        assert await raw.read_until_closed()
        end()
        with trio.fail_after(IN_TIME):
            await ends.ended.wait()
    assert ends.took < PROMPT


@pytest.mark.parametrize("pause", [LONG, 0.5])
async def test_a_client_that_was_answered_in_its_upload_delays_the_end_hardly(
    pause: float, caplog: pytest.LogCaptureFixture
) -> None:
    # Its answer has left; the server only drops what still comes.
    caplog.set_level(logging.INFO)

    async def drip(raw: RawConnection) -> None:
        while True:
            await flood(raw, b"x")
            await trio.sleep(pause)

    server = open_ending(http(refuse), graceful_timeout=LONG)
    async with server as (port, end, ends), open_raw(port) as raw:
        await raw.request("POST", "/", {"content-length": "50000000"})
        assert (await raw.read_head())[0] == 413
        assert await raw.read_body() == b"too large"
        assert await raw.read_until_closed() == b""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(drip, raw)
            end()
            with trio.fail_after(IN_TIME):
                await ends.ended.wait()
            nursery.cancel_scope.cancel()
    assert ends.took < 2 * PROMPT
    assert not any("cut" in record for record in records_of(caplog))
