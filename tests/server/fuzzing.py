"""The fuzzer's clients and what they watch for; ``fuzz.py`` is its command."""

from __future__ import annotations

import logging
import re
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import attrs
import hpack
import trio
from conversation import Answer, HangUp, Listener, reset_on_close
from frames_h2 import Code, Type
from frames_ws import Op, WSAnswer, upgrade, ws_frame
from hostile_app import hostile_app
from leaks import assert_no_leaks
from mutations import FuzzInput, Hear, Yields, make_input
from wire import H2Connection, RawConnection, open_guarded, open_h2, open_raw

HOST = "127.0.0.1"
CLIENTS = 8  # at once
GRACE = 6.0  # seconds: for the server to end what the clients have left behind
BOUND = 5.0  # seconds: the server ends a connection by then whose client has left
HEARING = 0.015  # seconds: what a client waits for an answer
ROUND = 100  # inputs between two looks at the innocent
INNOCENT_BOUND = 5.0  # seconds: an innocent has its answer by then
OPTIONS: dict[str, Any] = {
    "keep_alive_timeout": 120.0,  # this and the next: for the innocent, who go on asking
    "keep_alive_max_requests": 10**9,
    "stall_timeout": 1.0,
    "websocket_max_message_size": 100_000,
}
MAX_ALARMS = 20  # printed: a bug that each third input shows is not more than a bug
MAX_SUSPECTS = 500  # run again, alone
SERVER = "tsstream.server"
PEER = re.compile(r"'127\.0\.0\.1', (\d+)")


async def fuzz(seed: int, indexes: Iterable[int], half_close: bool = False) -> list[str]:
    """Serve an application, run these inputs, and give all that went wrong.

    Each fault begins with the seed and the index of the input, if it is known. With *half_close*
    the server goes on with what is under way when it gets a FIN.
    """
    options = {**OPTIONS, "half_close": half_close}
    log = Log()
    faults: list[str] = []
    try:
        with log.attached():
            async with open_guarded(hostile_app, **options) as port, assert_no_leaks(grace=GRACE):
                async with open_innocents(port) as innocents:
                    await Fuzzer(port, innocents, log, faults, half_close).run(seed, indexes)
    except Exception as error:  # the server has died, an innocent was hurt, something is left
        faults.append("".join(traceback.format_exception(error)))
    return faults


class Log(logging.Handler):
    """Watches what is logged while the fuzzer runs.

    Attributes:
      labels: which input talks, or has talked last, from a port.
      failures: how many records of a failed connection there are of each input.
      alarms: what no client may bring about: tracebacks, and whatever is more than information.
      unnamed: how many of the alarms do not say whose they are.
    """

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.labels: dict[int, str] = {}
        self.failures: Counter[str] = Counter()
        self.alarms: list[str] = []
        self.unnamed = 0

    def emit(self, record: logging.LogRecord) -> None:
        peer = PEER.search(record.getMessage())
        label = self.labels.get(int(peer[1])) if peer else None
        if record.name == SERVER and label:
            self.failures[label] += 1
        if record.levelno >= logging.WARNING or record.exc_info:
            self.unnamed += label is None
            self.alarms.append(f"{label or '?'} logged: {logging.Formatter().format(record)}")

    @contextmanager
    def attached(self) -> Iterator[None]:
        root, server = logging.getLogger(), logging.getLogger(SERVER)
        level = server.level
        server.setLevel(logging.INFO)
        root.addHandler(self)
        try:
            yield
        finally:
            root.removeHandler(self)
            server.setLevel(level)


@attrs.define(eq=False)
class Fuzzer:
    """Runs inputs against the server at *port*, and keeps what went wrong.

    Attributes:
      faults: each begins with the seed and the index of the input, if they are known.
    """

    port: int
    innocents: Innocents
    log: Log
    faults: list[str]
    half_close: bool = False
    _running: dict[str, None] = attrs.field(factory=dict)
    _suspects: dict[str, None] = attrs.field(factory=dict)

    async def run(self, seed: int, indexes: Iterable[int]) -> None:
        """Run the inputs, several at once, and look at the innocent now and then."""
        left = iter(indexes)
        try:
            async with trio.open_nursery() as nursery:
                for _ in range(CLIENTS):
                    nursery.start_soon(self._run_client, seed, left)
            await self.innocents.check()
            await self._find_the_guilty()
        finally:
            self.faults += self.log.alarms[:MAX_ALARMS]
            self.faults += [
                f"{label} {count} records of one failure"
                for label, count in self.log.failures.items()
                if count > 1
            ]

    async def _run_client(self, seed: int, left: Iterator[int]) -> None:
        for index in left:
            await self.run_input(make_input(seed, index))
            if index % ROUND == ROUND - 1:
                await self._check_innocents(f"{seed}:{index}")

    async def run_input(self, item: FuzzInput) -> None:
        """Run one input; keep what is wrong with the answer."""
        unnamed = self.log.unnamed
        self._running[item.label] = None
        stream = await trio.open_tcp_stream(HOST, self.port)
        try:
            self.log.labels[stream.socket.getsockname()[1]] = item.label
            endless = self.half_close and item.endless
            answer = await say(stream, item, HEARING if endless else BOUND)
        finally:
            stream.socket.close()
        self.faults += [f"{item.label} {fault} ({item.story})" for fault in faults_of(item, answer)]
        if item.ending is HangUp.FIN and answer.ended == "open" and not endless:
            self.faults.append(f"{item.label} left open after the client's FIN ({item.story})")
        if self.log.unnamed > unnamed:
            self._suspects.update(self._running)
        del self._running[item.label]

    async def _check_innocents(self, label: str) -> None:
        try:
            await self.innocents.check()
        except Exception:
            around = ", ".join([label, *self._running])
            self.faults.append(f"an innocent was hurt, by one of {around}, or one before")
            raise

    async def _find_the_guilty(self) -> None:
        """Run alone, one after the other, who was there when there was an alarm without a name."""
        for label in list(self._suspects)[:MAX_SUSPECTS]:
            seed, index = map(int, label.split(":"))
            before = self.log.unnamed
            await self.run_input(make_input(seed, index))
            await trio.sleep(HEARING)
            if self.log.unnamed > before:
                self.faults.append(f"{label} logs something when it is alone, too")


async def say(stream: trio.SocketStream, item: FuzzInput, patience: float) -> Answer:
    """Have the conversation *item*; give the answer.

    After a FIN the server gets *patience* seconds to end the connection, or it is left open.
    """
    listener = Listener(stream)
    with trio.move_on_after(BOUND):  # noqa: ASYNC912  # the nursery's end is a cancel point
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listener.run)
            try:
                for step in item.steps:
                    if isinstance(step, Yields):
                        for _ in range(step.count):
                            await trio.lowlevel.checkpoint()
                    elif isinstance(step, Hear):
                        with trio.move_on_after(HEARING):
                            await listener.wait_news()
                    elif isinstance(step, bytes) and step:
                        await stream.send_all(step)
                if item.ending is HangUp.FIN:
                    await stream.send_eof()
                    with trio.move_on_after(patience):
                        await listener.wait_until(lambda answer: False)
                else:
                    reset_on_close(stream)
            except trio.BrokenResourceError:
                await listener.wait_until(lambda answer: False)  # the server was first
            nursery.cancel_scope.cancel()
    return listener.answer


def faults_of(item: FuzzInput, answer: Answer) -> list[str]:
    """Name what no server may answer, whatever it was asked."""
    faults: list[str] = []
    data = answer.data
    if not data:
        return faults
    if data[3:4] == bytes([Type.SETTINGS]) and not data.startswith(b"HTTP/"):
        return faults + _faults_of_http2(answer)
    if not data.startswith(b"HTTP/1.1 "):
        return [*faults, f"no HTTP: {data[:50]!r}"]
    if 500 in answer.statuses:
        faults.append("status 500")
    if data.startswith(b"HTTP/1.1 101") and item.kind == "websocket":
        return faults + _faults_of_websocket(answer.ws)
    return faults


def _faults_of_http2(answer: Answer) -> list[str]:
    faults = []
    over: set[int] = set()
    for frame in answer.h2.frames:
        if frame.stream in over and frame.kind in (Type.DATA, Type.HEADERS):
            faults.append(f"{Type(frame.kind).name} after the end of stream {frame.stream}")
        if frame.kind in (Type.RST_STREAM, Type.GOAWAY) and frame.code == Code.INTERNAL_ERROR:
            faults.append(f"{Type(frame.kind).name} with INTERNAL_ERROR")
        if frame.kind == Type.RST_STREAM or (
            frame.kind in (Type.DATA, Type.HEADERS) and frame.flags & 1
        ):
            over.add(frame.stream)
    if answer.ended == "fin" and answer.h2.rest:
        faults.append(f"half a frame: {answer.h2.rest[:50]!r}")
    try:
        if 500 in answer.h2.statuses.values():
            faults.append("status 500")
    except hpack.HPACKError as error:
        faults.append(f"headers that cannot be decoded: {error!r}")
    return faults


def _faults_of_websocket(answer: WSAnswer) -> list[str]:
    faults = list(answer.faults)
    if answer.code is not None and answer.code in (1006, 1011, 1015):
        faults.append(f"Close with {answer.code}")
    for op, payload in answer.frames:
        if op not in list(Op):
            faults.append(f"opcode {op}")
        if op == Op.TEXT and payload.decode(errors="replace").encode() != payload:
            faults.append("a text that is no UTF-8")
    return faults


@attrs.frozen(eq=False)
class Innocents:
    """Three clients that do nothing wrong: one for each protocol."""

    http1: RawConnection
    http2: H2Connection
    websocket: RawConnection
    _lock: trio.Lock = attrs.field(factory=trio.Lock)

    async def check(self) -> None:
        """Each of them is served, on the connection that it had before."""
        async with self._lock:
            with trio.fail_after(INNOCENT_BOUND):
                await self.http1.request("GET", "/hello")
                assert (await self.http1.read_head())[0] == 200
                assert await self.http1.read_body() == b"hello"
                stream_id = await self.http2.request("POST", "/echo", body=b"hello")
                assert (await self.http2.read_head(stream_id))[0] == 200
                assert await self.http2.read_body(stream_id) == b"hello"
                await self.websocket.send_all(ws_frame(Op.TEXT, b"hello"))
                echo = ws_frame(Op.TEXT, b"hello", masked=False)
                received = b""
                while len(received) < len(echo):
                    received += await self.websocket.stream.receive_some(100)
                assert received == echo


@asynccontextmanager
async def open_innocents(port: int) -> AsyncIterator[Innocents]:
    """Connect three innocent clients to *port*."""
    async with open_raw(port) as http1, open_h2(port) as http2, open_raw(port) as websocket:
        await websocket.send_all(upgrade())
        assert (await websocket.read_head())[0] == 101
        innocents = Innocents(http1, http2, websocket)
        await innocents.check()
        yield innocents
