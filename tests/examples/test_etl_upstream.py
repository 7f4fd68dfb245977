"""examples/etl over sockets: objects that are got from the target (hpull)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from io import BufferedIOBase

import pytest
import trio
from etl_kit import (
    IDLE_TIME,
    NOWHERE,
    FakeTarget,
    Peer,
    Upper,
    ask,
    open_etl,
    open_peer,
    open_target,
    streaming,
    whole,
)
from leaks import assert_no_leaks
from probes import PROMPT
from trio.testing import MockClock
from wire import RawConnection, Truncated, open_raw

from examples.etl.server import ETLServer

MIB = 1024 * 1024
upper = whole(lambda data, path, etl_args: data.upper())


@pytest.fixture
def idle_clock() -> MockClock:
    """Jumps when nothing has happened for a while: sockets and threads take real time."""
    return MockClock(autojump_threshold=IDLE_TIME)


async def test_an_object_is_streamed_as_it_comes() -> None:  # ET-27
    go_on = trio.Event()

    async def talk(peer: Peer, raw: RawConnection) -> None:
        await peer.read_head(raw)
        await raw.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nhalf")
        await go_on.wait()
        await raw.send_all(b"rest")

    async with open_peer(talk) as peer, open_etl(Upper, peer.url) as port:
        async with open_raw(port) as raw:
            await raw.request("GET", "/b/o")
            assert (await raw.read_head())[0] == 200
            assert await raw.read_chunk() == b"HALF"
            go_on.set()
            assert await raw.read_body() == b"REST"


async def test_an_object_is_not_unpacked_on_its_way() -> None:
    async def talk(peer: Peer, raw: RawConnection) -> None:
        head = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 4\r\n\r\n"
        await peer.read_head(raw)
        await raw.send_all(head + b"data")

    async with open_peer(talk) as peer, open_etl(upper, peer.url) as port:
        assert (await ask(port, "GET", "/b/o"))[2] == b"DATA"
        assert "accept-encoding: identity" in peer.heads[0].lower()


@pytest.mark.parametrize("status", [400, 403, 404, 416, 500, 503])
@pytest.mark.parametrize("kind", [Upper, upper])
async def test_the_targets_error_is_the_answers(  # ET-28, ET-19
    status: int, kind: type[ETLServer]
) -> None:
    async def talk(peer: Peer, raw: RawConnection) -> None:
        await peer.read_head(raw)
        await raw.send_all(f"HTTP/1.1 {status} No\r\ncontent-length: 1\r\n\r\nx".encode())

    async with open_peer(talk) as peer, open_etl(kind, peer.url) as port:
        answer = await ask(port, "GET", "/b/o")
        assert (answer[0], answer[2]) == (status, b"Target request failed")


@pytest.mark.parametrize(
    "head",
    [
        "201 Created\r\ncontent-length: 4",
        "204 No Content",
        "205 Reset Content\r\ncontent-length: 0",
        "206 Partial Content\r\ncontent-range: bytes 0-3/9\r\ncontent-length: 4",
        "302 Found\r\nlocation: /elsewhere\r\ncontent-length: 0",
        "304 Not Modified",
        "307 Temporary Redirect\r\nlocation: /elsewhere\r\ncontent-length: 4",
        "600 What\r\ncontent-length: 4",
    ],
)
@pytest.mark.parametrize("kind", [Upper, upper])
async def test_an_answer_that_is_no_object_is_502(  # ET-28
    head: str, kind: type[ETLServer]
) -> None:
    """Not the body of that answer, which is empty or a part, as if it were the object."""
    length = 4 * head.endswith("4") * ("304" not in head)

    async def talk(peer: Peer, raw: RawConnection) -> None:
        await peer.read_head(raw)
        await raw.send_all(f"HTTP/1.1 {head}\r\n\r\n".encode() + b"part"[:length])

    async with open_peer(talk) as peer, open_etl(kind, peer.url) as port, open_target() as target:
        for headers in ({}, {"ais-node-url": f"{target.url}/new"}):
            status, _, body = await ask(port, "GET", "/b/o", headers)
            assert (status, body.decode()) == (502, f"Target answered {head[:3]}")
        assert target.objects == {}


async def test_a_target_that_refuses_is_502() -> None:  # ET-29
    async with open_etl(Upper, NOWHERE) as port, assert_no_leaks():
        status, _, body = await ask(port, "GET", "/b/o")
        assert status == 502
        assert body.startswith(b"Network error:")


async def reset(peer: Peer, raw: RawConnection) -> None:
    await peer.read_head(raw)
    raw.abort()


async def close(peer: Peer, raw: RawConnection) -> None:
    await peer.read_head(raw)


async def talk_nonsense(peer: Peer, raw: RawConnection) -> None:
    await peer.read_head(raw)
    await raw.send_all(b"220 smtp.example ESMTP\r\n")


@pytest.mark.parametrize("talk", [reset, close, talk_nonsense])
async def test_a_target_that_breaks_off_is_502(  # ET-29
    talk: Callable[[Peer, RawConnection], object],
) -> None:
    async with open_peer(talk) as peer, open_etl(Upper, peer.url) as port:  # type: ignore[arg-type]
        assert (await ask(port, "GET", "/b/o"))[0] == 502


async def test_a_target_that_is_silent_is_502(idle_clock: MockClock) -> None:  # ET-29
    async def talk(peer: Peer, raw: RawConnection) -> None:
        await peer.read_head(raw)
        await trio.sleep_forever()

    async with open_peer(talk) as peer, open_etl(Upper, peer.url) as port:
        start = trio.current_time()
        status, _, body = await ask(port, "GET", "/b/o")
        assert (status, body) == (502, b"Network error: ReadTimeout")
        assert 60 <= trio.current_time() - start <= 62


@pytest.mark.parametrize("way", ["success", "error", "early end", "disconnect"])
async def test_the_connection_to_the_target_is_released(way: str) -> None:  # ET-30
    def head(reader: BufferedIOBase, path: str, etl_args: str) -> Iterator[bytes]:
        yield reader.read(10)

    kind = streaming(head) if way == "early end" else Upper
    async with open_target(obj=b"data") as target:
        target.endless = way in ("early end", "disconnect")
        async with open_etl(kind, target.url, MAX_CONN=1) as port:
            for _ in range(3):  # with one connection, the next would wait for ever
                if way == "disconnect":
                    async with open_raw(port) as raw:
                        await raw.request("GET", "/obj")
                        await raw.read_head()
                        await raw.read_chunk()
                else:
                    await ask(port, "GET", "/missing" if way == "error" else "/obj")
                await target.wait_closed()
    assert target.opened == 3


async def test_a_waiting_target_is_left_with_the_client() -> None:  # ET-30
    left = trio.Event()

    async def talk(peer: Peer, raw: RawConnection) -> None:
        await peer.read_head(raw)
        assert not await raw.stream.receive_some()
        left.set()

    async with open_peer(talk) as peer, open_etl(Upper, peer.url) as port, assert_no_leaks():
        async with open_raw(port) as raw:
            await raw.request("GET", "/b/o")
            await trio.sleep(0.05)
        with trio.fail_after(PROMPT):
            await left.wait()


@pytest.mark.parametrize(
    "half",
    [b"content-length: 1000\r\n\r\nhalf", b"transfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n"],
)
@pytest.mark.parametrize("rude", [True, False])
async def test_half_an_object_is_never_a_whole_result(half: bytes, rude: bool) -> None:  # ET-31
    sent = trio.Event()

    async def talk(peer: Peer, raw: RawConnection) -> None:
        await peer.read_head(raw)
        await raw.send_all(b"HTTP/1.1 200 OK\r\n" + half)
        await sent.wait()
        if rude:
            raw.abort()

    async with open_peer(talk) as peer:
        async with open_etl(Upper, peer.url) as port, open_raw(port) as raw:
            await raw.request("GET", "/b/o")
            assert (await raw.read_head())[0] == 200
            assert await raw.read_chunk() == b"HALF"
            sent.set()
            with pytest.raises(Truncated):
                await raw.read_body()
        async with open_etl(upper, peer.url) as port:
            assert (await ask(port, "GET", "/b/o"))[0] == 502


async def test_a_slow_client_slows_the_target_down() -> None:  # ET-42's bound, for hpull
    async with open_target() as target:
        target.endless = True
        counted = count_bytes(target)
        async with open_etl(Upper, target.url) as port, open_raw(port) as raw:
            await raw.request("GET", "/obj")
            await raw.read_head()
            await trio.sleep(0.4)
            before = counted[0]
            await trio.sleep(0.4)
            assert counted[0] - before <= MIB  # the last of it trickles into kernel buffers
            assert before <= 24 * MIB


def count_bytes(target: FakeTarget) -> list[int]:
    """Count what an endless object has given."""
    counted, stop = [0], threading.Event()

    def chunks() -> Iterator[bytes]:
        while not stop.is_set():
            counted[0] += 65536
            yield b"x" * 65536

    target.chunks = chunks
    return counted
