"""What a response is as a value, and as the context manager of its own bytes."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
from asgi import Server, make_app

from tsstream import (
    NDJSON,
    SSE,
    TEXT,
    Response,
    ResponseConsumed,
    json_response,
    merge,
    ndjson_response,
    sse_response,
    text_response,
)
from tsstream.testing import open_client


def body_of(*items: object, log: list[str] | None = None) -> Any:
    @asynccontextmanager
    async def body() -> AsyncIterator[Iterable[object]]:
        if log is not None:
            log.append("enter")
        yield list(items)
        if log is not None:
            log.append("exit")

    return body()


async def read(response: Response) -> bytes:
    async with response as chunks:
        return b"".join([chunk async for chunk in chunks])


async def answer(response: Any, method: str = "GET") -> Server:
    async def handler(request: object) -> Any:
        return response

    server = Server()
    await server.call(make_app(handler), method)
    return server


def wrapped(response: Response, wrap: Callable[[bytes], bytes]) -> Response:
    """Change the bytes of a response, as a transform does."""

    @asynccontextmanager
    async def body() -> AsyncIterator[AsyncGenerator[bytes, None]]:
        async with response as chunks:
            yield (wrap(chunk) async for chunk in chunks)

    return attrs.evolve(response, content=body())


# A value


def test_building_a_response_runs_nothing(recwarn: pytest.WarningsRecorder) -> None:
    # AC-2: no task, no "never awaited", no producer
    ran: list[object] = []

    async def producer(send_channel: trio.MemorySendChannel[bytes]) -> None:
        ran.append(send_channel)

    async def generate() -> AsyncGenerator[bytes, None]:
        ran.append(None)
        yield b""

    for _ in range(1000):
        Response(merge(producer))
        Response(generate())
        Response(body_of(b"a"))
    assert not ran
    assert not recwarn.list


@pytest.mark.parametrize("iterate", [iter, aiter, list, set])
def test_iterating_a_response_tells_to_enter_it(iterate: Callable[[Any], object]) -> None:
    # AC-3
    with pytest.raises(TypeError, match="async with response as chunks"):
        iterate(Response(b"a"))


def test_a_response_has_no_second_way_to_its_body() -> None:
    # AC-3: nothing like getvalue() or streaming_content
    names = {name for name in dir(Response) if not name.startswith("_")}
    assert names == {"content", "encoder", "headers", "live", "media_type", "policy", "status_code"}


@pytest.mark.parametrize("status_code", [0, 99, 100, 101, 199, 600, "200", None])
def test_a_status_that_is_no_responses_is_refused(status_code: Any) -> None:
    with pytest.raises(ValueError, match=r"200 to 599, not .*1xx responses are the server's"):
        Response(b"", status_code)


@pytest.mark.parametrize("status_code", [204, 205, 304])
@pytest.mark.parametrize("content", [b"a", "a", [], body_of()], ids=["bytes", "str", "list", "cm"])
def test_a_stream_for_a_status_without_a_body_is_refused(status_code: int, content: Any) -> None:
    # D36
    with pytest.raises(ValueError, match=f"status {status_code} has no body.*give it .*b''"):
        Response(content, status_code)


@pytest.mark.parametrize("status_code", [204, 205, 304])
async def test_a_status_without_a_body_is_sent_without_one(status_code: int) -> None:
    # D36
    server = await answer(Response(b"", status_code))
    assert (server.status, server.body, server.complete) == (status_code, b"", True)
    assert "content-type" not in server.headers
    assert "content-length" not in server.headers


@pytest.mark.parametrize(
    "headers",
    [
        {"x-a": "one\r\nx-b: two"},
        {"x a": "1"},
        [("x-a", "\0")],
        {"transfer-encoding": "chunked"},
        {":status": "200"},
    ],
    ids=str,
)
def test_headers_that_would_break_the_message_are_refused(headers: Any) -> None:
    with pytest.raises(ValueError, match="header"):
        Response(b"", headers=headers)


# Content-Type and charset


@pytest.mark.parametrize(
    ("response", "content_type"),
    [
        (Response(b"a"), "application/octet-stream"),
        (Response([b"a"]), "application/octet-stream"),
        (Response("a"), "text/plain; charset=utf-8"),
        (Response("a", media_type="text/html"), "text/html; charset=utf-8"),
        (Response("a", media_type="text/html; charset=latin-1"), "text/html; charset=latin-1"),
        (Response("a", media_type="image/png"), "image/png"),
        (Response("a", headers={"content-type": "text/x"}), "text/x"),
        (Response("a", headers={"Content-Type": "a/b"}, media_type="c/d"), "a/b"),
        (Response(["a"], encoder=TEXT), "text/plain; charset=utf-8"),
        (Response(["a"], encoder=NDJSON), "application/x-ndjson"),
        (Response(["a"], encoder=SSE), "text/event-stream"),
        (Response(["a"], media_type="a/b", encoder=SSE), "a/b"),
        (text_response("a"), "text/plain; charset=utf-8"),
        (json_response(1), "application/json"),
        (ndjson_response([1]), "application/x-ndjson"),
        (sse_response([1]), "text/event-stream"),
    ],
)
async def test_content_type(response: Response, content_type: str) -> None:
    server = await answer(response)
    assert server.headers.getlist("content-type") == [content_type]


@pytest.mark.parametrize(
    ("media_type", "data"),
    [
        (None, b"caf\xc3\xa9"),
        ("text/plain", b"caf\xc3\xa9"),
        ("text/plain; charset=UTF-8", b"caf\xc3\xa9"),
        ("text/plain; charset=latin-1", b"caf\xe9"),
        ('text/plain; charset="ISO-8859-1"', b"caf\xe9"),
        ("application/x; q=1; Charset=utf-16-le", b"c\0a\0f\0\xe9\0"),
    ],
)
@pytest.mark.parametrize("content", ["café", ["ca", "fé"]], ids=["whole", "stream"])
async def test_text_is_encoded_in_the_charset_of_the_content_type(
    content: Any, media_type: str | None, data: bytes
) -> None:
    # AC-5
    server = await answer(Response(content, media_type=media_type))
    assert server.body == data
    if isinstance(content, str):
        assert server.headers["content-length"] == str(len(data))


@pytest.mark.parametrize("charset", ["ascii", "no-such-charset"])
@pytest.mark.parametrize("content", ["é", ["é"]], ids=["whole", "stream"])
async def test_text_that_cannot_be_encoded_is_an_error_of_the_body(
    content: Any, charset: str
) -> None:
    # AC-5, D33
    server = await answer(Response(content, media_type=f"text/plain; charset={charset}"))
    assert (server.status, server.complete) == (500, True)


@pytest.mark.parametrize("item", [1, None, {}, ["a"]], ids=repr)
async def test_an_item_of_another_type_is_an_error_of_the_body(item: object) -> None:
    # AC-26, D33
    server = await answer(Response([item]))
    assert server.status == 500


async def test_each_format_brings_the_headers_that_it_needs() -> None:
    server = await answer(sse_response(["a"], headers={"cache-control": "private"}))
    assert server.headers["x-accel-buffering"] == "no"
    assert server.headers.getlist("cache-control") == ["private"]


@pytest.mark.parametrize(
    ("content", "length"), [(b"abc", "3"), ("é", "2"), (memoryview(b"abcd").cast("I"), "4")]
)
async def test_a_whole_body_has_its_length(content: Any, length: str) -> None:
    server = await answer(Response(content))
    assert server.headers.getlist("content-length") == [length]


@pytest.mark.parametrize("data", [{"a": [1, None]}, "x", 1, None])
async def test_json(data: object) -> None:
    async def handler(request: object) -> Response:
        return json_response(data, 201, {"x-a": "1"})

    async with open_client(make_app(handler)) as client:
        response = await client.get("/")
    assert (response.status_code, response.headers["x-a"]) == (201, "1")
    assert response.json() == data


def test_json_that_no_parser_takes_is_refused() -> None:
    with pytest.raises(ValueError, match="JSON"):
        json_response(float("nan"))


# The context manager


async def test_entering_gives_bytes_and_closes_in_order() -> None:
    # AC-4, AC-7
    log: list[str] = []
    response = Response(body_of("é", b"", bytearray(b"b"), memoryview(b"c"), log=log))
    async with response as chunks:
        assert [chunk async for chunk in chunks] == ["é".encode(), b"b", b"c"]
        assert log == ["enter"]
    assert log == ["enter", "exit"]


async def test_entering_encodes_as_sending_does() -> None:
    assert await read(Response(body_of(1, "a"), encoder=NDJSON)) == b'1\n"a"\n'


async def test_a_producers_buffer_may_change_after_it_was_received() -> None:
    # AC-29
    buffer = bytearray(b"abc")
    async with Response(body_of(buffer)) as chunks:
        chunk = await chunks.receive()
        buffer[:] = b"xyz"
        assert chunk == b"abc"


@pytest.mark.parametrize("content", [b"a", [b"a"], body_of(b"a")], ids=["bytes", "list", "cm"])
async def test_entering_twice_is_refused(content: Any) -> None:
    # AC-9
    response = Response(content)
    await read(response)
    with pytest.raises(ResponseConsumed, match="build a new Response"):
        await read(response)


@pytest.mark.parametrize("content", [b"a", ["a"], body_of(b"a")], ids=["bytes", "list", "cm"])
async def test_sending_twice_is_a_500(content: Any) -> None:
    # AC-9, D42
    response = Response(content)
    first, second = await answer(response), await answer(response)
    assert (first.status, second.status) == (200, 500)


async def test_a_copy_with_other_headers_shares_the_one_use() -> None:
    # AC-9
    response = Response(body_of(b"a"))
    await read(attrs.evolve(response, headers={"x-a": "1"}))
    with pytest.raises(ResponseConsumed):
        await read(response)


async def enter_again(response: Response) -> None:
    with pytest.raises(ResponseConsumed, match="build a new Response"):
        async with response:
            raise AssertionError


@pytest.mark.parametrize("copy", [False, True], ids=["itself", "a copy"])
async def test_entering_while_it_is_open_is_refused_and_leaves_the_first_user_alone(
    copy: bool,
) -> None:
    # AC-9: two transforms that wrap one response get here
    log: list[str] = []

    @asynccontextmanager
    async def body() -> AsyncIterator[trio.MemoryReceiveChannel[bytes]]:
        async with merge(send_two) as chunks:
            try:
                yield chunks
            finally:
                log.append("left")

    response = Response(body())
    async with response as chunks:
        assert await chunks.receive() == b"a"
        await enter_again(attrs.evolve(response) if copy else response)
        assert await chunks.receive() == b"b"
        assert log == []
    assert log == ["left"]


async def send_two(send_channel: trio.MemorySendChannel[bytes]) -> None:
    await send_channel.send(b"a")
    await send_channel.send(b"b")


async def test_a_copy_with_another_content_has_its_own_use() -> None:
    # AC-6
    response = Response(body_of(b"a"))
    assert await read(attrs.evolve(response, content=body_of(b"b"))) == b"b"
    assert await read(response) == b"a"


async def test_a_replaced_body_is_never_entered() -> None:
    # AC-6, D43
    log: list[str] = []

    async def handler(request: object) -> Response:
        return Response(body_of(b"old", log=log))

    def replace(request: object, response: Response) -> Response:
        return attrs.evolve(response, content=b"new")

    server = Server()
    await server.call(make_app(handler, transforms=[replace]))
    assert server.body == b"new"
    assert log == []


async def test_wrapping_twice_keeps_the_order() -> None:
    # AC-7
    log: list[str] = []
    response = Response(body_of("a", "é", log=log))
    response = wrapped(response, lambda chunk: b"<" + chunk + b">")
    response = wrapped(response, lambda chunk: b"[" + chunk + b"]")
    assert await read(response) == "[<a>][<é>]".encode()
    assert log == ["enter", "exit"]
