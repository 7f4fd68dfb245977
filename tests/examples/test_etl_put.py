"""examples/etl over sockets: results that go on to the next node (direct put), and pipelines."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Iterator
from io import BufferedIOBase
from urllib.parse import quote

import pytest
import trio
import trio.testing
from etl_kit import (
    REASON,
    SHA256,
    Peer,
    Upper,
    answer,
    ask,
    node_url,
    open_etl,
    open_peer,
    open_target,
    put_object,
    streaming,
    whole,
)
from leaks import assert_no_leaks
from probes import WAYS_TO_LEAVE, leave
from wire import RawConnection, Truncated, open_raw

from examples.etl.server import ETLServer

MIB = 1024 * 1024
upper = whole(lambda data, path, etl_args: data.upper())


@pytest.mark.parametrize(
    ("head", "reply", "expected"),
    [
        ("204 No Content\r\nais-direct-put-length: 77", b"", (204, "77", b"")),
        ("204 No Content", b"", (204, "4", b"")),
        ("200 OK\r\ncontent-length: 0", b"", (204, "4", b"")),
        ("200 OK\r\ncontent-length: 5", b"reply", (200, None, b"reply")),
        ("200 OK\r\ntransfer-encoding: chunked", b"2\r\nok\r\n0\r\n\r\n", (200, None, b"ok")),
        ("200 OK\r\ntransfer-encoding: chunked", b"0\r\n\r\n", (200, None, b"")),  # ET-35
        ("201 Created\r\ncontent-length: 0", b"", (201, None, b"")),
        ("404 Not Found\r\ncontent-length: 7", b"nothing", (404, None, b"nothing")),
        ("507 Full\r\ncontent-length: 4", b"full", (507, None, b"full")),
    ],
)
async def test_what_the_next_node_says(  # ET-34, ET-35, ET-36
    head: str, reply: bytes, expected: tuple[int, str | None, bytes]
) -> None:
    async with open_peer(answer(head, reply)) as peer, open_etl(Upper) as port:
        async with assert_no_leaks():
            status, headers, body = await put_object(port, peer.url)
    assert (status, headers.get("ais-direct-put-length"), body) == expected
    assert REASON not in headers


@pytest.mark.parametrize(
    "head", ["205 Reset Content\r\ncontent-length: 0", "304 Not Modified", "600 What"]
)
async def test_what_the_next_node_cannot_have_meant(head: str) -> None:
    async with open_peer(answer(head)) as peer, open_etl(Upper) as port, assert_no_leaks():
        status, _, body = await put_object(port, peer.url)
    assert (status, body.decode()) == (502, f"The next node answered {head[:3]}")


@pytest.mark.parametrize("kind", [Upper, upper])
async def test_a_target_is_put_the_result(kind: type[ETLServer]) -> None:  # ET-33, ET-36
    data = b"some data " * 100_000
    async with open_target(obj=data) as target:
        async with open_etl(kind, f"{target.url}/v1/secret") as port:
            status, headers, body = await ask(
                port, "PUT", "/b/o", {"ais-node-url": f"{target.url}/new/o%2F1?xid=7"}, data
            )
        assert (status, headers["ais-direct-put-length"], body) == (204, str(len(data)), b"")
        assert target.objects["v1/secret/new/o/1"] == data.upper()
        method, url, fields = target.seen[0]
        assert (method, url) == ("PUT", "/v1/secret/new/o%2F1?xid=7")
        assert "ais-node-url" not in fields
        framing = "transfer-encoding" if kind is Upper else "content-length"
        assert framing in fields


async def test_the_rest_of_the_pipeline_and_the_arguments_go_on() -> None:  # ET-33
    args = json.dumps({"to": "ñ & +", "n": [1, 2]})
    async with open_target() as target, open_etl(Upper) as port:
        nodes = f" {target.url}?x=1&etl_args=old , http://b:2/x , http://c:3 "
        await put_object(port, nodes, query=f"?etl_args={quote(args)}")
        _, url, fields = target.seen[0]
        assert fields["ais-node-url"] == "http://b:2/x,http://c:3"
        assert url.startswith("/b/o?x=1&etl_args=")
        assert url.count("etl_args") == 1


@pytest.mark.parametrize("stages", [3, 5])
async def test_a_chain_gives_the_composed_result(stages: int) -> None:  # ET-37
    def add(number: int) -> type[ETLServer]:
        def stage(reader: BufferedIOBase, path: str, etl_args: str) -> Iterator[bytes]:
            while chunk := reader.read1():
                yield chunk
            yield f" {number}{path}{etl_args}".encode()

        return streaming(stage)

    async with trio.open_nursery() as nursery:
        ports = [await nursery.start(serve_stage, add(number)) for number in range(stages)]
        nodes = ",".join(map(node_url, ports[1:]))
        status, headers, body = await put_object(ports[0], nodes, query="?etl_args=!")
        assert status == 200
        assert body.decode() == "data" + "".join(f" {n}b/o!" for n in range(stages))
        assert "ais-direct-put-length" not in headers
        assert "content-length" not in headers
        nursery.cancel_scope.cancel()


async def serve_stage(kind: type[ETLServer], *, task_status: trio.TaskStatus[int]) -> None:
    async with open_etl(kind) as port:
        task_status.started(port)
        await trio.sleep_forever()


async def test_a_known_length_comes_back_through_the_chain() -> None:  # ET-37
    async with open_etl(SHA256) as last, open_etl(Upper) as middle, open_etl(Upper) as first:
        nodes = f"{node_url(middle)},{node_url(last)}"
        status, headers, body = await put_object(first, nodes)
    assert (status, headers["content-length"]) == (200, "64")
    assert body.decode() == hashlib.sha256(b"DATA").hexdigest()


async def test_a_chain_streams_a_big_object_both_ways() -> None:  # ET-37
    """No stage waits for the end of its upload before it reads the reply."""
    data = b"big object " * 2_000_000  # more than all the buffers on the way
    async with open_etl(Upper) as last, open_etl(Upper) as middle, open_etl(Upper) as first:
        nodes = f"{node_url(middle)},{node_url(last)}"
        with trio.fail_after(15):
            assert (await put_object(first, nodes, data))[2] == data.upper()


async def test_concurrent_pipelines() -> None:  # ET-38
    async with open_target() as target, open_etl(SHA256) as last, open_etl(Upper) as first:
        answers: list[tuple[int, str]] = []

        async def one(number: int) -> None:
            data = f"object {number} ".encode() * 50_000
            status, _, body = await put_object(first, f"{node_url(last)}", data)
            assert body.decode() == hashlib.sha256(data.upper()).hexdigest()
            answers.append((status, str(number)))

        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(one, number)
        assert [status for status, _ in answers] == [200] * 10
        assert target.opened == 0


async def test_a_slow_node_slows_the_source_down() -> None:  # ET-42
    async def talk(peer: Peer, raw: RawConnection) -> None:
        await peer.read_head(raw)
        await trio.sleep_forever()

    made = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal made
        while True:
            made += 65536
            yield b"x" * 65536
            await trio.lowlevel.checkpoint()

    async with open_target() as target, open_peer(talk) as peer:
        target.endless, target.chunks = True, chunks
        async with open_etl(Upper, target.url) as port, open_raw(port) as raw:
            await raw.request("GET", "/obj", {"ais-node-url": peer.url})
            await trio.sleep(0.4)
            before = made
            await trio.sleep(0.3)
            assert made - before <= MIB  # the last of it trickles into kernel buffers
            assert before <= 24 * MIB


async def test_an_error_of_the_next_node_stops_the_transform() -> None:
    async def talk(peer: Peer, raw: RawConnection) -> None:
        await peer.read_head(raw)
        await raw.send_all(b"HTTP/1.1 507 Full\r\ncontent-length: 4\r\n\r\nfull")
        await trio.sleep_forever()

    async with open_target() as target, open_peer(talk) as peer:
        target.endless = True
        async with open_etl(Upper, target.url) as port:
            status, _, body = await ask(port, "GET", "/obj", {"ais-node-url": peer.url})
            assert (status, body) == (507, b"full")
            await target.wait_closed()


async def test_a_failing_transform_never_ends_the_put_well() -> None:  # ET-20
    uploads: list[bytes] = []

    async def talk(peer: Peer, raw: RawConnection) -> None:
        data = await peer.read_head(raw)
        uploads.append(data + await raw.read_until_closed())

    def fail(reader: BufferedIOBase, path: str, etl_args: str) -> Iterator[bytes]:
        yield b"A" * 10
        raise ValueError("in the middle")

    async with open_peer(talk) as peer, open_etl(streaming(fail)) as port:
        status, _, body = await put_object(port, peer.url)
        assert (status, body) == (500, b"Processing error: in the middle")
        await trio.testing.wait_all_tasks_blocked()
    assert not any(b"0\r\n\r\n" in upload for upload in uploads)


@pytest.mark.parametrize("way", WAYS_TO_LEAVE)
async def test_a_short_object_never_ends_the_put_well(  # ET-10
    way: str, caplog: pytest.LogCaptureFixture
) -> None:
    uploads: list[bytes] = []
    ended = trio.Event()

    async def talk(peer: Peer, raw: RawConnection) -> None:
        data = await peer.read_head(raw)
        try:
            uploads.append(data + await raw.read_until_closed())
        finally:
            ended.set()

    async with open_peer(talk) as peer, open_etl(Upper) as port, assert_no_leaks():
        async with open_raw(port) as raw:
            await raw.request("PUT", "/b/o", {"content-length": "9", "ais-node-url": peer.url})
            await raw.send_all(b"data")
            await trio.sleep(0.05)
            await leave(raw, way)
            with trio.fail_after(1):
                await ended.wait()
    assert uploads == [b"4\r\nDATA\r\n"]
    assert [r.getMessage() for r in caplog.records if r.levelname == "ERROR"] == []


async def test_a_reply_that_breaks_off_cuts_the_response() -> None:  # ET-31, of the next stage
    head = "200 OK\r\ntransfer-encoding: chunked"
    async with open_peer(answer(head, b"4\r\nhalf\r\n")) as peer, open_etl(Upper) as port:
        with pytest.raises(Truncated) as caught:
            await put_object(port, peer.url)
    assert caught.value.body == b"half"
