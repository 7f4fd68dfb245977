"""The stock Hypercorn, an app whose calls the test itself holds, and what both do and cost."""

from __future__ import annotations

import gc
import math
import socket
import subprocess
import sys
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import h2.exceptions
import trio
import trio.testing
from probes import IN_TIME
from wire import HOST, RawConnection, Truncated, open_raw, open_server
from wsproto.connection import Connection, ConnectionType
from wsproto.events import Event

from tsstream._asgi import Receive, Send
from tsstream._util import leaves

GRACE = 0.05  # seconds: what a fault leaves behind is cancelled after it, when its test ends
CUSHION = 0.02  # seconds of rest: then nothing more happens by itself
SMALL_BUFFER = 4096  # bytes: of the kernel, so that a client that does not read stalls the server
MORE_THAN_BUFFERS = b"x" * 2**20
NO_TIMER = math.inf

GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
UPGRADE = {
    "connection": "Upgrade",
    "upgrade": "websocket",
    "sec-websocket-version": "13",
    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
}

# Our cures, by what has to be changed or removed when a fault has gone.
CONNECTION = "tsstream._server.connection.Connection"
OUTPUT = "tsstream._server.output.Output"
TRANSPORT = "tsstream._server.transport.Transport"
HANGUP = "tsstream._server.hangup.HangupWatch"
INBOX = "tsstream._server.inbox.Inbox"
EXCHANGE = "tsstream._server.exchange.HTTPExchange"
HTTP1 = "tsstream._server.http1.HTTP1"
HTTP2 = "tsstream._server.http2.HTTP2"
STREAM = "tsstream._server.http2_stream.Stream"
WEBSOCKET = "tsstream._server.websocket.WebSocketExchange"
LIMITS = "tsstream._server.limits.Limits"
SERVE = "tsstream._server.serve.serve"
SUPERVISOR = "tsstream._server.workers.Supervisor"
WATCHER = "tsstream._http.watcher.Watcher"
SENDER = "tsstream._http.sender.Sender"
CYCLE = "tsstream._http.cycle.Cycle"
RESPONSE = "tsstream._http.response.Response"
GUARDS = (
    *(CONNECTION, OUTPUT, TRANSPORT, HANGUP, INBOX, EXCHANGE, HTTP1, HTTP2, STREAM, WEBSOCKET),
    *(LIMITS, SERVE, SUPERVISOR, WATCHER, SENDER, CYCLE, RESPONSE),
)


def cured(fact: str, *guards: str) -> str:
    """Say that Hypercorn does now what it did not do, and what of ours that makes superfluous."""
    return (
        f"stock Hypercorn has changed: {fact}. In {' and '.join(guards)} the guard against it can "
        "go (docs/design/guards.rst), and its line in docs/design/hosts.rst"
    )


def lost(fact: str) -> str:
    """Say that Hypercorn does no longer what our guarantees on a stock one build upon."""
    return f"stock Hypercorn has changed: {fact}. Correct docs/design/hosts.rst"


class Call:
    """One call of the app. The test receives and sends in its place, and says when it returns.

    Attributes:
      scope: what the server has called the app with, like ``receive`` and ``send``.
      over: set when the call has returned, by the test's wish or because it was cancelled.
      cancelled: by the server.
    """

    def __init__(self, scope: Any, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.receive = receive
        self.send = send
        self.over = trio.Event()
        self.cancelled = False
        self._end = trio.Event()
        self._error: Exception | None = None

    async def start(self, status: int = 200, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        await self.send({"type": "http.response.start", "status": status, "headers": list(headers)})

    async def body(self, data: bytes) -> None:
        await self.send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, data: bytes = b"") -> None:
        """Send the final message."""
        await self.send({"type": "http.response.body", "body": data, "more_body": False})

    async def receive_type(self) -> str:
        message = await self.receive()
        return str(message["type"])

    async def accept(self) -> None:
        """Accept a WebSocket."""
        assert await self.receive_type() == "websocket.connect"
        await self.send({"type": "websocket.accept"})

    def finish(self, error: Exception | None = None) -> None:
        """Let the call return, or raise *error*."""
        self._error = error
        self._end.set()

    async def run(self) -> None:
        try:
            await self._end.wait()
            if self._error is not None:
                raise self._error
        except trio.Cancelled:
            self.cancelled = True
            raise
        finally:
            self.over.set()


Handler = Callable[[Call], Awaitable[None]]


async def answer(call: Call) -> None:
    """Be the handler that answers at once, whatever it is asked."""
    await call.start(headers=[(b"content-length", b"2")])
    await call.end(b"ok")


class Stock:
    """An ASGI app, and the port on which a stock Hypercorn serves it.

    Args:
      handler: takes the calls in the test's place.

    Attributes:
      events: what has happened in its lifespan.
      calls: all of them, in the order in which they came.
    """

    def __init__(self, handler: Handler = Call.run) -> None:
        self.handler = handler
        self.port = 0
        self.events: list[str] = []
        self.calls: list[Call] = []
        self._arrived = trio.Semaphore(0)
        self._given = 0

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            for stage in ("startup", "shutdown"):
                await receive()
                self.events.append(stage)
                await send({"type": f"lifespan.{stage}.complete"})
        else:
            self.calls.append(Call(scope, receive, send))
            self._arrived.release()
            await self.handler(self.calls[-1])

    async def next_call(self) -> Call:
        """Wait for the next call that has not been given yet."""
        with trio.fail_after(IN_TIME):
            await self._arrived.acquire()
        self._given += 1
        return self.calls[self._given - 1]

    async def ask(self, raw: RawConnection, data: bytes = GET) -> Call:
        """Send *data* to the server; give the call that it makes."""
        await raw.send_all(data)
        return await self.next_call()


@asynccontextmanager
async def open_stock(handler: Handler = Call.run, **options: Any) -> AsyncIterator[Stock]:
    """Serve a :class:`Stock`; *options* are those of ``open_server()``.

    Leaving the block lets every call return.
    """
    stock = Stock(handler)
    async with open_server(stock, **{"graceful_timeout": GRACE, **options}) as stock.port:
        yield stock
        # Not at the moment in which the client leaves: that would end the server (see "crashes").
        await settle()
        for call in stock.calls:
            call.finish()


async def settle() -> None:
    """Wait until all that happens waits for the network, for a timer or for the test."""
    await trio.testing.wait_all_tasks_blocked(CUSHION)


async def returns(fn: Callable[..., Awaitable[Any]], *args: Any) -> bool:
    """Call *fn* and say whether it returns by itself; if it still waits when all rests, cancel."""
    returned = False

    async def run() -> None:
        nonlocal returned
        await fn(*args)
        returned = True
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await settle()
        nursery.cancel_scope.cancel()
    return returned


def next_timer() -> float:
    """Seconds until any timer of this run goes off: NO_TIMER, and what waits waits for ever."""
    return trio.lowlevel.current_statistics().seconds_to_next_deadline


class _Steps(trio.abc.Instrument):
    def __init__(self) -> None:
        self.task = trio.lowlevel.current_task()
        self.count = 0
        self.spawned = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += task is self.task

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        self.spawned += 1


@contextmanager
def counting_steps() -> Iterator[_Steps]:
    """Count how often this task is scheduled within the block, and all tasks that are spawned."""
    steps = _Steps()
    trio.lowlevel.add_instrument(steps)
    try:
        yield steps
    finally:
        trio.lowlevel.remove_instrument(steps)


async def does_nothing(fn: Callable[..., Awaitable[Any]], *args: Any) -> bool:
    """Call *fn* and say whether it returns without a checkpoint and without an error."""
    with counting_steps() as steps, suppress(OSError):
        await fn(*args)
        return steps.count == 0
    return False


async def end_of_server(
    talk: Callable[[Stock], Awaitable[None]], handler: Handler = Call.run
) -> list[BaseException]:
    """Serve until *talk* has returned and all rests; give the errors that ended the server."""
    try:
        async with open_stock(handler) as stock:
            # What a client meets on a connection that the server has closed ends no server.
            with suppress(trio.BrokenResourceError, Truncated, h2.exceptions.ProtocolError):
                await talk(stock)
            await settle()
    except Exception as error:
        return list(leaves(error))
    return []


class Memory:
    """Bytes that Python has allocated since the beginning of a block."""

    now = 0
    peak = 0

    def measure(self) -> None:
        self.now, self.peak = tracemalloc.get_traced_memory()


@contextmanager
def traced() -> Iterator[Memory]:
    """Trace the memory of the block; slow."""
    gc.collect()
    tracemalloc.start()
    try:
        yield Memory()
    finally:
        tracemalloc.stop()


class WebSocket:
    """The client's side of an accepted WebSocket."""

    def __init__(self, raw: RawConnection) -> None:
        self.raw = raw
        self.wsproto = Connection(ConnectionType.CLIENT)

    async def send(self, event: Event) -> None:
        await self.raw.send_all(self.wsproto.send(event))

    async def read_events(self) -> list[Event]:
        """Read all events up to the end of the connection, or until nothing comes any more."""
        events: list[Event] = []

        async def read() -> None:
            with suppress(trio.BrokenResourceError):
                while data := await self.raw.stream.receive_some():
                    self.wsproto.receive_data(data)
                    events.extend(self.wsproto.events())

        await returns(read)
        return events


@asynccontextmanager
async def open_websocket(
    stock: Stock, headers: dict[str, str] | None = None
) -> AsyncIterator[tuple[WebSocket, Call]]:
    """Connect, and accept in the app's place; give the two ends."""
    async with open_raw(stock.port) as raw:
        await raw.request("GET", "/", {**UPGRADE, **(headers or {})})
        call = await stock.next_call()
        await call.accept()
        with trio.fail_after(IN_TIME):
            assert (await raw.read_head())[0] == 101
        yield WebSocket(raw), call


@asynccontextmanager
async def open_command(
    directory: Path, module: str, *args: str
) -> AsyncIterator[tuple[trio.Process, int]]:
    """Run ``hypercorn -k trio`` with the app in *module*, a text; give the process and its port."""
    (directory / "stock_app.py").write_text(module)
    with socket.create_server((HOST, 0)) as listener:
        listener.set_inheritable(True)
        process = await trio.lowlevel.open_process(
            [
                *(sys.executable, "-m", "hypercorn", "-k", "trio", *args),
                *("--bind", f"fd://{listener.fileno()}", "stock_app:app"),
            ],
            cwd=directory,
            pass_fds=[listener.fileno()],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        port = listener.getsockname()[1]
    try:
        yield process, port
    finally:
        process.terminate()
        with trio.CancelScope(shield=True), trio.move_on_after(IN_TIME):
            await process.wait()
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
