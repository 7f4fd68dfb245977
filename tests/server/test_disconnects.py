"""The client leaves: receive() gives http.disconnect, whatever else is queued or going on."""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from guarded import (
    DISCONNECT,
    TLSConnection,
    Transport,
    answer,
    body,
    http,
    open_guarded_on,
    read_request,
    records,
    start,
)
from leaks import assert_no_leaks
from probes import IN_TIME, PROMPT, Calls, Life, get, leave
from wire import RawConnection, open_guarded, open_raw

from tsstream import App, Request, Response, merge
from tsstream._asgi import Message, Receive, Send
from tsstream._http.content import Content
from tsstream._server.errors import ClientGone

NOTICE = PROMPT / 2  # seconds: what the server gets until an app that did something else asks
SETTLING = 0.05  # seconds: until every upload goes no further and every flood is stuck
SMALL = 4096  # bytes
IN_THE_KERNEL = 100_000  # bytes: as much of a body as the kernel takes behind what the server reads


@attrs.define(eq=False)
class Exchange:
    """One call of an application, in one of the states in which its client may leave.

    Attributes:
      unread: some of the body waits, so that only a disconnect that overtakes it can come next.
      entered: set when the application is in its state.
      left: set by the test.
      heard: what came next from ``receive()`` after the client had left.
    """

    state: str
    unread: bool
    entered: trio.Event = attrs.field(factory=trio.Event)
    left: trio.Event = attrs.field(factory=trio.Event)
    over: trio.Event = attrs.field(factory=trio.Event)
    heard: Message | None = None

    async def run(self, receive: Receive, send: Send) -> None:
        assert (await receive())["type"] == "http.request"
        states: dict[str, Callable[[Receive, Send], Awaitable[None]]] = {
            "idle": self._be_idle,
            "entering": self._enter,
            "sending": self._send,
            "stuck": self._get_stuck,
            "receiving": self._receive_slowly,
        }
        await states[self.state](receive, send)
        self.over.set()

    async def _be_idle(self, receive: Receive, send: Send) -> None:
        await send(start())
        await send(body(b"first"))
        self.entered.set()
        await self._hear(receive)

    async def _enter(self, receive: Receive, send: Send) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            self.entered.set()
            await self._hear(receive)
            nursery.cancel_scope.cancel()

    async def _send(self, receive: Receive, send: Send) -> None:
        await send(start())
        self.entered.set()
        with pytest.raises(ClientGone):
            while True:
                await send(body(b"x" * 10))
                await trio.sleep(0.002)
        self.heard = await receive()

    async def _get_stuck(self, receive: Receive, send: Send) -> None:
        await send(start())
        self.entered.set()
        with pytest.raises(ClientGone):
            while True:
                await send(body(b"x" * 64 * 1024))
        self.heard = await receive()

    async def _receive_slowly(self, receive: Receive, send: Send) -> None:
        self.entered.set()
        message = await receive()
        while message["type"] == "http.request":
            await trio.sleep(0.02)
            message = await receive()
        self.heard = message

    async def _hear(self, receive: Receive) -> None:
        if self.unread:
            await self.left.wait()
            await trio.sleep(NOTICE)
        self.heard = await receive()


STATES = ("idle", "entering", "sending", "stuck", "receiving")


class Exchanges:
    """The application: each request names its :class:`Exchange`."""

    def __init__(self) -> None:
        self.exchanges: dict[str, Exchange] = {}

    def add(self, state: str, *, unread: bool) -> tuple[str, Exchange]:
        path = f"/{state}/{len(self.exchanges)}"
        self.exchanges[path] = Exchange(state, unread)
        return path, self.exchanges[path]

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        await self.exchanges[scope["path"]].run(receive, send)


@attrs.frozen
class Pending:
    """What the client has sent, and the server has not used, when the client leaves."""

    behind: bytes = b""
    body: int = 0

    async def send(
        self, raw: RawConnection, path: str, *, task_status: trio.TaskStatus[trio.CancelScope]
    ) -> None:
        """Send the request, and all of this as far as it goes."""
        with trio.CancelScope() as scope:
            if not self.body:
                await raw.request("GET", path)
                task_status.started(scope)
                await raw.send_all(self.behind)
                return
            await raw.request("POST", path, {"content-length": str(self.body + 1)})
            task_status.started(scope)
            await raw.send_all(b"x" * self.body)


PENDING = {
    "nothing": Pending(),
    "a pipelined request": Pending(b"GET /second HTTP/1.1\r\nhost: a\r\n\r\n"),
    "stray bytes": Pending(b"\0\1 stray \r\n"),
    "a body of 100 kB": Pending(body=IN_THE_KERNEL),
    "a body of 3 MB": Pending(body=3_000_000),
    "a body of 20 MB": Pending(body=20_000_000),
}


def cases() -> list[Any]:
    """Give every way to leave on every transport, with everything that can be heard behind.

    A FIN comes behind all that was sent. If the kernels are full of that, no FIN arrives before
    the application has taken some of it, so those bodies are for resets.
    """
    ways: list[tuple[Transport, str]] = [
        *[("tcp", way) for way in ("close", "half_close", "abort")],
        *[("tls", way) for way in ("close", "half_close", "abort")],
        *[("unix", way) for way in ("close", "half_close")],
    ]
    return [
        pytest.param(transport, way, pending, id=f"{transport}, {way}, {name}")
        for transport, way in ways
        for name, pending in PENDING.items()
        if pending.body <= IN_THE_KERNEL or way == "abort" or (transport, way) == ("unix", "close")
    ]


@pytest.mark.parametrize(("transport", "way", "pending"), cases())
async def test_the_app_hears_within_100_ms_that_its_client_has_left(
    transport: Transport, way: str, pending: Pending, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    app = Exchanges()
    heard: dict[str, Message | None] = {}
    async with open_guarded_on(transport, http(app), send_buffer=SMALL) as connect:

        async def leave_one(state: str) -> None:
            path, exchange = app.add(state, unread=bool(pending.body))
            async with connect(receive_buffer=SMALL) as raw, trio.open_nursery() as nursery:
                upload = await nursery.start(pending.send, raw, path)
                await exchange.entered.wait()
                await trio.sleep(SETTLING)
                upload.cancel()
                await leave(raw, way)
                exchange.left.set()
                with trio.move_on_after(PROMPT):
                    await exchange.over.wait()
                heard[state] = exchange.heard

        async with assert_no_leaks(), trio.open_nursery() as nursery:
            for state in STATES:
                nursery.start_soon(leave_one, state)
    assert heard == dict.fromkeys(STATES, DISCONNECT)
    assert records(caplog) == []


async def test_close_notify_alone_is_heard() -> None:
    app = Exchanges()
    async with open_guarded_on("tls", http(app)) as connect:
        for state in ("idle", "entering", "receiving"):
            path, exchange = app.add(state, unread=False)
            async with connect() as raw:
                assert isinstance(raw, TLSConnection)
                await raw.request("GET", path)
                await exchange.entered.wait()
                await raw.close_notify()
                with trio.fail_after(PROMPT):
                    await exchange.over.wait()
                assert exchange.heard == DISCONNECT


async def test_receive_gives_the_disconnect_again_and_again() -> None:
    heard: list[Message] = []
    done = trio.Event()

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        heard.extend([await receive() for _ in range(3)])
        done.set()

    async with open_guarded(http(app)) as port, open_raw(port) as raw:
        await raw.request("GET", "/")
        raw.close()
        with trio.fail_after(PROMPT):
            await done.wait()
    assert heard == [DISCONNECT] * 3


async def test_a_send_after_the_client_has_left_is_an_oserror_that_is_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        await receive()
        await answer(send)

    calls = Calls(http(app))
    async with open_guarded(calls) as port, open_raw(port) as raw:
        await raw.request("GET", "/")
        await raw.half_close()
        await calls.wait_returned()
        assert await raw.read_until_closed() == b""
    assert [isinstance(error, OSError) for error in calls.raised] == [True]
    assert records(caplog) == []


async def test_many_clients_that_leave_in_every_way_leave_nothing() -> None:
    app = Exchanges()
    calls = Calls(http(app))
    choose = random.Random(6).choice
    pending = [PENDING[name] for name in PENDING if name != "a body of 20 MB"]
    async with open_guarded(calls, send_buffer=SMALL) as port, assert_no_leaks():

        async def leave_often() -> None:
            for _ in range(25):
                waits = choose(pending)
                way = choose(("close", "half_close", "abort"))
                way = way if waits.body <= IN_THE_KERNEL else "abort"
                path, exchange = app.add(choose(STATES), unread=bool(waits.body))
                async with open_raw(port, receive_buffer=SMALL) as raw:
                    async with trio.open_nursery() as nursery:
                        upload = await nursery.start(waits.send, raw, path)
                        await exchange.entered.wait()
                        await trio.sleep(choose((0, 0.01)))
                        upload.cancel()
                    await leave(raw, way)
                    exchange.left.set()

        async with trio.open_nursery() as nursery:
            for _ in range(12):
                nursery.start_soon(leave_often)
        await calls.wait_idle(within=IN_TIME)
    assert calls.returned == 300
    assert calls.raised == []


@pytest.mark.parametrize("pending", ["nothing", "a pipelined request", "a body of 3 MB"])
async def test_with_half_close_a_reset_is_heard_all_the_same(pending: str) -> None:
    app = Exchanges()
    waits = PENDING[pending]
    path, exchange = app.add("idle", unread=bool(waits.body))
    async with open_guarded(http(app), half_close=True) as port, assert_no_leaks():
        async with open_raw(port) as raw, trio.open_nursery() as nursery:
            upload = await nursery.start(waits.send, raw, path)
            await exchange.entered.wait()
            await trio.testing.wait_all_tasks_blocked(0.02)
            upload.cancel()
            raw.abort()
            exchange.left.set()
            with trio.fail_after(PROMPT):
                await exchange.over.wait()
    assert exchange.heard == DISCONNECT


async def test_a_fin_behind_what_fills_the_kernels_is_heard_by_who_takes_it() -> None:
    # The one thing that cannot be heard sooner; and it is no clean end of the body.
    complete: list[bool] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await go_on.wait()
        while (message := await receive())["type"] == "http.request":
            complete.append(not message["more_body"])

    go_on = trio.Event()
    calls = Calls(http(app))
    async with open_guarded(calls) as port, assert_no_leaks():
        async with open_raw(port) as raw, trio.open_nursery() as nursery:
            upload = await nursery.start(PENDING["a body of 20 MB"].send, raw, "/")
            await trio.testing.wait_all_tasks_blocked(0.02)
            upload.cancel()
        go_on.set()
        await calls.wait_returned()
    assert True not in complete


async def silent(send_channel: trio.MemorySendChannel[bytes]) -> None:
    await trio.sleep_forever()


@pytest.mark.parametrize("way", ["close", "half_close", "abort"])
async def test_a_pipelined_request_does_not_hide_the_disconnect_of_a_tsstream_response(
    way: str,
) -> None:
    # On the stock Hypercorn only heartbeats find it out (HOST fault 9).
    life = Life()
    app: App[Any] = App()

    @app.get("/")
    async def handler(request: Request) -> Content:
        async def produce(send_channel: trio.MemorySendChannel[bytes]) -> None:
            with life.of("producer"):
                await trio.sleep_forever()

        return Response(merge(produce), live=True)

    async with open_guarded(app) as port, assert_no_leaks(), open_raw(port) as raw:
        assert await get(raw) == 200
        await life.wait_running(1)
        await raw.request("GET", "/second")
        await trio.testing.wait_all_tasks_blocked(0.02)
        await leave(raw, way)
        await life.wait_gone()


@pytest.mark.parametrize("way", ["close", "half_close", "abort"])
@pytest.mark.parametrize("size", [100, IN_THE_KERNEL])
async def test_an_unread_body_does_not_hide_the_disconnect_of_a_tsstream_handler(
    way: str, size: int
) -> None:
    life = Life()
    app: App[Any] = App()

    @app.post("/")
    async def handler(request: Request) -> str:
        with life.of("handler"):
            await trio.sleep_forever()
        return "never"

    async with open_guarded(app) as port, assert_no_leaks(), open_raw(port) as raw:
        await raw.request("POST", "/", {"content-length": "100001"})
        await raw.send_all(b"x" * size)
        await life.wait_running(1)
        await trio.testing.wait_all_tasks_blocked(0.02)
        await leave(raw, way)
        await life.wait_gone()


async def test_a_whole_upload_is_read_while_its_client_waits() -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await answer(send, str(len(await read_request(receive))).encode())

    async with open_guarded(http(app)) as port, open_raw(port) as raw:
        await raw.request("POST", "/", body=b"x" * 20_000_000)
        assert (await raw.read_head())[0] == 200
        assert await raw.read_body() == b"20000000"
