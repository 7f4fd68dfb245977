"""Nothing is left of a response, however many a connection has carried."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import trio
import trio.testing
from guarded import FINAL, answer, body, http, open_guarded_on, read_request, start
from leaks import assert_no_leaks
from probes import PROMPT, Calls, get
from wire import RawConnection, open_guarded, open_raw

from tsstream._asgi import Receive, Send

COUNT = 30  # responses


async def respond(scope: Any, receive: Receive, send: Send) -> None:
    """Answer ``/stream`` in small chunks, ``/post`` with a length."""
    if scope["path"] == "/stream":
        await send(start())
        for _ in range(5):
            await send(body(b"x" * 10))
        await send(FINAL)
    else:
        await answer(send, await read_request(receive))


async def ask(raw: RawConnection, path: str) -> None:
    await raw.request("POST", path, body=b"x" * 50)
    assert (await raw.read_head())[0] == 200
    assert await raw.read_body() == b"x" * 50


@contextmanager
def no_collection() -> Iterator[None]:
    """Let the garbage that refers to itself lie."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.mark.parametrize("transport", ["tcp", "tls"])
async def test_streamed_responses_leave_no_tasks_on_their_connection(transport: Any) -> None:
    async with open_guarded_on(transport, http(respond)) as connect, connect() as raw:
        for _ in range(2):  # the connection's own tasks have started by then
            await ask(raw, "/stream")
        await trio.testing.wait_all_tasks_blocked(0.01)
        async with assert_no_leaks(grace=PROMPT):
            for _ in range(COUNT):
                await ask(raw, "/stream")


@pytest.mark.parametrize("path", ["/stream", "/post"])
async def test_a_response_leaves_nothing_to_the_garbage_collector(path: str) -> None:
    async with open_guarded(http(respond)) as port, open_raw(port) as raw:
        await ask(raw, path)
        with no_collection():
            for _ in range(COUNT):
                await ask(raw, path)
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert gc.collect() < COUNT


async def test_a_connection_leaves_nothing_to_the_garbage_collector() -> None:
    async with open_guarded(http(respond)) as port:
        with no_collection():
            for _ in range(COUNT):
                async with open_raw(port) as raw:
                    await ask(raw, "/stream")
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert gc.collect() < COUNT


async def test_a_response_that_is_left_by_its_client_leaves_no_task() -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await send(start())
        while True:
            await send(body(b"x" * 10))

    calls = Calls(http(app))
    async with open_guarded(calls) as port, assert_no_leaks():
        for _ in range(5):
            async with open_raw(port) as raw:
                assert await get(raw) == 200
        await calls.wait_returned(5)
