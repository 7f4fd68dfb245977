"""Valid conversations in HTTP/1.1, HTTP/2 and WebSocket: what the fuzzer mutates."""

from __future__ import annotations

import struct
from typing import Literal

import attrs
import hpack
from conversation import Check, answered, contains, statuses, ws_closed
from frames_h2 import (
    END_HEADERS,
    END_STREAM,
    PADDED,
    PREFACE,
    PRIORITISED,
    START,
    Fields,
    Setting,
    Type,
    data,
    frame,
    get,
    headers,
    literal,
    post,
    pseudo,
    reset,
    settings,
    websocket,
    window_update,
)
from frames_ws import Op, close, upgrade, ws_frame

Kind = Literal["http1", "http2", "websocket"]
H2C = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk")


@attrs.frozen
class Talk:
    """One valid conversation.

    Attributes:
      name: of what it does.
      kind: the protocol.
      units: what is duplicated, swapped and lost as a whole: lines and frames.
      check: what comes back if nothing is changed.
    """

    name: str
    kind: Kind
    units: tuple[bytes, ...]
    check: Check


def _lines(*lines: bytes) -> tuple[bytes, ...]:
    return tuple(line + b"\r\n" for line in lines)


def _request(path: bytes, *extra: bytes, method: bytes = b"GET") -> tuple[bytes, ...]:
    return _lines(method + b" " + path + b" HTTP/1.1", b"Host: localhost", *extra, b"")


def _chunked(path: bytes, *extra: bytes) -> tuple[bytes, ...]:
    return _request(path, b"Transfer-Encoding: chunked", *extra, method=b"POST")


CHUNKS = (b"5\r\n", b"hello", b"\r\n", b"a;x=y\r\n", b"0123456789", b"\r\n", b"0\r\n")
LAST = _request(b"/hello", b"Connection: close")

HTTP1 = [
    Talk(
        "get", "http1", _request(b"/hello?a=b", b"Accept: */*", b"Cookie: a=b; c=d"), statuses(200)
    ),
    Talk(
        "three",
        "http1",
        _request(b"/hello") + _request(b"/nowhere") + LAST,
        statuses(200, 404, 200),
    ),
    Talk(
        "sized upload",
        "http1",
        (*_request(b"/echo", b"Content-Length: 11", method=b"POST"), b"hello ", b"world", *LAST),
        contains(b"world") & statuses(200, 200),
    ),
    Talk(
        "chunked upload",
        "http1",
        (*_chunked(b"/echo"), *CHUNKS, b"X-Trailer: a\r\n", b"\r\n", *LAST),
        contains(b"0123456789") & statuses(200, 200),
    ),
    Talk(
        "unread upload",
        "http1",
        (*_chunked(b"/ignore"), *CHUNKS, b"\r\n", *LAST),
        statuses(200, 200),
    ),
    Talk(
        "refused upload",
        "http1",
        (
            *_chunked(b"/limited"),
            *CHUNKS[:-1],
            b"ffff\r\n",
            bytes(65_535),
            b"\r\n",
            b"0\r\n",
            b"\r\n",
        ),
        statuses(413),
    ),
    Talk(
        "expectation",
        "http1",
        (
            *_request(b"/echo", b"Expect: 100-continue", b"Content-Length: 5", method=b"PUT"),
            b"hello",
        ),
        contains(b"hello") & statuses(200),
    ),
    Talk("stream", "http1", _request(b"/tick", b"Accept: text/event-stream"), contains(b"tick")),
    Talk(
        "old", "http1", _lines(b"GET /echo HTTP/1.0", b"Connection: keep-alive", b""), statuses(200)
    ),
    Talk("head", "http1", _request(b"/hello", method=b"HEAD"), statuses(200)),
    Talk("h2c", "http1", (*_request(b"/hello", *H2C), PREFACE, settings()), contains(b"HTTP/1.1 ")),
]


def _compressed(*blocks: Fields) -> tuple[bytes, ...]:
    """Encode as browsers do: with Huffman codes and the dynamic table."""
    encoder = hpack.Encoder()
    return tuple(
        frame(
            Type.HEADERS,
            encoder.encode(block),
            stream=2 * i + 1,
            flags=END_HEADERS | END_STREAM,
        )
        for i, block in enumerate(blocks)
    )


BROWSER = ((b"user-agent", b"Mozilla/5.0"), (b"accept", b"*/*"), (b"cookie", b"a=b"))
BLOCK = literal((*pseudo(), (b"a", b"b" * 50)))
PRIORITY = struct.pack(">IB", 0, 15)

HTTP2 = [
    Talk("get", "http2", (START, settings(ack=True), get(1)), answered(1, 200)),
    Talk(
        "three",
        "http2",
        (
            START,
            *_compressed(pseudo() + BROWSER, pseudo(b"/nowhere") + BROWSER, pseudo() + BROWSER),
        ),
        answered(1, 200) & answered(3, 404) & answered(5, 200),
    ),
    Talk(
        "upload",
        "http2",
        (START, post(1), data(1, b"hello "), data(1, b"world"), data(1, end=True)),
        answered(1, 200),
    ),
    Talk(
        "sized upload with trailers",
        "http2",
        (
            START,
            post(1, b"/echo", (b"content-length", b"10")),
            data(1, b"hello"),
            frame(Type.DATA, b"\x03hello" + bytes(3), stream=1, flags=PADDED),
            headers(1, ((b"x-trailer", b"a"),)),
        ),
        answered(1, 200),
    ),
    Talk(
        "large upload",
        "http2",
        (START, post(1), *[data(1, bytes(16_000))] * 4, data(1, end=True), get(3)),
        answered(1, 200) & answered(3, 200),
    ),
    Talk(
        "two uploads",
        "http2",
        (
            START,
            post(1),
            post(3, b"/ignore"),
            data(1, b"a"),
            data(3, b"b"),
            data(1, end=True),
            data(3, end=True),
            window_update(0, 9),
        ),
        answered(1, 200) & answered(3, 200),
    ),
    Talk(
        "refused upload",
        "http2",
        (START, post(1, b"/limited"), data(1, bytes(9000)), data(1, bytes(9000)), get(3)),
        answered(1, 413) & answered(3, 200),
    ),
    Talk(
        "continuation",
        "http2",
        (
            START,
            frame(Type.HEADERS, PRIORITY + BLOCK[:20], stream=1, flags=PRIORITISED | END_STREAM),
            frame(Type.CONTINUATION, BLOCK[20:40], stream=1),
            frame(Type.CONTINUATION, BLOCK[40:], stream=1, flags=END_HEADERS),
        ),
        answered(1, 200),
    ),
    Talk(
        "streams that are reset",
        "http2",
        (
            START,
            get(1, b"/tick"),
            get(3, b"/tick"),
            reset(1),
            window_update(3, 100),
            reset(3),
            get(5),
        ),
        answered(5, 200),
    ),
    Talk(
        "housekeeping",
        "http2",
        (
            START,
            settings((Setting.INITIAL_WINDOW_SIZE, 100_000), (Setting.HEADER_TABLE_SIZE, 0)),
            settings(ack=True),
            frame(Type.PING, b"12345678"),
            window_update(0, 1000),
            frame(Type.PRIORITY, PRIORITY, stream=9),
            get(1, b"/tick"),
            settings((Setting.INITIAL_WINDOW_SIZE, 0)),
            window_update(1, 3),
            settings((Setting.INITIAL_WINDOW_SIZE, 9), (Setting.MAX_FRAME_SIZE, 20_000)),
            frame(Type.UNKNOWN, b"abc", stream=1),
            get(3),
        ),
        answered(3, 200),
    ),
    Talk(
        "goodbye",
        "http2",
        (START, get(1), frame(Type.GOAWAY, bytes(8))),
        answered(1, 200),
    ),
    Talk(
        "WebSocket",
        "http2",
        (
            START,
            websocket(1),
            data(1, ws_frame(Op.TEXT, b"hi")),
            data(1, ws_frame(Op.TEXT, b"a", fin=False) + ws_frame(0, b"b")),
            data(1, close()),
            data(1, end=True),
            get(3),
        ),
        answered(1, 200) & answered(3, 200),
    ),
]

DEFLATE = b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"


def _handshake(path: bytes, *extra: bytes) -> tuple[bytes, ...]:
    return tuple(upgrade(path, *extra).splitlines(keepends=True))


def _websocket(name: str, *frames: bytes, extra: tuple[bytes, ...] = ()) -> Talk:
    """Make a conversation that ends with a Close."""
    return Talk(name, "websocket", (*_handshake(b"/ws", *extra), *frames, close()), ws_closed(1000))


WEBSOCKET = [
    _websocket("text", ws_frame(Op.TEXT, "grüße".encode()), ws_frame(Op.TEXT, b"x" * 200)),
    _websocket(
        "binary", ws_frame(Op.BINARY, bytes(range(256))), ws_frame(Op.BINARY, bytes(70_000))
    ),
    _websocket(
        "fragments",
        ws_frame(Op.TEXT, "grü".encode()[:3], fin=False),
        ws_frame(Op.PING, b"a"),
        ws_frame(Op.CONTINUATION, "grü".encode()[3:], fin=False),
        ws_frame(Op.PONG, b"b"),
        ws_frame(Op.CONTINUATION, "ße".encode()),
    ),
    _websocket("deflate", ws_frame(Op.TEXT, b"hi"), extra=(DEFLATE,)),
    _websocket("pongs", ws_frame(Op.PONG, b"a") * 3, ws_frame(Op.PING), ws_frame(Op.TEXT)),
    Talk("rejected", "websocket", _handshake(b"/nowhere"), statuses(403)),
]

TALKS: list[Talk] = [*HTTP1, *HTTP2, *WEBSOCKET]
