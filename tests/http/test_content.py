"""What a response can stream, who closes it, and how a body is left early."""

from __future__ import annotations

import io
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

import pytest
import trio
from asgi import make_app
from trio.testing import MockClock

from tsstream import Response
from tsstream.testing import open_client

T = TypeVar("T")


async def read(response: Response) -> bytes:
    async with response as chunks:
        return b"".join([chunk async for chunk in chunks])


async def generate(*items: Any) -> AsyncGenerator[Any, None]:
    for item in items:
        yield item


class Iter:
    """An async iterator, and nothing else."""

    def __init__(self, *items: object) -> None:
        self.items = iter(items)

    def __aiter__(self) -> Iter:
        return self

    async def __anext__(self) -> object:
        await trio.lowlevel.checkpoint()
        for item in self.items:
            if isinstance(item, Exception):
                raise item
            return item
        raise StopAsyncIteration


class Both(Iter):
    """An async iterator and a context manager at once, as trio's files and channels are."""

    entered = 0

    async def __aenter__(self) -> Self:
        self.entered += 1
        return self

    async def __aexit__(self, *_: object) -> None:
        pass


class Channel(trio.abc.ReceiveChannel[object], Generic[T]):
    """A receive channel that is not Trio's own."""

    def __init__(self, *items: object) -> None:
        self.items = iter(items)
        self.closed = 0

    async def receive(self) -> object:
        await trio.lowlevel.checkpoint()
        for item in self.items:
            return item
        raise trio.EndOfChannel

    async def aclose(self) -> None:
        self.closed += 1
        await trio.lowlevel.checkpoint()


def memory_channel(*items: object) -> trio.MemoryReceiveChannel[object]:
    send_channel, receive_channel = trio.open_memory_channel[object](len(items))
    with send_channel:
        for item in items:
            send_channel.send_nowait(item)
    return receive_channel


@asynccontextmanager
async def manage(content: T) -> AsyncIterator[T]:
    await trio.lowlevel.checkpoint()
    yield content
    await trio.lowlevel.checkpoint()


KINDS: dict[str, Callable[[], Any]] = {
    "bytes": lambda: b"helloworld",
    "bytearray": lambda: bytearray(b"helloworld"),
    "memoryview": lambda: memoryview(b"helloworld"),
    "str": lambda: "helloworld",
    "list": lambda: [b"hello", "world"],
    "tuple": lambda: ("hello", b"", b"world"),
    "set of one": lambda: {b"helloworld"},
    "sync iterator": lambda: iter([b"hello", b"world"]),
    "sync generator": lambda: (part for part in ("hello", "world")),
    "range of str": lambda: map(str.lower, ["HELLO", "WORLD"]),
    "binary file": lambda: io.BytesIO(b"helloworld"),
    "text file": lambda: io.StringIO("helloworld"),
    "async iterator": lambda: Iter(b"hello", "world"),
    "async generator": lambda: generate(b"hello", "world"),
    "async iterator and context manager": lambda: Both(b"hello", b"world"),
    "memory channel": lambda: memory_channel(b"hello", b"world"),
    "channel": lambda: Channel(b"hello", b"world"),
}
kinds = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)


@kinds
async def test_a_response_streams(make: Callable[[], Any]) -> None:
    # AC-3, AC-8, D26 to D32
    assert await read(Response(make())) == b"helloworld"


@kinds
async def test_a_context_manager_may_yield(make: Callable[[], Any]) -> None:
    # AC-1, AC-32, D26 to D30
    assert await read(Response(manage(make()))) == b"helloworld"


@kinds
async def test_a_handler_may_return(make: Callable[[], Any]) -> None:
    # AC-1, AC-8, D30 to D32
    async def handler(request: object) -> Any:
        return make()

    async with open_client(make_app(handler)) as client:
        assert (await client.get("/")).content == b"helloworld"


async def test_a_file_is_read_to_its_end_and_closed(tmp_path: Path) -> None:
    data = bytes(range(256)) * 1024
    path = tmp_path / "data"
    path.write_bytes(data)
    with path.open("rb") as file:
        assert await read(Response(file)) == data
        assert file.closed


async def test_a_trio_file_is_entered_and_iterated(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"a\nb\n")
    file = await trio.open_file(path, "rb")
    assert await read(Response(file)) == b"a\nb\n"
    assert file.closed


async def test_what_is_both_is_entered_once_and_iterated() -> None:
    # AC-8
    both = Both(b"a", b"b")
    assert await read(Response(both)) == b"ab"
    assert both.entered == 1


class Lookalike:
    """Has every attribute, as mocks do; its type has none of them."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


NOT_STREAMS = [None, 1, 1.5, {"a": 1}, object(), Lookalike(), open_client]


@pytest.mark.parametrize("content", NOT_STREAMS, ids=lambda content: type(content).__name__)
def test_a_response_of_what_cannot_be_streamed_is_refused(content: Any) -> None:
    # AC-8, D3
    with pytest.raises(TypeError, match=f"cannot stream an? {type(content).__name__}; give it"):
        Response(content)


@pytest.mark.parametrize("content", NOT_STREAMS, ids=lambda content: type(content).__name__)
async def test_a_manager_that_yields_what_cannot_be_streamed_is_told_so(content: Any) -> None:
    # D5
    seen: list[BaseException] = []

    @asynccontextmanager
    async def body() -> AsyncIterator[Any]:
        try:
            yield content
        except TypeError as error:
            seen.append(error)
            raise

    with pytest.raises(TypeError, match="cannot stream") as caught:
        await read(Response(body()))
    assert seen == [caught.value]


@pytest.mark.parametrize(
    ("content", "remedy"),
    [
        (manage(b"inner"), "enter that with 'async with'"),
        (Response(b"inner"), "decorated with @asynccontextmanager"),
    ],
    ids=["a manager", "a response"],
)
async def test_what_needs_another_step_is_refused_with_the_remedy(
    content: Any, remedy: str
) -> None:
    # D5
    with pytest.raises(TypeError, match=remedy):
        await read(Response(manage(content)))


def test_a_response_is_no_content_of_a_response() -> None:
    with pytest.raises(TypeError, match="a response is no content of another one"):
        Response(Response(b"inner"))


# Who closes what


class Noted:
    """An async iterator that notes its closing."""

    def __init__(self, log: list[str], *items: object) -> None:
        self.log = log
        self.inner = Iter(*items)

    def __aiter__(self) -> Noted:
        return self

    async def __anext__(self) -> object:
        item = await self.inner.__anext__()
        if item is None:
            await trio.sleep_forever()
        return item

    async def aclose(self) -> None:
        self.log.append("close")


def noted(log: list[str], *items: object) -> AbstractAsyncContextManager[Noted]:
    @asynccontextmanager
    async def body() -> AsyncIterator[Noted]:
        log.append("enter")
        try:
            yield Noted(log, *items)
        finally:
            log.append("exit")

    return body()


@pytest.mark.parametrize("count", [0, 1, 2], ids=["never iterated", "once", "exhausted"])
async def test_what_was_yielded_is_closed_once_before_the_exit(
    count: int, autojump_clock: MockClock
) -> None:
    # AC-12
    log: list[str] = []
    async with Response(noted(log, b"a", b"b")) as chunks:
        for _ in range(count):
            await chunks.receive()
        if count == 2:
            with pytest.raises(trio.EndOfChannel):
                await chunks.receive()
    assert log == ["enter", "close", "exit"]


async def test_what_was_yielded_is_closed_once_after_an_error() -> None:
    # AC-12
    log: list[str] = []
    with pytest.raises(ValueError, match="broken"):
        await read(Response(noted(log, b"a", ValueError("broken"))))
    assert log == ["enter", "close", "exit"]


async def test_what_was_yielded_is_closed_once_after_a_disconnect() -> None:
    # AC-12
    log: list[str] = []

    async def handler(request: object) -> Response:
        return Response(noted(log, b"a", None))

    async with open_client(make_app(handler)) as client:
        async with client.stream("GET", "/") as response:
            assert await response.body.receive() == b"a"
        assert log == ["enter", "close", "exit"]


async def test_a_memory_channel_is_closed_before_the_exit() -> None:
    # AC-12, D26
    channel = memory_channel(b"a")
    closed_at_exit: list[bool] = []

    @asynccontextmanager
    async def body() -> AsyncIterator[Any]:
        yield channel
        closed_at_exit.append(not channel.statistics().open_receive_channels)

    assert await read(Response(body())) == b"a"
    assert closed_at_exit == [True]


async def test_a_channel_of_another_kind_is_closed_once() -> None:
    channel: Channel[bytes] = Channel(b"a")
    await read(Response(channel))
    assert channel.closed == 1


class Closable:
    """An async iterable with a close() that is not async."""

    closed = 0

    def __aiter__(self) -> Iter:
        return Iter(b"a")

    def close(self) -> None:
        self.closed += 1


async def test_an_iterable_with_a_plain_close_is_closed_once() -> None:
    # D27
    content = Closable()
    assert await read(Response(content)) == b"a"
    assert content.closed == 1


async def test_a_yielded_generator_runs_and_is_closed_in_the_task_of_its_manager() -> None:
    # D28
    tasks: list[trio.lowlevel.Task] = []

    async def items() -> AsyncGenerator[bytes, None]:
        tasks.append(trio.lowlevel.current_task())
        try:
            yield b"a"
            yield b"b"
        finally:
            tasks.append(trio.lowlevel.current_task())

    @asynccontextmanager
    async def body() -> AsyncIterator[Any]:
        tasks.append(trio.lowlevel.current_task())
        yield items()

    async with Response(body()) as chunks:
        await chunks.receive()
    assert tasks == [trio.lowlevel.current_task()] * 3
