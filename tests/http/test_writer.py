"""When a response starts, how its items become messages, and when it ends."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from asgi import START, Server, chunk, make_app
from trio.testing import MockClock, wait_all_tasks_blocked

from tsstream import Response, ndjson_response, sse_response
from tsstream._sansio.outbox import BATCH_SIZE


async def send(response: Any, server: Server | None = None, **scope: Any) -> Server:
    async def handler(request: object) -> Any:
        return response

    server = Server() if server is None else server
    await server.call(make_app(handler), **scope)
    return server


async def generate(*items: object) -> AsyncGenerator[object, None]:
    for item in items:
        yield item


def kinds(server: Server) -> list[str]:
    return [message["type"].removeprefix("http.response.") for message in server.sent]


def full_channel(*items: object) -> trio.MemoryReceiveChannel[object]:
    send_channel, receive_channel = trio.open_memory_channel[object](len(items))
    with send_channel:
        for item in items:
            send_channel.send_nowait(item)
    return receive_channel


# The start is late


@pytest.mark.parametrize("items", [[], [b""], [b"", "", bytearray()]], ids=repr)
async def test_a_body_of_nothing_is_an_empty_response(items: list[object]) -> None:
    # AC-27, D7, D9
    server = await send(Response(items))
    assert (server.status, server.chunks, server.complete) == (200, [], True)


async def test_the_start_waits_for_the_first_item_that_is_not_empty() -> None:
    # D9
    send_channel, receive_channel = trio.open_memory_channel[bytes](0)
    server = Server()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send, receive_channel, server)
        with send_channel:
            for _ in range(2):
                await wait_all_tasks_blocked()
                assert server.sent == []
                await send_channel.send(b"")
            await send_channel.send(b"a")
            await wait_all_tasks_blocked()
            assert kinds(server) == ["start", "body"]
    assert server.ok


async def test_the_start_of_an_empty_body_waits_for_its_exit(autojump_clock: MockClock) -> None:
    # AC-23, D7, D8
    @asynccontextmanager
    async def body() -> AsyncIterator[list[bytes]]:
        yield []
        await trio.sleep(3)

    assert (await send(body())).times == [3, 3]


async def test_the_head_of_a_live_body_is_sent_once_it_is_entered(
    nursery: trio.Nursery,
) -> None:
    entered = trio.Event()

    @asynccontextmanager
    async def body() -> AsyncIterator[Any]:
        await entered.wait()
        yield trio.open_memory_channel[bytes](0)[1]

    server = Server()
    nursery.start_soon(send, Response(body(), live=True), server)
    await wait_all_tasks_blocked()
    assert server.sent == []
    entered.set()
    await wait_all_tasks_blocked()
    assert kinds(server) == ["start", "body"]
    assert server.chunks == []
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("live", [False, True])
async def test_an_error_on_entering_is_a_status_live_or_not(live: bool) -> None:
    # D4
    @asynccontextmanager
    async def body() -> AsyncIterator[list[bytes]]:
        raise ValueError
        yield []

    assert (await send(Response(body(), live=live))).status == 500


# Items to messages


async def test_each_item_leaves_when_it_arrives(autojump_clock: MockClock) -> None:
    # AC-30
    async def items() -> AsyncGenerator[bytes, None]:
        for _ in range(3):
            await trio.sleep(0.4)
            yield b"a"

    server = await send(items())
    assert server.chunks == [b"a"] * 3
    assert server.times[1:4] == pytest.approx([0.4, 0.8, 1.2])


async def test_items_that_are_ready_together_travel_together() -> None:
    server = await send(full_channel(b"a", b"", "b", bytearray(b"c")))
    assert server.chunks == [b"abc"]


async def test_a_batch_is_no_larger_than_64_kib() -> None:
    # AC-28, D34
    server = await send(full_channel(b"a" * 40_000, b"b" * 40_000, b"c"))
    assert len(server.chunks[0]) == BATCH_SIZE
    assert server.body == b"a" * 40_000 + b"b" * 40_000 + b"c"


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("size", [0, 1, 32 * 1024 + 1, BATCH_SIZE, BATCH_SIZE + 1, 200_000])
async def test_a_body_of_any_size_is_cut_at_64_kib(whole: bool, size: int) -> None:
    # AC-28
    data = b"0123456789" * (size // 10 + 1)
    data = data[:size]
    server = await send(Response(data if whole else [data]))
    assert server.body == data
    assert server.ok
    assert all(len(part) <= BATCH_SIZE for part in server.chunks)
    assert len(server.chunks) == -(-size // BATCH_SIZE)


async def test_a_small_body_is_one_message_if_nothing_of_the_request_is_outstanding() -> None:
    async def handler(request: Any) -> bytes:
        await request.read()
        return b"abc"

    server = Server()
    await server.call(make_app(handler))
    assert kinds(server) == ["start", "body"]
    assert server.ok


async def test_a_small_text_may_need_more_than_one_message() -> None:
    text = "a" * 32_000
    server = await send(Response(text, media_type="text/plain; charset=utf-32-le"))
    assert server.body == text.encode("utf-32-le")
    assert [len(data) for data in server.chunks] == [BATCH_SIZE, 128_000 - BATCH_SIZE]
    assert server.ok


async def test_a_body_of_empty_items_does_not_hold_the_event_loop() -> None:
    async def items() -> AsyncGenerator[bytes, None]:
        for _ in range(10_000):
            yield b""

    @asynccontextmanager
    async def body() -> AsyncIterator[Any]:
        yield items()  # in the writer's own task

    server = Server()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send, body(), server)
        for _ in range(10):
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert server.sent == []


async def test_a_channel_that_is_always_ready_does_not_hold_the_event_loop() -> None:
    class Endless(trio.abc.ReceiveChannel[bytes]):
        taken = 0

        async def receive(self) -> bytes:
            await trio.lowlevel.checkpoint()
            return self.receive_nowait()

        def receive_nowait(self) -> bytes:
            self.taken += 1
            if self.taken == 100_000:
                raise trio.EndOfChannel
            return b""

        async def aclose(self) -> None:
            await trio.lowlevel.checkpoint()

    endless = Endless()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send, endless)
        for _ in range(10):
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert endless.taken < 100_000


async def test_a_producer_is_at_most_one_item_ahead_of_a_slow_client() -> None:
    # AC-36
    given: list[int] = []

    async def items() -> AsyncGenerator[bytes, None]:
        for number in itertools.count():
            given.append(number)
            yield b"a"

    async def stuck(message: Any) -> None:
        if message["type"] != START:
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send, items(), Server(on_send=stuck))
        await wait_all_tasks_blocked()
        assert len(given) <= 3
        nursery.cancel_scope.cancel()


# Content-Length (D37, D38)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("length", ["2", "4"])
async def test_a_body_of_another_length_than_declared_is_never_complete(
    whole: bool, length: str
) -> None:
    data = b"abc"
    server = await send(Response(data if whole else [data], headers={"content-length": length}))
    assert not (server.status == 200 and server.complete)
    assert len(server.body) <= int(length) or server.status == 500


async def test_nothing_beyond_the_last_item_that_fits_is_sent() -> None:
    # D37
    server = await send(
        Response(full_channel(b"ab", b"c", b"def"), headers={"content-length": "5"})
    )
    assert server.body == b"abc"
    assert not server.complete
    assert "declared a Content-Length of 5 bytes" in str(server.error)


@pytest.mark.parametrize("content", [b"abc", [b"abc"]], ids=["whole", "stream"])
async def test_a_body_of_the_declared_length_is_complete(content: Any) -> None:
    server = await send(Response(content, headers={"content-length": "3"}))
    assert (server.body, server.complete) == (b"abc", True)
    assert server.headers.getlist("content-length") == ["3"]


@pytest.mark.parametrize("length", ["x", "-1", "1.0", "+1", "\u00b2", "1, 1"])
async def test_a_length_that_is_no_number_is_a_500(length: str) -> None:
    server = await send(Response(b"a", headers={"content-length": length}))
    assert (server.status, server.body) == (500, b"Internal Server Error")


async def test_an_exit_that_fails_after_all_of_a_declared_body_is_a_cut() -> None:
    # D12
    @asynccontextmanager
    async def body() -> AsyncIterator[list[bytes]]:
        yield [b"abc"]
        raise ValueError

    server = await send(Response(body(), headers={"content-length": "3"}))
    assert not server.complete
    assert isinstance(server.error, ValueError)


# HEAD (D35)


@pytest.mark.parametrize(
    ("response", "length"),
    [
        (Response(b"abc"), "3"),
        (Response("é"), "2"),
        (Response([b"abc"]), None),
        (Response([b"abc"], headers={"content-length": "9"}), "9"),
        (Response(generate(b"abc"), live=True), None),
    ],
)
async def test_head_has_the_headers_of_get_and_no_body(
    response: Response, length: str | None
) -> None:
    server = await send(response, method="HEAD")
    assert (server.status, server.body, server.complete) == (200, b"", True)
    assert server.headers.get("content-length") == length
    assert "content-type" in server.headers


# Headers for the version (RFC 9113, 8.2.2)


@pytest.mark.parametrize(("version", "kept"), [("1.0", 4), ("1.1", 4), ("2", 0), ("3", 0)])
async def test_headers_of_the_connection_are_not_sent_over_http_2(version: str, kept: int) -> None:
    headers = {"connection": "close", "keep-alive": "1", "proxy-connection": "1", "upgrade": "x"}
    server = await send(Response(b"a", headers={**headers, "x-a": "1"}), http_version=version)
    assert sum(name in server.headers for name in headers) == kept
    assert server.headers["x-a"] == "1"


# The end


async def test_the_end_waits_for_the_rest_of_the_upload_for_a_second_at_most(
    autojump_clock: MockClock,
) -> None:
    # RQ-25, HOST fault 6
    server = await send(Response(b"abc"), Server(chunk(b"never ends")), method="POST")
    assert (server.body, server.complete) == (b"abc", True)
    assert server.times == [0, 0, 1]


async def test_the_end_waits_no_longer_than_the_upload(autojump_clock: MockClock) -> None:
    # RQ-25
    server = Server(*[chunk(b"a" * 1000)] * 50, chunk(b"", more=False))
    await send(Response(b"abc"), server, method="POST")
    assert server.ok
    assert server.times[-1] == 0
    assert server.reads >= 51


@pytest.mark.parametrize("make", [sse_response, ndjson_response])
async def test_formats_are_encoded_item_by_item(make: Any) -> None:
    server = await send(make(generate("a", {"b": 1})))
    expected = b'data: a\n\ndata: {"b":1}\n\n' if make is sse_response else b'"a"\n{"b":1}\n'
    assert server.body == expected
