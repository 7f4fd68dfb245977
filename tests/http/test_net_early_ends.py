"""Bodies that end before they are exhausted, or are not entered at all, on a real connection."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
from leaks import assert_no_leaks
from probes import IDLE, IN_TIME, PROMPT, Calls, Endings, Life, flood, get, logged, two_feeds
from wire import RawConnection, Truncated, open_raw, open_server

from tsstream import App, Request, Response, StreamPolicy, merge
from tsstream._http.content import Content

pytestmark = pytest.mark.usefixtures("each_host")


@asynccontextmanager
async def open_app(app: Any) -> AsyncIterator[RawConnection]:
    async with open_server(app, keep_alive_timeout=IDLE) as port, assert_no_leaks():
        async with open_raw(port) as raw:
            yield raw


def only_the_first(request: Request, response: Response) -> Response:
    """A transform that breaks out of the stream after one chunk."""

    @asynccontextmanager
    async def first() -> AsyncIterator[list[bytes]]:
        async with response as chunks:
            yield [await chunks.receive()]

    return attrs.evolve(response, content=first())


async def test_stream_left_early_with_full_producers_does_not_hang_and_ends_cleanly(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # AC-14, AC-15, D25, section E 6
    caplog.set_level(logging.WARNING)
    life = Life()
    app = App(transforms=[only_the_first])

    @app.get("/")
    async def handler(request: Request) -> Content:
        return two_feeds(life, flood)

    async with open_app(app) as raw:
        with trio.fail_after(IN_TIME):
            assert await get(raw) == 200
            assert await raw.read_body() == b"x" * 1024
        assert life.running == 0
        assert await get(raw) == 200  # the connection is kept
        await raw.read_body()
    assert logged(caplog) == []


@pytest.mark.parametrize("live", [False, True])
async def test_head_gives_the_headers_and_never_enters_the_body(live: bool) -> None:
    # D35
    life = Life()
    app = App()

    @app.get("/")
    async def handler(request: Request) -> Response:
        return Response(two_feeds(life, flood), headers={"x-mine": "yes"}, live=live)

    async with open_app(app) as raw:
        for _ in range(2):
            await raw.request("HEAD", "/")
            status, headers = await raw.read_head()
            assert (status, headers["x-mine"]) == (200, "yes")
            assert "content-length" not in headers
            assert await raw.read_body() == b""
    assert life.events == []


async def test_declared_length_of_a_head_response_is_told() -> None:
    # D35
    app = App()

    @app.get("/")
    async def handler(request: Request) -> Response:
        return Response(merge(flood), headers={"content-length": "1000"})

    async with open_app(app) as raw:
        await raw.request("HEAD", "/")
        status, headers = await raw.read_head()
    assert (status, headers["content-length"]) == (200, "1000")


async def test_handler_released_by_head_runs_to_its_end() -> None:
    # D35 for duplex handlers: left as on an early end, by cancellation
    life = Life()
    app = App()

    @app.get("/")
    @asynccontextmanager
    async def handler(request: Request) -> AsyncIterator[Response]:
        with life.of("handler"):
            async with merge(flood) as chunks:
                yield Response(chunks)

    async with open_app(app) as raw:
        with trio.fail_after(IN_TIME):
            assert await get(raw, method="HEAD") == 200
    assert life.events == ["handler in", "handler out"]


@pytest.mark.parametrize("status", [204, 205, 304])
async def test_stream_for_a_status_without_a_body_is_refused_and_not_entered(
    status: int, caplog: pytest.LogCaptureFixture
) -> None:
    # D36
    life = Life()
    app = App()

    @app.get("/")
    async def handler(request: Request) -> Response:
        return Response(two_feeds(life, flood), status)

    async with open_app(app) as raw:
        assert await get(raw) == 500
        await raw.read_body()
    assert life.events == []
    assert logged(caplog) == ["ERROR GET /: answered 500"]


@pytest.mark.parametrize("status", [204, 304])
async def test_bodiless_status_leaves_the_connection_usable(status: int) -> None:
    # D36
    app = App()

    @app.get("/")
    async def handler(request: Request) -> Response:
        return Response(b"", status, {"etag": '"1"'})

    async with open_app(app) as raw:
        for _ in range(2):
            assert await get(raw) == status
            assert await raw.read_body() == b""


async def test_slow_exit_is_waited_for_before_the_end() -> None:
    # D13, AC-10: the final message is a claim, and waits for the exit.
    app = App()
    leave = trio.Event()

    @asynccontextmanager
    async def body() -> AsyncIterator[list[bytes]]:
        yield [b"data"]
        await leave.wait()

    @app.get("/")
    async def handler(request: Request) -> Content:
        return body()

    async with open_app(app) as raw:
        await get(raw)
        assert await raw.read_chunk() == b"data"
        with trio.move_on_after(0.05) as scope:
            await raw.read_chunk()
        assert scope.cancelled_caught
        leave.set()
        assert await raw.read_chunk() is None


async def test_exit_beyond_its_limit_is_cancelled_and_the_body_cut(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # D13, D12
    life = Life()
    app = App(policy=StreamPolicy(exit=0.2))

    @asynccontextmanager
    async def body() -> AsyncIterator[list[bytes]]:
        yield [b"data"]
        with life.of("exit"):
            await trio.sleep_forever()

    @app.get("/")
    async def handler(request: Request) -> Content:
        return body()

    async with open_app(app) as raw:
        await get(raw)
        assert await raw.read_chunk() == b"data"
        with trio.fail_after(0.2 + PROMPT), pytest.raises(Truncated):
            await raw.read_chunk()
        assert life.running == 0
    assert logged(caplog) == ["WARNING GET /: exit limit of 0.2 s reached after 4 bytes"]


@pytest.mark.parametrize("ending", ["exhausted", "left early", "failing", "client leaves"])
async def test_what_the_context_manager_yielded_is_closed_once_and_before_it_exits(
    ending: str,
) -> None:
    # AC-12, AC-13, D26, D27
    events: list[str] = []

    class Resource:
        def __aiter__(self) -> Resource:
            return self

        async def __anext__(self) -> bytes:
            if ending == "exhausted" and "item" in events:
                raise StopAsyncIteration
            if ending == "failing" and "item" in events:
                raise ValueError("no more")
            if ending == "client leaves" and "item" in events:
                await trio.sleep_forever()
            events.append("item")
            return b"data"

        async def aclose(self) -> None:
            events.append("close")

    @asynccontextmanager
    async def body() -> AsyncIterator[Resource]:
        try:
            yield Resource()
        finally:
            events.append("exit")

    app = App(transforms=[only_the_first] if ending == "left early" else [])
    calls = Calls(app)

    @app.get("/")
    async def handler(request: Request) -> Content:
        return body()

    async with open_app(calls) as raw:
        await get(raw)
        assert await raw.read_chunk() == b"data"
        if ending == "failing":
            with pytest.raises(Truncated):
                await raw.read_chunk()
        elif ending == "client leaves":
            raw.abort()
        else:
            assert await raw.read_chunk() is None
        await calls.wait_returned()
    assert events == ["item", "close", "exit"]


async def test_enter_iterate_and_exit_happen_in_one_task() -> None:
    # AC-11, also below a transform
    tasks: list[trio.lowlevel.Task] = []

    class Items:
        def __aiter__(self) -> Items:
            return self

        async def __anext__(self) -> bytes:
            tasks.append(trio.lowlevel.current_task())
            return b"data"

    @asynccontextmanager
    async def body() -> AsyncIterator[Items]:
        tasks.append(trio.lowlevel.current_task())
        try:
            yield Items()
        finally:
            tasks.append(trio.lowlevel.current_task())

    app = App(transforms=[only_the_first])

    @app.get("/")
    async def handler(request: Request) -> Content:
        return body()

    async with open_app(app) as raw:
        await get(raw)
        assert await raw.read_body() == b"data"
    assert len(tasks) == 3
    assert len(set(tasks)) == 1


async def test_response_that_was_sent_before_is_an_error_and_is_not_entered_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # D42, AC-9
    entered = 0

    @asynccontextmanager
    async def body() -> AsyncIterator[list[bytes]]:
        nonlocal entered
        entered += 1
        yield [b"data"]

    response = Response(body())
    app = App()

    @app.get("/")
    async def handler(request: Request) -> Response:
        return response

    async with open_app(app) as raw:
        assert [await get(raw), await raw.read_body()] == [200, b"data"]
        assert await get(raw) == 500
        await raw.read_body()
    assert entered == 1
    assert logged(caplog) == ["ERROR GET /: answered 500"]


async def test_hook_is_called_exactly_once_however_a_request_ends() -> None:
    # AC-53
    endings = Endings()
    app = App(on_end=endings)
    calls = Calls(app)
    life = Life()

    @app.get("/{how}")
    async def handler(request: Request) -> Content:
        how = request.path_params["how"]
        if how == "error":
            raise ValueError
        if how == "before":
            with life.of("handler"):
                await trio.sleep_forever()
        return merge(flood) if how == "during" else b"ok"

    async with open_server(calls, keep_alive_timeout=IDLE) as port, assert_no_leaks():
        for count, how in enumerate(["ok", "error", "before", "during"], start=1):
            async with open_raw(port) as raw:
                await raw.request("GET", f"/{how}")
                if how == "before":
                    await life.wait_running(1)
                    raw.abort()
                else:
                    await raw.read_head()
                    if how == "during":
                        raw.abort()
                await calls.wait_returned(count)
                assert len(endings.seen) == count
    assert endings.reasons == ["complete", "complete", "disconnect", "disconnect"]
