"""The harness of the network tests, against raw ASGI applications on a stock Hypercorn."""

from __future__ import annotations

import logging
import threading
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing
from h2.errors import ErrorCodes
from leaks import assert_no_leaks
from wire import Truncated, open_h2, open_raw, open_server

from tsstream._asgi import ASGIApp, Receive, Send


def http_only(app: ASGIApp) -> ASGIApp:
    async def wrapper(scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError("HTTP only")
        await app(scope, receive, send)

    return wrapper


async def start(send: Send, *headers: tuple[bytes, bytes]) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": list(headers)})


async def body(send: Send, data: bytes, *, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": more})


@http_only
async def clean(scope: Any, receive: Receive, send: Send) -> None:
    await start(send)
    await body(send, b"one")
    await body(send, b"two")
    await body(send, b"", more=False)


@http_only
async def cut(scope: Any, receive: Receive, send: Send) -> None:
    await start(send)
    await body(send, b"one")
    raise RuntimeError("no more")


@http_only
async def echo(scope: Any, receive: Receive, send: Send) -> None:
    await start(send)
    more = True
    while more:
        message = await receive()
        more = message["more_body"]
        await body(send, message["body"], more=more)


class Watched:
    """Streams until the client leaves; says when it noticed."""

    def __init__(self) -> None:
        self.noticed = trio.Event()

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError("HTTP only")
        await start(send)
        await body(send, b"here")
        while (await receive())["type"] != "http.disconnect":
            pass
        self.noticed.set()


class Flood:
    """Sends without end; counts."""

    def __init__(self) -> None:
        self.sent = 0

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError("HTTP only")
        await start(send)
        while True:
            await body(send, b"x" * 1024)
            self.sent += 1024


async def test_chunks_come_as_they_were_sent_and_then_the_clean_end() -> None:
    async with open_server(clean) as port, open_raw(port) as raw:
        await raw.request("GET", "/")
        status, headers = await raw.read_head()
        assert (status, headers["transfer-encoding"]) == (200, "chunked")
        assert raw.head.startswith(b"HTTP/1.1 200")
        assert [await raw.read_chunk() for _ in range(3)] == [b"one", b"two", None]
        # the connection is kept, and reads on
        await raw.request("GET", "/")
        await raw.read_head()
        assert await raw.read_body() == b"onetwo"


async def test_http_1_1_body_without_its_last_chunk_is_truncated(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with open_server(cut) as port, open_raw(port) as raw:
        await raw.request("GET", "/")
        await raw.read_head()
        assert await raw.read_chunk() == b"one"
        with pytest.raises(Truncated):
            await raw.read_chunk()
        assert raw.ended == "fin"
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert [record.name for record in errors] == ["wire.hypercorn"]


async def test_truncated_body_tells_what_came() -> None:
    async with open_server(cut) as port, open_raw(port) as raw:
        await raw.request("GET", "/")
        await raw.read_head()
        with pytest.raises(Truncated) as caught:
            await raw.read_body()
        assert caught.value.body == b"one"


async def test_content_length_is_the_clean_end() -> None:
    @http_only
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await start(send, (b"content-length", b"5"))
        await body(send, b"abc")
        if scope["path"] == "/whole":
            await body(send, b"de", more=False)

    async with open_server(app) as port:
        async with open_raw(port) as raw:
            await raw.request("GET", "/whole")
            await raw.read_head()
            assert await raw.read_body() == b"abcde"
        async with open_raw(port) as raw:
            await raw.request("GET", "/short")
            await raw.read_head()
            with pytest.raises(Truncated):
                await raw.read_body()


async def test_head_has_no_body() -> None:
    async with open_server(clean) as port, open_raw(port) as raw:
        await raw.request("HEAD", "/")
        status, _ = await raw.read_head()
        assert (status, await raw.read_chunk()) == (200, None)


async def test_http_1_0_body_ends_with_the_connection() -> None:
    async with open_server(clean) as port, open_raw(port) as raw:
        await raw.send_all(b"GET / HTTP/1.0\r\n\r\n")
        status, headers = await raw.read_head()
        assert (status, "transfer-encoding" in headers) == (200, False)
        assert await raw.read_until_closed() == b"onetwo"
        assert raw.ended == "fin"


async def test_cancelled_read_loses_nothing() -> None:
    go_on = trio.Event()

    @http_only
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await start(send, (b"x-half", b"no"))
        await go_on.wait()
        await body(send, b"late", more=False)

    async with open_server(app) as port, open_raw(port) as raw:
        await raw.request("GET", "/")
        await raw.read_head()
        with trio.move_on_after(0.05):
            await raw.read_chunk()
        go_on.set()
        assert await raw.read_body() == b"late"


@pytest.mark.parametrize("leave", ["close", "abort"])
async def test_app_sees_the_client_leave(leave: str) -> None:
    app = Watched()
    async with open_server(app) as port, assert_no_leaks():
        async with open_raw(port) as raw:
            await raw.request("GET", "/")
            await raw.read_head()
            assert await raw.read_chunk() == b"here"
            getattr(raw, leave)()
            with trio.fail_after(0.1):
                await app.noticed.wait()


async def test_client_that_does_not_read_stalls_the_app() -> None:
    app = Flood()
    async with open_server(app, send_buffer=4096) as port:
        async with open_raw(port, receive_buffer=4096) as raw:
            await raw.request("GET", "/")
            await raw.read_head()
            await trio.sleep(0.2)
            stalled_at = app.sent
            await trio.sleep(0.1)
            assert app.sent == stalled_at < 100_000
            raw.abort()  # a stalled send of Hypercorn's cannot be cancelled


async def test_stream_that_outlives_the_server_is_cut() -> None:
    app = Watched()
    stop = trio.Event()
    async with open_server(app, shutdown_trigger=stop.wait) as port:
        async with open_raw(port) as raw:
            await raw.request("GET", "/")
            await raw.read_head()
            assert await raw.read_chunk() == b"here"
            stop.set()
            with pytest.raises(Truncated):
                await raw.read_chunk()


async def test_error_in_the_block_comes_out_as_itself() -> None:
    with pytest.raises(ValueError, match="mine"):
        async with open_server(clean) as port, open_raw(port), open_h2(port):
            raise ValueError("mine")


async def test_server_and_clients_leave_nothing() -> None:
    async with assert_no_leaks():
        async with open_server(clean) as port, open_raw(port) as raw, open_h2(port) as h2:
            await raw.request("GET", "/")
            await raw.read_head()
            await h2.request("GET", "/")


async def test_h2_clean_end() -> None:
    async with open_server(clean) as port, open_h2(port) as h2:
        stream_id = await h2.request("GET", "/")
        status, headers = await h2.read_head(stream_id)
        assert (status, headers["server"]) == (200, "hypercorn-h2")
        assert await h2.read_body(stream_id) == b"onetwo"


async def test_h2_streams_do_not_mix() -> None:
    async with open_server(echo) as port, open_h2(port) as h2:
        bodies = [bytes([letter]) * 100_000 for letter in b"abc"]
        ids: list[int] = []

        async def upload(data: bytes) -> None:
            stream_id = await h2.request("POST", "/", end_stream=False)
            ids.append(stream_id)
            await h2.read_head(stream_id)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(partial(h2.send_data, stream_id, data, end_stream=True))
                assert await h2.read_body(stream_id) == data

        async with trio.open_nursery() as nursery:
            for data in bodies:
                nursery.start_soon(upload, data)
        assert sorted(ids) == [1, 3, 5]


async def test_h2_reset_by_the_client_is_seen_by_the_app() -> None:
    app = Watched()
    async with open_server(app) as port, open_h2(port) as h2:
        async with assert_no_leaks():
            stream_id = await h2.request("GET", "/")
            await h2.read_head(stream_id)
            assert await h2.read_chunk(stream_id) == b"here"
            await h2.reset(stream_id)
            with trio.fail_after(0.1):
                await app.noticed.wait()


async def test_h2_reset_by_the_server_is_truncation() -> None:
    stop = trio.Event()
    async with open_server(Watched(), shutdown_trigger=stop.wait) as port, open_h2(port) as h2:
        first_id = await h2.request("GET", "/")
        await h2.read_head(first_id)  # keeps the connection open for the graceful timeout
        stop.set()
        await trio.testing.wait_all_tasks_blocked()
        refused_id = await h2.request("GET", "/")
        with pytest.raises(Truncated) as caught:
            await h2.read_head(refused_id)
        assert caught.value.error_code == ErrorCodes.NO_ERROR


async def test_h2_window_credit_can_be_withheld() -> None:
    async with open_server(Flood()) as port, open_h2(port, window=1000, credit=False) as h2:
        stream_id = await h2.request("GET", "/")
        await h2.read_head(stream_id)
        assert await read_some(h2, stream_id, 1000) == 1000
        with trio.move_on_after(0.1) as scope:
            await h2.read_chunk(stream_id)
        assert scope.cancelled_caught
        await h2.grant(stream_id, 500)
        assert await read_some(h2, stream_id, 500) == 500
        await h2.reset(stream_id, ErrorCodes.CANCEL)


async def read_some(h2: Any, stream_id: int, size: int) -> int:
    got = 0
    while got < size:
        got += len(await h2.read_chunk(stream_id))
    return got


async def test_h2_ping_round_trip() -> None:
    async with open_server(clean) as port, open_h2(port) as h2:
        with trio.fail_after(5):
            assert 0 < await h2.ping() < 1


async def test_h2_end_of_the_connection_is_truncation() -> None:
    app = Watched()
    stop = trio.Event()
    async with open_server(app, shutdown_trigger=stop.wait) as port:
        async with open_h2(port) as h2:
            stream_id = await h2.request("GET", "/")
            await h2.read_head(stream_id)
            assert await h2.read_chunk(stream_id) == b"here"
            stop.set()
            with pytest.raises(Truncated):
                await h2.read_chunk(stream_id)


async def test_leaked_task_is_named(nursery: trio.Nursery) -> None:
    with pytest.raises(AssertionError, match=r"task .*sleep_forever"):
        async with assert_no_leaks(grace=0.05):
            nursery.start_soon(trio.sleep_forever)
    nursery.cancel_scope.cancel()


async def test_leaked_thread_is_named_and_an_idle_worker_is_not() -> None:
    release = threading.Event()
    async with assert_no_leaks():
        await trio.to_thread.run_sync(int)
    with pytest.raises(AssertionError, match="'stuck'"):
        async with assert_no_leaks(grace=0.05):
            thread = threading.Thread(target=release.wait, name="stuck")
            thread.start()
    release.set()
    thread.join()


async def test_busy_worker_without_a_name_is_a_leak() -> None:
    release = threading.Event()
    with pytest.raises(AssertionError, match="thread 'Trio thread"):
        async with assert_no_leaks(grace=0.05):
            trio.lowlevel.start_thread_soon(release.wait, lambda result: None)
    async with assert_no_leaks():
        release.set()


async def test_leaked_file_descriptor_is_named() -> None:
    with pytest.raises(AssertionError, match=r"file descriptor \d+ \(/dev/null\)"):
        async with assert_no_leaks(grace=0.05):
            file = await trio.open_file("/dev/null")
    await file.aclose()


async def test_what_goes_away_in_time_is_no_leak(nursery: trio.Nursery) -> None:
    async with assert_no_leaks():
        nursery.start_soon(trio.sleep, 0.05)


async def test_virtual_time_does_not_hide_a_leak(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    with pytest.raises(AssertionError, match="task"):
        async with assert_no_leaks(grace=0.05):
            nursery.start_soon(trio.sleep, 0.001)


async def test_block_that_raises_is_not_checked(nursery: trio.Nursery) -> None:
    with pytest.raises(ValueError, match="mine"):
        async with assert_no_leaks():
            nursery.start_soon(trio.sleep_forever)
            raise ValueError("mine")
    nursery.cancel_scope.cancel()
