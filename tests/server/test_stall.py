"""A client that does not read: a stuck send can be cancelled, and ends at the stall limit."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import trio
import trio.testing
from guarded import (
    DISCONNECT,
    TRANSPORTS,
    Transport,
    answer,
    body,
    http,
    open_guarded_on,
    records,
    start,
)
from leaks import assert_no_leaks
from probes import IN_TIME, PROMPT, Calls, Endings, get
from wire import RawConnection, Truncated, open_guarded, open_raw

from tsstream import App, Request, StreamPolicy, merge
from tsstream._asgi import Receive, Send
from tsstream._http.content import Content

SMALL = 4096  # bytes: of the kernel's buffers on both sides
STALL = 0.5  # seconds

over_every_transport = pytest.mark.parametrize("transport", TRANSPORTS)


class Flood:
    """Sends for ever, and notes how that ends; ``/fine`` answers at once.

    Attributes:
      scope: round the sending; for the test to cancel.
      over: set when the sending has ended.
      error: what ``send()`` raised.
      heard: what ``receive()`` gave after that.
    """

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.over = trio.Event()
        self.error: Exception | None = None
        self.heard: object = None

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["path"] == "/fine":
            await answer(send)
            return
        await receive()
        await send(start())
        try:
            with self.scope:
                while True:
                    await send(body(b"x" * 64 * 1024))
        except OSError as error:
            self.error = error
            raise
        finally:
            self.over.set()
            with trio.move_on_after(IN_TIME, shield=True):
                self.heard = await receive()
        await send(body(b"x"))


async def stall(raw: RawConnection) -> None:
    """Ask for the flood, read its head and no more; return when the server's send is stuck."""
    assert await get(raw, "/flood") == 200
    await trio.testing.wait_all_tasks_blocked(0.02)


@over_every_transport
async def test_a_stuck_send_is_cancelled_at_once_and_the_body_is_visibly_cut(
    transport: Transport,
) -> None:
    flood = Flood()
    async with open_guarded_on(transport, http(flood), send_buffer=SMALL) as connect:
        async with assert_no_leaks(), connect(receive_buffer=SMALL) as raw:
            await stall(raw)
            flood.scope.cancel()
            with trio.fail_after(PROMPT):
                await flood.over.wait()
            with trio.fail_after(IN_TIME), pytest.raises(Truncated):
                await raw.read_body()
    assert raw.ended == ("fin" if transport == "unix" else "reset")  # Unix sockets have no reset
    assert flood.heard == DISCONNECT


async def test_what_is_sent_after_a_cancelled_send_is_an_oserror_that_is_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # HOST fault 10: the bytes on the wire end anywhere, so nothing may follow them.
    caplog.set_level(logging.INFO)
    flood = Flood()
    calls = Calls(http(flood))
    async with open_guarded(calls, send_buffer=SMALL) as port:
        async with open_raw(port, receive_buffer=SMALL) as raw:
            await stall(raw)
            flood.scope.cancel()
            await calls.wait_returned()
    assert [isinstance(error, OSError) for error in calls.raised] == [True]
    assert records(caplog) == []


@over_every_transport
async def test_a_client_that_accepts_nothing_is_dropped_after_the_stall_timeout(
    transport: Transport, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    flood = Flood()
    server = open_guarded_on(transport, http(flood), send_buffer=SMALL, stall_timeout=STALL)
    async with server as connect, assert_no_leaks():
        async with connect(receive_buffer=SMALL) as raw:
            await stall(raw)
            stuck = trio.current_time()
            with trio.fail_after(1.5 * STALL + PROMPT):
                await flood.over.wait()
            assert trio.current_time() - stuck > 0.8 * STALL
            with trio.fail_after(IN_TIME), pytest.raises(Truncated):
                await raw.read_body()
    assert raw.ended == ("fin" if transport == "unix" else "reset")
    assert isinstance(flood.error, OSError)
    assert flood.heard == DISCONNECT
    (record,) = records(caplog)
    assert record.startswith("INFO ")


@pytest.mark.parametrize(
    ("transport", "send_buffer", "piece", "size"),
    [
        ("tcp", SMALL, 2 * 1024, 100_000),
        # The kernel says "writable" only when a third of its buffer has been taken.
        ("tcp", 128 * 1024, 2 * 1024, 500_000),
        # A TLS client takes whole records, of 16 KiB, from its socket.
        ("tls", SMALL, 16 * 1024, 400_000),
        # Linux gives a Unix socket 208 KiB.
        ("unix", None, 16 * 1024, 500_000),
    ],
)
async def test_a_client_that_reads_slowly_is_not_dropped(
    transport: Transport, send_buffer: int | None, piece: int, size: int
) -> None:
    # In one send(), which takes far longer than the stall timeout: only silence counts.
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await answer(send, b"x" * size)
        sent.append(trio.current_time() - begin)

    sent: list[float] = []
    server = open_guarded_on(transport, http(app), send_buffer=send_buffer, stall_timeout=STALL)
    async with server as connect, connect(receive_buffer=SMALL) as raw:
        begin = trio.current_time()
        await raw.request("GET", "/")
        received = b""
        while not received.endswith(b"x" * size):
            data = await raw._receive_some(piece)
            assert data, f"dropped after {len(received)} of {size} bytes"
            received += data
            if trio.current_time() - begin < 2.5 * STALL:
                await trio.sleep(0.2 * STALL)
        assert sent[0] > 2.4 * STALL


async def test_a_client_that_reads_1_kb_per_second_is_not_dropped_by_default() -> None:
    size = 16 * 1024

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await answer(send, b"x" * size)

    async with open_guarded(http(app), send_buffer=SMALL) as port:
        async with open_raw(port, receive_buffer=SMALL) as raw:
            await raw.request("GET", "/")
            for _ in range(2):
                assert len(await raw.stream.receive_some(1024)) > 0
                await trio.sleep(1)
            received = 0
            while received < size - 2 * 1024:
                data = await raw.stream.receive_some()
                assert data
                received += len(data)


async def test_a_stalled_client_that_reads_on_in_time_gets_everything() -> None:
    size = 1_000_000

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await answer(send, b"x" * size)

    async with open_guarded(http(app), send_buffer=SMALL, stall_timeout=STALL) as port:
        async with open_raw(port, receive_buffer=SMALL) as raw:
            await get(raw)
            await trio.sleep(0.5 * STALL)
            assert await raw.read_body() == b"x" * size


async def test_stuck_sends_disturb_no_other_connection() -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await Flood()(scope, receive, send)

    async with (
        open_guarded(http(app), send_buffer=SMALL) as port,
        trio.open_nursery() as nursery,
    ):

        async def stay_stalled(*, task_status: trio.TaskStatus[None]) -> None:
            async with open_raw(port, receive_buffer=SMALL) as raw:
                await get(raw, "/flood")
                task_status.started()
                await trio.sleep_forever()

        for _ in range(20):
            await nursery.start(stay_stalled)
        await trio.testing.wait_all_tasks_blocked(0.02)
        async with open_raw(port) as raw:
            for _ in range(50):
                with trio.fail_after(PROMPT):
                    assert await get(raw, "/fine") == 200
                    assert await raw.read_body() == b"ok"
        nursery.cancel_scope.cancel()


async def flood_channel(send_channel: trio.MemorySendChannel[bytes]) -> None:
    while True:
        await send_channel.send(b"x" * 64 * 1024)


def flooding_app(**options: Any) -> App[Any]:
    app: App[Any] = App(**options)

    @app.get("/flood")
    async def handler(request: Request) -> Content:
        return merge(flood_channel)

    return app


async def test_a_tsstream_response_is_over_at_its_own_send_limit() -> None:
    # On the stock Hypercorn the call itself stays until the client goes (HOST fault 5).
    endings = Endings()
    calls = Calls(flooding_app(policy=StreamPolicy(send=0.2), on_end=endings))
    async with open_guarded(calls, send_buffer=SMALL) as port, assert_no_leaks():
        async with open_raw(port, receive_buffer=SMALL) as raw:
            await stall(raw)
            await calls.wait_returned(within=0.2 + PROMPT)
            with trio.fail_after(IN_TIME), pytest.raises(Truncated):
                await raw.read_body()
    assert raw.ended == "reset"
    assert endings.reasons == ["timeout"]


async def test_to_a_tsstream_response_a_client_that_was_dropped_has_left() -> None:
    endings = Endings()
    calls = Calls(flooding_app(on_end=endings))
    async with open_guarded(calls, send_buffer=SMALL, stall_timeout=0.2) as port:
        async with assert_no_leaks(), open_raw(port, receive_buffer=SMALL) as raw:
            await stall(raw)
            await calls.wait_returned(within=IN_TIME)
    assert endings.reasons == ["disconnect"]
    assert calls.raised == []
