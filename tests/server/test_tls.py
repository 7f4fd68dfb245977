"""TLS: handshakes that fail or never come, whole bodies both ways at once, and its own end."""

from __future__ import annotations

import hashlib
import logging
import random
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing
from guarded import (
    answer,
    body,
    certificate,
    http,
    open_guarded_on,
    open_tls,
    read_request,
    records,
    start,
)
from leaks import assert_no_leaks
from probes import IN_TIME, PROMPT, Calls, get
from wire import Truncated, open_guarded, open_raw

from tsstream._asgi import Receive, Send
from tsstream._server.serve import serve

FILES: dict[str, Any] = {"certfile": certificate().certfile, "keyfile": certificate().keyfile}


async def say_scheme(scope: Any, receive: Receive, send: Send) -> None:
    await answer(send, scope["scheme"].encode())


async def test_the_address_and_the_scheme_are_https() -> None:
    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(
            partial(serve, http(say_scheme), bind=["127.0.0.1:0"], **FILES)
        )
        assert address.startswith("https://127.0.0.1:")
        async with open_tls(int(address.rpartition(":")[2])) as raw:
            assert await get(raw) == 200
            assert await raw.read_body() == b"https"
        nursery.cancel_scope.cancel()


async def test_a_large_body_comes_whole_to_a_client_that_reads_in_fits_and_starts() -> None:
    data = random.Random(1).randbytes(8_000_000)
    pause = random.Random(2)

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await send(start())
        sizes = random.Random(3)
        begin = 0
        while begin < len(data):
            size = sizes.choice((1, 100, 16_384, 300_000))
            await send(body(data[begin : begin + size]))
            begin += size
        await send(body(b"", more=False))

    received = hashlib.sha256()
    async with open_guarded_on("tls", http(app), send_buffer=4096) as connect:
        async with connect(receive_buffer=4096) as raw:
            assert await get(raw) == 200
            with trio.fail_after(2 * IN_TIME):
                while (chunk := await raw.read_chunk()) is not None:
                    received.update(chunk)
                    if pause.random() < 0.01:
                        await trio.sleep(0.001)
    assert received.digest() == hashlib.sha256(data).digest()


async def test_both_directions_are_used_at_once() -> None:
    # One task reads and another writes through the same TLS state.
    data = random.Random(4).randbytes(3_000_000)

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await send(start())
        message = await receive()
        while message["more_body"]:
            await send(body(message["body"]))
            message = await receive()
        await send(body(message["body"], more=False))

    async with open_guarded_on("tls", http(app)) as connect, connect() as raw:
        async with trio.open_nursery() as nursery:
            await raw.request("POST", "/", {"content-length": str(len(data))})
            nursery.start_soon(raw.send_all, data)
            assert (await raw.read_head())[0] == 200
            with trio.fail_after(2 * IN_TIME):
                assert await raw.read_body() == data


async def test_a_client_that_never_shakes_hands_is_closed_at_the_handshake_timeout(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    app = http(say_scheme)
    async with open_guarded(app, ssl_handshake_timeout=0.2, **FILES) as port:
        async with assert_no_leaks(), open_raw(port) as raw:
            with trio.fail_after(0.2 + PROMPT):
                assert await raw.read_until_closed() == b""
    assert len(records(caplog)) <= 1


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", bytes(1000), b"\x16\x03\x01\xff\xff" + bytes(99)]
)
async def test_what_is_no_handshake_ends_its_connection_and_no_other(
    data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with open_guarded(http(say_scheme), **FILES) as port, assert_no_leaks():
        async with open_tls(port) as other:
            assert await get(other) == 200
            async with open_raw(port) as raw:
                await raw.send_all(data)
                await raw.half_close()
                with trio.fail_after(PROMPT):
                    await raw.read_until_closed()
            assert await get(other) == 200
    (record,) = records(caplog)
    assert record.startswith("INFO ")


async def test_garbage_within_tls_ends_its_connection_and_is_one_record(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        await send(start())
        await send(body(b"first"))
        sent.set()
        assert (await receive())["type"] == "http.disconnect"

    sent = trio.Event()
    calls = Calls(http(app))
    async with open_guarded(calls, **FILES) as port, assert_no_leaks(), open_tls(port) as raw:
        assert await get(raw) == 200
        await sent.wait()
        await raw.stream.send_all(b"not a record of TLS")
        await calls.wait_returned(within=PROMPT)
    assert calls.raised == []
    assert len(records(caplog)) <= 1


async def test_a_handshake_in_progress_does_not_hold_up_others() -> None:
    async with open_guarded(http(say_scheme), **FILES) as port, trio.open_nursery() as nursery:

        async def stay(*, task_status: trio.TaskStatus[None]) -> None:
            async with open_raw(port) as raw:
                await raw.send_all(b"\x16\x03\x01")
                task_status.started()
                await trio.sleep_forever()

        for _ in range(20):
            await nursery.start(stay)
        with trio.fail_after(2 * PROMPT):
            async with open_tls(port) as raw:
                assert await get(raw) == 200
        nursery.cancel_scope.cancel()


async def test_a_handshake_in_progress_does_not_delay_the_end() -> None:
    stop = trio.Event()
    app = http(say_scheme)
    server = open_guarded(app, shutdown_trigger=stop.wait, graceful_timeout=20.0, **FILES)
    async with server as port, open_raw(port) as raw:
        await raw.send_all(b"\x16\x03\x01")
        await trio.testing.wait_all_tasks_blocked(0.02)
        stop.set()
        with trio.fail_after(PROMPT):
            assert await raw.read_until_closed() == b""


async def test_connection_close_ends_with_close_notify() -> None:
    async with open_guarded_on("tls", http(say_scheme)) as connect, connect() as raw:
        await raw.request("GET", "/", {"connection": "close"})
        assert (await raw.read_head())[0] == 200
        assert await raw.read_body() == b"https"
        with trio.fail_after(PROMPT):
            assert await raw.read_until_closed() == b""
    assert raw.ended == "fin"  # which over TLS is a close_notify


async def test_an_upload_over_tls_is_received_whole() -> None:
    data = random.Random(5).randbytes(5_000_000)

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await answer(send, hashlib.sha256(await read_request(receive)).hexdigest().encode())

    async with open_guarded_on("tls", http(app)) as connect, connect() as raw:
        await raw.request("POST", "/", body=data)
        assert (await raw.read_head())[0] == 200
        assert await raw.read_body() == hashlib.sha256(data).hexdigest().encode()


async def test_a_tls_connection_that_is_cut_is_no_end_of_a_body() -> None:
    # A FIN without close_notify is what an attacker on the way can forge.
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await send(start())
        await send(body(b"half"))
        raise LookupError("the other half")

    async with open_guarded_on("tls", http(app)) as connect, connect() as raw:
        await get(raw)
        with pytest.raises(Truncated):
            await raw.read_body()
