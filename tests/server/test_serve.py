"""serve(): its addresses, its ends, and what it leaves behind (raw ASGI applications)."""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from hypercorn.config import Config
from hypercorn.utils import LifespanFailureError
from leaks import assert_no_leaks
from wire import RawConnection, Truncated, open_raw

from tsstream._asgi import Receive, Send
from tsstream._server.listen import listen
from tsstream._server.serve import serve

LOCAL = "127.0.0.1:0"


class RawApp:
    """A raw ASGI application whose response ends when the test says so.

    Attributes:
      events: what has happened, in order.
      started: set when a request has its first byte.
      proceed: set by the test to let the response end.
    """

    def __init__(self) -> None:
        self.events: list[str] = []
        self.started = trio.Event()
        self.proceed = trio.Event()

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        else:
            await self._answer(scope, send)

    async def _answer(self, scope: Any, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first ", "more_body": True})
        self.started.set()
        try:
            if scope["path"] == "/wait":
                await self.proceed.wait()
        except trio.Cancelled:
            self.events.append("cancelled")
            raise
        await send({"type": "http.response.body", "body": b"last", "more_body": False})
        self.events.append("answered")

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        for stage in ("startup", "shutdown"):
            await receive()
            self.events.append(stage)
            await send({"type": f"lifespan.{stage}.complete"})


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


async def read_one(address: str) -> bytes:
    async with open_raw(port_of(address)) as raw:
        await raw.request("GET", "/")
        await raw.read_head()
        return await raw.read_body()


async def open_waiting(app: RawApp, raw: RawConnection) -> None:
    """Ask for a response that goes on until the test says so."""
    await raw.request("GET", "/wait")
    await raw.read_head()
    assert await raw.read_chunk() == b"first "
    await app.started.wait()


async def test_start_gives_the_address_of_a_server_that_answers() -> None:
    app = RawApp()
    async with trio.open_nursery() as nursery:
        addresses = await nursery.start(partial(serve, app, bind=[LOCAL]))
        assert addresses == [f"http://127.0.0.1:{port_of(addresses[0])}"]
        assert app.events == ["startup"]
        assert await read_one(addresses[0]) == b"first last"
        nursery.cancel_scope.cancel()


async def test_every_address_is_served(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    bind = [LOCAL, "localhost:0", f"unix:{path}"]
    async with trio.open_nursery() as nursery:
        addresses = await nursery.start(partial(serve, RawApp(), bind=bind))
        assert await read_one(addresses[0]) == b"first last"
        assert len({port_of(address) for address in addresses[:-1]}) >= 2
        assert addresses[-1] == f"http://unix:{path}"
        async with await trio.open_unix_socket(path) as stream:
            await stream.send_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 200")
        nursery.cancel_scope.cancel()


@pytest.mark.skipif(not socket.has_ipv6, reason="IPv6")
async def test_ipv6_addresses_are_written_in_brackets() -> None:
    async with trio.open_nursery() as nursery:
        try:
            addresses = await nursery.start(partial(serve, RawApp(), bind=["[::1]:0"]))
        except OSError:
            pytest.skip("this machine has no IPv6 loopback")
        stream = await trio.open_tcp_stream("::1", port_of(addresses[0]))
        await stream.aclose()
        assert addresses[0].startswith("http://[::1]:")
        nursery.cancel_scope.cancel()


async def test_a_listening_socket_can_be_inherited() -> None:
    inherited = socket.create_server(("127.0.0.1", 0))
    port = inherited.getsockname()[1]
    async with trio.open_nursery() as nursery:
        bind = [f"fd://{inherited.detach()}"]
        addresses = await nursery.start(partial(serve, RawApp(), bind=bind))
        assert addresses == [f"http://127.0.0.1:{port}"]
        assert await read_one(addresses[0]) == b"first last"
        nursery.cancel_scope.cancel()


async def test_an_address_in_use_is_an_error_that_names_it_and_closes_the_others() -> None:
    app = RawApp()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        async with assert_no_leaks():
            with pytest.raises(OSError, match=f"cannot listen on {address}: "):
                await serve(app, bind=[LOCAL, address])
    assert app.events == []  # the lifespan was not even started


@pytest.mark.parametrize(
    "address", ["8000", "localhost", "localhost:http", "127.0.0.1:70000", "127.0.0.1:-1", "", ":"]
)
async def test_an_address_that_is_none_is_an_error_that_says_how_to_write_it(address: str) -> None:
    with pytest.raises(ValueError, match="write HOST:PORT"):
        await serve(RawApp(), bind=[address])


async def test_unknown_hosts_and_directories_are_errors_that_name_the_address() -> None:
    with pytest.raises(OSError, match="cannot listen on unix:/no/such/place"):
        await serve(RawApp(), bind=["unix:/no/such/place"])
    with pytest.raises(OSError, match=r"cannot listen on 192\.0\.2\.1:0"):
        await serve(RawApp(), bind=["192.0.2.1:0"])


async def test_no_address_and_quic_are_refused() -> None:
    config = Config()
    config.quic_bind = [LOCAL]
    with pytest.raises(ValueError, match="bind is empty"):
        await serve(RawApp(), bind=[])
    with pytest.raises(ValueError, match="QUIC"):
        await serve(RawApp(), config, bind=[LOCAL])


async def test_the_socket_file_of_a_dead_server_is_replaced_that_of_a_living_one_is_not(
    tmp_path: Path,
) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(os.fspath(path))
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve, RawApp(), bind=[f"unix:{path}"]))
        with pytest.raises(OSError, match="cannot listen on unix:"):
            await serve(RawApp(), bind=[f"unix:{path}"])
        await (await trio.open_unix_socket(path)).aclose()
        nursery.cancel_scope.cancel()


async def test_a_file_that_is_no_socket_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "notes"
    path.write_text("mine")
    with pytest.raises(OSError, match="cannot listen on unix:"):
        await serve(RawApp(), bind=[f"unix:{path}"])
    assert path.read_text() == "mine"


async def test_the_umask_of_the_config_holds_for_the_socket_file(tmp_path: Path) -> None:
    config = Config()
    config.umask = 0o077
    path = tmp_path / "socket"
    with ExitStack() as stack:
        await listen([f"unix:{path}"], config, stack)
        assert path.stat().st_mode & 0o777 == 0o700


async def test_cancelling_ends_every_request_and_leaves_nothing() -> None:
    app = RawApp()
    async with assert_no_leaks():
        async with trio.open_nursery() as nursery:
            (address,) = await nursery.start(partial(serve, app, bind=[LOCAL]))
            async with open_raw(port_of(address)) as raw:
                await open_waiting(app, raw)
                nursery.cancel_scope.cancel()
    assert app.events == ["startup", "cancelled", "shutdown"]


async def test_the_shutdown_trigger_lets_responses_end_and_takes_no_new_connections() -> None:
    app = RawApp()
    trigger = trio.Event()
    async with assert_no_leaks(), trio.open_nursery() as nursery:
        start = partial(
            serve, app, bind=[LOCAL], graceful_timeout=10, shutdown_trigger=trigger.wait
        )
        (address,) = await nursery.start(start)
        async with open_raw(port_of(address)) as raw:
            await open_waiting(app, raw)
            trigger.set()
            await trio.testing.wait_all_tasks_blocked(0.01)
            with pytest.raises(OSError, match="connect"):
                await trio.open_tcp_stream("127.0.0.1", port_of(address))
            app.proceed.set()
            assert await raw.read_body() == b"last"
    assert app.events == ["startup", "answered", "shutdown"]


async def test_responses_that_outlast_the_graceful_timeout_are_visibly_cut() -> None:
    app = RawApp()
    trigger = trio.Event()
    async with assert_no_leaks(), trio.open_nursery() as nursery:
        start = partial(
            serve, app, bind=[LOCAL], graceful_timeout=0.05, shutdown_trigger=trigger.wait
        )
        (address,) = await nursery.start(start)
        async with open_raw(port_of(address)) as raw:
            await open_waiting(app, raw)
            trigger.set()
            with pytest.raises(Truncated):
                await raw.read_body()
    assert app.events == ["startup", "cancelled", "shutdown"]


async def test_an_error_of_the_trigger_leaves_as_itself() -> None:
    async def fail() -> None:
        raise LookupError("no such signal")

    async with assert_no_leaks():
        with pytest.raises(LookupError):
            await serve(RawApp(), bind=[LOCAL], shutdown_trigger=fail)


async def test_a_lifespan_that_fails_to_start_leaves_as_itself_and_leaves_nothing() -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    async with assert_no_leaks(), trio.open_nursery() as nursery:
        with pytest.raises(LifespanFailureError, match="no database"):
            await nursery.start(partial(serve, app, bind=[LOCAL]))


async def test_a_config_is_used_whole_and_not_changed() -> None:
    config = Config()
    config.bind = ["127.0.0.1:0", "127.0.0.1:0"]
    config.include_server_header = False
    config.errorlog = logging.getLogger(__name__)  # its default would put a handler on its logger
    async with trio.open_nursery() as nursery:
        addresses = await nursery.start(partial(serve, RawApp(), config))
        assert len(addresses) == 2
        addresses = await nursery.start(
            partial(serve, RawApp(), config, bind=LOCAL, graceful_timeout=9.0)
        )
        assert len(addresses) == 1
        async with open_raw(port_of(addresses[0])) as raw:
            await raw.request("GET", "/")
            _, headers = await raw.read_head()
        nursery.cancel_scope.cancel()
    assert "server" not in headers
    assert (len(config.bind), config.graceful_timeout) == (2, Config.graceful_timeout)


async def test_an_application_that_is_no_coroutine_function_is_still_asgi() -> None:
    app = RawApp()

    def plain(scope: Any, receive: Receive, send: Send) -> Awaitable[None]:
        return app(scope, receive, send)

    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(partial(serve, plain, bind=[LOCAL]))
        assert await read_one(address) == b"first last"
        nursery.cancel_scope.cancel()


async def test_no_log_handler_is_installed() -> None:
    logger = logging.getLogger("hypercorn.error")
    before = list(logger.handlers)
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve, RawApp(), bind=[LOCAL]))
        assert logger.handlers == before
        nursery.cancel_scope.cancel()


class OnStarted:
    """A task_status that calls *fn* in a system task once all other tasks wait."""

    def __init__(self, fn: Callable[[], None]) -> None:
        self.fn = fn

    def started(self, value: object = None) -> None:
        trio.lowlevel.spawn_system_task(self._call)

    async def _call(self) -> None:
        await trio.testing.wait_all_tasks_blocked()
        self.fn()


def test_ctrl_c_ends_gracefully_and_is_not_swallowed() -> None:
    events: list[str] = []

    async def main() -> None:
        app = RawApp()
        app.events = events
        # System tasks are protected, so Trio gives the KeyboardInterrupt to the main task: this.
        status: Any = OnStarted(partial(signal.raise_signal, signal.SIGINT))
        await serve(app, bind=[LOCAL], task_status=status)

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)
    assert events == ["startup", "shutdown"]
