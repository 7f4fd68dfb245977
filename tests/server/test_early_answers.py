"""Answers to clients that are still sending: they arrive, and the connection is kept if it can."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing
from guarded import TRANSPORTS, Transport, answer, http, open_guarded_on, read_request, records
from leaks import assert_no_leaks
from probes import IN_TIME, PROMPT, Calls
from wire import RawConnection, open_guarded, open_raw

from tsstream import App, HTTPError, Request
from tsstream._asgi import Receive, Send

MIB = 1024 * 1024
PIECE = 64 * 1024  # bytes: of a chunked body


async def refuse(scope: Any, receive: Receive, send: Send) -> None:
    """Answer 413 without receiving anything."""
    await answer(send, b"too large", 413)


async def read_refusal(raw: RawConnection) -> dict[str, str]:
    status, headers = await raw.read_head()
    assert (status, await raw.read_body()) == (413, b"too large")
    return headers


async def send_head(raw: RawConnection, size: int, *, chunked: bool, **headers: str) -> None:
    framing = {"transfer-encoding": "chunked"} if chunked else {"content-length": str(size)}
    await raw.request("POST", "/", {**framing, **headers})


def encoded(size: int, *, chunked: bool) -> bytes:
    """Give a body of *size* bytes as it goes on the wire."""
    if not chunked:
        return b"x" * size
    assert size % PIECE == 0
    return (b"%x\r\n" % PIECE + b"x" * PIECE + b"\r\n") * (size // PIECE) + b"0\r\n\r\n"


async def upload(raw: RawConnection, data: bytes) -> None:
    """Send *data*; a server that closes the connection within it is in its right."""
    try:
        await raw.send_all(data)
    except trio.BrokenResourceError:
        pass


@pytest.mark.parametrize(
    ("transport", "chunked", "size", "times"),
    [
        ("tcp", False, 50 * MIB, 20),
        ("tcp", True, 50 * MIB, 5),
        ("tls", False, 20 * MIB, 5),
        ("unix", False, 50 * MIB, 5),
    ],
)
async def test_a_refusal_reaches_a_client_that_uploads_all_before_it_reads(
    transport: Transport, chunked: bool, size: int, times: int
) -> None:
    # If the server closed a socket into which bytes still come, the client's sending would fail,
    # and some kernels would throw away what it has not read. So the server goes on taking them.
    data = encoded(size, chunked=chunked)
    async with open_guarded_on(transport, http(refuse)) as connect, assert_no_leaks():
        for _ in range(times):
            async with connect() as raw:
                with trio.fail_after(IN_TIME):
                    await send_head(raw, size, chunked=chunked)
                    await raw.send_all(data)
                    await read_refusal(raw)


async def test_a_tsstream_refusal_reaches_a_client_that_uploads_all_before_it_reads() -> None:
    app: App[Any] = App()

    @app.post("/")
    async def handler(request: Request) -> str:
        raise HTTPError(413, "too large")

    async with open_guarded(app) as port, assert_no_leaks():
        for _ in range(20):
            async with open_raw(port) as raw:
                await send_head(raw, 50 * MIB, chunked=False)
                await raw.send_all(bytes(50 * MIB))
                await read_refusal(raw)


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("size", [PIECE, MIB])
@pytest.mark.parametrize("early", [True, False])
async def test_the_connection_is_kept_if_up_to_1_mib_is_unread(
    size: int, chunked: bool, early: bool
) -> None:
    async with open_guarded(http(refuse)) as port, assert_no_leaks(), open_raw(port) as raw:
        for _ in range(2):
            await send_head(raw, size, chunked=chunked)
            if early:  # the answer comes before the body
                headers = await read_refusal(raw)
            with trio.fail_after(IN_TIME):
                await raw.send_all(encoded(size, chunked=chunked))
            if not early:
                headers = await read_refusal(raw)
            assert "connection" not in headers


async def test_the_connection_is_kept_if_the_app_has_read_all_but_1_mib() -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        received = 0
        while received < 2 * MIB:
            received += len((await receive())["body"])
        await answer(send, b"too large", 413)

    async with open_guarded(http(app)) as port, open_raw(port) as raw:
        for _ in range(2):
            await raw.request("POST", "/", body=b"x" * 3 * MIB)
            assert "connection" not in await read_refusal(raw)


async def test_the_connection_is_closed_and_that_is_said_if_more_is_unread() -> None:
    size = MIB + 1
    async with open_guarded(http(refuse)) as port, assert_no_leaks(), open_raw(port) as raw:
        await send_head(raw, size, chunked=False)
        headers = await read_refusal(raw)
        assert headers["connection"] == "close"
        await upload(raw, bytes(size))
        await raw.half_close()
        with trio.fail_after(PROMPT):
            assert await raw.read_until_closed() == b""
    assert raw.ended == "fin"


async def test_the_connection_is_closed_if_more_of_a_chunked_body_is_unread() -> None:
    size = 2 * MIB
    async with open_guarded(http(refuse)) as port, assert_no_leaks(), open_raw(port) as raw:
        await send_head(raw, size, chunked=True)
        await read_refusal(raw)
        await upload(raw, encoded(size, chunked=True))
        await raw.half_close()
        with trio.fail_after(PROMPT):
            assert await raw.read_until_closed() == b""


async def test_a_client_that_sees_the_end_and_stops_is_let_go_at_once() -> None:
    calls = Calls(http(refuse))
    async with open_guarded(calls) as port, assert_no_leaks(grace=PROMPT):
        async with open_raw(port) as raw:
            await send_head(raw, 50 * MIB, chunked=False)
            await raw.send_all(bytes(PIECE))
            await read_refusal(raw)
            assert await raw.read_until_closed() == b""
            assert raw.ended == "fin"  # sent before the client has ended its upload


async def test_an_answer_within_a_packet_of_small_chunks_keeps_the_connection(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # The reader lets others run between the chunks; the answer may be complete after that.
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        taken = 0
        while taken < int(scope["path"][1:]):
            taken += len((await receive())["body"])
        await answer(send, b"too large", 413)

    async with open_guarded(http(app)) as port, assert_no_leaks(), open_raw(port) as raw:
        for count in range(0, 1000, 33):
            await raw.request("POST", f"/{count}", {"transfer-encoding": "chunked"})
            await raw.send_all(b"1\r\na\r\n" * 1000 + b"0\r\n\r\n")
            await read_refusal(raw)
    assert records(caplog) == []


async def test_a_body_that_goes_wrong_behind_its_answer_is_no_error_of_the_app(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    size = 300_000

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await answer(send, b"x" * size)

    calls = Calls(http(app))
    async with open_guarded(calls, send_buffer=20_000) as port:
        async with open_raw(port, receive_buffer=10_000) as raw:
            await send_head(raw, 0, chunked=True)
            await trio.testing.wait_all_tasks_blocked(0.02)  # the answer waits for its client
            await raw.send_all(b"this is no chunk\r\n")
            await trio.testing.wait_all_tasks_blocked(0.02)
            assert (await raw.read_head())[0] == 200
            assert await raw.read_body() == b"x" * size
        await calls.wait_returned()
    assert calls.raised == []
    (record,) = records(caplog)
    assert record.startswith("INFO ")


async def test_the_app_hears_a_disconnect_once_it_has_answered() -> None:
    # ASGI: receive() after the response gives http.disconnect, whatever is unread.
    heard: list[str] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await answer(send)
        heard.append((await receive())["type"])

    calls = Calls(http(app))
    async with open_guarded(calls) as port, open_raw(port) as raw:
        await raw.request("POST", "/", body=b"x" * 100_000)
        assert (await raw.read_head())[0] == 200
        await calls.wait_returned()
    assert heard == ["http.disconnect"]


async def test_1000_early_answers_leave_nothing_and_are_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    calls = Calls(http(refuse))
    async with open_guarded(calls) as port, assert_no_leaks():

        async def post_often(size: int, sent: int) -> None:
            for _ in range(100):
                async with open_raw(port) as raw:
                    await send_head(raw, size, chunked=False)
                    await raw.send_all(bytes(sent))
                    await read_refusal(raw)

        async with trio.open_nursery() as nursery:
            for size in (100, PIECE, MIB, 2 * MIB, 50 * MIB):
                nursery.start_soon(post_often, size, min(size, 100_000))
                nursery.start_soon(post_often, size, 1)
    assert (calls.returned, calls.raised) == (1000, [])
    assert records(caplog) == []


expecting = partial(send_head, expect="100-continue")


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_100_continue_is_sent_when_the_app_first_wants_the_body(transport: Transport) -> None:
    wanted = trio.Event()

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await wanted.wait()
        await answer(send, await read_request(receive))

    async with open_guarded_on(transport, http(app)) as connect, connect() as raw:
        await expecting(raw, 4, chunked=False)
        await trio.testing.wait_all_tasks_blocked(0.02)
        with trio.move_on_after(0.02) as waiting:
            await raw.read_head()
        assert waiting.cancelled_caught  # nothing has come
        wanted.set()
        with trio.fail_after(PROMPT):
            assert (await raw.read_head())[0] == 100
        await raw.send_all(b"body")
        assert (await raw.read_head())[0] == 200
        assert await raw.read_body() == b"body"


async def test_a_client_that_has_reset_before_100_continue_is_a_disconnect() -> None:
    # Nothing has been heard of that yet: sending finds it out.
    heard: list[str] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        raw.abort()
        heard.append((await receive())["type"])

    calls = Calls(http(app))
    async with open_guarded(calls) as port, open_raw(port) as raw:
        await expecting(raw, 4, chunked=False)
        await calls.wait_returned()
    assert heard == ["http.disconnect"]


async def test_100_continue_is_sent_once() -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await answer(send, await read_request(receive))

    async with open_guarded(http(app)) as port, open_raw(port) as raw:
        await expecting(raw, 8, chunked=False)
        assert (await raw.read_head())[0] == 100
        for _ in range(2):
            await raw.send_all(b"body")
            await trio.testing.wait_all_tasks_blocked(0.01)
        assert (await raw.read_head())[0] == 200
        assert await raw.read_body() == b"bodybody"
        await raw.request("GET", "/")
        assert (await raw.read_head())[0] == 200


async def test_100_continue_is_not_sent_if_the_app_answers_without_the_body() -> None:
    async with open_guarded(http(refuse)) as port, assert_no_leaks(), open_raw(port) as raw:
        await expecting(raw, 100, chunked=False)
        headers = await read_refusal(raw)
        # The client may now send the body or not; to keep the connection would be a guess.
        assert headers["connection"] == "close"
        with trio.fail_after(PROMPT):
            assert await raw.read_until_closed() == b""


async def test_100_continue_is_not_sent_if_the_body_is_here_already() -> None:
    wanted = trio.Event()

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await wanted.wait()
        await answer(send, await read_request(receive))

    async with open_guarded(http(app)) as port, open_raw(port) as raw:
        await expecting(raw, 4, chunked=False)
        await raw.send_all(b"body")
        await trio.testing.wait_all_tasks_blocked(0.02)
        wanted.set()
        assert (await raw.read_head())[0] == 200


async def test_100_continue_is_not_sent_to_http_1_0() -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await answer(send, await read_request(receive))

    async with open_guarded(http(app)) as port, open_raw(port) as raw:
        await raw.send_all(b"POST / HTTP/1.0\r\ncontent-length: 4\r\nexpect: 100-continue\r\n\r\n")
        await trio.testing.wait_all_tasks_blocked(0.02)
        await raw.send_all(b"body")
        assert (await raw.read_head())[0] == 200


async def test_a_tsstream_handler_that_refuses_at_once_sends_no_100_continue() -> None:
    app: App[Any] = App()

    @app.post("/")
    async def handler(request: Request) -> str:
        raise HTTPError(413, "too large")

    async with open_guarded(app) as port, open_raw(port) as raw:
        await expecting(raw, 50 * MIB, chunked=False)
        await read_refusal(raw)


async def test_a_tsstream_handler_that_reads_the_body_gets_it_after_100_continue() -> None:
    app: App[Any] = App()

    @app.post("/")
    async def handler(request: Request) -> bytes:
        return await request.read()

    async with open_guarded(app) as port, open_raw(port) as raw:
        await expecting(raw, 4, chunked=False)
        assert (await raw.read_head())[0] == 100
        await raw.send_all(b"body")
        assert (await raw.read_head())[0] == 200
        assert await raw.read_body() == b"body"
