"""HTTP/2: what ends before its time is reset, alone, and both sides hear it (HOST fault 3)."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import h2.errors
import pytest
import trio
from guarded import DISCONNECT, FINAL, answer, body, http, records, start
from leaks import assert_no_leaks
from probes import IN_TIME, PROMPT
from wire import H2Connection, Truncated, open_guarded, open_h2

from tsstream._asgi import Message, Receive, Send

INTERNAL_ERROR = h2.errors.ErrorCodes.INTERNAL_ERROR
Handler = Callable[[Any, Receive, Send], Awaitable[None]]


class Boom(Exception):
    pass


class Calls:
    """Answers ``/`` at once; all else is for *handle*, of which it says how it ended."""

    def __init__(self, handle: Handler) -> None:
        self.handle = handle
        self.proceed = trio.Event()
        self.left = trio.Event()
        self.error: BaseException | None = None
        self.received: list[Message] = []

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["path"] == "/":
            await answer(send)
            return
        try:
            await self.handle(scope, receive, send)
        except BaseException as error:
            self.error = error
            raise
        finally:
            self.left.set()

    async def wait_left(self) -> None:
        with trio.fail_after(PROMPT):
            await self.left.wait()


@asynccontextmanager
async def open_both(handle: Handler, **options: Any) -> AsyncIterator[tuple[Calls, H2Connection]]:
    """Serve *handle* and connect to it; afterwards the connection must still be of use."""
    calls = Calls(handle)
    async with open_guarded(http(calls), **options) as port, assert_no_leaks():
        async with open_h2(port) as client:
            yield calls, client
            await check_of_use(client)


async def check_of_use(client: H2Connection) -> None:
    with trio.fail_after(IN_TIME):
        stream_id = await client.request("GET", "/")
        assert (await client.read_head(stream_id))[0] == 200
        assert await client.read_body(stream_id) == b"ok"


async def begin(client: H2Connection, method: str = "GET", *, end_stream: bool = True) -> int:
    """Ask for what goes on, and read its first chunk."""
    stream_id = await client.request(method, "/call", end_stream=end_stream)
    assert (await client.read_head(stream_id))[0] == 200
    assert await client.read_chunk(stream_id) == b"one"
    return stream_id


async def say_one(send: Send) -> None:
    await send(start())
    await send(body(b"one"))


async def check_reset(client: H2Connection, stream_id: int, code: int = INTERNAL_ERROR) -> None:
    with trio.fail_after(PROMPT), pytest.raises(Truncated) as caught:
        await client.read_body(stream_id)
    assert caught.value.error_code == code


async def test_an_application_that_fails_within_its_response_is_cut_at_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail(scope: Any, receive: Receive, send: Send) -> None:
        await say_one(send)
        await calls.proceed.wait()
        raise Boom

    async with open_both(fail) as (calls, client):
        stream_id = await begin(client)
        sibling = await client.request("POST", "/", end_stream=False)
        calls.proceed.set()
        await check_reset(client, stream_id)
        assert (await client.read_head(sibling))[0] == 200
        assert await client.read_body(sibling) == b"ok"
    assert records(caplog) == ["ERROR Error in ASGI Framework"]


async def test_an_application_that_returns_without_its_final_message_is_cut() -> None:
    async def leave(scope: Any, receive: Receive, send: Send) -> None:
        await say_one(send)

    async with open_both(leave) as (_, client):
        await check_reset(client, await begin(client))


async def test_an_application_that_fails_before_its_response_is_answered_500() -> None:
    async def fail(scope: Any, receive: Receive, send: Send) -> None:
        raise Boom

    async with open_both(fail) as (_, client):
        stream_id = await client.request("GET", "/call")
        assert (await client.read_head(stream_id))[0] == 500
        assert await client.read_body(stream_id) == b""


@pytest.mark.parametrize("window", [0, 65_535])
async def test_a_send_that_is_cancelled_resets_its_stream_and_no_other(window: int) -> None:
    async def give_up(scope: Any, receive: Receive, send: Send) -> None:
        await send(start())
        with trio.move_on_after(0.02):
            while True:
                await send(body(bytes(65_536)))

    calls = Calls(give_up)
    async with open_guarded(http(calls)) as port, assert_no_leaks():
        async with open_h2(port, window=window, credit=False) as client:
            stream_id = await client.request("GET", "/call")
            assert (await client.read_head(stream_id))[0] == 200
            with trio.fail_after(IN_TIME), pytest.raises(Truncated) as caught:
                await client.read_body(stream_id)
            assert caught.value.error_code == INTERNAL_ERROR
            assert len(caught.value.body) == window
            if window:
                await check_of_use(client)
            await client.ping()
    assert calls.left.is_set()


async def test_an_application_that_is_cancelled_resets_its_stream() -> None:
    async def cancel(scope: Any, receive: Receive, send: Send) -> None:
        with trio.CancelScope() as scope_:
            await say_one(send)
            await calls.proceed.wait()
            scope_.cancel()
            await send(body(b"two"))
        raise Boom

    async with open_both(cancel) as (calls, client):
        stream_id = await begin(client)
        calls.proceed.set()
        await check_reset(client, stream_id)


@pytest.mark.parametrize(("length", "data"), [(5, b"longer"), (5, b"one")])
async def test_a_body_that_is_not_of_its_content_length_is_cut(length: int, data: bytes) -> None:
    async def lie(scope: Any, receive: Receive, send: Send) -> None:
        await send(start(content_length=str(length)))
        await send(body(data))
        await send(FINAL)

    async with open_both(lie) as (calls, client):
        stream_id = await client.request("GET", "/call")
        await check_reset(client, stream_id)
    assert isinstance(calls.error, ValueError)


@pytest.mark.parametrize(
    "message",
    [
        start(99),
        start(101),
        start(600),
        start(x_a="b\r\nset-cookie: c"),
        start(x_a="b\0"),
        start(content_length="many"),
        {"type": "http.response.start", "status": 200, "headers": [(b"a b", b"c")]},
        {"type": "http.response.start", "status": 200, "headers": [(b"", b"c")]},
        {"type": "http.response.start", "status": 200, "headers": [(b":path", b"/")]},
    ],
    ids=str,
)
async def test_an_invalid_head_is_the_error_of_the_application(message: Message) -> None:
    errors: list[Exception] = []

    async def call(scope: Any, receive: Receive, send: Send) -> None:
        try:
            await send(message)
        except (ValueError, IndexError) as error:
            errors.append(error)
        await answer(send, b"sorry", 500)

    async with open_both(call) as (_, client):
        stream_id = await client.request("GET", "/call")
        assert (await client.read_head(stream_id))[0] == 500
        assert await client.read_body(stream_id) == b"sorry"
    assert len(errors) == 1


async def test_headers_are_put_in_lower_case_and_those_of_a_connection_are_left_out() -> None:
    async def call(scope: Any, receive: Receive, send: Send) -> None:
        await send(start(X_Answer=" 42 ", Connection="close", Transfer_Encoding="chunked"))
        await send(FINAL)

    async with open_both(call) as (_, client):
        stream_id = await client.request("GET", "/call")
        status, headers = await client.read_head(stream_id)
        assert (status, headers["x-answer"]) == (200, "42")
        assert not headers.keys() & {"connection", "transfer-encoding"}
        assert await client.read_body(stream_id) == b""


async def receive_all(scope: Any, receive: Receive, send: Send) -> None:
    await say_one(send)
    while (await receive())["type"] != "http.disconnect":
        pass


async def send_all(scope: Any, receive: Receive, send: Send) -> None:
    await say_one(send)
    while True:
        await send(body(bytes(65_536)))


async def leave_unread(scope: Any, receive: Receive, send: Send) -> None:
    """Look at what there is to be received only now and then."""
    await say_one(send)
    while True:
        if (await receive())["type"] == "http.disconnect":
            return
        await trio.sleep(PROMPT / 5)


async def reset(client: H2Connection, stream_id: int) -> None:
    await client.reset(stream_id)


async def close(client: H2Connection, stream_id: int) -> None:
    client.close()


async def abort(client: H2Connection, stream_id: int) -> None:
    client.abort()


async def half_close(client: H2Connection, stream_id: int) -> None:
    client.stream.socket.shutdown(trio.socket.SHUT_WR)


async def go_away(client: H2Connection, stream_id: int) -> None:
    client._h2.close_connection(INTERNAL_ERROR)
    await client._flush()


@pytest.mark.parametrize("way", [reset, close, abort, half_close, go_away])
@pytest.mark.parametrize("handle", [receive_all, send_all, leave_unread])
async def test_whoever_leaves_is_noticed_at_once(
    handle: Handler,
    way: Callable[[H2Connection, int], Awaitable[None]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    calls = Calls(handle)
    async with open_guarded(http(calls)) as port, assert_no_leaks():
        async with open_h2(port, credit=False) as client:
            stream_id = await client.request("POST", "/call", end_stream=False)
            assert (await client.read_head(stream_id))[0] == 200
            await client.send_data(stream_id, bytes(60_000))
            await client.ping()
            await way(client, stream_id)
            await calls.wait_left()
    assert handle is not send_all or isinstance(calls.error, OSError)
    assert [record for record in records(caplog) if "Running" not in record] == []


async def test_every_send_and_receive_after_a_reset_says_so() -> None:
    async def go_on(scope: Any, receive: Receive, send: Send) -> None:
        await say_one(send)
        await calls.proceed.wait()
        for _ in range(3):
            assert await receive() == DISCONNECT
            with pytest.raises(OSError, match="gone"):
                await send(body(b"two"))
        with pytest.raises(OSError, match="gone"):
            await send(FINAL)

    async with open_both(go_on) as (calls, client):
        await client.reset(await begin(client))
        await client.ping()
        calls.proceed.set()
        await calls.wait_left()
        assert calls.error is None


async def test_a_loop_that_ignores_all_errors_of_send_does_not_freeze_the_server() -> None:
    # HOST fault 8
    async def go_on(scope: Any, receive: Receive, send: Send) -> None:
        await say_one(send)
        while not calls.proceed.is_set():
            try:
                await send(body(b"more"))
            except OSError:
                pass

    async with open_both(go_on) as (calls, client):
        await client.reset(await begin(client))
        await check_of_use(client)
        calls.proceed.set()
        await calls.wait_left()
