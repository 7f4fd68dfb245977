"""examples/upload.py: an upload that is passed on, and what becomes of it when somebody leaves."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
from leaks import assert_no_leaks
from probes import IN_TIME, PROMPT
from uploading import CHUNKED, LAST_CHUNK, Pump, chunk, post, wait_streams
from wire import HOST, open_guarded, open_raw

from examples.upload import app


@pytest.fixture
async def port() -> AsyncIterator[int]:
    async with open_guarded(app) as port:
        yield port


@asynccontextmanager
async def open_upstream(
    handle: Callable[[trio.SocketStream], Awaitable[None]],
) -> AsyncIterator[str]:
    """Give the URL of a server that is one function, called for each connection."""
    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(partial(trio.serve_tcp, host=HOST), handle, 0)
        yield f"http://{HOST}:{listener.socket.getsockname()[1]}/"
        nursery.cancel_scope.cancel()


async def receive_until(stream: trio.SocketStream, end: bytes) -> bytes:
    data = b""
    while not data.endswith(end):
        data += await stream.receive_some(1)
    return data


async def receive_all(stream: trio.SocketStream) -> bytes:
    """Receive until the other side ends the connection, properly or not."""
    data = b""
    try:
        async for piece in stream:
            data += piece
    except trio.BrokenResourceError:
        pass
    return data


async def test_the_answer_of_the_upstream_comes_back(port: int) -> None:
    url = f"http://{HOST}:{port}/count"
    status, answer = await post(port, f"/proxy?to={url}", bytes(5_000_000))
    assert status == 200
    assert json.loads(answer)["bytes"] == 5_000_000


async def test_the_chunks_of_an_undeclared_body_are_passed_on_as_they_come(port: int) -> None:
    arrived: trio.MemorySendChannel[bytes]
    arrived, arrivals = trio.open_memory_channel(9)

    async def upstream(stream: trio.SocketStream) -> None:
        head = await receive_until(stream, b"\r\n\r\n")
        assert b"transfer-encoding: chunked" in head.lower()
        assert b"content-type: text/x-story" in head.lower()
        for word in (b"once", b"upon"):
            await receive_until(stream, chunk(word))
            await arrived.send(word)
        await receive_until(stream, LAST_CHUNK)
        await stream.send_all(
            b"HTTP/1.1 201 Created\r\ncontent-type: text/x-told\r\ncontent-length: 3\r\n\r\nend"
        )

    async with open_upstream(upstream) as url, open_raw(port) as raw:
        await raw.request("POST", f"/proxy?to={url}", {**CHUNKED, "content-type": "text/x-story"})
        with trio.fail_after(IN_TIME):
            for word in (b"once", b"upon"):
                await raw.send_all(chunk(word))
                assert await arrivals.receive() == word
            await raw.send_all(LAST_CHUNK)
            status, headers = await raw.read_head()
            assert (status, headers["content-type"]) == (201, "text/x-told")
            assert await raw.read_body() == b"end"


@pytest.mark.parametrize("answer", [b"413 Too Large", b"404 ", b"204 ", b"301 Moved", b"599 "])
async def test_its_status_comes_back(port: int, answer: bytes) -> None:
    async def upstream(stream: trio.SocketStream) -> None:
        await receive_until(stream, b"\r\n\r\nhello")
        length = b"" if answer.startswith(b"204") else b"content-length: 0\r\n"
        await stream.send_all(b"HTTP/1.1 %s\r\n%s\r\n" % (answer, length))

    async with open_upstream(upstream) as url:
        assert await post(port, f"/proxy?to={url}", b"hello") == (int(answer[:3]), b"")


async def test_an_answer_that_breaks_off_is_cut(port: int) -> None:
    async def upstream(stream: trio.SocketStream) -> None:
        await receive_until(stream, b"\r\n\r\nhello")
        await stream.send_all(b"HTTP/1.1 200 \r\ntransfer-encoding: chunked\r\n\r\n" + chunk(b"so"))

    async with open_upstream(upstream) as url, open_raw(port) as raw:
        await raw.request("POST", f"/proxy?to={url}", body=b"hello")
        assert (await raw.read_head())[0] == 200
        assert await raw.read_until_closed() == chunk(b"so")


async def test_an_upstream_that_cannot_be_reached_is_502_before_the_body_is_sent(port: int) -> None:
    async with open_raw(port) as raw:
        expect = {"content-length": "5000000", "expect": "100-continue"}
        await raw.request("POST", f"/proxy?to=http://{HOST}:9/", expect)
        with trio.fail_after(IN_TIME):
            assert (await raw.read_head())[0] == 502


async def test_an_upstream_that_says_nothing_is_502(port: int) -> None:
    async def upstream(stream: trio.SocketStream) -> None:
        await receive_until(stream, b"hello")

    async with open_upstream(upstream) as url:
        assert (await post(port, f"/proxy?to={url}", b"hello"))[0] == 502


@pytest.mark.parametrize("url", ["", "nowhere", "ftp://127.0.0.1/", "http://", "http://a:b/"])
async def test_an_address_that_is_none_is_400(port: int, url: str) -> None:
    assert (await post(port, f"/proxy?to={url}", b"hello"))[0] == 400


@pytest.mark.parametrize("framing", [{"content-length": "1000"}, CHUNKED])
@pytest.mark.parametrize("way", ["close", "abort"])
async def test_a_client_that_leaves_cuts_the_upload_to_the_upstream(
    port: int, framing: dict[str, str], way: str
) -> None:
    # RQ-5, RQ-19: the upstream can tell that the body is short.
    heard: trio.MemorySendChannel[bytes]
    heard, ends = trio.open_memory_channel(2)

    async def upstream(stream: trio.SocketStream) -> None:
        await receive_until(stream, b"\r\n\r\n")
        await heard.send(b"head")
        await heard.send(await receive_all(stream))

    async with open_upstream(upstream) as url, assert_no_leaks():
        async with open_raw(port) as raw:
            await raw.request("POST", f"/proxy?to={url}", framing)
            await raw.send_all(bytes(400) if "content-length" in framing else chunk(b"x" * 400))
            assert await ends.receive() == b"head"
            getattr(raw, way)()
        with trio.fail_after(PROMPT):
            body = await ends.receive()
        assert len(body) < 1000
        assert not body.endswith(LAST_CHUNK)
        await wait_streams(port, 0, within=PROMPT)


async def test_an_upstream_that_leaves_ends_the_upload(port: int) -> None:
    async def upstream(stream: trio.SocketStream) -> None:
        await receive_until(stream, b"\r\n\r\n")

    async with open_upstream(upstream) as url:
        async with open_raw(port) as raw, trio.open_nursery() as nursery:
            await raw.request("POST", f"/proxy?to={url}", {"content-length": "100000000"})
            nursery.start_soon(Pump(raw).run, 100_000_000)
            with trio.fail_after(IN_TIME):
                assert (await raw.read_head())[0] == 502
            nursery.cancel_scope.cancel()
        await wait_streams(port, 0)


async def test_an_early_answer_of_the_upstream_comes_back(port: int) -> None:
    url = f"http://{HOST}:{port}/form"  # 415, and it does not read on
    status, _ = await post(port, f"/proxy?to={url}", bytes(5_000_000))
    assert status == 415
