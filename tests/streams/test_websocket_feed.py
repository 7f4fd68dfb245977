"""websocket_feed() against real servers on loopback (AC-36, AC-38; all bounded, all clean)."""

from __future__ import annotations

import gc
import random
import re
import socket
import ssl
import statistics
import struct
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from hashlib import sha1
from typing import Any, TypeAlias

import attrs
import pytest
import trio
import trio.testing
import trio_websocket
import trustme
from leaks import assert_no_leaks

from tsstream._errors import FeedError
from tsstream._streams.feeds import WebsocketFeed, websocket_feed
from tsstream._streams.merge import Producer, merge

HOST = "127.0.0.1"
LIMIT = 10  # seconds: no test here needs more than a fraction of it
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3
TEXT, BINARY, CLOSE, PING = 1, 2, 8, 9  # RFC 6455, 5.2

Handler: TypeAlias = Callable[[trio.abc.Stream], Awaitable[None]]


async def collect(*producers: Producer[str | bytes]) -> list[str | bytes]:
    with trio.fail_after(LIMIT):
        async with merge(*producers) as receive_channel:
            return [item async for item in receive_channel]


async def fail_with(feed: WebsocketFeed) -> FeedError:
    with pytest.raises(FeedError) as caught:
        await collect(feed)
    return caught.value


# Servers: trio-websocket's own, and bytes by hand where a server must misbehave.


@asynccontextmanager
async def open_websocket_server(
    handler: Callable[[trio_websocket.WebSocketRequest], Awaitable[None]],
    ssl_context: ssl.SSLContext | None = None,
) -> AsyncIterator[int]:
    async with trio.open_nursery() as nursery:
        server = await nursery.start(trio_websocket.serve_websocket, handler, HOST, 0, ssl_context)
        yield server.port
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_tcp_server(
    handler: Handler, ssl_context: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    async def handle(stream: trio.abc.Stream) -> None:
        if ssl_context is not None:
            assert isinstance(stream, trio.SocketStream)
            stream = trio.SSLStream(stream, ssl_context, server_side=True, https_compatible=True)
        with suppress(trio.BrokenResourceError):
            await handler(stream)

    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(partial(trio.serve_tcp, handle, 0, host=HOST))
        yield listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def receive_head(stream: trio.abc.Stream) -> bytes:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        data = await stream.receive_some()
        if not data:
            raise trio.BrokenResourceError("the client left during the handshake")
        head += data
    return head


def acceptance(head: bytes) -> bytes:
    found = re.search(rb"(?i)^sec-websocket-key: (\S+)\r$", head, re.MULTILINE)
    assert found is not None
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + b64encode(sha1(found[1] + GUID).digest()) + b"\r\n\r\n"
    )


def frame(opcode: int, payload: bytes) -> bytes:
    assert len(payload) < 126
    return bytes([0x80 | opcode, len(payload)]) + payload


def close_frame(code: int, reason: str = "") -> bytes:
    return frame(CLOSE, struct.pack("!H", code) + reason.encode())


async def wait_closed(stream: trio.abc.Stream) -> None:
    while await stream.receive_some():
        pass


async def say(data: bytes, stream: trio.abc.Stream) -> None:
    """Accept, send *data* at once with the acceptance, wait for the client to leave."""
    await stream.send_all(acceptance(await receive_head(stream)) + data)
    await wait_closed(stream)


async def say_all(data: bytes, stream: trio.abc.Stream) -> None:
    """Accept, send *data* and a Close frame, close TCP when the client's Close frame has come."""
    await stream.send_all(acceptance(await receive_head(stream)) + data + close_frame(1000))
    await stream.receive_some()
    await stream.aclose()


async def answer(data: bytes, stream: trio.abc.Stream) -> None:
    """Answer the opening request with *data*, wait for the client to leave."""
    await receive_head(stream)
    await stream.send_all(data)
    await wait_closed(stream)


async def answer_and_hang_up(data: bytes, stream: trio.abc.Stream) -> None:
    await receive_head(stream)
    if data:
        await stream.send_all(data)
    await stream.aclose()


async def accept_and_hang_up(data: bytes, stream: trio.abc.Stream) -> None:
    await stream.send_all(acceptance(await receive_head(stream)) + data)
    await stream.aclose()


async def reset(stream: trio.abc.Stream) -> None:
    assert isinstance(stream, trio.SocketStream)
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await stream.aclose()


async def answer_with_a_reset(stream: trio.abc.Stream) -> None:
    await receive_head(stream)
    await reset(stream)


async def say_nothing(stream: trio.abc.Stream) -> None:
    await wait_closed(stream)


def url(port: int, rest: str = "/") -> str:
    return f"ws://{HOST}:{port}{rest}"


# Messages.


async def test_text_arrives_as_str_and_binary_as_bytes() -> None:
    async def serve(request: trio_websocket.WebSocketRequest) -> None:
        websocket = await request.accept()
        await websocket.send_message("grüße")
        await websocket.send_message(b"\0\xff")
        await websocket.send_message("")

    async with assert_no_leaks(), open_websocket_server(serve) as port:
        assert await collect(websocket_feed(url(port))) == ["grüße", b"\0\xff", ""]


async def test_a_fragmented_message_arrives_whole() -> None:
    fragments = b"\x01\x01\xc3" + frame(PING, b"") + b"\x80\x01\xa4"
    async with open_tcp_server(partial(say_all, fragments)) as port:
        assert await collect(websocket_feed(url(port))) == ["ä"]


async def test_a_large_message_may_come_together_with_the_acceptance() -> None:
    # More than an answer may have: the limit ends with the handshake, in whatever order the
    # tasks run.
    size = 300_000
    message = b"\x82\x7f" + struct.pack("!Q", size) + b"x" * size
    async with open_tcp_server(partial(say_all, message)) as port:
        for _ in range(20):
            assert await collect(websocket_feed(url(port))) == [b"x" * size]


async def test_two_feeds_are_merged() -> None:  # AC-34
    async def serve(request: trio_websocket.WebSocketRequest) -> None:
        websocket = await request.accept()
        for i in range(50):
            await websocket.send_message(f"{request.path}{i}")

    async with assert_no_leaks(), open_websocket_server(serve) as port:
        got = await collect(websocket_feed(url(port, "/a")), websocket_feed(url(port, "/b")))
    for path in ("/a", "/b"):
        mine = [item for item in got if str(item).startswith(path)]
        assert mine == [f"{path}{i}" for i in range(50)]


async def test_a_feed_can_be_called_again() -> None:
    async def serve(request: trio_websocket.WebSocketRequest) -> None:
        await (await request.accept()).send_message("hello")

    async with assert_no_leaks(), open_websocket_server(serve) as port:
        feed = websocket_feed(url(port))
        for _ in range(3):
            assert await collect(feed) == ["hello"]


async def test_a_feed_does_not_close_its_channel() -> None:
    send_channel, receive_channel = trio.open_memory_channel[str | bytes](0)
    async with open_tcp_server(partial(say_all, b"")) as port:
        with trio.fail_after(LIMIT), send_channel, receive_channel:
            await websocket_feed(url(port))(send_channel)
            assert send_channel.statistics().open_send_channels == 1


async def test_a_reader_that_does_not_read_stops_the_server() -> None:  # AC-36
    sent = 0

    async def serve(request: trio_websocket.WebSocketRequest) -> None:
        nonlocal sent
        websocket = await request.accept()
        with suppress(trio_websocket.ConnectionClosed):
            while True:
                await websocket.send_message(b"x" * 64 * 1024)
                sent += 1

    with trio.fail_after(LIMIT):
        async with assert_no_leaks(), open_websocket_server(serve) as port:
            async with merge(websocket_feed(url(port))) as receive_channel:
                await receive_channel.receive()
                before = -1
                while sent > before:
                    before = sent
                    await trio.testing.wait_all_tasks_blocked(0.02)
                assert sent * 64 * 1024 < 32 * 1024 * 1024  # what the kernel's buffers hold


async def test_the_request_that_is_sent() -> None:
    heads: list[bytes] = []

    async def keep(stream: trio.abc.Stream) -> None:
        heads.append(await receive_head(stream))
        await stream.send_all(acceptance(heads[-1]) + close_frame(1000))
        await stream.receive_some()
        await stream.aclose()

    async with open_tcp_server(keep) as port:
        address = f"ws://us%40er:pa%3Ass@{HOST}:{port}/a%20b?x=1&y=%2F"
        headers = {"X-One": "1", "x-two": "zwölf"}
        await collect(websocket_feed(address, headers=headers, subprotocols=["v2", "v1"]))
        await collect(websocket_feed(address, headers=[("authorization", "Bearer t"), ("x", "")]))
        await collect(websocket_feed(f"ws://{HOST}:{port}?q"))
    first, second, third = (head.split(b"\r\n") for head in heads)
    assert first[0] == b"GET /a%20b?x=1&y=%2F HTTP/1.1"
    assert b"Host: %s:%d" % (HOST.encode(), port) in first
    assert b"X-One: 1" in first
    assert "x-two: zwölf".encode("latin-1") in first
    assert b"Sec-WebSocket-Protocol: v2, v1" in first
    assert b"Authorization: Basic " + b64encode(b"us@er:pa:ss") in first
    assert [line for line in second if b"authorization" in line.lower()] == [
        b"authorization: Bearer t"
    ]
    assert third[0] == b"GET /?q HTTP/1.1"


# The end.


@pytest.mark.parametrize("code", [1000, 1001])
async def test_a_normal_close_ends_the_feed(code: int) -> None:  # AC-38
    async def serve(request: trio_websocket.WebSocketRequest) -> None:
        websocket = await request.accept()
        await websocket.send_message("last")
        await websocket.aclose(code)

    async with assert_no_leaks(), open_websocket_server(serve) as port:
        assert await collect(websocket_feed(url(port))) == ["last"]


@pytest.mark.parametrize("code", [1002, 1008, 1011, 1012, 3000, 4000])
async def test_any_other_close_is_an_error(code: int) -> None:  # AC-38
    async def serve(request: trio_websocket.WebSocketRequest) -> None:
        await (await request.accept()).aclose(code, "it's over")

    async with assert_no_leaks(), open_websocket_server(serve) as port:
        error = await fail_with(websocket_feed(url(port, "/x?token=secret")))
        assert str(error) == f'{url(port, "/x")} ended with code {code}: "it\'s over"'
    assert error.code == code
    assert isinstance(error.__cause__, trio_websocket.ConnectionClosed)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", 1006),
        (b"\x81\x05hel", 1006),
        (frame(CLOSE, b""), 1005),
    ],
    ids=["nothing", "half a message", "a close frame without a code"],
)
async def test_a_server_that_hangs_up_is_an_error(data: bytes, code: int) -> None:  # AC-38
    async with assert_no_leaks(), open_tcp_server(partial(accept_and_hang_up, data)) as port:
        error = await fail_with(websocket_feed(url(port)))
        assert str(error) == f"{url(port)} ended with code {code}"
    assert error.code == code


async def test_a_reset_is_an_error() -> None:  # AC-38
    async def accept_and_reset(stream: trio.abc.Stream) -> None:
        await stream.send_all(acceptance(await receive_head(stream)))
        await reset(stream)

    async with assert_no_leaks(), open_tcp_server(accept_and_reset) as port:
        error = await fail_with(websocket_feed(url(port)))
    assert error.code in (1006, None)  # None: the reset has overtaken the handshake


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x83\x00", 1002),
        (b"\x81\x80\0\0\0\0", 1002),
        (b"\x81\x01\xff", 1007),
        (b"\xc1\x00", 1002),
        (b"\x89\x7e\x00\x80", 1002),
    ],
    ids=["reserved opcode", "masked", "not UTF-8", "reserved bit", "long ping"],
)
async def test_a_breach_of_the_protocol_is_an_error(data: bytes, code: int) -> None:
    async with assert_no_leaks(), open_tcp_server(partial(say, data)) as port:
        assert (await fail_with(websocket_feed(url(port)))).code == code


async def test_messages_before_a_failure_are_not_lost() -> None:
    messages = b"".join(frame(TEXT, b"%d" % i) for i in range(20))
    async with open_tcp_server(partial(accept_and_hang_up, messages)) as port:
        got: list[str | bytes] = []
        with trio.fail_after(LIMIT), pytest.raises(FeedError, match="ended with code 1006"):
            async with merge(websocket_feed(url(port))) as receive_channel:
                async for item in receive_channel:
                    got += [item]
    assert got == [str(i) for i in range(20)]


@pytest.mark.parametrize(("size", "passes"), [(1000, True), (1001, False)])
async def test_a_message_that_is_too_big_is_an_error(size: int, passes: bool) -> None:
    async def serve(request: trio_websocket.WebSocketRequest) -> None:
        websocket = await request.accept()
        with suppress(trio_websocket.ConnectionClosed):
            await websocket.send_message(b"x" * size)

    async with assert_no_leaks(), open_websocket_server(serve) as port:
        feed = websocket_feed(url(port), max_message_size=1000)
        if passes:
            assert await collect(feed) == [b"x" * size]
        else:
            error = await fail_with(feed)
            assert error.code == 1009
            assert str(error).endswith("a larger max_message_size would let it pass")


async def test_a_server_that_keeps_tcp_open_is_left_after_the_timeout(
    mock_clock: trio.testing.MockClock,
) -> None:
    answers: list[bytes] = []

    async def keep_open(stream: trio.abc.Stream) -> None:
        await stream.send_all(acceptance(await receive_head(stream)) + close_frame(1000))
        answers.append(bytes(await stream.receive_some()))
        await wait_closed(stream)

    done = trio.Event()

    async def run(feed: WebsocketFeed) -> None:
        assert await collect(feed) == []
        done.set()

    async with open_tcp_server(keep_open) as port:
        async with assert_no_leaks(), trio.open_nursery() as nursery:
            nursery.start_soon(run, websocket_feed(url(port), disconnect_timeout=1.0))
            while not answers:
                await trio.testing.wait_all_tasks_blocked(0.01)
            assert answers[0][:2] == b"\x88\x82"  # our Close frame, masked
            mock_clock.jump(0.99)
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert not done.is_set()
            mock_clock.jump(0.02)
            await done.wait()


# Opening.


def unused_port() -> int:
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        port: int = sock.getsockname()[1]
        return port


async def test_refused() -> None:  # AC-38
    port = unused_port()
    async with assert_no_leaks():
        error = await fail_with(websocket_feed(f"ws://user:secret@{HOST}:{port}/feed?key=secret"))
    assert isinstance(error.__cause__, OSError)
    assert error.code is None
    assert str(error).startswith(f"{url(port, '/feed')} failed: all attempts to connect")
    assert "secret" not in str(error)


@pytest.mark.parametrize("body", [None, b"go away"])
async def test_a_handshake_that_is_rejected(body: bytes | None) -> None:
    async def serve(request: trio_websocket.WebSocketRequest) -> None:
        await request.reject(403, body=body)

    async with assert_no_leaks(), open_websocket_server(serve) as port:
        error = await fail_with(websocket_feed(url(port)))
    assert isinstance(error.__cause__, trio_websocket.ConnectionRejected)
    assert error.code is None
    assert str(error).endswith("failed: the server answered 403 instead of opening a WebSocket")


@pytest.mark.parametrize(
    ("handler", "problem"),
    [
        (partial(answer_and_hang_up, b""), "closed the connection during the handshake$"),
        (
            partial(answer_and_hang_up, b"HTTP/1.1 503 Busy\r\n\r\nno length"),
            "closed the connection during the handshake, after 'HTTP/1.1 503 Busy'",
        ),
        (answer_with_a_reset, "reset"),
        (partial(answer, b"220 mail ready\r\n\r\n"), ""),
        (partial(answer, b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\n\r\n"), ""),
        (partial(answer, b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 100_000), "answer is too long"),
    ],
    ids=["nothing", "no length", "a reset", "not HTTP", "no key", "too long"],
)
async def test_a_handshake_that_fails_does_so_at_once(
    handler: Handler, problem: str, mock_clock: trio.testing.MockClock
) -> None:  # the clock stands still: nothing may wait for a timeout
    async with assert_no_leaks(), open_tcp_server(handler) as port:
        error = await fail_with(websocket_feed(url(port)))
    assert error.code is None
    assert re.search(problem, str(error)), str(error)


async def test_a_server_that_goes_away_while_we_connect(
    mock_clock: trio.testing.MockClock,
) -> None:  # a listener that is closed resets what it has not accepted
    async def run(feed: WebsocketFeed) -> None:
        await fail_with(feed)

    async with assert_no_leaks():
        for steps in range(12):
            with trio.socket.socket() as listener:
                await listener.bind((HOST, 0))
                listener.listen()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(run, websocket_feed(url(listener.getsockname()[1])))
                    for _ in range(steps):
                        await trio.lowlevel.checkpoint()
                    listener.close()


@pytest.mark.parametrize("scheme", ["ws", "wss"])
async def test_a_server_that_says_nothing(scheme: str, mock_clock: trio.testing.MockClock) -> None:
    connected = trio.Event()

    async def silent(stream: trio.abc.Stream) -> None:
        await stream.receive_some(1)
        connected.set()
        await wait_closed(stream)

    async def run(feed: WebsocketFeed) -> None:
        error = await fail_with(feed)
        assert isinstance(error.__cause__, trio.TooSlowError)
        assert str(error).endswith("failed: not open after 5.0 seconds (connect_timeout)")

    async with open_tcp_server(silent) as port:
        async with assert_no_leaks(), trio.open_nursery() as nursery:
            feed = websocket_feed(f"{scheme}://{HOST}:{port}/", connect_timeout=5.0)
            nursery.start_soon(run, feed)
            await connected.wait()
            mock_clock.jump(5.01)


# TLS.


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def server_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(HOST).configure_cert(context)
    return context


@pytest.fixture(scope="module")
def client_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


async def test_tls(server_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> None:
    async def serve(request: trio_websocket.WebSocketRequest) -> None:
        await (await request.accept()).send_message("hello")

    async with assert_no_leaks(), open_websocket_server(serve, server_tls) as port:
        feed = websocket_feed(f"wss://{HOST}:{port}/", ssl_context=client_tls)
        assert await collect(feed) == ["hello"]


async def test_a_certificate_that_is_not_trusted(server_tls: ssl.SSLContext) -> None:
    async with assert_no_leaks(), open_tcp_server(say_nothing, server_tls) as port:
        error = await fail_with(websocket_feed(f"wss://{HOST}:{port}/"))
    assert "CERTIFICATE_VERIFY_FAILED" in str(error)
    assert error.code is None


async def test_tls_to_a_server_without() -> None:
    async def plain(stream: trio.abc.Stream) -> None:
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await wait_closed(stream)

    async with assert_no_leaks(), open_tcp_server(plain) as port:
        error = await fail_with(websocket_feed(f"wss://{HOST}:{port}/"))
    assert "SSL" in str(error)


async def test_no_tls_to_a_server_with(server_tls: ssl.SSLContext) -> None:
    async with assert_no_leaks(), open_tcp_server(say_nothing, server_tls) as port:
        error = await fail_with(websocket_feed(url(port)))
    assert error.code is None


# Cancellation. On a clock that stands still, so that waiting for a timeout would be for ever.


async def flood_with_pings(stream: trio.abc.Stream) -> None:
    await stream.send_all(acceptance(await receive_head(stream)))
    while True:
        await stream.send_all(frame(PING, b"x" * 125) * 1000)  # and never reads a Pong


@attrs.frozen
class Stage:
    handler: Handler
    scheme: str = "ws"
    tls: bool = False


STAGES: Mapping[str, Stage] = {
    "in the TLS handshake": Stage(say_nothing, "wss"),
    "in the opening handshake": Stage(say_nothing),
    "in the opening handshake over TLS": Stage(say_nothing, "wss", tls=True),
    "in a half answer": Stage(partial(answer, b"HTTP/1.1 101 Switching Protocols\r\n")),
    "waiting": Stage(partial(say, b"")),
    "waiting over TLS": Stage(partial(say, b""), "wss", tls=True),
    "in a half message": Stage(partial(say, b"\x81\x7dhello")),
    "with a message that nobody takes": Stage(partial(say, frame(TEXT, b"x") * 9)),
    "while Pongs are not read": Stage(flood_with_pings),
    "while closing": Stage(partial(say, close_frame(1000))),
    "while closing over TLS": Stage(partial(say, close_frame(1000)), "wss", tls=True),
}


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
async def test_a_cancelled_feed_is_gone_at_once(
    stage: Stage,
    server_tls: ssl.SSLContext,
    client_tls: ssl.SSLContext,
    mock_clock: trio.testing.MockClock,
) -> None:
    connected = trio.Event()

    async def handle(stream: trio.abc.Stream) -> None:
        connected.set()
        await stage.handler(stream)

    async with open_tcp_server(handle, server_tls if stage.tls else None) as port:
        feed = websocket_feed(
            f"{stage.scheme}://{HOST}:{port}/",
            ssl_context=client_tls if stage.scheme == "wss" else None,
        )
        await cancel_when_it_waits(feed, connected.wait)


async def test_a_feed_cancelled_while_connecting_is_gone_at_once(
    mock_clock: trio.testing.MockClock,
) -> None:
    with full_listener() as port:
        await cancel_when_it_waits(websocket_feed(url(port)), trio.lowlevel.checkpoint)


@contextmanager
def full_listener() -> Iterator[int]:
    """Give a port where Linux drops every further SYN: nobody accepts, and the queue is full."""
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        listener.listen(0)
        clients = [socket.socket() for _ in range(4)]
        for client in clients:
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]
        for client in clients:
            client.close()


async def cancel_when_it_waits(feed: WebsocketFeed, ready: Callable[[], Awaitable[None]]) -> None:
    send_channel, receive_channel = trio.open_memory_channel[str | bytes](0)
    with send_channel, receive_channel:
        async with assert_no_leaks():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(feed, send_channel)
                await ready()
                await trio.testing.wait_all_tasks_blocked(0.02)
                assert len(nursery.child_tasks) == 1  # the feed has not ended by itself
                nursery.cancel_scope.cancel()
        assert nursery.cancel_scope.cancelled_caught


@pytest.mark.parametrize("scheme", ["ws", "wss"])
async def test_cancellations_anywhere_leave_nothing(
    scheme: str, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    # At 300 points, counted in steps of Trio's loop: from before the connection is made to its
    # end. Without the garbage collector, which would close a forgotten socket.
    rng = random.Random(33)
    ended = cancelled = 0
    stopped_at = 0.0
    durations: list[float] = []
    talk = partial(say_all, frame(TEXT, b"x") * 5)
    tls = scheme == "wss"

    async def run(steps: int) -> bool:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(cancel_after, steps, scope)
                await collect(feed)
                nursery.cancel_scope.cancel()
        return scope.cancelled_caught

    async def cancel_after(steps: int, scope: trio.CancelScope) -> None:
        nonlocal stopped_at
        for _ in range(steps):
            await trio.lowlevel.checkpoint()
        stopped_at = time.perf_counter()
        scope.cancel()

    gc.disable()
    try:
        async with open_tcp_server(talk, server_tls if tls else None) as port:
            feed = websocket_feed(
                f"{scheme}://{HOST}:{port}/", ssl_context=client_tls if tls else None
            )
            async with assert_no_leaks():
                while cancelled < 300:
                    if await run(rng.randrange(50)):
                        durations.append(time.perf_counter() - stopped_at)
                        cancelled += 1
                    else:
                        ended += 1
    finally:
        gc.enable()
    assert ended > 0  # so the range of the steps covers a whole connection
    assert statistics.median(durations) < 0.1


async def test_a_lost_reader_ends_the_feed_with_the_error_of_its_channel() -> None:
    send_channel, receive_channel = trio.open_memory_channel[str | bytes](0)
    receive_channel.close()
    async with assert_no_leaks(), open_tcp_server(partial(say, frame(TEXT, b"x"))) as port:
        with trio.fail_after(LIMIT), send_channel, pytest.raises(trio.BrokenResourceError):
            await websocket_feed(url(port))(send_channel)


# Arguments: each error at the call, before anything is opened, with the remedy.


@pytest.mark.parametrize(
    ("address", "remedy"),
    [
        ("http://host/", r"ws:// \(for http://\)"),
        ("host:80/path", r"takes a URL with ws://"),
        ("", "cannot be sent"),
        ("ws:///path", r"has no host; write ws://host/path"),
        ("ws://host/#part", r"write %23"),
        ("ws://host/a b", r"percent-encode"),
        ("ws://host/ä", r"percent-encode"),
        ("ws://host/a\r\nX: y", r"percent-encode"),
        ("ws://host:99999/", "[Pp]ort"),
    ],
)
def test_urls_that_cannot_be(address: str, remedy: str) -> None:
    with pytest.raises(ValueError, match=remedy):
        websocket_feed(address)


def test_the_message_about_a_url_has_no_secrets() -> None:
    with pytest.raises(ValueError, match="takes a URL") as caught:
        websocket_feed("https://user:secret@host/path?key=secret")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        ({"headers": {"a b": "c"}}, "'a b' is not the name"),
        ({"headers": {"a": "b\r\nc: d"}}, "value of the header 'a'"),
        ({"headers": {"a": "\u20ac"}}, "encode it"),
        ({"headers": {"Host": "b"}}, "leave it out"),
        ({"headers": [("Sec-WebSocket-Protocol", "b")]}, "subprotocols="),
        ({"subprotocols": ["a,b"]}, "'a,b' is not the name"),
        ({"ssl_context": ssl.create_default_context()}, "wss:// only"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], remedy: str) -> None:
    with pytest.raises(ValueError, match=remedy):
        websocket_feed("ws://host/", **options)


def test_subprotocols_are_not_one_string() -> None:
    with pytest.raises(TypeError, match=r"write \['v1'\]"):
        websocket_feed("ws://host/", subprotocols="v1")


def test_a_feed_is_a_value_that_shows_no_secrets() -> None:
    feed = websocket_feed("ws://user:secret@host:81/p?k=secret", headers={"Cookie": "secret"})
    assert repr(feed) == "websocket_feed('ws://host:81/p')"
    again = websocket_feed("ws://user:secret@host:81/p?k=secret", headers={"Cookie": "secret"})
    assert feed == again
    assert hash(feed) == hash(again)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        feed.connect_timeout = 1  # type: ignore[misc]  # the mistake
