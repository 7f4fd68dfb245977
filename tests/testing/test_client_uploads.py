"""Uploads of the in-process client: at whose pace they go, both ways at once, and broken off."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from leaks import assert_no_leaks
from trio.testing import MockClock, wait_all_tasks_blocked

from tsstream import App, Request, Response
from tsstream._asgi import ASGIApp, Receive, Send
from tsstream.testing import TruncatedBodyError, open_client

START = {"type": "http.response.start", "status": 200, "headers": []}
END = {"type": "http.response.body", "body": b"", "more_body": False}


def http_only(app: ASGIApp) -> ASGIApp:
    async def wrapper(scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await app(scope, receive, send)

    return wrapper


class Reader:
    """Reads the whole request, responds, and keeps what it has received."""

    def __init__(self) -> None:
        self.messages: list[Any] = []

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        more = True
        while more:
            message = await receive()
            self.messages.append(message)
            more = message.get("more_body", False)
        await send(START)
        await send(END)

    @property
    def bodies(self) -> list[bytes]:
        return [message["body"] for message in self.messages if "body" in message]


@http_only
async def upper(scope: Any, receive: Receive, send: Send) -> None:
    """Respond to each chunk with a chunk, and start with the first (deferred start)."""
    message = await receive()
    await send(START)
    while message["more_body"]:
        data = message["body"].upper()
        await send({"type": "http.response.body", "body": data, "more_body": True})
        message = await receive()
    await send(END)


# The pace


async def test_sender_waits_until_the_app_receives() -> None:
    go_on = trio.Semaphore(0)
    seen: list[Any] = []

    @http_only
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        for _ in range(3):
            await go_on.acquire()
            seen.append((await receive())["body"])
        await send(START)
        await send(END)

    sent: list[bytes] = []

    async def produce(body: trio.abc.SendChannel[bytes]) -> None:
        for chunk in b"one", b"two":
            await body.send(chunk)
            sent.append(chunk)
        await body.aclose()

    async with open_client(app) as client, client.open_request("POST", "/") as request:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(produce, request.body)
            await wait_all_tasks_blocked()
            assert sent == []
            for expected in [b"one"], [b"one", b"two"]:
                go_on.release()
                await wait_all_tasks_blocked()
                assert sent == seen == expected
            go_on.release()
        await request.response()
    assert seen == [b"one", b"two", b""]


async def test_cancelled_receive_loses_no_chunk(autojump_clock: MockClock) -> None:
    seen: list[Any] = []

    @http_only
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        while len(seen) < 2:
            with trio.move_on_after(1):
                seen.append((await receive())["body"])
        await send(START)
        await send(END)

    async with open_client(app) as client, client.open_request("POST", "/") as request:
        for chunk in b"one", b"two":
            await trio.sleep(2.5)
            await request.body.send(chunk)
        await request.response()
    assert seen == [b"one", b"two"]


async def produce_until_broken(body: trio.abc.SendChannel[bytes]) -> None:
    with pytest.raises(trio.BrokenResourceError):
        while True:
            await body.send(b"x")


@pytest.mark.parametrize("reads", [0, 1])
async def test_sender_is_told_when_the_app_wants_no_more(reads: int) -> None:
    return_ = trio.Event()

    @http_only
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        for _ in range(reads):
            await receive()
        await send(START)
        await send(END)
        await return_.wait()  # that it has ended its response is enough

    send_channel, receive_channel = trio.open_memory_channel[bytes](0)
    async with open_client(app) as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(produce_until_broken, send_channel)
            async with client.stream("POST", "/", content=receive_channel):
                await wait_all_tasks_blocked()
                assert not nursery.child_tasks
                return_.set()
        return_ = trio.Event()
        async with client.open_request("POST", "/") as request:
            await produce_until_broken(request.body)
            return_.set()


async def test_sender_is_told_when_the_app_raises() -> None:
    @http_only
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        raise ValueError("mine")

    async with open_client(app) as client:
        async with client.open_request("POST", "/") as request:
            await request.body.send(b"x")
            with pytest.raises(trio.BrokenResourceError):
                await request.body.send(b"y")
            with pytest.raises(ValueError, match="mine"):
                await request.response()


async def test_generator_is_closed_when_the_app_wants_no_more() -> None:
    closed: list[bool] = []

    async def content() -> AsyncGenerator[bytes, None]:
        try:
            while True:
                yield b"x"
        finally:
            closed.append(True)

    @http_only
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        await send(START)
        await send(END)

    async with open_client(app) as client:
        await client.post("/", content=content())
        assert closed == [True]


async def test_closing_the_channel_ends_the_body() -> None:
    app = Reader()
    async with open_client(app) as client, client.open_request("POST", "/") as request:
        await request.body.send("ä")
        request.body.close()
        response = await request.response()
        assert [chunk async for chunk in response.body] == []
    assert app.messages == [
        {"type": "http.request", "body": "ä".encode(), "more_body": True},
        {"type": "http.request", "body": b"", "more_body": False},
    ]


# Both ways at once


async def test_lockstep_with_an_app_that_reads_before_it_responds() -> None:
    async with open_client(upper) as client, client.open_request("POST", "/") as request:
        await request.body.send(b"one")
        response = await request.response()
        assert await response.body.receive() == b"ONE"
        await request.body.send(b"two")
        assert await response.body.receive() == b"TWO"
        request.body.close()
        with pytest.raises(trio.EndOfChannel):
            await response.body.receive()


async def test_lockstep_with_a_tsstream_app() -> None:
    app = App()

    @app.post("/upper")
    @asynccontextmanager
    async def shout(request: Request) -> AsyncIterator[Response]:
        first = await request.body.receive()

        async def words() -> AsyncIterator[bytes]:
            yield first.upper()
            async for chunk in request.body:
                yield chunk.upper()

        yield Response(words(), live=True)

    async with open_client(app) as client, client.open_request("POST", "/upper") as request:
        await request.body.send(b"one")
        response = await request.response()
        assert await response.body.receive() == b"ONE"
        await request.body.send(b"two")
        assert await response.body.receive() == b"TWO"
        request.body.close()
        with pytest.raises(trio.EndOfChannel):
            await response.body.receive()


async def test_response_may_be_asked_for_again() -> None:
    async with open_client(Reader()) as client:
        async with client.open_request("GET", "/", content=b"") as request:
            assert (await request.response()).status_code == 200
            assert (await request.response()).status_code == 200


async def test_content_of_a_request_leaves_nothing_to_send() -> None:
    app = Reader()
    async with open_client(app) as client:
        async with client.open_request("POST", "/", content=[b"a", b"c"]) as request:
            with pytest.raises(trio.ClosedResourceError):
                await request.body.send(b"b")
            request.body.close()  # is closed
            await request.response()
    assert app.bodies == [b"a", b"c", b""]


# Broken off


async def test_abort_in_the_middle_of_an_upload_is_a_disconnect() -> None:
    app = Reader()
    async with open_client(app) as client, client.open_request("POST", "/") as request:
        await request.body.send(b"half")
        request.abort()
        with pytest.raises(trio.ClosedResourceError):
            await request.body.send(b"more")
        with pytest.raises(trio.ClosedResourceError, match="before the response started"):
            await request.response()
        await wait_all_tasks_blocked()
        assert app.messages[1:] == [{"type": "http.disconnect"}]  # RQ-19: never an end


@pytest.mark.parametrize("way", ["stream", "open_request"])
async def test_leaving_in_the_middle_of_an_upload_is_a_disconnect(way: str) -> None:
    seen: list[str] = []

    @http_only
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await send(START)
        for _ in range(3):
            seen.append((await receive())["type"])
        await send(END)

    send_channel, receive_channel = trio.open_memory_channel[bytes](0)
    async with open_client(app) as client:
        if way == "stream":
            async with client.stream("POST", "/", content=receive_channel):
                await send_channel.send(b"half")
                await wait_all_tasks_blocked()
        else:
            async with client.open_request("POST", "/") as request:
                await request.body.send(b"half")
    assert seen == ["http.request", "http.disconnect", "http.disconnect"]
    if way == "stream":
        with pytest.raises(trio.BrokenResourceError):
            send_channel.send_nowait(b"more")


async def test_abort_before_the_response_is_a_disconnect() -> None:
    cleaned: list[str] = []

    @http_only
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        assert not (await receive())["more_body"]
        cleaned.append((await receive())["type"])
        await send(START)  # goes nowhere
        await send(END)

    async with open_client(app) as client:
        async with client.open_request("GET", "/", content=b"") as request:
            await wait_all_tasks_blocked()
            assert cleaned == []
            request.abort()
            await wait_all_tasks_blocked()
            assert cleaned == ["http.disconnect"]
            with pytest.raises(trio.ClosedResourceError):
                await request.response()


async def test_abort_wakes_who_waits_for_the_response() -> None:
    return_ = trio.Event()

    @http_only
    async def deaf(scope: Any, receive: Receive, send: Send) -> None:
        await return_.wait()

    async with open_client(deaf) as client, client.open_request("POST", "/") as request:

        async def wait() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await request.response()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await wait_all_tasks_blocked()
            request.abort()
        return_.set()


async def test_what_is_sent_after_an_abort_goes_nowhere() -> None:
    async with open_client(upper, raise_app_errors=False) as client:
        async with client.open_request("POST", "/") as request:
            await request.body.send(b"one")
            response = await request.response()
            await wait_all_tasks_blocked()
            request.abort()
            with pytest.raises(trio.ClosedResourceError):
                await response.body.receive()


async def test_end_of_the_body_is_no_disconnect() -> None:
    # D22: what a server with half_close=True shows of a client that has closed its sending side.
    seen: list[str] = []

    @http_only
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        while (await receive())["more_body"]:
            pass
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch, receive)
            await send(START)
            await send({"type": "http.response.body", "body": b"answer", "more_body": True})
            assert seen == []
            await send(END)

    async def watch(receive: Receive) -> None:
        seen.append((await receive())["type"])

    async with open_client(app) as client, client.open_request("POST", "/") as request:
        request.body.close()
        response = await request.response()
        await wait_all_tasks_blocked()
        assert await response.body.receive() == b"answer"
    assert seen == ["http.disconnect"]


async def test_chunk_is_bytes_or_str() -> None:
    async with open_client(Reader()) as client, client.open_request("POST", "/") as request:
        with pytest.raises(TypeError, match="give bytes or str"):
            await request.body.send(1)  # type: ignore[arg-type]  # that is the test


async def test_upload_that_raises_cancels_the_app_and_comes_out() -> None:
    ended: list[str] = []

    @http_only
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await send(START)
        try:
            while True:
                await receive()
        except trio.Cancelled:
            ended.append("cancelled")
            raise

    async def content() -> AsyncGenerator[bytes, None]:
        yield b"a"
        raise ValueError("the test's")

    async with open_client(app) as client:
        with pytest.raises(ValueError, match="the test's"):
            await client.post("/", content=content())
        with pytest.raises(ValueError, match="the test's"):
            async with client.stream("POST", "/", content=content()) as response:
                await response.body.receive()
    assert ended == ["cancelled"] * 2


async def test_cut_response_to_an_upload_is_truncated() -> None:
    @http_only
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await send(START)
        await receive()
        raise ValueError("mine")

    async with open_client(app) as client, client.open_request("POST", "/") as request:
        response = await request.response()
        await request.body.send(b"x")
        with pytest.raises(TruncatedBodyError):
            await response.body.receive()


async def test_nothing_is_left_of_requests_cut_anywhere() -> None:
    async def visit() -> None:
        async with open_client(upper) as client, client.open_request("POST", "/") as request:
            for word in b"one", b"two":
                await request.body.send(word)
                await (await request.response()).body.receive()
            request.body.close()
            with pytest.raises(trio.EndOfChannel):
                await (await request.response()).body.receive()

    async def cancel_after(checkpoints: int, scope: trio.CancelScope) -> None:
        for _ in range(checkpoints):
            await trio.lowlevel.cancel_shielded_checkpoint()
        scope.cancel()

    cancelled = []
    async with assert_no_leaks():
        for checkpoints in range(60):
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(cancel_after, checkpoints, scope)
                    await visit()
                    nursery.cancel_scope.cancel()
            cancelled.append(scope.cancelled_caught)
    assert cancelled[0]
    assert not cancelled[-1]
