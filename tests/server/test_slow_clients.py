"""Clients that take their time, ask for too much, or are too many."""

from __future__ import annotations

import logging
import time
from contextlib import AsyncExitStack
from typing import Any

import pytest
import trio
import trio.testing
from guarded import TRANSPORTS, Transport, answer, body, http, open_guarded_on, read_request, start
from guarded import records as records_of
from leaks import assert_no_leaks
from probes import IN_TIME, PROMPT, Calls, get
from wire import RawConnection, Truncated, open_guarded, open_raw

from tsstream import App, BodyLimits, Request
from tsstream._asgi import Receive, Send

LIMIT = 0.25  # seconds
LONG = 20.0  # seconds: far longer than these tests take

HEAD = b"GET / HTTP/1.1\r\nhost: a\r\n"


async def echo(scope: Any, receive: Receive, send: Send) -> None:
    await answer(send, await read_request(receive))


async def until_closed(raw: RawConnection, within: float) -> tuple[bytes, float]:
    """Read to the end; give what came and how long that took."""
    begin = trio.current_time()
    with trio.fail_after(within + PROMPT):
        data = await raw.read_until_closed()
    return data, trio.current_time() - begin


async def drip(raw: RawConnection, data: bytes, pause: float) -> None:
    """Send *data* byte by byte, as long as the connection takes it."""
    try:
        for byte in data:
            await raw.send_all(bytes([byte]))
            await trio.sleep(pause)
    except trio.BrokenResourceError:
        pass


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_head_that_comes_byte_by_byte_is_408_at_the_header_timeout(
    transport: Transport, caplog: pytest.LogCaptureFixture
) -> None:
    # The limit is for the whole head: each byte in time is not enough.
    caplog.set_level(logging.INFO)
    async with open_guarded_on(transport, http(echo), header_timeout=LIMIT) as connect:
        async with assert_no_leaks(), connect() as raw, trio.open_nursery() as nursery:
            nursery.start_soon(drip, raw, HEAD, LIMIT / 10)
            data, took = await until_closed(raw, LIMIT)
            assert data.startswith(b"HTTP/1.1 408 ")
            assert took > 0.8 * LIMIT
            nursery.cancel_scope.cancel()
    (record,) = records_of(caplog)
    assert record.startswith("INFO ")


async def test_a_connection_without_a_byte_is_closed_at_the_header_timeout() -> None:
    async with open_guarded(http(echo), header_timeout=LIMIT) as port, assert_no_leaks():
        async with open_raw(port) as raw:
            data, took = await until_closed(raw, LIMIT)
    assert data == b""  # nothing was asked, so a 408 would be taken for the next answer
    assert took > 0.8 * LIMIT


async def test_the_header_timeout_holds_for_every_request_of_a_connection() -> None:
    async with open_guarded(http(echo), header_timeout=LIMIT) as port, open_raw(port) as raw:
        assert await get(raw) == 200
        assert await raw.read_body() == b""
        await raw.send_all(HEAD)
        data, took = await until_closed(raw, LIMIT)
    assert data.startswith(b"HTTP/1.1 408 ")
    assert took > 0.8 * LIMIT


async def test_the_header_timeout_is_no_limit_for_what_follows_the_head() -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        data = await read_request(receive)
        await trio.sleep(2 * LIMIT)
        await answer(send, data)

    async with open_guarded(http(app), header_timeout=LIMIT) as port, open_raw(port) as raw:
        await raw.request("POST", "/", {"content-length": "4"})
        await trio.sleep(1.5 * LIMIT)
        await raw.send_all(b"body")
        assert (await raw.read_head())[0] == 200
        assert await raw.read_body() == b"body"


async def test_a_body_that_pauses_for_the_body_timeout_is_408_and_a_disconnect(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    heard: list[str] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        while (message := await receive())["type"] == "http.request":
            assert message["more_body"]
        heard.append(message["type"])

    calls = Calls(http(app))
    async with open_guarded(calls, body_timeout=LIMIT) as port, assert_no_leaks():
        async with open_raw(port) as raw:
            await raw.request("POST", "/", {"content-length": "100"})
            await raw.send_all(b"x" * 10)
            data, took = await until_closed(raw, LIMIT)
            assert data.startswith(b"HTTP/1.1 408 ")
            assert took > 0.8 * LIMIT
        await calls.wait_returned()
    assert heard == ["http.disconnect"]
    (record,) = records_of(caplog)
    assert record.startswith("INFO ")


async def test_a_tsstream_app_times_its_bodies_itself() -> None:
    # RQ-14: also one of which not a byte has come
    app: App[Any] = App(body_limits=BodyLimits(timeout=2 * LIMIT))

    @app.post("/")
    async def handler(request: Request) -> bytes:
        return await request.read()

    calls = Calls(app)
    async with open_guarded(calls, body_timeout=LIMIT) as port, assert_no_leaks():
        async with open_raw(port) as raw:
            await raw.request("POST", "/", {"content-length": "100"})
            begin = trio.current_time()
            with trio.fail_after(2 * LIMIT + PROMPT):
                assert (await raw.read_head())[0] == 408
            assert trio.current_time() - begin > 1.8 * LIMIT
        await calls.wait_returned()


async def test_a_body_that_comes_slowly_but_steadily_is_received() -> None:
    async with open_guarded(http(echo), body_timeout=LIMIT) as port, open_raw(port) as raw:
        await raw.request("POST", "/", {"content-length": "10"})
        await drip(raw, b"0123456789", LIMIT / 3)
        assert (await raw.read_head())[0] == 200
        assert await raw.read_body() == b"0123456789"


async def test_a_body_may_pause_as_long_as_it_likes_once_the_response_has_started() -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await send(start())
        await send(body(b"first "))
        await send(body(await read_request(receive), more=False))

    async with open_guarded(http(app), body_timeout=LIMIT) as port, open_raw(port) as raw:
        await raw.request("POST", "/", {"content-length": "4"})
        assert (await raw.read_head())[0] == 200
        await trio.sleep(2 * LIMIT)
        await raw.send_all(b"body")
        assert await raw.read_body() == b"first body"


async def test_an_app_that_takes_its_time_with_a_body_is_no_silence_of_the_client() -> None:
    size = 3_000_000

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await trio.sleep(2 * LIMIT)
        await answer(send, str(len(await read_request(receive))).encode())

    async with open_guarded(http(app), body_timeout=LIMIT) as port, open_raw(port) as raw:
        await raw.request("POST", "/", body=b"x" * size)
        assert (await raw.read_head())[0] == 200
        assert await raw.read_body() == str(size).encode()


async def test_a_client_that_waits_for_100_continue_is_not_silent() -> None:
    wanted = trio.Event()

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await wanted.wait()
        await answer(send, await read_request(receive))

    async with open_guarded(http(app), body_timeout=LIMIT) as port, open_raw(port) as raw:
        await raw.request("POST", "/", {"content-length": "4", "expect": "100-continue"})
        await trio.sleep(1.2 * LIMIT)
        wanted.set()
        assert (await raw.read_head())[0] == 100
        data, took = await until_closed(raw, LIMIT)  # now it is
        assert data.startswith(b"HTTP/1.1 408 ")
        assert took > 0.8 * LIMIT


async def test_the_header_timeout_is_not_begun_again_by_the_first_byte() -> None:
    async with open_guarded(http(echo), header_timeout=LIMIT) as port, open_raw(port) as raw:
        await trio.sleep(0.6 * LIMIT)
        await raw.send_all(HEAD)
        data, _ = await until_closed(raw, 0.5 * LIMIT)
        assert data.startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("data", [b"P", b"PO", b"PRI * HTTP/2.0\r\n"])
async def test_what_could_be_either_protocol_is_408_too(data: bytes) -> None:
    async with open_guarded(http(echo), header_timeout=0.05) as port, open_raw(port) as raw:
        await raw.send_all(data)
        assert (await until_closed(raw, 0.05))[0].startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize(
    ("begun", "rest"),
    [
        (b"POST / HTTP/1.1\r\nhost: a\r\n", b"content-length: 3\r\n\r\nabc"),
        (b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\n", b"abc"),
        (b"", b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc"),
    ],
    ids=["head", "body", "idle"],
)
async def test_what_came_in_time_is_in_time_though_the_server_was_busy(
    begun: bytes, rest: bytes
) -> None:
    # The bytes and the deadline are found in the same tick. The application must not be called for
    # nothing: its client would ask again.
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        data = await read_request(receive)
        await trio.testing.wait_all_tasks_blocked()
        await answer(send, data)

    limits: Any = {"header_timeout": 0.05, "body_timeout": 0.05, "keep_alive_timeout": 0.05}
    async with open_guarded(http(app), **limits) as port, open_raw(port) as raw:
        assert await get(raw) == 200  # so that it can be idle
        assert await raw.read_body() == b""
        await raw.send_all(begun)
        await trio.testing.wait_all_tasks_blocked(0.01)
        raw.stream.socket._sock.send(rest)  # type: ignore[attr-defined]  # without a checkpoint
        time.sleep(0.1)  # noqa: ASYNC251 (the event loop is busy)
        with trio.fail_after(IN_TIME):
            assert (await raw.read_head())[0] == 200
            assert await raw.read_body() == b"abc"


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(HEAD + b"x: " + b"y" * 20_000 + b"\r\n\r\n", id="a long field"),
        pytest.param(HEAD + b"x: " + b"y" * 20_000, id="a long field without end"),
        pytest.param(b"GET /" + b"y" * 20_000, id="a long target without end"),
        pytest.param(HEAD + b"x: y\r\n" * 100 + b"\r\n", id="101 fields"),
        pytest.param(HEAD + b"x: y\r\n" * 4000, id="fields without end"),
    ],
)
async def test_too_large_a_head_is_431_and_the_end(
    head: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    calls = Calls(http(echo))
    async with open_guarded(calls) as port, assert_no_leaks(), open_raw(port) as raw:
        await raw.send_all(head)
        await raw.half_close()
        data, _ = await until_closed(raw, 0)
        assert data.startswith(b"HTTP/1.1 431 ")
        assert raw.ended == "fin"
    assert calls.returned == 0
    (record,) = records_of(caplog)
    assert record.startswith("INFO ")


async def test_a_head_of_100_fields_is_served() -> None:
    async with open_guarded(http(echo)) as port, open_raw(port) as raw:
        await raw.send_all(HEAD + b"x: y\r\n" * 99 + b"\r\n")
        assert (await raw.read_head())[0] == 200


async def test_a_refusal_reaches_a_client_that_still_sends_its_endless_head() -> None:
    async with open_guarded(http(echo)) as port, assert_no_leaks():
        for _ in range(20):
            async with open_raw(port) as raw:
                await raw.send_all(HEAD + b"x: y\r\n" * 200_000)
                assert (await raw.read_head())[0] == 431


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_connection_too_many_gets_503_and_the_slots_come_back(transport: Transport) -> None:
    async with open_guarded_on(transport, http(echo), max_connections=2) as connect:
        async with assert_no_leaks():
            for _ in range(3):
                async with AsyncExitStack() as stack:
                    for _ in range(2):
                        raw = await stack.enter_async_context(connect())
                        assert await get(raw) == 200
                    if transport == "tls":
                        with pytest.raises(trio.BrokenResourceError):  # no handshake for it
                            await stack.enter_async_context(connect())
                    else:
                        async with connect() as refused:
                            with trio.fail_after(PROMPT):
                                status, headers = await refused.read_head()
                                assert (status, headers["connection"]) == (503, "close")
                                assert int(headers["retry-after"]) > 0
                                await refused.read_body()
                                assert await refused.read_until_closed() == b""
                    assert await get(raw) == 200  # those that have a slot go on
                await trio.testing.wait_all_tasks_blocked(0.02)  # until the slots are free


async def test_the_refusal_reaches_a_client_that_has_sent_its_request() -> None:
    async with open_guarded(http(echo), max_connections=1) as port, open_raw(port) as first:
        assert await get(first) == 200
        for _ in range(20):
            async with open_raw(port) as raw:
                await raw.request("POST", "/", body=b"x" * 10_000)
                assert (await raw.read_head())[0] == 503


async def test_an_idle_connection_is_closed_at_the_keep_alive_timeout() -> None:
    async with open_guarded(http(echo), keep_alive_timeout=LIMIT) as port, assert_no_leaks():
        async with open_raw(port) as raw:
            for _ in range(2):  # each request gives it the whole time again
                await trio.sleep(LIMIT / 2)
                assert await get(raw) == 200
                assert await raw.read_body() == b""
            data, took = await until_closed(raw, LIMIT)
    assert (data, raw.ended) == (b"", "fin")
    assert took > 0.8 * LIMIT


async def test_the_keep_alive_timeout_cuts_no_response() -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await send(start())
        await send(body(b"first "))
        await trio.sleep(2 * LIMIT)
        await send(body(b"last", more=False))

    async with open_guarded(http(app), keep_alive_timeout=LIMIT) as port, open_raw(port) as raw:
        assert await get(raw) == 200
        assert await raw.read_body() == b"first last"
        assert await get(raw) == 200


async def test_the_header_timeout_cuts_no_slow_response_with_a_pipelined_request() -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await trio.sleep(2 * LIMIT)
        await answer(send)

    async with open_guarded(http(app), header_timeout=LIMIT) as port, open_raw(port) as raw:
        await raw.request("GET", "/")
        await raw.request("GET", "/")
        for _ in range(2):
            assert (await raw.read_head())[0] == 200
            assert await raw.read_body() == b"ok"


async def test_no_limit_is_none() -> None:
    limits = {"header_timeout": None, "body_timeout": None, "stall_timeout": None}
    async with open_guarded(http(echo), **limits) as port, open_raw(port) as raw:
        await drip(raw, HEAD, 0)
        await raw.send_all(b"\r\n")
        assert (await raw.read_head())[0] == 200


async def test_a_hundred_slow_clients_do_not_hold_up_a_quick_one() -> None:
    async with open_guarded(http(echo), header_timeout=LONG) as port, assert_no_leaks():
        async with AsyncExitStack() as stack:
            for _ in range(100):
                slow = await stack.enter_async_context(open_raw(port))
                await slow.send_all(b"GET / HTTP/1.1\r\nx")
            async with open_raw(port) as raw:
                for _ in range(20):
                    with trio.fail_after(PROMPT):
                        assert await get(raw) == 200
                        assert await raw.read_body() == b""


async def test_a_response_that_says_less_than_its_length_is_cut() -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await send(start(content_length="100"))
        await send(body(b"short", more=False))

    async with open_guarded(http(app)) as port, assert_no_leaks(), open_raw(port) as raw:
        with trio.fail_after(IN_TIME), pytest.raises(Truncated):
            await get(raw)
            await raw.read_body()
