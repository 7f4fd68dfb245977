"""The lifespan of any application: it may return, raise, hang or fail, early or late."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing
from guarded import answer
from hypercorn.config import Config
from hypercorn.utils import LifespanFailureError
from leaks import assert_no_leaks
from probes import IN_TIME, PROMPT, get
from wire import SERVER_LOG, open_raw

from tsstream._asgi import ASGIApp, Receive, Send
from tsstream._server.serve import serve

Lifespan = Callable[[Receive, Send], Awaitable[None]]

STARTED = {"type": "lifespan.startup.complete"}
ENDED = {"type": "lifespan.shutdown.complete"}
LIMIT = 0.1  # seconds


def live(lifespan: Lifespan) -> ASGIApp:
    """Make an application with this lifespan."""

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await lifespan(receive, send)
        else:
            await answer(send)

    return app


class Served:
    """A server that is running, with its port."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.stop = trio.Event()

    async def check(self) -> None:
        async with open_raw(self.port) as raw:
            assert await get(raw) == 200


@asynccontextmanager
async def served(lifespan: Lifespan) -> AsyncIterator[Served]:
    """Serve until the block is left; what ``serve()`` raises leaves as itself."""
    settings = {"startup_timeout": LIMIT, "shutdown_timeout": LIMIT, "errorlog": SERVER_LOG}
    start = partial(serve, live(lifespan), Config.from_mapping(settings), bind=["127.0.0.1:0"])
    server = Served(0)
    failures: list[Exception] = []

    async def serve_it(*, task_status: trio.TaskStatus[list[str]]) -> None:  # noqa: ASYNC128
        try:
            await start(shutdown_trigger=server.stop.wait, task_status=task_status)
        except Exception as error:
            failures.append(error)
            if not server.port:
                task_status.started([])

    with trio.fail_after(IN_TIME):
        async with assert_no_leaks(), trio.open_nursery() as nursery:
            if addresses := await nursery.start(serve_it):
                server.port = int(addresses[0].rpartition(":")[2])
                yield server
                server.stop.set()
    if failures:
        raise failures[0]
    assert server.port


async def fails(lifespan: Lifespan) -> str:
    """Serve and stop; give what the failure of the lifespan says."""
    with pytest.raises(LifespanFailureError) as caught:
        async with served(lifespan) as server:
            await server.check()
    return str(caught.value)


# Without a lifespan, or with the half of one


async def returns_at_once(receive: Receive, send: Send) -> None:
    pass


async def returns_when_it_has_received(receive: Receive, send: Send) -> None:
    await receive()


async def returns_when_it_has_started(receive: Receive, send: Send) -> None:
    await receive()
    await send(STARTED)


async def returns_without_saying_that_it_has_ended(receive: Receive, send: Send) -> None:
    await receive()
    await send(STARTED)
    await receive()


async def raises_at_once(receive: Receive, send: Send) -> None:
    raise NotImplementedError


@pytest.mark.parametrize(
    "lifespan",
    [
        returns_at_once,
        returns_when_it_has_received,
        returns_when_it_has_started,
        returns_without_saying_that_it_has_ended,
        raises_at_once,
    ],
)
async def test_an_application_without_a_whole_lifespan_is_served(lifespan: Lifespan) -> None:
    async with served(lifespan) as server:
        await server.check()


@pytest.mark.parametrize("taken", [False, True])
async def test_who_raises_at_the_start_is_told_apart_by_whether_it_knew_the_startup(
    taken: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def lifespan(receive: Receive, send: Send) -> None:
        if taken:
            await receive()
        raise LookupError("no database")

    async with served(lifespan) as server:
        await server.check()
    (record,) = [record for record in caplog.records if "lifespan" in record.getMessage()]
    assert record.levelno == logging.WARNING
    assert "LookupError('no database')" in record.getMessage()
    assert bool(record.exc_info) == taken  # with the traceback, if it seems to be a mistake


async def test_who_raises_while_it_is_served_is_served_on_and_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    crash = trio.Event()

    async def lifespan(receive: Receive, send: Send) -> None:
        await receive()
        await send(STARTED)
        await crash.wait()
        raise LookupError("crashed")

    async with served(lifespan) as server:
        crash.set()
        await trio.testing.wait_all_tasks_blocked(0.01)
        await server.check()
    (record,) = [record for record in caplog.records if "lifespan" in record.getMessage()]
    assert (record.levelno, bool(record.exc_info)) == (logging.ERROR, True)


# A failure leaves serve() as one LifespanFailureError


async def send_failed(send: Send, stage: str, *, swallow: bool) -> None:
    """Tell of a failure, and take on or not what the server may say to that."""
    try:
        await send({"type": f"lifespan.{stage}.failed", "message": "no database"})
    except Exception:
        if not swallow:
            raise


@pytest.mark.parametrize("swallow", [False, True])
@pytest.mark.parametrize("then", ["return", "wait", "raise"])
async def test_a_failure_to_start_is_raised_whatever_the_application_does_then(
    swallow: bool, then: str
) -> None:
    async def lifespan(receive: Receive, send: Send) -> None:
        await receive()
        await send_failed(send, "startup", swallow=swallow)
        if then == "wait":
            await trio.sleep_forever()
        elif then == "raise":
            raise ValueError("the same, once more")

    assert await fails(lifespan) == "Lifespan failure in startup. 'no database'"


async def test_a_failure_to_start_within_a_nursery_is_no_group() -> None:
    async def lifespan(receive: Receive, send: Send) -> None:
        async with trio.open_nursery():
            await receive()
            await send_failed(send, "startup", swallow=False)

    assert await fails(lifespan) == "Lifespan failure in startup. 'no database'"


@pytest.mark.parametrize("swallow", [False, True])
async def test_a_failure_to_end_is_raised_even_if_it_is_swallowed(swallow: bool) -> None:
    async def lifespan(receive: Receive, send: Send) -> None:
        await receive()
        await send(STARTED)
        await receive()
        await send_failed(send, "shutdown", swallow=swallow)

    assert await fails(lifespan) == "Lifespan failure in shutdown. 'no database'"


async def test_an_error_at_the_end_is_a_failure_to_end() -> None:
    async def lifespan(receive: Receive, send: Send) -> None:
        await receive()
        await send(STARTED)
        await receive()
        raise LookupError("no database")

    for _ in range(10):  # whichever task of the server hears of it first
        assert await fails(lifespan) == "Lifespan failure in shutdown. 'no database'"


async def test_a_failure_while_it_is_served_ends_the_server() -> None:
    crash = trio.Event()

    async def lifespan(receive: Receive, send: Send) -> None:
        await receive()
        await send(STARTED)
        await crash.wait()
        await send_failed(send, "shutdown", swallow=False)

    with pytest.raises(LifespanFailureError, match="no database"):
        async with served(lifespan) as server:
            await server.check()
            crash.set()
            await trio.testing.wait_all_tasks_blocked(0.01)
            with pytest.raises(OSError, match="connect"):
                await server.check()


async def test_a_start_that_takes_too_long_is_a_failure_to_start() -> None:
    async def lifespan(receive: Receive, send: Send) -> None:
        await receive()
        await trio.sleep_forever()

    assert "in startup. 'it takes longer than 0.1 s'" in await fails(lifespan)


async def test_an_end_that_takes_too_long_is_a_failure_to_end() -> None:
    async def lifespan(receive: Receive, send: Send) -> None:
        await receive()
        await send(STARTED)
        await receive()
        await trio.sleep_forever()

    assert "in shutdown. 'it takes longer than 0.1 s'" in await fails(lifespan)


# The end


async def test_what_is_cleaned_up_behind_the_last_message_is_waited_for() -> None:
    # Whoever wraps the lifespan of an application has its own end after that.
    log: list[str] = []

    async def lifespan(receive: Receive, send: Send) -> None:
        await receive()
        await send(STARTED)
        await receive()
        await send(ENDED)
        await trio.sleep(0.02)
        log.append("cleaned up")

    async with served(lifespan) as server:
        await server.check()
    assert log == ["cleaned up"]


async def test_who_asks_for_more_messages_than_there_are_does_not_hold_up_the_end() -> None:
    async def lifespan(receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})

    async with served(lifespan) as server:
        await server.check()
        server.stop.set()
        begin = trio.current_time()
    assert trio.current_time() - begin < PROMPT


async def test_a_message_that_has_no_place_there_is_the_applications_error() -> None:
    raised: list[Exception] = []

    async def lifespan(receive: Receive, send: Send) -> None:
        await receive()
        try:
            await send({"type": "lifespan.startup.complet"})
        except RuntimeError as error:
            raised.append(error)
        await send(STARTED)

    async with served(lifespan) as server:
        await server.check()
    assert "lifespan.startup.complet" in str(raised[0])
