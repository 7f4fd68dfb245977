"""Bodies of every kind on a real connection: what arrives, when, and what is left behind."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from leaks import assert_no_leaks
from probes import IDLE, Endings, Life, flood, get, two_feeds
from wire import RawConnection, open_raw, open_server

from tsstream import App, Request, merge
from tsstream._http.content import Content

pytestmark = pytest.mark.usefixtures("each_host")

BATCH_SIZE = 64 * 1024  # bytes: AC-28


@asynccontextmanager
async def open_app(app: Any) -> AsyncIterator[RawConnection]:
    async with open_server(app, keep_alive_timeout=IDLE) as port, assert_no_leaks():
        async with open_raw(port) as raw:
            yield raw


async def read_all(raw: RawConnection, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    await raw.request(method, "/")
    status, headers = await raw.read_head()
    return status, headers, await raw.read_body()


async def count_up(send_channel: trio.MemorySendChannel[bytes]) -> None:
    for digit in b"0123":
        await send_channel.send(bytes([digit]))


class Resource:
    """An async iterator that counts how often it is closed."""

    def __init__(self, items: list[bytes]) -> None:
        self.items = iter(items)
        self.closed = 0

    def __aiter__(self) -> Resource:
        return self

    async def __anext__(self) -> bytes:
        for item in self.items:
            return item
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self.closed += 1


async def agenerate() -> AsyncGenerator[bytes, None]:  # noqa: ASYNC900
    for digit in b"0123":
        yield bytes([digit])


def generate() -> Iterator[bytes]:
    for digit in b"0123":
        yield bytes([digit])


def open_channel() -> trio.MemoryReceiveChannel[bytes]:
    send_channel, receive_channel = trio.open_memory_channel[bytes](4)
    with send_channel:
        for digit in b"0123":
            send_channel.send_nowait(bytes([digit]))
    return receive_channel


@asynccontextmanager
async def yielding(content: Any) -> AsyncIterator[Any]:
    yield content


CONTENTS: dict[str, Any] = {
    "channel (D26, D32)": open_channel,
    "merged producers (AC-33)": lambda: merge(count_up),
    "async iterator (D27)": lambda: Resource([b"01", b"23"]),
    "async generator (D31)": agenerate,
    "list (D29)": lambda: [b"0", b"1", b"2", b"3"],
    "generator (D29, AC-31)": generate,
    "bytes (D30)": lambda: b"0123",
    "str (D30, AC-5)": lambda: "0123",
}
NESTED = ("merged producers (AC-33)", True)  # a context manager that yields one: D5


@pytest.mark.parametrize(
    ("kind", "wrapped"),
    [
        (kind, wrapped)
        for kind in CONTENTS
        for wrapped in (False, True)
        if (kind, wrapped) != NESTED
    ],
)
async def test_content_of_every_kind_arrives_whole_and_ends_cleanly(
    kind: str, wrapped: bool
) -> None:
    # AC-1, AC-32, AC-33, D26 to D32; wrapped: what the context manager yields
    app = App()

    @app.get("/")
    async def handler(request: Request) -> Content:
        content = CONTENTS[kind]()
        return yielding(content) if wrapped else content

    async with open_app(app) as raw:
        assert (await read_all(raw))[::2] == (200, b"0123")
        assert (await read_all(raw))[::2] == (200, b"0123")  # on a connection that is kept


async def test_file_is_streamed_and_closed(tmp_path: Path) -> None:
    # D29
    path = tmp_path / "data"
    path.write_bytes(bytes(range(256)) * 1024)
    app = App()

    @app.get("/")
    async def handler(request: Request) -> Content:
        return path.open("rb")

    async with open_app(app) as raw:
        assert (await read_all(raw))[2] == path.read_bytes()


@pytest.mark.parametrize(
    ("item", "arrives"),
    [
        (b"abc", b"abc"),
        (bytearray(b"abc"), b"abc"),
        (memoryview(b"abc"), b"abc"),
        ("caf\N{LATIN SMALL LETTER E WITH ACUTE}", b"caf\xc3\xa9"),
    ],
)
async def test_bytes_like_items_and_text_are_sent(item: object, arrives: bytes) -> None:
    # AC-26, AC-5
    app = App()

    @app.get("/")
    async def handler(request: Request) -> Content:
        return yielding([item])

    async with open_app(app) as raw:
        assert (await read_all(raw))[2] == arrives


class Refilling:
    """An async iterator that gives the same buffer again and again, as readinto() fills it."""

    def __init__(self) -> None:
        self.buffer = bytearray(1)
        self.numbers = iter(range(200))

    def __aiter__(self) -> Refilling:
        return self

    async def __anext__(self) -> bytearray:
        for number in self.numbers:
            self.buffer[0] = number
            return self.buffer
        raise StopAsyncIteration


async def refill_async() -> AsyncGenerator[bytearray, None]:  # noqa: ASYNC900
    buffer = bytearray(1)
    for number in range(200):
        buffer[0] = number
        yield buffer


def refill() -> Iterator[bytearray]:
    buffer = bytearray(1)
    for number in range(200):
        buffer[0] = number
        yield buffer


@pytest.mark.parametrize("content", [Refilling, refill_async, refill])
@pytest.mark.parametrize("wrapped", [False, True])
async def test_mutable_item_is_sent_as_it_was_when_it_was_given(
    content: Callable[[], Content], wrapped: bool
) -> None:
    # AC-29: copied before whoever gave it runs again
    app = App()

    @app.get("/")
    async def handler(request: Request) -> Content:
        return yielding(content()) if wrapped else content()

    async with open_app(app) as raw:
        assert (await read_all(raw))[2] == bytes(range(200))


async def test_empty_chunks_are_never_sent() -> None:
    # AC-27, D9: each would be the last chunk of chunked coding.
    app = App()

    @app.get("/")
    async def handler(request: Request) -> Content:
        return yielding([b"", b"one", b"", "", b"two", b""])

    async with open_app(app) as raw:
        assert (await read_all(raw))[2] == b"onetwo"
        assert (await read_all(raw))[2] == b"onetwo"


@pytest.mark.parametrize("items", [[], [b"", b""]])
async def test_stream_without_bytes_is_an_empty_200(items: list[bytes]) -> None:
    # D7, AC-27
    app = App()

    @app.get("/")
    async def handler(request: Request) -> Content:
        return yielding(items)

    async with open_app(app) as raw:
        assert (await read_all(raw))[::2] == (200, b"")


async def test_start_waits_for_the_first_chunk_that_is_not_empty() -> None:
    # D9
    app = App()
    go_on = trio.Event()

    async def produce(send_channel: trio.MemorySendChannel[bytes]) -> None:
        await send_channel.send(b"")
        await go_on.wait()
        await send_channel.send(b"data")

    @app.get("/")
    async def handler(request: Request) -> Content:
        return merge(produce)

    async with open_app(app) as raw:
        await raw.request("GET", "/")
        with trio.move_on_after(0.05) as scope:
            await raw.read_head()
        assert scope.cancelled_caught
        go_on.set()
        assert (await raw.read_head())[0] == 200


async def test_huge_chunk_leaves_in_pieces() -> None:
    # AC-28, D34
    app = App()

    @app.get("/")
    async def handler(request: Request) -> Content:
        return yielding([b"x" * (10 * BATCH_SIZE + 1)])

    async with open_app(app) as raw:
        await get(raw)
        sizes = [len(chunk) async for chunk in _chunks(raw)]
    assert sizes == [BATCH_SIZE] * 10 + [1]


async def _chunks(raw: RawConnection) -> AsyncIterator[bytes]:  # noqa: ASYNC900
    while (chunk := await raw.read_chunk()) is not None:
        yield chunk


async def test_disconnect_is_heard_between_the_pieces_of_a_huge_chunk() -> None:
    # AC-28, D34
    app = App()
    life = Life()
    endings = Endings()
    app = App(on_end=endings)

    @asynccontextmanager
    async def body() -> AsyncIterator[list[bytes]]:
        with life.of("body"):
            yield [bytes(256 * 1024 * 1024)]

    @app.get("/")
    async def handler(request: Request) -> Content:
        return body()

    async with open_app(app) as raw:
        await get(raw)
        await raw.read_chunk()
        raw.abort()
        await life.wait_gone()
    assert endings.seen[0].bytes_sent < 64 * 1024 * 1024


async def test_chunks_arrive_as_far_apart_as_they_were_produced() -> None:
    # AC-30: nothing is held back to make a larger batch.
    app = App()

    async def produce(send_channel: trio.MemorySendChannel[bytes]) -> None:
        await send_channel.send(b"first")
        await trio.sleep(0.4)
        await send_channel.send(b"second")

    @app.get("/")
    async def handler(request: Request) -> Content:
        return merge(produce)

    async with open_app(app) as raw:
        await get(raw)
        assert await raw.read_chunk() == b"first"
        first_at = trio.current_time()
        assert await raw.read_chunk() == b"second"
        assert trio.current_time() - first_at == pytest.approx(0.4, abs=0.05)


async def test_several_producers_all_arrive_each_in_its_order() -> None:
    # AC-34, AC-35
    app = App()

    async def produce(letter: str, send_channel: trio.MemorySendChannel[str]) -> None:
        for number in range(50):
            await send_channel.send(f"{letter}{number} ")

    @app.get("/")
    async def handler(request: Request) -> Content:
        return merge(*(partial(produce, letter) for letter in "abc"))

    async with open_app(app) as raw:
        words = (await read_all(raw))[2].decode().split()
    assert len(words) == 150
    for letter in "abc":
        assert [w for w in words if w[0] == letter] == [f"{letter}{n}" for n in range(50)]


async def test_closing_the_original_after_cloning_ends_the_stream_with_the_producers() -> None:
    # AC-35, by hand
    app = App()
    life = Life()

    @app.get("/")
    async def handler(request: Request) -> Content:
        return two_feeds(life, count_up)

    async with open_app(app) as raw:
        body = (await read_all(raw))[2]
    assert sorted(body) == sorted(b"00112233")


async def test_fast_producer_does_not_starve_a_slow_one() -> None:
    # AC-37: the slow one's messages are on time, within 50 ms.
    app = App()

    async def tick(send_channel: trio.MemorySendChannel[bytes]) -> None:
        for _ in range(30):
            await trio.sleep(0.01)
            await send_channel.send(b"@%.6f@" % trio.current_time())

    @app.get("/")
    async def handler(request: Request) -> Content:
        return merge(tick, flood)

    lags: list[float] = []
    async with open_app(app) as raw:
        await get(raw)
        while len(lags) < 30:
            chunk = await raw.read_chunk()
            assert chunk is not None
            now = trio.current_time()
            lags += [now - float(sent_at) for sent_at in chunk.split(b"@")[1::2]]
        raw.abort()
    assert max(lags) < 0.05
