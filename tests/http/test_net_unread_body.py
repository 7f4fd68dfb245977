"""Request bodies that nobody reads, and the connection afterwards (HOST faults 6 and 7)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from leaks import assert_no_leaks
from probes import (
    IDLE,
    IN_TIME,
    PROMPT,
    Calls,
    Endings,
    Life,
    flood,
    get,
    logged,
    say_one,
    two_feeds,
)
from wire import RawConnection, Truncated, open_raw, open_server

from tsstream import App, HTTPError, Request, Response, merge
from tsstream._asgi import Receive, Send
from tsstream._http.content import Content

pytestmark = pytest.mark.usefixtures("each_host")

MIB = 1024 * 1024


def fifty_chunks() -> bytes:
    return b"1\r\nx\r\n" * 50 + b"0\r\n\r\n"


BODIES: dict[str, tuple[dict[str, str], Callable[[], bytes]]] = {
    "10 B": ({"content-length": "10"}, lambda: b"x" * 10),
    "100 kB": ({"content-length": "100000"}, lambda: b"x" * 100_000),
    "700 kB": ({"content-length": "700000"}, lambda: b"x" * 700_000),
    "5 MB": ({"content-length": "5000000"}, lambda: b"x" * 5_000_000),
    "50 one-byte chunks": ({"transfer-encoding": "chunked"}, fifty_chunks),
}


async def upload(raw: RawConnection, data: bytes) -> None:
    """Send *data*, or as much of it as the server lives to take."""
    try:
        await raw.send_all(data)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass


async def upload_for_ever(raw: RawConnection, piece: bytes) -> None:
    while raw.stream.socket.fileno() >= 0:
        await upload(raw, piece)
        await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("kind", BODIES)
async def test_handler_that_never_reads_its_body_finishes(kind: str) -> None:
    # RQ-21, section E 2, HOST fault 6
    headers, make_body = BODIES[kind]
    app = App()
    calls = Calls(app)
    returned_at = 0.0

    @app.post("/")
    async def handler(request: Request) -> str:
        nonlocal returned_at
        await trio.sleep(0.6)
        returned_at = trio.current_time()
        return "ok"

    async with open_server(calls, keep_alive_timeout=IDLE) as port, assert_no_leaks():
        async with open_raw(port) as raw, trio.open_nursery() as nursery:
            await raw.request("POST", "/", headers)
            nursery.start_soon(upload, raw, make_body())
            with trio.fail_after(IN_TIME):
                status, _ = await raw.read_head()
                assert (status, await raw.read_body()) == (200, b"ok")
                await calls.wait_returned()
            assert trio.current_time() - returned_at <= 1


async def test_fifty_handlers_that_never_read_leave_nothing() -> None:
    # HOST fault 6: on a raw ASGI app, 150 bytes of request each left a task and a socket.
    app = App()
    calls = Calls(app)

    @app.post("/")
    async def handler(request: Request) -> str:
        return "ok"

    async with open_server(calls, keep_alive_timeout=IDLE) as port, assert_no_leaks():
        async with trio.open_nursery() as nursery:

            async def post() -> None:
                async with open_raw(port) as raw:
                    await raw.request("POST", "/", {"transfer-encoding": "chunked"})
                    await raw.send_all(fifty_chunks())
                    assert (await raw.read_head())[0] == 200
                    assert await raw.read_body() == b"ok"

            for _ in range(50):
                nursery.start_soon(post)
        await calls.wait_returned(50)
        assert calls.running == 0


@pytest.mark.parametrize("produce", [say_one, flood])
async def test_stream_with_an_unread_body_notices_the_disconnect(
    produce: Callable[[trio.MemorySendChannel[bytes]], object],
) -> None:
    # RQ-22, section E 3, D21
    life = Life()
    app = App()

    @app.post("/")
    async def handler(request: Request) -> Content:
        return two_feeds(life, produce)  # type: ignore[arg-type]  # an async function

    async with open_server(app) as port, assert_no_leaks():
        async with open_raw(port) as raw, trio.open_nursery() as nursery:
            await raw.request("POST", "/", {"content-length": "5000000"})
            nursery.start_soon(upload, raw, b"x" * 4_999_999)
            await raw.read_head()
            await raw.read_chunk()
            raw.abort()
            await life.wait_gone()


@pytest.mark.parametrize("how", ["unopened", "closed", "read to its end"])
async def test_body_is_discarded_once_nobody_can_read_it(how: str) -> None:
    # RQ-23: the disconnect behind ever so many chunks is heard.
    life = Life()
    app = App()

    @app.post("/")
    @asynccontextmanager
    async def handler(request: Request) -> AsyncIterator[Response]:
        if how == "closed":
            await request.body.receive()
            await request.body.aclose()
        elif how == "read to its end":
            async for _ in request.body:
                pass
        yield Response(two_feeds(life, say_one))

    data = b"64\r\n" + b"x" * 100 + b"\r\n"
    async with open_server(app) as port, assert_no_leaks(), open_raw(port) as raw:
        await raw.request("POST", "/", {"transfer-encoding": "chunked"})
        await raw.send_all(data * 1000)
        if how == "read to its end":
            await raw.send_all(b"0\r\n\r\n")
        with trio.fail_after(IN_TIME):
            await raw.read_head()
        await raw.read_chunk()
        raw.abort()
        await life.wait_gone()


async def test_untouched_body_is_closed_when_the_handler_has_returned() -> None:
    # AC-54
    app = App()
    requests: list[Request] = []

    @app.post("/")
    async def handler(request: Request) -> str:
        requests.append(request)
        return "ok"

    async with open_server(app) as port, open_raw(port) as raw:
        await raw.request("POST", "/", body=b"x" * 100)
        await raw.read_head()
        with pytest.raises(trio.ClosedResourceError, match="the handler has returned"):
            await requests[0].body.receive()


async def test_connection_is_kept_after_an_unread_body_of_moderate_size() -> None:
    # RQ-25
    app = App()

    @app.post("/")
    async def handler(request: Request) -> str:
        return "ok"

    async with open_server(app) as port, open_raw(port) as raw:
        for _ in range(2):
            await raw.request("POST", "/", body=b"x" * 100_000)
            assert (await raw.read_head())[0] == 200
            assert await raw.read_body() == b"ok"


async def test_refusal_reaches_a_client_that_writes_all_before_it_reads() -> None:
    # RQ-26: 20 of 20 runs
    app = App()

    @app.post("/")
    async def handler(request: Request) -> str:
        raise HTTPError(413, "too large")

    async with open_server(app, keep_alive_timeout=IDLE) as port, assert_no_leaks():
        for _ in range(20):
            async with open_raw(port) as raw:
                await raw.request("POST", "/", {"content-length": str(3 * MIB)})
                await raw.send_all(b"x" * (3 * MIB))
                assert (await raw.read_head())[0] == 413
                assert await raw.read_body() == b"too large"


async def test_response_ends_within_the_linger_though_the_client_never_ends_its_upload() -> None:
    # RQ-25, HOST fault 6: the body is dropped for a second at most, then the connection closes.
    app = App()
    calls = Calls(app)

    @app.post("/")
    async def handler(request: Request) -> str:
        return "ok"

    async with open_server(calls) as port, assert_no_leaks():
        async with open_raw(port) as raw:
            await raw.request("POST", "/", {"content-length": "1000"})
            await raw.send_all(b"x" * 400)
            with trio.fail_after(1 + 0.5):
                assert (await raw.read_head())[0] == 200
                assert await raw.read_body() == b"ok"
                assert await raw.read_until_closed() == b""
            await calls.wait_returned()


@pytest.mark.parametrize("opened", [False, True])
@pytest.mark.parametrize(
    ("headers", "piece"),
    [
        pytest.param({"content-length": str(1024 * MIB)}, b"x" * 64 * 1024, id="in large pieces"),
        pytest.param({"transfer-encoding": "chunked"}, b"1\r\nx\r\n" * 1000, id="in tiny chunks"),
    ],
)
async def test_failing_stream_is_cut_though_the_client_is_still_uploading(
    headers: dict[str, str], piece: bytes, opened: bool
) -> None:
    # D10, D21, HOST fault 6: Hypercorn must be able to close, whatever it has queued for us.
    app = App()
    calls = Calls(app)
    fail = trio.Event()

    async def produce(send_channel: trio.MemorySendChannel[bytes]) -> None:
        await send_channel.send(b"one")
        await fail.wait()
        raise ValueError("no more")

    @app.post("/")
    @asynccontextmanager
    async def handler(request: Request) -> AsyncIterator[Response]:
        if opened:
            await request.body.receive()
        async with merge(produce) as chunks:
            yield Response(chunks)

    async with open_server(calls) as port, assert_no_leaks():
        async with open_raw(port) as raw, trio.open_nursery() as nursery:
            await raw.request("POST", "/", headers)
            nursery.start_soon(upload_for_ever, raw, piece)
            await raw.read_head()
            assert await raw.read_chunk() == b"one"
            await trio.sleep(0.1)  # the upload is in full flow, or stalled
            fail.set()
            with trio.fail_after(2), pytest.raises(Truncated):
                await raw.read_chunk()
            await calls.wait_returned()
            nursery.cancel_scope.cancel()


async def test_connection_close_is_honoured_promptly() -> None:
    # RQ-32, section E 1, HOST fault 7: the disconnect inside the last send() cancels nothing.
    app = App()

    @app.get("/")
    async def handler(request: Request) -> Content:
        return merge(_three)

    async with open_server(app) as port, assert_no_leaks(), open_raw(port) as raw:
        await raw.request("GET", "/", {"connection": "close"})
        await raw.read_head()
        assert await raw.read_body() == b"onetwothree"
        with trio.fail_after(PROMPT):
            assert await raw.read_until_closed() == b""
        assert raw.ended == "fin"


async def _three(send_channel: trio.MemorySendChannel[bytes]) -> None:
    for item in (b"one", b"two", b"three"):
        await send_channel.send(item)


async def test_kept_connection_is_closed_at_the_keep_alive_timeout() -> None:
    # RQ-32
    app = App()

    @app.get("/")
    async def handler(request: Request) -> Content:
        return merge(_three)

    async with open_server(app, keep_alive_timeout=0.5) as port, assert_no_leaks():
        async with open_raw(port) as raw:
            await get(raw)
            await raw.read_body()
            start = trio.current_time()
            with trio.fail_after(IN_TIME):
                assert await raw.read_until_closed() == b""
            assert trio.current_time() - start == pytest.approx(0.5, abs=0.2)


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_three_requests_follow_each_other_on_one_connection(
    method: str, caplog: pytest.LogCaptureFixture
) -> None:
    # RQ-32, D20
    endings = Endings()
    app = App(on_end=endings)
    calls = Calls(app)

    @app.route("/", methods=["GET", "POST"])
    async def handler(request: Request) -> Content:
        return merge(_three)

    async with open_server(calls) as port, open_raw(port) as raw:
        for _ in range(3):
            await raw.request(method, "/", body=b"body" if method == "POST" else b"")
            assert (await raw.read_head())[0] == 200
            assert await raw.read_body() == b"onetwothree"
        await calls.wait_returned(3)
    assert endings.reasons == ["complete"] * 3
    assert calls.raised == []
    assert logged(caplog) == []


async def test_call_returns_when_the_response_is_done_though_receive_would_wait_for_ever() -> None:
    # RQ-34
    app = App()

    async def receiving_once(scope: Any, receive: Receive, send: Send) -> None:
        first = True

        async def receive_once() -> object:
            nonlocal first
            if scope["type"] == "http" and not first:
                await trio.sleep_forever()
            first = False
            return await receive()

        await app(scope, receive_once, send)

    calls = Calls(receiving_once)

    @app.get("/")
    async def handler(request: Request) -> Content:
        return merge(_three)

    async with open_server(calls) as port, open_raw(port) as raw:
        await get(raw)
        assert await raw.read_body() == b"onetwothree"
        await calls.wait_returned(within=1)
