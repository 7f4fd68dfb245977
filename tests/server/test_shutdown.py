"""The server ends: at once, in time, or cut where it can be seen; the lifespan always ends."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing
from guarded import (
    answer,
    body,
    certificate,
    http,
    open_ending,
    open_guarded_on,
    open_tls,
    read_request,
    records,
    start,
)
from hypercorn.config import Config
from hypercorn.utils import LifespanFailureError
from leaks import assert_no_leaks
from probes import IN_TIME, PROMPT, get
from wire import HOST, RawConnection, Truncated, open_guarded, open_raw

from tsstream._asgi import Message, Receive, Send
from tsstream._server.serve import serve
from tsstream._util import unwrapping

GRACEFUL = 0.3  # seconds
LONG = 20.0  # seconds: far longer than these tests take
SMALL = 4096  # bytes


class Answers:
    """An application with an answer of each kind.

    ``/short`` is whole at once; ``/finite`` is when the test says so; ``/endless`` never;
    ``/length`` is ``/endless`` with a Content-Length; ``/silent`` never starts; ``/flood`` is for
    a client that does not read.

    Attributes:
      begun: counts requests that have got as far as they go by themselves.
      finish: lets ``/finite`` end.
      events: the lifespan's, and what was cancelled.
    """

    def __init__(self) -> None:
        self.begun = trio.Semaphore(0)
        self.finish = trio.Event()
        self.events: list[str] = []

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        try:
            await getattr(self, scope["path"].removeprefix("/"))(send)
        except trio.Cancelled:
            self.events.append(f"{scope['path']} cancelled")
            raise

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await trio.sleep(0.01)  # closing a database takes its time
        self.events.append("lifespan ended")
        await send({"type": "lifespan.shutdown.complete"})

    async def short(self, send: Send) -> None:
        await answer(send)

    async def finite(self, send: Send) -> None:
        await send(start())
        await send(body(b"first "))
        self.begun.release()
        await self.finish.wait()
        await send(body(b"last", more=False))

    async def endless(self, send: Send, head: Message | None = None) -> None:
        await send(head or start())
        await send(body(b"first "))
        self.begun.release()
        await trio.sleep_forever()

    async def length(self, send: Send) -> None:
        await self.endless(send, start(content_length="100"))

    async def silent(self, send: Send) -> None:
        self.begun.release()
        await trio.sleep_forever()

    async def flood(self, send: Send) -> None:
        await send(start())
        self.begun.release()
        while True:
            await send(body(b"x" * 64 * 1024))


async def begin(app: Answers, raw: RawConnection, path: str) -> None:
    """Ask for *path*; return when the answer has got as far as it goes by itself."""
    await raw.request("GET", path)
    await app.begun.acquire()
    if path in ("/finite", "/endless", "/length"):
        assert (await raw.read_head())[0] == 200
        assert await raw.read_chunk() == b"first "


async def test_idle_connections_are_closed_at_once() -> None:
    app = Answers()
    async with open_ending(app, graceful_timeout=LONG) as (port, end, ends):
        async with open_raw(port) as unused, open_raw(port) as used, open_raw(port) as begun:
            assert await get(used, "/short") == 200
            assert await used.read_body() == b"ok"
            await begun.send_all(b"GET /sho")
            await trio.testing.wait_all_tasks_blocked(0.02)
            end()
            with trio.fail_after(PROMPT):
                for raw in (unused, used, begun):
                    assert await raw.read_until_closed() == b""
    assert ends.took < PROMPT
    assert app.events == ["lifespan ended"]


async def test_no_connection_is_accepted_any_more() -> None:
    app = Answers()
    async with open_ending(app, graceful_timeout=LONG) as (port, end, _), open_raw(port) as raw:
        await begin(app, raw, "/finite")
        end()
        await trio.testing.wait_all_tasks_blocked(0.02)
        with pytest.raises(OSError, match="connect"):
            await trio.open_tcp_stream(HOST, port)
        app.finish.set()
        assert await raw.read_body() == b"last"


async def test_a_finite_response_runs_on_to_its_end_and_then_the_server_ends_at_once() -> None:
    app = Answers()
    async with open_ending(app, graceful_timeout=LONG) as (port, end, ends), open_raw(port) as raw:
        await begin(app, raw, "/finite")
        end()
        await trio.testing.wait_all_tasks_blocked(0.02)
        app.finish.set()
        finished = trio.current_time()
        assert await raw.read_body() == b"last"
        with trio.fail_after(PROMPT):
            assert await raw.read_until_closed() == b""
        assert raw.ended == "fin"
    assert ends.over - finished < PROMPT
    assert app.events == ["lifespan ended"]


async def test_an_upload_runs_on_to_its_end() -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        data = await read_request(receive)
        await answer(send, str(len(data)).encode())

    async with open_ending(http(app), graceful_timeout=LONG) as (port, end, _):
        async with open_raw(port) as raw:
            await raw.request("POST", "/", {"content-length": "200000"})
            await raw.send_all(b"x" * 100_000)
            await trio.testing.wait_all_tasks_blocked(0.02)
            end()
            await trio.testing.wait_all_tasks_blocked(0.02)
            await raw.send_all(b"x" * 100_000)
            status, headers = await raw.read_head()
            assert (status, headers["connection"]) == (200, "close")
            assert await raw.read_body() == b"200000"


@pytest.mark.parametrize("path", ["/endless", "/length"])
async def test_a_response_that_does_not_end_is_cut_visibly_at_the_graceful_timeout(
    path: str,
) -> None:
    app = Answers()
    server = open_ending(app, graceful_timeout=GRACEFUL)
    async with server as (port, end, ends), open_raw(port) as raw:
        await begin(app, raw, path)
        end()
        with trio.fail_after(GRACEFUL + PROMPT), pytest.raises(Truncated):
            await raw.read_body()
    assert GRACEFUL - 0.02 < ends.took < GRACEFUL + PROMPT
    assert app.events == [f"{path} cancelled", "lifespan ended"]


async def test_a_response_without_framing_is_reset_at_the_graceful_timeout() -> None:
    # HTTP/1.0: a FIN would be its clean end.
    app = Answers()
    async with open_ending(app, graceful_timeout=GRACEFUL) as (port, end, _), open_raw(port) as raw:
        await raw.send_all(b"GET /endless HTTP/1.0\r\n\r\n")
        assert (await raw.read_head())[0] == 200
        assert await raw.read_chunk() == b"first "
        end()
        with pytest.raises(Truncated):
            await raw.read_body()
    assert raw.ended == "reset"


async def test_a_tls_response_that_does_not_end_is_cut_without_close_notify() -> None:
    app = Answers()
    stop = trio.Event()
    server = open_guarded_on("tls", app, shutdown_trigger=stop.wait, graceful_timeout=0.1)
    async with server as connect, connect() as raw:
        await begin(app, raw, "/endless")
        stop.set()
        with pytest.raises(Truncated):
            await raw.read_body()
    assert raw.ended == "reset"


async def test_a_request_without_a_response_gets_503_at_the_graceful_timeout() -> None:
    app = Answers()
    server = open_ending(app, graceful_timeout=GRACEFUL)
    async with server as (port, end, ends), open_raw(port) as raw:
        await begin(app, raw, "/silent")
        end()
        with trio.fail_after(GRACEFUL + PROMPT):
            status, headers = await raw.read_head()
            assert (status, headers["connection"]) == (503, "close")
            await raw.read_body()
            assert await raw.read_until_closed() == b""
    assert ends.took < GRACEFUL + PROMPT
    assert app.events == ["/silent cancelled", "lifespan ended"]


@pytest.mark.parametrize("tls", [False, True])
async def test_a_stalled_client_delays_the_end_no_longer_than_the_graceful_timeout(
    tls: bool,
) -> None:
    app = Answers()
    files = {"certfile": certificate().certfile, "keyfile": certificate().keyfile} if tls else {}
    server = open_ending(app, graceful_timeout=GRACEFUL, **files)
    connect = open_tls if tls else open_raw
    async with server as (port, end, ends), connect(port, receive_buffer=SMALL) as raw:
        await begin(app, raw, "/flood")
        await trio.testing.wait_all_tasks_blocked(0.02)
        end()
        with trio.fail_after(IN_TIME):
            await ends.ended.wait()
        with pytest.raises(Truncated):
            await raw.read_head()
            await raw.read_body()
    assert GRACEFUL - 0.02 < ends.took < GRACEFUL + PROMPT
    assert app.events == ["/flood cancelled", "lifespan ended"]


async def test_a_client_that_does_not_take_the_end_delays_it_no_longer_than_the_grace() -> None:
    # The response is complete for the application; its last bytes wait in the kernel.
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await answer(send, b"x" * 50_000)

    server = open_ending(http(app), graceful_timeout=GRACEFUL)
    async with server as (port, end, ends), open_raw(port, receive_buffer=SMALL) as raw:
        await raw.request("GET", "/", {"connection": "close"})
        await trio.testing.wait_all_tasks_blocked(0.02)
        end()
    assert ends.took < GRACEFUL + PROMPT


async def test_a_slow_request_head_delays_the_end_not_at_all() -> None:
    async with open_ending(Answers(), graceful_timeout=LONG) as (port, end, ends):
        async with open_raw(port) as raw:
            await raw.send_all(b"GET /short HTTP/1.1\r\nhost")
            await trio.testing.wait_all_tasks_blocked(0.02)
            end()
            with trio.fail_after(PROMPT):
                await raw.read_until_closed()
    assert ends.took < PROMPT


async def test_a_raw_application_is_told_at_once() -> None:
    told: list[float] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await send(start())
        await send(body(b"first "))
        await scope["extensions"]["tsstream.host"].shutting_down.wait()
        told.append(trio.current_time())
        await send(body(b"bye", more=False))

    async with open_ending(http(app), graceful_timeout=LONG) as (port, end, ends):
        async with open_raw(port) as raw:
            assert await get(raw) == 200
            assert await raw.read_chunk() == b"first "
            end()
            assert await raw.read_body() == b"bye"
    assert told[0] - ends.told < PROMPT
    assert ends.took < PROMPT


async def test_the_lifespan_knows_the_host_too() -> None:
    hosts: list[object] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        hosts.append(scope["extensions"]["tsstream.host"])
        await http(answering)(scope, receive, send)

    async def answering(scope: Any, receive: Receive, send: Send) -> None:
        await answer(send)

    async with open_guarded(app) as port, open_raw(port) as raw:
        assert await get(raw) == 200
    assert len(hosts) == 2
    assert hosts[0] is hosts[1]


async def test_cancelling_serve_cuts_every_response_at_once() -> None:
    app = Answers()
    async with assert_no_leaks(), trio.open_nursery() as nursery:
        (address,) = await nursery.start(
            partial(serve, app, bind=["127.0.0.1:0"], graceful_timeout=LONG)
        )
        port = int(address.rpartition(":")[2])
        async with open_raw(port) as endless, open_raw(port) as length, open_raw(port) as idle:
            await begin(app, endless, "/endless")
            await begin(app, length, "/length")
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True), trio.fail_after(PROMPT):
                for raw in (endless, length):
                    with pytest.raises(Truncated):
                        await raw.read_body()
                assert await idle.read_until_closed() == b""
    assert sorted(app.events[:2]) == ["/endless cancelled", "/length cancelled"]


async def test_cancelling_serve_runs_the_lifespans_shutdown_with_all_its_waiting() -> None:
    app = Answers()
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve, app, bind=["127.0.0.1:0"]))
        nursery.cancel_scope.cancel()
    assert app.events == ["lifespan ended"]


async def test_a_lifespan_that_never_ends_does_not_hold_a_cancelled_serve_for_ever() -> None:
    # "Shield nothing that can wait for ever": Hypercorn's shutdown_timeout is its limit.
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await trio.sleep_forever()

    config = Config.from_mapping({"shutdown_timeout": 0.2, "errorlog": logging.getLogger("wire")})
    with trio.fail_after(IN_TIME), pytest.raises(LifespanFailureError), unwrapping():
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(serve, app, config, bind=["127.0.0.1:0"]))
            nursery.cancel_scope.cancel()


async def test_an_ordinary_end_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tsstream.server")
    app = Answers()
    async with open_ending(app, graceful_timeout=0.1) as (port, end, _):
        async with open_raw(port) as idle, open_raw(port) as finite:
            assert await get(idle, "/short") == 200
            await begin(app, finite, "/finite")
            end()
            app.finish.set()
            assert await finite.read_body() == b"last"
    assert records(caplog) == []
