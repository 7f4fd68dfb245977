"""Live responses when the guarded server shuts down: a clean end, and who is told of it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
from asgi import Server, chunk
from bodies import Body
from farewells import FAREWELL, REASON, Guarded, Life, failing_exit, live, on_guarded
from probes import logged
from trio.testing import MockClock, wait_all_tasks_blocked

from tsstream import (
    BYTES,
    NDJSON,
    SSE,
    TEXT,
    App,
    Encoder,
    Request,
    Response,
    merge,
    sse_response,
)
from tsstream._asgi import Message
from tsstream._http.host import Host


def kinds(server: Server) -> list[str]:
    return [message["type"].removeprefix("http.response.") for message in server.sent]


# The clean end


async def test_a_live_response_ends_with_a_farewell() -> None:
    # HOST fault 15, D23
    body = Body("a", None)
    guarded = Guarded(live(body.open))
    await guarded.run()
    assert guarded.server.chunks == [b"data: a\n\n", FAREWELL]
    assert guarded.server.ok
    assert guarded.server.error is None
    assert guarded.reason == "shutdown"


async def test_its_body_is_cancelled_and_left_before_the_end_is_sent() -> None:
    async def on_send(message: Message) -> None:
        if message.get("body") == FAREWELL:
            body.log.append("farewell")

    body = Body("a", None)
    guarded = Guarded(live(body.open), Server(on_send=on_send))
    await guarded.run()
    assert body.cancelled == [REASON]
    assert body.log == ["enter", "next", "close", "exit", "farewell"]


@pytest.mark.parametrize(
    ("encoder", "chunks"),
    [
        (SSE, [b"data: a\n\n", FAREWELL]),
        (NDJSON, [b'"a"\n']),
        (TEXT, [b"a"]),
        (BYTES, [b"a"]),
        (Encoder(str.encode, farewell=b"bye"), [b"a", b"bye"]),
    ],
    ids=["SSE", "NDJSON", "TEXT", "BYTES", "own"],
)
async def test_each_format_has_its_own_farewell(encoder: Encoder, chunks: list[bytes]) -> None:
    guarded = Guarded(live(Body("a", None).open, encoder=encoder))
    await guarded.run()
    assert guarded.server.chunks == chunks
    assert guarded.server.ok


def test_the_farewell_of_sse_is_a_comment() -> None:
    # WHATWG HTML, 9.2.6: clients ignore it, and it stands between two events
    assert FAREWELL is not None
    assert FAREWELL.startswith(b":")
    assert FAREWELL.endswith(b"\n\n")
    assert FAREWELL.count(b"\n") == 2


async def test_producers_clean_up_before_the_end(autojump_clock: MockClock) -> None:
    log: list[str] = []

    async def produce(name: str, send_channel: trio.MemorySendChannel[str]) -> None:
        try:
            await send_channel.send(name)
            await trio.sleep_forever()
        finally:
            with trio.move_on_after(5, shield=True):
                await trio.sleep(1)
                log.append(name)

    guarded = Guarded(live(lambda: merge(partial(produce, "a"), partial(produce, "b"))))
    await guarded.run()
    assert sorted(log) == ["a", "b"]
    assert guarded.server.times[-1] == 1
    assert guarded.server.ok


async def test_live_responses_end_at_different_times(autojump_clock: MockClock) -> None:
    # So that their clients do not all come back in the same second.
    host = Host(farewell_spread=10.0)
    exchanges = [Guarded(live(Body("a", None).open), host=host) for _ in range(20)]
    async with trio.open_nursery() as nursery:
        for exchange in exchanges:
            nursery.start_soon(exchange.call)
        await exchanges[0].shut_down_when_idle()
    times = [exchange.server.times[-1] for exchange in exchanges]
    assert all(0 <= time <= 10 for time in times)
    assert max(times) - min(times) > 1
    assert all(exchange.server.ok for exchange in exchanges)


async def test_an_item_of_which_a_part_was_sent_is_sent_whole() -> None:
    # A half event before the farewell would be taken for a whole one.
    release = trio.Event()

    async def slow(message: Message) -> None:
        if message.get("body"):
            await release.wait()

    body = Body("x" * 200_000, None)
    guarded = Guarded(live(body.open), Server(on_send=slow))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(guarded.call)
        await guarded.shut_down_when_idle()
        await wait_all_tasks_blocked()
        assert body.log[-1] == "exit"
        release.set()
    assert guarded.server.body == b"data: " + b"x" * 200_000 + b"\n\n" + (FAREWELL or b"")
    assert guarded.server.ok


async def test_a_live_response_that_begins_during_the_shutdown_is_its_head_and_its_end(
    autojump_clock: MockClock,
) -> None:
    body = Body("a", None)
    guarded = Guarded(live(body.open), host=Host(farewell_spread=60.0))
    guarded.host.shutting_down.set()
    await guarded.call()
    assert kinds(guarded.server) == ["start", "body", "body"]
    assert guarded.server.times == [0, 0, 0]
    assert guarded.server.chunks == [FAREWELL]
    assert guarded.server.ok
    assert body.log == ["enter", "exit"]
    assert guarded.reason == "shutdown"


async def test_a_live_response_that_is_being_entered_gets_its_head_first(
    autojump_clock: MockClock,
) -> None:
    @asynccontextmanager
    async def body() -> AsyncIterator[Any]:
        await trio.sleep(5)
        yield Body("a", None).iterate()

    guarded = Guarded(live(body))
    await guarded.run()
    assert guarded.server.times == [5, 5, 5]
    assert guarded.server.chunks == [FAREWELL]
    assert guarded.server.ok


@pytest.mark.parametrize("error", [trio.BrokenResourceError(), trio.ClosedResourceError()])
async def test_a_channel_that_broke_because_nobody_reads_it_is_no_error(error: Exception) -> None:
    # AC-15
    guarded = Guarded(live(lambda: failing_exit(error)))
    await guarded.run()
    assert guarded.server.ok
    assert guarded.server.error is None
    assert guarded.reason == "shutdown"


async def test_a_body_that_swallows_the_cancellation_ends_all_the_same() -> None:
    @asynccontextmanager
    async def body() -> AsyncIterator[Any]:
        try:
            yield Body("a", None).iterate()
        except trio.Cancelled:  # noqa: ASYNC103
            pass  # noqa: ASYNC104

    guarded = Guarded(live(body))
    await guarded.run()
    assert guarded.server.ok
    assert guarded.reason == "shutdown"


# Duplex


async def test_a_duplex_handler_with_a_live_response_is_left_too() -> None:
    body = Body("a", None)
    reasons: list[str | None] = []

    async def read(upload: Any) -> None:
        try:
            async for data in upload:
                body.note(data.decode())
        except trio.Cancelled as cancelled:
            reasons.append(cancelled.reason)
            raise

    @asynccontextmanager
    async def handler(request: Any) -> AsyncIterator[Response]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read, request.body)
            try:
                yield sse_response(body.open())
            finally:
                body.note("left")

    guarded = Guarded(handler, Server(chunk(b"up")), method="POST")
    await guarded.run()
    assert sorted(body.log) == sorted(["enter", "up", "next", "close", "exit", "left"])
    assert body.log[-3:] == ["close", "exit", "left"]
    assert (reasons, body.cancelled) == ([REASON], [REASON])
    assert guarded.server.chunks == [b"data: a\n\n", FAREWELL]
    assert guarded.server.ok
    assert guarded.reason == "shutdown"


async def test_an_upload_that_was_not_read_does_not_delay_the_end(
    autojump_clock: MockClock,
) -> None:
    @asynccontextmanager
    async def handler(request: Any) -> AsyncIterator[Response]:
        await request.body.receive()
        yield sse_response(Body("a", None).open())

    guarded = Guarded(handler, Server(chunk(b"1"), chunk(b"2"), chunk(b"3")), method="POST")
    await guarded.run()
    assert guarded.server.ok
    assert trio.current_time() == 0


async def test_a_client_that_leaves_behind_an_unread_upload_is_noticed(
    autojump_clock: MockClock,
) -> None:
    # RQ-29: the disconnect stands behind a chunk that nobody will take
    async def stuck(message: Message) -> None:
        if message.get("body"):
            await trio.sleep_forever()

    @asynccontextmanager
    async def handler(request: Any) -> AsyncIterator[Response]:
        assert request.body
        yield sse_response(Body("x" * 200_000, None).open())

    guarded = Guarded(handler, Server(chunk(b"1"), on_send=stuck), method="POST")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(guarded.call)
        await guarded.shut_down_when_idle()
        await wait_all_tasks_blocked()
        guarded.server.leave()
    assert guarded.reason == "disconnect"


# Who is told


async def test_the_end_is_worth_a_debug_record(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "tsstream")
    guarded = Guarded(live(Body("a", None).open))
    await guarded.run()
    sent = len(guarded.server.body)
    assert logged(caplog, logging.DEBUG) == [
        f"DEBUG GET /: ended by the server's shutdown after {sent} bytes"
    ]


async def test_a_cancellation_without_a_shutdown_is_not_put_down_to_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "tsstream")
    guarded = Guarded(live(Body("a", None).open))
    with trio.move_on_after(0):
        await guarded.call()
    assert guarded.reason == "cancelled"
    assert logged(caplog, logging.DEBUG) == []
    assert not guarded.host.endings


async def test_the_log_counts_what_a_shutdown_has_ended(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    # D23
    caplog.set_level(logging.INFO, "tsstream")
    host = Host()
    app: App[None] = App()

    @app.get("/live")
    async def feed(request: Request) -> Response:
        return sse_response(Body("a", None).open())

    @app.get("/finite")
    async def download(request: Request) -> Response:
        return Response(Body(b"a", None).open())

    life = Life(app, host)
    async with trio.open_nursery() as nursery:
        await nursery.start(life.run)
        with trio.move_on_after(3):
            async with trio.open_nursery() as requests:
                for path in ("/live", "/live", "/finite"):
                    call = partial(Server().call, path=path, extensions=on_guarded(host))
                    requests.start_soon(call, app)
                await wait_all_tasks_blocked()
                host.shutting_down.set()
        life.end()
    assert logged(caplog, logging.INFO) == [
        "INFO the server's shutdown: 2 live responses ended, 1 requests cut"
    ]
