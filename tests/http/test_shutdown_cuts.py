"""A shutdown of the guarded server that is no clean end: what is cut, and what runs on."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
from asgi import START, Server, make_app
from bodies import Body
from farewells import Guarded, failing_exit, live
from probes import Endings, logged
from trio.testing import MockClock, wait_all_tasks_blocked
from wire import Truncated, open_raw, open_server

from tsstream import (
    BYTES,
    App,
    Request,
    Response,
    StreamPolicy,
    sse_response,
)
from tsstream._asgi import Message

# What makes it a cut


@asynccontextmanager
async def failing_producer(error: Exception) -> AsyncIterator[Any]:
    async def fail() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise error

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fail)
        yield Body("a", None).iterate()


@pytest.mark.parametrize("body", [failing_exit, failing_producer])
async def test_an_error_on_leaving_is_a_cut(
    body: Callable[[Exception], Any], caplog: pytest.LogCaptureFixture
) -> None:
    error = ValueError()
    guarded = Guarded(live(lambda: body(error)))
    await guarded.run()
    assert guarded.server.body == b"data: a\n\n"
    assert not guarded.server.complete
    assert guarded.server.error is error
    assert guarded.reason == "error"
    assert logged(caplog) == ["ERROR GET /: stream failed after 9 bytes"]


@asynccontextmanager
async def slow_to_leave(seconds: float, *, shield: bool = True) -> AsyncIterator[Any]:
    try:
        yield Body("a", None).iterate()
    finally:
        with trio.CancelScope(shield=shield):
            await trio.sleep(seconds)  # noqa: ASYNC102


@pytest.mark.parametrize(("seconds", "ok"), [(4, True), (6, False)])
async def test_leaving_for_longer_than_the_exit_limit_is_a_cut(
    seconds: float, ok: bool, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    guarded = Guarded(live(lambda: slow_to_leave(seconds)), policy=StreamPolicy(exit=5))
    await guarded.run()
    assert guarded.server.ok is ok
    (ending,) = guarded.told.seen
    assert (ending.reason, ending.limit) == (("shutdown", None) if ok else ("timeout", "exit"))
    text = "WARNING GET /: exit limit of 5 s reached after 9 bytes"
    assert logged(caplog) == ([] if ok else [text])


@pytest.mark.parametrize("ticks", range(8))
async def test_the_exit_limit_holds_whenever_the_shutdown_comes(
    ticks: int, autojump_clock: MockClock
) -> None:
    # The writer may have been about to wait for the next item.
    async def on_send(message: Message) -> None:
        if message.get("body"):
            guarded.host.shutting_down.set()
            for _ in range(ticks):
                await trio.lowlevel.checkpoint()

    guarded = Guarded(
        live(lambda: slow_to_leave(60)),
        Server(on_send=on_send),
        policy=StreamPolicy(exit=5, idle=1000),
    )
    await guarded.call()
    (ending,) = guarded.told.seen
    assert (ending.reason, ending.limit) == ("timeout", "exit")


async def test_a_client_that_leaves_meanwhile_has_left(autojump_clock: MockClock) -> None:
    guarded = Guarded(live(lambda: slow_to_leave(5)))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(guarded.call)
        await guarded.shut_down_when_idle()
        await wait_all_tasks_blocked()
        guarded.server.leave()
    assert not guarded.server.complete
    assert guarded.reason == "disconnect"


@pytest.mark.parametrize("where", ["leaving", "sending"])
async def test_the_servers_patience_may_end_before_it(
    where: str, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "tsstream")

    async def on_send(message: Message) -> None:
        if where == "sending" and not message.get("more_body", True):
            await trio.sleep_forever()

    guarded = Guarded(
        live(lambda: slow_to_leave(5 if where == "leaving" else 0)), Server(on_send=on_send)
    )
    with trio.move_on_after(3) as graceful:
        await guarded.run()
    assert graceful.cancelled_caught
    assert not guarded.server.complete
    assert guarded.reason == "cancelled"
    assert logged(caplog, logging.DEBUG) == [
        "DEBUG GET /: cut by the server's shutdown after 9 bytes"
    ]


async def test_an_error_that_is_on_its_way_is_not_turned_into_an_end() -> None:
    # What came before the bad item is still being sent when the shutdown comes (D10).
    release = trio.Event()

    async def slow(message: Message) -> None:
        if message.get("body"):
            await release.wait()

    send_channel, receive_channel = trio.open_memory_channel[object](2)
    send_channel.send_nowait(1)
    send_channel.send_nowait(object())
    guarded = Guarded(live(lambda: receive_channel), Server(on_send=slow))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(guarded.call)
        await guarded.shut_down_when_idle()
        await wait_all_tasks_blocked()
        release.set()
    send_channel.close()
    assert not guarded.server.complete
    assert isinstance(guarded.server.error, TypeError)
    assert guarded.reason == "error"


# What runs on


async def test_a_body_that_ends_by_itself_is_not_cancelled(autojump_clock: MockClock) -> None:
    body = Body("a", on_exit=partial(trio.sleep, 5))
    guarded = Guarded(live(body.open))
    await guarded.run()
    assert body.cancelled == []
    assert guarded.server.chunks == [b"data: a\n\n"]
    assert guarded.server.ok
    assert guarded.reason == "complete"


async def ticks(number: int) -> AsyncGenerator[bytes, None]:
    for _ in range(number):
        await trio.sleep(1)
        yield b"t"


FINITE: dict[str, dict[str, Any]] = {
    "not live": {"live": False},
    "of a declared length": {"headers": {"content-length": "3"}},
}


@pytest.mark.parametrize("options", FINITE.values(), ids=FINITE)
async def test_a_finite_response_runs_on(
    options: dict[str, Any], autojump_clock: MockClock
) -> None:
    guarded = Guarded(live(lambda: ticks(3), encoder=BYTES, **options))
    await guarded.run()
    assert trio.current_time() == 3
    assert guarded.server.body == b"ttt"
    assert guarded.server.ok
    assert guarded.reason == "complete"


@pytest.mark.parametrize("options", FINITE.values(), ids=FINITE)
async def test_nothing_is_sent_when_the_server_cancels_a_finite_response(
    options: dict[str, Any], autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    # D23, D40: an incomplete body never gets an end
    caplog.set_level(logging.DEBUG, "tsstream")
    guarded = Guarded(live(lambda: ticks(3), encoder=BYTES, **options))
    with trio.move_on_after(1.5):
        await guarded.run()
    assert guarded.server.body == b"t"
    assert not guarded.server.complete
    assert guarded.reason == "cancelled"
    assert logged(caplog, logging.DEBUG) == [
        "DEBUG GET /: cut by the server's shutdown after 1 bytes"
    ]


async def test_a_handler_that_has_not_answered_runs_on(autojump_clock: MockClock) -> None:
    async def handler(request: object) -> str:
        await trio.sleep(2)
        return "done"

    guarded = Guarded(handler)
    await guarded.run()
    assert guarded.server.body == b"done"
    assert guarded.reason == "complete"


async def test_nothing_is_left_of_a_live_response_that_ended_before_the_shutdown() -> None:
    guarded = Guarded(live(Body("a").open))
    await guarded.call()
    guarded.host.shutting_down.set()
    await wait_all_tasks_blocked()
    assert guarded.server.chunks == [b"data: a\n\n"]
    assert guarded.reason == "complete"


# Other servers


async def test_stock_hypercorn_cuts_a_live_response_as_ever() -> None:
    # HOST fault 15
    told = Endings()
    app = App(on_end=told)

    @app.get("/")
    async def feed(request: Request) -> Response:
        return sse_response(Body("a", None).open())

    stop = trio.Event()
    async with open_server(app, shutdown_trigger=stop.wait) as port:
        async with open_raw(port) as raw:
            await raw.request("GET", "/")
            assert (await raw.read_head())[0] == 200
            assert await raw.read_chunk() == b"data: a\n\n"
            stop.set()
            with pytest.raises(Truncated):
                await raw.read_body()
    assert told.reasons == ["cancelled"]


async def test_a_live_response_without_a_host_ignores_the_end_of_the_lifespan() -> None:
    app = make_app(live(Body("a", None).open))
    server = Server()
    async with trio.open_nursery() as nursery:
        async with app.open_lifespan():
            nursery.start_soon(server.call, app)
            await wait_all_tasks_blocked()
        assert app.shutting_down.is_set()
        await wait_all_tasks_blocked()
        assert not server.over.is_set()
        server.leave()
    assert server.sent[0]["type"] == START
    assert not server.complete
