"""Uploads over real sockets: cut short, too large, too fast, and not wanted."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing
from leaks import assert_no_leaks
from probes import IDLE, IN_TIME, PROMPT, WAYS_TO_LEAVE, Calls, Endings, Life, leave, logged
from wire import RawConnection, open_guarded, open_h2, open_raw, open_server

from tsstream import App, BodyLimits, HTTPError, Request, Response

MIB = 1024 * 1024
CHUNKED = {"transfer-encoding": "chunked"}

each_host = pytest.mark.usefixtures("each_host")


async def upload(raw: RawConnection, data: bytes) -> None:
    """Send *data*, or as much of it as the server lives to take."""
    try:
        await raw.send_all(data)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass


def http_chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


# A short body is never an end


@each_host
@pytest.mark.parametrize("shielded", [False, True])
@pytest.mark.parametrize("way", WAYS_TO_LEAVE)
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_body_that_is_cut_short_is_never_complete(
    framing: str, way: str, shielded: bool, caplog: pytest.LogCaptureFixture
) -> None:
    # RQ-19, section E 12
    life = Life()
    app = App()

    @app.post("/")
    async def handler(request: Request) -> str:
        with life.of("handler"), trio.CancelScope(shield=shielded):  # noqa: ASYNC912
            try:
                async for chunk in request.body:
                    life.events.append(f"{len(chunk)} bytes")
                life.events.append("complete")
            except trio.BrokenResourceError:
                life.events.append("broken")
        return "never"

    async with open_server(app) as port, assert_no_leaks(), open_raw(port) as raw:
        headers = {"content-length": "1000"} if framing == "length" else CHUNKED
        await raw.request("POST", "/", headers)
        data = b"x" * 400
        await raw.send_all(data if framing == "length" else http_chunk(data))
        await life.wait_running(1)
        await trio.testing.wait_all_tasks_blocked(0.02)
        await leave(raw, way)
        await life.wait_gone()
    broken = ["broken"] if shielded else []
    assert life.events == ["handler in", "400 bytes", *broken, "handler out"]
    assert logged(caplog) == []


@each_host
@pytest.mark.parametrize("shielded", [False, True])
async def test_a_stream_of_http_2_that_is_reset_within_its_body_is_never_complete(
    shielded: bool,
) -> None:
    # RQ-19
    life = Life()
    app = App()

    @app.post("/")
    async def handler(request: Request) -> str:
        with life.of("handler"), trio.CancelScope(shield=shielded):  # noqa: ASYNC912
            try:
                await request.read()
                life.events.append("complete")
            except trio.BrokenResourceError:
                life.events.append("broken")
        return "never"

    async with open_server(app, keep_alive_timeout=IDLE) as port, assert_no_leaks():
        async with open_h2(port) as h2:
            stream_id = await h2.request("POST", "/", {"content-length": "1000"}, end_stream=False)
            await h2.send_data(stream_id, b"x" * 400)
            await life.wait_running(1)
            await trio.testing.wait_all_tasks_blocked(0.02)
            await h2.reset(stream_id)
            await life.wait_gone()
    broken = ["broken"] if shielded else []
    assert life.events == ["handler in", *broken, "handler out"]


@each_host
@pytest.mark.parametrize("way", WAYS_TO_LEAVE)
async def test_a_client_that_leaves_at_once_ends_its_handler(way: str) -> None:
    # RQ-28: its FIN, or its reset, may be there before the handler is
    await leave_at_once(way, b"", open_server)


@pytest.mark.parametrize("way", WAYS_TO_LEAVE)
async def test_a_client_that_leaves_within_its_body_at_once_ends_its_handler(way: str) -> None:
    # RQ-29: on the guarded server that is told past what waits to be read
    await leave_at_once(way, b"abc", open_guarded)


async def leave_at_once(way: str, sent: bytes, open_server: Any) -> None:
    life, endings = Life(), Endings()
    app = App(on_end=endings)
    calls = Calls(app)

    @app.post("/")
    async def handler(request: Request) -> str:
        with life.of("handler"):
            await trio.sleep_forever()
        return "never"

    async with open_server(calls, keep_alive_timeout=IDLE) as port, assert_no_leaks():
        for _ in range(20):
            async with open_raw(port) as raw:
                await raw.request("POST", "/", {"content-length": "5"})
                if sent:
                    await raw.send_all(sent)
                await leave(raw, way)
        # The server has accepted them all, as this one stands behind them.
        async with open_raw(port) as raw:
            await raw.request("GET", "/nowhere")
            assert (await raw.read_head())[0] == 404
        await calls.wait_idle(within=PROMPT)
        assert life.running == 0
    assert set(endings.reasons) <= {"disconnect", "complete"}


# Size


@each_host
@pytest.mark.parametrize("how", ["declared", "crossing", "stream declared", "stream crossing"])
async def test_a_body_that_is_too_large_is_413_to_a_client_that_writes_all_before_it_reads(
    how: str,
) -> None:
    # RQ-11, RQ-12, RQ-26: 20 of 20 runs
    app = App(body_limits=BodyLimits(max_body=MIB, max_stream=MIB if "stream" in how else None))

    @app.post("/")
    async def handler(request: Request) -> str:
        if "stream" in how:
            return str(sum([len(chunk) async for chunk in request.body]))
        return str(len(await request.read()))

    size = 3 * MIB
    async with open_server(app, keep_alive_timeout=IDLE) as port, assert_no_leaks():
        for _ in range(20):
            async with open_raw(port) as raw:
                declared = "declared" in how
                await raw.request(
                    "POST", "/", {"content-length": str(size)} if declared else CHUNKED
                )
                data = bytes(size)
                await upload(raw, data if declared else http_chunk(data) + b"0\r\n\r\n")
                assert (await raw.read_head())[0] == 413
                assert await raw.read_body() == b"The request body is larger than 1048576 bytes."


@each_host
async def test_a_large_unread_body_leaves_its_response_readable_and_then_closes() -> None:
    # RQ-25: by a client that writes first and reads later
    app = App()
    answered = trio.Event()

    @app.post("/")
    async def handler(request: Request) -> bytes:
        answered.set()
        return b"ok"

    async with open_server(app, keep_alive_timeout=IDLE) as port, assert_no_leaks():
        async with open_raw(port) as raw:
            await raw.request("POST", "/", {"content-length": str(3 * MIB)})
            await answered.wait()
            await trio.sleep(0.05)
            await upload(raw, bytes(3 * MIB))
            with trio.fail_after(IN_TIME):
                assert (await raw.read_head())[0] == 200
                assert await raw.read_body() == b"ok"
                assert await raw.read_until_closed() == b""


@each_host
async def test_a_slow_handler_stops_its_client() -> None:
    # RQ-1, RQ-3: within 16 MiB, of which most are the kernels'
    app = App()
    go_on = trio.Event()
    size = 64 * MIB
    sent = 0

    @app.post("/")
    async def handler(request: Request) -> str:
        await request.body.receive()
        await go_on.wait()
        return str(sum([len(chunk) async for chunk in request.body]))

    async def send_all(raw: RawConnection) -> None:
        nonlocal sent
        piece = bytes(16 * 1024)
        while sent < size:
            await raw.send_all(piece)
            sent += len(piece)

    async with open_server(app) as port, open_raw(port) as raw:
        await raw.request("POST", "/", {"content-length": str(size)})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_all, raw)
            await trio.testing.wait_all_tasks_blocked(0.1)
            assert 0 < sent <= 16 * MIB
            go_on.set()
            assert (await raw.read_head())[0] == 200
        assert sent == size


# What is not read


@each_host
@pytest.mark.parametrize("how", ["unopened", "closed", "closed by another task"])
async def test_a_client_that_writes_all_first_is_served_by_a_stream_that_reads_nothing(
    how: str,
) -> None:
    # RQ-23, RQ-25: 5 MB either way; nobody may wait for the other
    app = App()
    size = 5_000_000

    @app.post("/")
    @asynccontextmanager
    async def handler(request: Request) -> AsyncIterator[Response]:
        async with trio.open_nursery() as nursery:
            if how == "closed":
                await request.body.receive()
                request.body.close()
            elif how == "closed by another task":
                await nursery.start(read_on, request)
                request.body.close()
            yield Response(piece() for _ in range(100))

    def piece() -> bytes:
        return bytes(size // 100)

    async def read_on(request: Request, task_status: trio.TaskStatus[None]) -> None:
        await request.body.receive()
        task_status.started()
        with pytest.raises(trio.ClosedResourceError):
            async for _ in request.body:
                pass

    async with open_server(app, keep_alive_timeout=IDLE) as port, assert_no_leaks():
        async with open_raw(port) as raw:
            await raw.request("POST", "/", {"content-length": str(size)})
            with trio.fail_after(IN_TIME):
                await raw.send_all(bytes(size))
                assert (await raw.read_head())[0] == 200
                assert len(await raw.read_body()) == size


@each_host
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_an_http_2_stream_with_any_body_is_served_though_nobody_reads(method: str) -> None:
    # RQ-23: no length is announced, and a GET may have a body as well
    app = App()
    size = 2_000_000

    @app.route("/", methods=["GET", "POST"])
    async def handler(request: Request) -> Response:
        return Response(bytes(size // 100) for _ in range(100))

    async with open_server(app, keep_alive_timeout=IDLE) as port, assert_no_leaks():
        async with open_h2(port) as h2:
            stream_id = await h2.request(method, "/", end_stream=False)
            with trio.fail_after(IN_TIME):
                await h2.send_data(stream_id, bytes(size), end_stream=True)
                assert (await h2.read_head(stream_id))[0] == 200
                assert len(await h2.read_body(stream_id)) == size


@each_host
@pytest.mark.parametrize("way", ["close", "abort"])
async def test_a_client_that_leaves_while_its_body_is_dropped_is_heard(way: str) -> None:
    # RQ-22, RQ-29
    life = Life()
    app = App()

    @app.post("/")
    async def handler(request: Request) -> str:
        with life.of("handler"):
            request.body.close()
            await trio.sleep_forever()
        return "never"

    async def send_for_ever(raw: RawConnection) -> None:
        piece = http_chunk(bytes(64 * 1024))
        while raw.stream.socket.fileno() >= 0:
            await upload(raw, piece)
            await trio.lowlevel.checkpoint()

    async with open_server(app) as port, assert_no_leaks(), open_raw(port) as raw:
        await raw.request("POST", "/", CHUNKED)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_for_ever, raw)
            await life.wait_running(1)
            await trio.sleep(0.05)
            assert life.running == 1
            await leave(raw, way)
            await life.wait_gone()


# What is left


@pytest.mark.parametrize("path", ["/read", "/stream", "/too-large", "/refused"])
async def test_uploads_leave_nothing_to_the_garbage_collector(path: str) -> None:
    # A body that was read and lies in a reference cycle would be memory until that runs.
    app = App(body_limits=BodyLimits(max_body=100))

    @app.post("/read")
    async def read(request: Request) -> bytes:
        return await request.read()

    @app.post("/stream")
    async def stream(request: Request) -> str:
        return str(sum([len(chunk) async for chunk in request.body]))

    @app.post("/too-large")
    async def read_too_much(request: Request) -> bytes:
        return await request.read(limit=1)

    @app.post("/refused")
    async def refuse(request: Request) -> str:
        raise HTTPError(403)

    async def ask(raw: RawConnection) -> None:
        await raw.request("POST", path, body=b"x" * 50)
        await raw.read_head()
        await raw.read_body()

    async with open_guarded(app) as port, open_raw(port) as raw:
        await ask(raw)
        await trio.testing.wait_all_tasks_blocked(0.01)
        garbage = await garbage_of(partial(ask, raw))
    assert {name: count for name, count in garbage.items() if name.startswith("tsstream")} == {}


async def garbage_of(ask: Any) -> Counter[str]:
    """Name what lies in cycles after ten requests."""
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        for _ in range(10):
            await ask()
        await trio.testing.wait_all_tasks_blocked(0.01)
        gc.collect()
        kinds = (type(item) for item in gc.garbage)
        return Counter(f"{kind.__module__}.{kind.__qualname__}" for kind in kinds)
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
