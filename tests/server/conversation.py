"""Hostile conversations as data: what a client says, what must come back, and how it is heard."""

from __future__ import annotations

import re
import socket
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum, auto
from functools import cached_property
from itertools import groupby
from typing import Any, Literal

import attrs
import trio
from frames_h2 import Code, H2Answer
from frames_ws import WSAnswer

HOST = "127.0.0.1"
BOUND = 3.0  # seconds: a hostile connection has its answer and its end by then, on a busy machine
RECEIVE_SIZE = 64 * 1024  # bytes
STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")


class HangUp(Enum):
    """How a client ends its side."""

    FIN = auto()  # half-close: it still reads
    RESET = auto()


@attrs.frozen(slots=False)
class Answer:
    """What a server said until it closed the connection, or until nobody listened any more."""

    data: bytes
    ended: Literal["open", "fin", "reset"] = "open"

    @property
    def statuses(self) -> list[int]:
        """The final statuses of HTTP/1.1, one for each response."""
        found = [int(match) for match in STATUS.findall(self.data)]
        return [status for status in found if status >= 200]

    @cached_property
    def h2(self) -> H2Answer:
        return H2Answer.of(self.data)

    @cached_property
    def ws(self) -> WSAnswer:
        return WSAnswer.of(self.data)


@attrs.frozen
class Check:
    """A promise about an answer, with the words for it."""

    text: str
    holds: Callable[[Answer], bool]

    def __or__(self, other: Check) -> Check:
        return Check(f"{self.text} or {other.text}", lambda a: self.holds(a) or other.holds(a))

    def __and__(self, other: Check) -> Check:
        return Check(f"{self.text} and {other.text}", lambda a: self.holds(a) and other.holds(a))


@attrs.frozen
class Until:
    """A step: listen until the answer so far fulfils it."""

    check: Check


@attrs.frozen
class Pause:
    """A step: say nothing for some *seconds*; for clients whose fault is that they are slow."""

    seconds: float


Step = bytes | Until | Pause | HangUp


@attrs.frozen
class Case:
    """One hostile conversation.

    Attributes:
      name: what is wrong with it.
      steps: what the client does.
      check: what must have come back.
      closes: the server must end the connection; None: only if it says that this is the end.
      records: how many records of a failed connection may be logged; None: one if it is closed.
      options: of the server.
    """

    name: str
    steps: tuple[Step, ...]
    check: Check
    closes: bool | None = True
    records: tuple[int, ...] | None = None
    options: Mapping[str, Any] = attrs.field(factory=dict)

    def must_close(self, answer: Answer) -> bool:
        if self.closes is not None:
            return self.closes
        return answer.h2.goaway not in (None, Code.NO_ERROR)

    def allowed_records(self, answer: Answer) -> tuple[int, ...]:
        if self.records is not None:
            return self.records
        return (1,) if self.must_close(answer) else (0,)

    def complete(self, answer: Answer) -> bool:
        """Nothing more has to be waited for."""
        if answer.ended != "open":
            return True
        return not self.must_close(answer) and self.check.holds(answer)


def one_by_one(data: bytes) -> Iterator[Step]:
    """Say *data* in single bytes."""
    for i in range(len(data)):
        yield data[i : i + 1]
        yield Pause(0)


def statuses(*codes: int) -> Check:
    """Exactly these final responses came, in this order (HTTP/1.1)."""
    return Check(f"statuses {codes}", lambda answer: answer.statuses == list(codes))


def status(*codes: int) -> Check:
    """One final response came, with one of *codes* (HTTP/1.1)."""
    return Check(
        f"one status of {codes}",
        lambda answer: len(answer.statuses) == 1 and answer.statuses[0] in codes,
    )


def goaway(*codes: Code) -> Check:
    names = "/".join(code.name for code in codes)
    return Check(f"GOAWAY({names})", lambda answer: answer.h2.goaway in codes)


def was_reset(stream: int, *codes: Code) -> Check:
    names = "/".join(code.name for code in codes)
    return Check(
        f"RST_STREAM({stream}, {names})", lambda answer: answer.h2.resets.get(stream) in codes
    )


def answered(stream: int, *codes: int) -> Check:
    """A whole response came on *stream* (HTTP/2)."""
    return Check(
        f"{codes} on stream {stream}",
        lambda answer: answer.h2.statuses.get(stream) in codes and stream in answer.h2.ended,
    )


def ws_closed(*codes: int) -> Check:
    return Check(f"Close({codes})", lambda answer: answer.ws.code in codes)


def contains(data: bytes) -> Check:
    return Check(f"{data!r}", lambda answer: data in answer.data)


NOTHING = Check("no answer", lambda answer: not answer.data)
ANYTHING = Check("anything", lambda answer: True)
SWITCHED = contains(b"HTTP/1.1 101 ")


async def converse(
    port: int,
    steps: Iterable[Step],
    complete: Callable[[Answer], bool],
    *,
    bound: float = BOUND,
) -> Answer:
    """Go through *steps*, listening all the while; give what came back.

    What is next to each other in *steps* is sent in one piece, so that the server is likely to find
    it in one piece. Ends when the answer is *complete*, but at the latest after *bound* seconds.
    What the server does not take any more is not sent.
    """
    stream = await trio.open_tcp_stream(HOST, port)
    listener = Listener(stream)
    try:
        with trio.move_on_after(bound):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(listener.run)
                for step in _joined(steps):
                    await _take_step(stream, listener, step)
                await listener.wait_until(complete)
                nursery.cancel_scope.cancel()
    finally:
        stream.socket.close()
    return listener.answer


def _joined(steps: Iterable[Step]) -> Iterator[Step]:
    for together, group in groupby(steps, lambda step: isinstance(step, bytes)):
        if together:
            yield b"".join(step for step in group if isinstance(step, bytes))
        else:
            yield from group


async def _take_step(stream: trio.SocketStream, listener: Listener, step: Step) -> None:
    try:
        if isinstance(step, Until):
            await listener.wait_until(step.check.holds)
        elif isinstance(step, Pause):
            await trio.sleep(step.seconds)
        elif step is HangUp.FIN:
            await stream.send_eof()
        elif step is HangUp.RESET:
            reset_on_close(stream)
            stream.socket.close()
        elif isinstance(step, bytes):
            await stream.send_all(step)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass  # the server has ended the connection: the listener will see it


def reset_on_close(stream: trio.SocketStream) -> None:
    """Make the close of the socket an abortive one."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class Listener:
    """Reads all that comes, in a task of its own, so that nobody is blocked by it."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.answer = Answer(b"")
        self._stream = stream
        self._received = bytearray()
        self._heard = trio.lowlevel.ParkingLot()

    async def run(self) -> None:
        ended: Literal["open", "fin", "reset"] = "open"
        while ended == "open":
            try:
                data = await self._stream.receive_some(RECEIVE_SIZE)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                data, ended = b"", "reset"
            else:
                ended = "open" if data else "fin"
            self._received += data
            self.answer = Answer(bytes(self._received), ended)
            self._heard.unpark_all()

    async def wait_until(self, holds: Callable[[Answer], bool]) -> None:
        """Wait until *holds* is true of the answer, or the connection is over."""
        while not holds(self.answer) and self.answer.ended == "open":
            await self._heard.park()

    async def wait_news(self) -> None:
        """Wait until anything comes, if anything can."""
        if self.answer.ended == "open":
            await self._heard.park()
