"""Bare async generators in both HTTP versions: a nursery round a yield does no harm (PEP 789)."""

# What PEP 789 warns of is what these tests are about.
# flake8: noqa: ASYNC101, ASYNC119, ASYNC900

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from leaks import assert_no_leaks
from probes import IDLE, PROMPT, Life, add_health, check_health, get, logged
from wire import Truncated, open_h2, open_raw, open_server

from tsstream import App, Request
from tsstream._http.content import Content

pytestmark = pytest.mark.usefixtures("each_host")

VERSIONS = ["1.1", "2"]


class Client:
    """What these tests do, in either version of the protocol."""

    def __init__(self, version: str, port: int) -> None:
        self.version = version
        self.port = port

    async def read(self) -> tuple[int, bytes]:
        """Give the status and the whole body; the same errors in both versions."""
        if self.version == "2":
            async with open_h2(self.port) as h2:
                stream_id = await h2.request("GET", "/")
                status, _ = await h2.read_head(stream_id)
                return status, await h2.read_body(stream_id)
        async with open_raw(self.port) as raw:
            await raw.request("GET", "/")
            status, _ = await raw.read_head()
            return status, await raw.read_body()

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[bytes]:
        """Give the first chunk; leaving the block is to leave the stream."""
        if self.version == "2":
            async with open_h2(self.port) as h2:
                stream_id = await h2.request("GET", "/")
                await h2.read_head(stream_id)
                yield await h2.read_chunk(stream_id) or b""
                await h2.reset(stream_id)
                await trio.testing.wait_all_tasks_blocked()
        else:
            async with open_raw(self.port) as raw:
                await raw.request("GET", "/")
                await raw.read_head()
                yield await raw.read_chunk() or b""
                raw.abort()


@asynccontextmanager
async def open_app(app: App[None], version: str) -> AsyncIterator[Client]:
    # A stream that fails leaves the HTTP/2 stream open until the connection idles (D47).
    async with open_server(app, keep_alive_timeout=IDLE) as port, assert_no_leaks():
        yield Client(version, port)


@pytest.mark.parametrize("version", VERSIONS)
async def test_generator_with_a_nursery_round_its_yield_streams_to_its_end(version: str) -> None:
    # AC-40, D31
    app = App()

    @app.get("/")
    async def handler(request: Request) -> AsyncGenerator[bytes, None]:
        return generate()

    async def generate() -> AsyncGenerator[bytes, None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            for _ in range(5):
                yield b"tick "
            nursery.cancel_scope.cancel()

    async with open_app(app, version) as client:
        assert await client.read() == (200, b"tick " * 5)


@pytest.mark.parametrize("version", VERSIONS)
async def test_handler_may_itself_be_an_async_generator(version: str) -> None:
    # D31
    app = App()

    @app.get("/")
    async def handler(request: Request) -> AsyncGenerator[bytes, None]:
        async with trio.open_nursery():
            yield b"tick "
            yield b"tock "

    async with open_app(app, version) as client:
        assert await client.read() == (200, b"tick tock ")


@pytest.mark.parametrize("version", VERSIONS)
async def test_failing_task_of_a_generators_nursery_cuts_the_body_and_is_logged_once(
    version: str, caplog: pytest.LogCaptureFixture
) -> None:
    # AC-40: the error gets to the right place, and the scopes are those of one task.
    app = App()
    fail = trio.Event()

    async def fail_when_told() -> None:
        await fail.wait()
        raise ValueError("the nursery's task failed")

    async def generate() -> AsyncGenerator[bytes, None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail_when_told)
            yield b"one,"
            fail.set()
            await trio.sleep_forever()

    @app.get("/")
    async def handler(request: Request) -> Content:
        return generate()

    async with open_app(app, version) as client:
        with trio.fail_after(2), pytest.raises(Truncated) as caught:
            await client.read()
        assert caught.value.body == b"one,"
    assert logged(caplog) == ["ERROR GET /: stream failed after 4 bytes"]
    (record,) = [r for r in caplog.records if r.name == "tsstream"]
    assert record.exc_info is not None
    text = str(record.exc_info[1]) + repr(record.exc_info[1])
    assert "the nursery's task failed" in text
    assert "corrupted" not in caplog.text


@pytest.mark.parametrize("version", VERSIONS)
async def test_failing_task_before_the_first_item_is_a_status(
    version: str, caplog: pytest.LogCaptureFixture
) -> None:
    # AC-40, AC-19
    app = App()

    async def fail() -> None:
        raise ValueError("at once")

    async def generate() -> AsyncGenerator[bytes, None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail)
            await trio.sleep_forever()
            yield b"never"

    @app.get("/")
    async def handler(request: Request) -> Content:
        return generate()

    async with open_app(app, version) as client:
        status, _ = await client.read()
        assert status == 500
    assert logged(caplog) == ["ERROR GET /: answered 500"]
    assert "corrupted" not in caplog.text


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("busy", [False, True])
async def test_client_that_leaves_ends_the_generator_and_its_nursery(
    version: str, busy: bool, caplog: pytest.LogCaptureFixture
) -> None:
    # AC-40, AC-16, D28
    caplog.set_level(logging.WARNING)
    life = Life()
    app = App()

    async def watch() -> None:
        with life.of("task"):
            await trio.sleep_forever()

    async def generate() -> AsyncGenerator[bytes, None]:
        with life.of("generator"):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(watch)
                while True:
                    yield b"tick"
                    if not busy:
                        await trio.sleep_forever()

    @app.get("/")
    async def handler(request: Request) -> Content:
        return generate()

    async with open_app(app, version) as client:
        async with client.reading() as chunk:
            assert chunk.startswith(b"tick")
            assert life.running == 2
        await life.wait_gone()
    assert logged(caplog) == []
    assert "corrupted" not in caplog.text


@pytest.mark.parametrize("version", VERSIONS)
async def test_cancel_scope_round_a_yield_ends_only_the_generator(version: str) -> None:
    # AC-40: a timeout in a generator times the consumer too, but must not cancel anything else.
    app = App()

    async def generate() -> AsyncGenerator[bytes, None]:
        with trio.move_on_after(0.05):
            while True:
                yield b"tick "
                await trio.sleep(0.02)
        yield b"end"

    @app.get("/")
    async def handler(request: Request) -> Content:
        return generate()

    async with open_app(app, version) as client:
        with trio.fail_after(2):
            status, body = await client.read()
        assert status == 200
        assert body.startswith(b"tick ")
        assert body.endswith(b"end")


async def test_generator_yielded_by_a_context_manager_is_closed_in_the_task_that_iterates() -> None:
    # D28
    app = App()
    tasks: list[trio.lowlevel.Task] = []

    async def generate() -> AsyncGenerator[bytes, None]:
        try:
            while True:
                tasks.append(trio.lowlevel.current_task())
                yield b"tick"
                await trio.sleep(0.01)
        finally:
            tasks.append(trio.lowlevel.current_task())
            closed.set()

    @asynccontextmanager
    async def body() -> AsyncIterator[object]:
        tasks.append(trio.lowlevel.current_task())
        yield generate()
        tasks.append(trio.lowlevel.current_task())

    @app.get("/")
    async def handler(request: Request) -> Content:
        return body()

    closed = trio.Event()
    async with open_app(app, "1.1") as client:
        async with client.reading():
            pass
        with trio.fail_after(PROMPT):
            await closed.wait()
    assert len(set(tasks)) == 1


class FailingFeed:
    """An async iterable with a nursery round its ``yield`` (PEP 789), in which a task fails."""

    def __init__(self, turns: int) -> None:
        self.turns = turns

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.fail)
            while True:
                yield b"x"
                await trio.lowlevel.checkpoint()

    async def fail(self) -> None:
        for _ in range(self.turns):
            await trio.lowlevel.checkpoint()
        raise ValueError("a producer")


async def test_iterable_with_a_failing_nursery_leaves_the_server_running(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # AC-40: a BaseExceptionGroup that leaves the app ends the stock Hypercorn.
    app = App()
    add_health(app)

    @app.get("/{turns}")
    async def handler(request: Request) -> Content:
        return FailingFeed(int(request.path_params["turns"]))

    async with open_server(app) as port, assert_no_leaks():
        for turns in range(10, 30):  # sometimes while the iterable waits at its yield
            async with open_raw(port) as raw:
                assert await get(raw, f"/{turns}") == 200
                with trio.fail_after(2), pytest.raises(Truncated):
                    await raw.read_body()
        async with open_raw(port) as raw:
            await check_health(raw)
    lines = logged(caplog)
    assert len(lines) == 20
    assert all("stream failed after" in line for line in lines)
