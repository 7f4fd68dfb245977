"""HTTP/2 requests with bodies: each waits for its own application alone (HOST fault 4)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import h2.errors
import h2.events
import pytest
import trio
import trio.testing
from frames_h2 import PADDED, START, Frame, Type, data, frame, get, headers, parse, post, pseudo
from guarded import answer, body, http, read_request, start
from leaks import assert_no_leaks
from probes import IN_TIME, PROMPT
from wire import H2Connection, RawConnection, Truncated, open_guarded, open_h2, open_raw

from tsstream._asgi import Receive, Send

KIB = 1024
MIB = 1024 * KIB
WINDOW = 65_535  # bytes: of a stream
NO_ERROR = h2.errors.ErrorCodes.NO_ERROR


class App:
    """Answers by path, when it is told to.

    Attributes:
      take: set to let ``/later`` receive its body.
      sizes: of the messages that ``/later`` has received.
    """

    def __init__(self) -> None:
        self.take = trio.Event()
        self.sizes: list[int] = []

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if path == "/later":
            await self._take_later(receive)
            await answer(send, str(sum(self.sizes)).encode())
        elif path == "/count":
            await answer(send, str(len(await read_request(receive))).encode())
        elif path == "/early":
            await answer(send, b"too large", 413)
        else:
            await answer(send)

    async def _take_later(self, receive: Receive) -> None:
        await self.take.wait()
        while (message := await receive())["type"] == "http.request":
            self.sizes.append(len(message["body"]))
            if not message["more_body"]:
                return


async def read(client: H2Connection, stream_id: int) -> tuple[int, bytes]:
    with trio.fail_after(IN_TIME):
        status, _ = await client.read_head(stream_id)
        return status, await client.read_body(stream_id)


async def send_until_stopped(client: H2Connection, stream_id: int) -> int:
    """Send a body until the window is empty; give how much that was."""
    sent = 0
    with trio.move_on_after(0.05):
        while True:
            await client.send_data(stream_id, bytes(1000))
            sent += 1000
    return sent


async def test_an_unread_body_delays_neither_a_ping_nor_another_stream() -> None:
    app = App()
    async with open_guarded(http(app)) as port, assert_no_leaks():
        async with open_h2(port) as client:
            for _ in range(10):
                unread = await client.request("POST", "/later", end_stream=False)
                await send_until_stopped(client, unread)
            with trio.fail_after(PROMPT):
                await client.ping()
                stream_id = await client.request("POST", "/count", body=bytes(WINDOW))
                assert (await client.read_head(stream_id))[0] == 200
                assert await client.read_body(stream_id) == str(WINDOW).encode()
        app.take.set()


async def test_a_client_gets_no_more_credit_than_its_application_takes() -> None:
    app = App()
    async with open_guarded(http(app)) as port:
        async with open_h2(port) as client:
            stream_id = await client.request("POST", "/later", end_stream=False)
            sent = await send_until_stopped(client, stream_id)
            assert WINDOW - 1000 < sent <= WINDOW
            app.take.set()
            with trio.fail_after(IN_TIME):
                for _ in range(200):
                    await client.send_data(stream_id, bytes(1000))
                    sent += 1000
                await client.send_data(stream_id, b"", end_stream=True)
            # What was on its way in send_data() when it was stopped is not counted.
            status, counted = await read(client, stream_id)
            assert status == 200
            assert 0 <= int(counted) - sent <= 1000


async def test_a_large_body_arrives_whole() -> None:
    async with open_guarded(http(App())) as port:
        async with open_h2(port) as client:
            with trio.fail_after(IN_TIME):
                stream_id = await client.request("POST", "/count", body=bytes(5 * MIB + 7))
            assert await read(client, stream_id) == (200, str(5 * MIB + 7).encode())


@pytest.mark.parametrize("content_length", [{}, {"content-length": "9"}])
async def test_an_early_answer_ends_the_upload_without_an_error(
    content_length: dict[str, str],
) -> None:
    # RFC 9113 8.1: RST_STREAM(NO_ERROR), behind the END_STREAM.
    async with open_guarded(http(App())) as port, assert_no_leaks():
        async with open_h2(port) as client:
            stream_id = await client.request("POST", "/early", content_length, end_stream=False)
            assert await read(client, stream_id) == (413, b"too large")
            event = await client.next_event(stream_id)
            assert isinstance(event, h2.events.StreamReset)
            assert event.error_code == NO_ERROR
            assert await read(client, await client.request("GET", "/")) == (200, b"ok")


async def test_trailers_of_a_request_are_its_end_and_nothing_else() -> None:
    async with open_guarded(http(App())) as port:
        async with open_h2(port) as client:
            stream_id = await client.request("POST", "/count", end_stream=False)
            await client.send_data(stream_id, b"body")
            client._h2.send_headers(stream_id, [("x-checksum", "1")], end_stream=True)
            await client._flush()
            assert await read(client, stream_id) == (200, b"4")


async def test_a_body_that_is_shorter_than_announced_is_never_complete() -> None:
    app = App()
    app.take.set()
    async with open_guarded(http(app)) as port:
        async with open_h2(port) as client:
            length = {"content-length": "10"}
            stream_id = await client.request("POST", "/later", length, end_stream=False)
            await client.send_data(stream_id, b"12345")
            client._h2.send_headers(stream_id, [("x", "y")], end_stream=True)
            await client._flush()
            with pytest.raises(Truncated) as caught:
                await read(client, stream_id)
            assert caught.value.error_code == h2.errors.ErrorCodes.PROTOCOL_ERROR
            await client.ping()
    assert app.sizes == [5]


async def test_a_body_ends_once() -> None:
    async def call(scope: Any, receive: Receive, send: Send) -> None:
        assert await read_request(receive) == b"body"
        with trio.move_on_after(0.02) as scope_:
            await receive()
        assert scope_.cancelled_caught
        await answer(send)

    async with open_guarded(http(call)) as port:
        async with open_h2(port) as client:
            stream_id = await client.request("POST", "/", body=b"body")
            assert await read(client, stream_id) == (200, b"ok")


# What a client with a library of its own does not send.


@asynccontextmanager
async def open_frames(port: int) -> AsyncIterator[RawConnection]:
    async with open_raw(port) as raw:
        await raw.send_all(START)
        yield raw


async def read_until_end(raw: RawConnection, stream: int) -> list[Frame]:
    """Read up to the end of *stream*; give all frames."""
    received = b""
    with trio.fail_after(IN_TIME):
        while True:
            frames, _ = parse(received)
            if any(item.stream == stream and item.flags & 1 for item in frames):
                return frames
            received += await raw.stream.receive_some(65_536)


def padded(stream: int, payload: bytes, padding: int) -> bytes:
    return frame(
        Type.DATA, bytes([padding]) + payload + bytes(padding), stream=stream, flags=PADDED
    )


async def test_padding_gives_its_window_back() -> None:
    count = 2000  # with 201 bytes each: six windows
    async with open_guarded(http(App())) as port, open_frames(port) as raw:
        await raw.send_all(post(1, b"/count"))
        await raw.send_all(padded(1, b"x", 199) * 163)  # half a window
        for _ in range(count // 100):
            await raw.send_all(padded(1, b"x", 199) * 100)
            await trio.testing.wait_all_tasks_blocked()
        await raw.send_all(data(1, end=True))
        frames = await read_until_end(raw, 1)
    body = b"".join(item.payload for item in frames if item.kind == Type.DATA)
    assert body == str(count + 163).encode()


async def test_the_window_of_the_connection_is_given_back_once() -> None:
    # Whatever becomes of the streams; here nobody takes anything.
    size = 16_384
    app = App()
    async with open_guarded(http(app)) as port, open_frames(port) as raw:
        for stream in range(1, 161, 2):
            await raw.send_all(post(stream, b"/later") + data(stream, bytes(size)) * 3)
        await raw.send_all(get(161))
        frames = await read_until_end(raw, 161)
        given = sum(
            int.from_bytes(item.payload, "big")
            for item in frames
            if (item.kind, item.stream) == (Type.WINDOW_UPDATE, 0)
        )
        app.take.set()
    sent = 80 * 3 * size
    window = 1024 * KIB
    assert sent - window < given - (window - WINDOW) <= sent


async def test_small_frames_become_few_messages() -> None:
    # A message in a queue costs hundreds of bytes, a byte of window does not.
    app = App()
    async with open_guarded(http(app)) as port, open_frames(port) as raw:
        await raw.send_all(post(1, b"/later") + data(1, b"x") * 20_000)
        await raw.send_all(data(1) * 20_000 + get(3))
        await read_until_end(raw, 3)
        app.take.set()
        await raw.send_all(data(1, end=True))
        await read_until_end(raw, 1)
    assert sum(app.sizes) == 20_000
    assert len(app.sizes) < 10


async def test_a_body_that_ends_with_its_head_is_one_empty_message() -> None:
    app = App()
    app.take.set()
    async with open_guarded(http(app)) as port, open_frames(port) as raw:
        await raw.send_all(get(1, b"/later"))
        await read_until_end(raw, 1)
    assert app.sizes == [0]


async def test_a_client_that_waits_for_it_is_told_to_continue() -> None:
    async with open_guarded(http(App())) as port:
        async with open_h2(port) as client:
            expect = {"expect": "100-continue"}
            stream_id = await client.request("POST", "/count", expect, end_stream=False)
            with trio.fail_after(IN_TIME):
                assert await client.read_head(stream_id) == (100, {})
            await client.send_data(stream_id, b"body", end_stream=True)
            assert await read(client, stream_id) == (200, b"4")
            refused = await client.request("POST", "/early", expect, end_stream=False)
            assert await read(client, refused) == (413, b"too large")


async def test_a_body_that_pauses_too_long_is_answered_408() -> None:
    async with open_guarded(http(App()), body_timeout=0.1) as port, assert_no_leaks():
        async with open_h2(port) as client:
            stream_id = await client.request("POST", "/count", end_stream=False)
            for _ in range(4):
                await trio.sleep(0.05)
                await client.send_data(stream_id, b"x")
            assert await read(client, stream_id) == (408, b"")
            assert await read(client, await client.request("GET", "/")) == (200, b"ok")


async def test_a_body_that_waits_for_its_application_is_not_answered_408() -> None:
    app = App()
    async with open_guarded(http(app), body_timeout=0.3) as port:
        async with open_h2(port) as client:
            stream_id = await client.request("POST", "/later", end_stream=False)
            await client.send_data(stream_id, b"x")
            await trio.sleep(0.45)
            app.take.set()  # from now on the client may be expected to go on
            await trio.sleep(0.2)
            await client.send_data(stream_id, b"y", end_stream=True)
            assert await read(client, stream_id) == (200, b"2")


async def test_a_body_may_pause_once_the_response_has_started() -> None:
    async def echo(scope: Any, receive: Receive, send: Send) -> None:
        await send(start())
        await send(body(b""))
        await send(body(await read_request(receive), more=False))

    async with open_guarded(http(echo), body_timeout=0.05) as port:
        async with open_h2(port) as client:
            stream_id = await client.request("POST", "/", end_stream=False)
            assert (await client.read_head(stream_id))[0] == 200
            await trio.sleep(0.15)
            await client.send_data(stream_id, b"late", end_stream=True)
            assert await client.read_body(stream_id) == b"late"


async def test_a_plain_connect_is_answered_501() -> None:
    async with open_guarded(http(App())) as port, open_frames(port) as raw:
        fields = ((b":method", b"CONNECT"), (b":authority", b"example.org:443"))
        await raw.send_all(headers(1, fields, end=False) + get(3))
        frames = await read_until_end(raw, 3)
    assert any(item.stream == 1 and item.kind == Type.HEADERS and item.flags & 1 for item in frames)


# Responses whose end is something else than a body's.


@pytest.mark.parametrize("trailers", [[(b"x-sum", b"42")], []])
async def test_a_response_may_end_with_trailers(trailers: list[tuple[bytes, bytes]]) -> None:
    async def call(scope: Any, receive: Receive, send: Send) -> None:
        await send({**start(), "trailers": True})
        await send(body(b"data", more=False))
        await send({"type": "http.response.trailers", "headers": trailers, "more_trailers": False})

    async with open_guarded(http(call)) as port, open_h2(port) as client:
        stream_id = await client.request("GET", "/", {"te": "trailers"})
        with trio.fail_after(IN_TIME):
            assert (await client.read_head(stream_id))[0] == 200
            assert await client.read_chunk(stream_id) == b"data"
            event = await client.next_event(stream_id)
            if trailers:
                assert isinstance(event, h2.events.TrailersReceived)
                assert [(str(n), str(v)) for n, v in event.headers or ()] == [("x-sum", "42")]
                event = await client.next_event(stream_id)
            while isinstance(event, h2.events.DataReceived):
                assert not event.data
                event = await client.next_event(stream_id)
            assert isinstance(event, h2.events.StreamEnded)


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
async def test_a_response_without_a_body_has_none(method: str, status: int) -> None:
    async def call(scope: Any, receive: Receive, send: Send) -> None:
        await send(start(status, **({"content_length": "4"} if method == "HEAD" else {})))
        await send(body(b"da"))
        await send(body(b"ta", more=False))

    async with open_guarded(http(call)) as port, open_h2(port) as client:
        stream_id = await client.request(method, "/")
        assert await read(client, stream_id) == (status, b"")


async def test_early_hints_go_before_the_response() -> None:
    async def call(scope: Any, receive: Receive, send: Send) -> None:
        assert "http.response.push" not in scope["extensions"]
        await send({"type": "http.response.early_hint", "links": [b"</a.css>; rel=preload"]})
        await answer(send)

    async with open_guarded(http(call)) as port, open_h2(port) as client:
        stream_id = await client.request("GET", "/")
        assert await client.read_head(stream_id) == (103, {"link": "</a.css>; rel=preload"})
        assert await read(client, stream_id) == (200, b"ok")


async def test_the_scope_is_that_of_the_request() -> None:
    scopes: list[Any] = []

    async def call(scope: Any, receive: Receive, send: Send) -> None:
        scopes.append(scope)
        await answer(send)

    fields = (
        *pseudo(b"/a%20b?c=d", b"PATCH"),
        (b"cookie", b"a=1"),
        (b"x", b""),
        (b"cookie", b"b=2"),
    )
    async with open_guarded(http(call)) as port, open_frames(port) as raw:
        await raw.send_all(headers(1, fields))
        await read_until_end(raw, 1)
    [scope] = scopes
    assert (scope["http_version"], scope["method"], scope["scheme"]) == ("2", "PATCH", "http")
    assert (scope["path"], scope["query_string"]) == ("/a b", b"c=d")
    assert scope["headers"] == [(b"host", b"localhost"), (b"x", b""), (b"cookie", b"a=1; b=2")]
