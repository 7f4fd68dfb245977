"""The corpus: hostile HTTP/2, frame by frame."""

from __future__ import annotations

import struct

from conversation import (
    ANYTHING,
    Case,
    Check,
    Step,
    Until,
    answered,
    goaway,
    was_reset,
)
from frames_h2 import (
    ACK,
    END_HEADERS,
    END_STREAM,
    PADDED,
    PRIORITISED,
    START,
    Code,
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
    window_update,
)

PROTOCOL = goaway(Code.PROTOCOL_ERROR)
SIZE = goaway(Code.FRAME_SIZE_ERROR)
FLOW = goaway(Code.FLOW_CONTROL_ERROR)
CLOSED = goaway(Code.STREAM_CLOSED)
COMPRESSION = goaway(Code.COMPRESSION_ERROR)
CALM = goaway(Code.ENHANCE_YOUR_CALM)
SERVED = answered(101, 200)


def fatal(name: str, *steps: Step, check: Check) -> Case:
    """Make a case of a connection error: the GOAWAY says which, then the connection is closed."""
    return Case(f"http2: {name}", (START, *steps), check)


def lenient(name: str, *steps: Step, check: Check, or_fatal: Check | None = None) -> Case:
    """Make a case of a stream error, after which another stream is served.

    It may be taken for a connection error (RFC 9113 5.4.1) if *or_fatal* says so.
    """
    goes_on = check & SERVED
    whole = goes_on if or_fatal is None else goes_on | or_fatal
    return Case(f"http2: {name}", (START, *steps, get(101)), whole, closes=None)


def _malformed(name: str, fields: Fields, *more: bytes, end: bool = True) -> Case:
    """Make a case of a request that is malformed (RFC 9113 8.1.1)."""
    return lenient(
        name,
        headers(1, fields, end=end),
        *more,
        check=was_reset(1, Code.PROTOCOL_ERROR) | answered(1, 400),
        or_fatal=PROTOCOL,
    )


def _without(name: bytes) -> Fields:
    return tuple(field for field in pseudo() if field[0] != name)


def _number(value: int) -> bytes:
    return struct.pack(">I", value)


MALFORMED = [
    *(
        _malformed(f"no {name.decode()}", _without(name))
        for name in (b":method", b":scheme", b":path")
    ),
    _malformed("no header at all", ()),
    _malformed("two :paths", (*pseudo(), (b":path", b"/hello"))),
    _malformed("an empty :path", pseudo(b"")),
    _malformed("a :path without a slash", pseudo(b"hello")),
    _malformed("a :path that is not ASCII", pseudo(b"/hell\xc3\xb6")),
    _malformed("a :path with a NUL", pseudo(b"/hel\0lo")),
    _malformed("a :path with a space", pseudo(b"/hel lo")),
    _malformed("a :path with a line end", pseudo(b"/hello HTTP/1.1\r\nA: b")),
    _malformed("a :method that is not ASCII", pseudo(method=b"G\xcb\x99T")),
    _malformed("a :method with a space", pseudo(method=b"GET /hello")),
    _malformed("an empty :method", pseudo(method=b"")),
    _malformed("a :status in a request", (*pseudo(), (b":status", b"200"))),
    _malformed("a pseudo-header that nobody knows", (*pseudo(), (b":nonsense", b"1"))),
    _malformed("a pseudo-header after the others", ((b"a", b"b"), *pseudo())),
    _malformed("a :protocol without CONNECT", (*pseudo(), (b":protocol", b"websocket"))),
    _malformed(
        "CONNECT for a WebSocket without a :path",
        (
            (b":method", b"CONNECT"),
            (b":scheme", b"http"),
            (b":authority", b"localhost"),
            (b":protocol", b"websocket"),
            (b"sec-websocket-version", b"13"),
        ),
        end=False,
    ),
    _malformed("CONNECT with a :path and no :protocol", pseudo(method=b"CONNECT"), end=False),
    _malformed("an upper-case header name", (*pseudo(), (b"Accept", b"a"))),
    _malformed("an empty header name", (*pseudo(), (b"", b"a"))),
    _malformed("a header name with a colon", (*pseudo(), (b"a:b", b"c"))),
    _malformed("a header name with a line end", (*pseudo(), (b"a\r\nb", b"c"))),
    _malformed("a header name that is not ASCII", (*pseudo(), (b"n\xc3\xa4me", b"c"))),
    _malformed("a value with a line end", (*pseudo(), (b"a", b"b\r\nc: d"))),
    _malformed("a value with a NUL", (*pseudo(), (b"a", b"b\0c"))),
    *(
        _malformed(f"{name.decode()} in HTTP/2", (*pseudo(), (name, value)))
        for name, value in {
            b"connection": b"close",
            b"transfer-encoding": b"chunked",
            b"upgrade": b"websocket",
            b"te": b"gzip",
        }.items()
    ),
    _malformed(
        "a content-length that is no number",
        (*pseudo(method=b"POST"), (b"content-length", b"abc")),
        data(1, b"abc", end=True),
        end=False,
    ),
    _malformed(
        "a negative content-length",
        (*pseudo(method=b"POST"), (b"content-length", b"-3")),
        data(1, b"abc", end=True),
        end=False,
    ),
    _malformed(
        "two content-lengths",
        (*pseudo(b"/echo", b"POST"), (b"content-length", b"3"), (b"content-length", b"4")),
        data(1, b"abc", end=True),
        end=False,
    ),
    _malformed(
        "less than the content-length",
        (*pseudo(b"/echo", b"POST"), (b"content-length", b"9")),
        end=True,
    ),
    lenient(
        "more than the content-length",
        post(1, b"/echo", (b"content-length", b"3")),
        data(1, b"abcdef", end=True),
        check=was_reset(1, Code.PROTOCOL_ERROR) | answered(1, 400),
        or_fatal=PROTOCOL,
    ),
    lenient(
        "trailers with a pseudo-header",
        post(1),
        data(1, b"abc"),
        headers(1, ((b":path", b"/hello"),)),
        check=was_reset(1, Code.PROTOCOL_ERROR),
        or_fatal=PROTOCOL,
    ),
    lenient(
        "trailers that do not end the stream",
        post(1),
        data(1, b"abc"),
        headers(1, ((b"a", b"b"),), end=False),
        check=was_reset(1, Code.PROTOCOL_ERROR),
        or_fatal=PROTOCOL,
    ),
    lenient(
        "an ordinary CONNECT",
        headers(1, ((b":method", b"CONNECT"), (b":authority", b"example.org:443")), end=False),
        check=answered(1, 400, 404, 405, 501)
        | was_reset(1, Code.PROTOCOL_ERROR, Code.CONNECT_ERROR),
        or_fatal=PROTOCOL,
    ),
    lenient(
        "an extended CONNECT for what nobody knows",
        headers(1, (*pseudo(method=b"CONNECT"), (b":protocol", b"n\xc3\xb6nsense")), end=False),
        check=answered(1, 400, 404, 405, 501) | was_reset(1, Code.PROTOCOL_ERROR),
        or_fatal=PROTOCOL,
    ),
]

FRAMES = [
    fatal("DATA on stream 0", data(0, b"abc"), check=PROTOCOL),
    fatal("HEADERS on stream 0", get(0), check=PROTOCOL),
    fatal("PRIORITY on stream 0", frame(Type.PRIORITY, bytes(5)), check=PROTOCOL),
    fatal("RST_STREAM on stream 0", reset(0), check=PROTOCOL),
    fatal("CONTINUATION on stream 0", frame(Type.CONTINUATION, b""), check=PROTOCOL),
    fatal("SETTINGS on stream 1", frame(Type.SETTINGS, stream=1), check=PROTOCOL),
    fatal("PING on stream 1", frame(Type.PING, bytes(8), stream=1), check=PROTOCOL),
    fatal("GOAWAY on stream 1", frame(Type.GOAWAY, bytes(8), stream=1), check=PROTOCOL),
    fatal(
        "CONTINUATION without HEADERS",
        frame(Type.CONTINUATION, stream=1, flags=END_HEADERS),
        check=PROTOCOL,
    ),
    fatal(
        "PUSH_PROMISE by a client",
        frame(Type.PUSH_PROMISE, _number(2) + literal(pseudo()), stream=1, flags=END_HEADERS),
        check=PROTOCOL,
    ),
    fatal("an even stream", get(2), check=PROTOCOL),
    fatal("a lower stream than before", get(5), get(3), check=PROTOCOL | CLOSED),
    fatal("DATA on an idle stream", data(1, b"abc"), check=PROTOCOL),
    fatal("RST_STREAM on an idle stream", reset(1), check=PROTOCOL),
    fatal("WINDOW_UPDATE on an idle stream", window_update(1, 1), check=PROTOCOL),
    fatal("a preface twice", START, check=PROTOCOL | SIZE),
    fatal(
        "HTTP/1.1 in HTTP/2",
        b"GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n" * 10,
        check=PROTOCOL | SIZE,
    ),
    fatal(
        "a frame that is too long", frame(Type.DATA, bytes(16_385), stream=1), check=SIZE | PROTOCOL
    ),
    fatal(
        "a frame of 16 MB, announced",
        post(1),
        frame(Type.DATA, bytes(100), stream=1, length=2**24 - 1),
        check=SIZE,
    ),
    fatal("SETTINGS of five bytes", frame(Type.SETTINGS, bytes(5)), check=SIZE),
    fatal(
        "an acknowledgement with settings", frame(Type.SETTINGS, bytes(6), flags=ACK), check=SIZE
    ),
    fatal("ENABLE_PUSH of 2", settings((Setting.ENABLE_PUSH, 2)), check=PROTOCOL),
    fatal(
        "INITIAL_WINDOW_SIZE of 2**31", settings((Setting.INITIAL_WINDOW_SIZE, 2**31)), check=FLOW
    ),
    fatal("MAX_FRAME_SIZE of 1", settings((Setting.MAX_FRAME_SIZE, 1)), check=PROTOCOL),
    fatal("MAX_FRAME_SIZE of 2**24", settings((Setting.MAX_FRAME_SIZE, 2**24)), check=PROTOCOL),
    fatal(
        "ENABLE_CONNECT_PROTOCOL of 2",
        settings((Setting.ENABLE_CONNECT_PROTOCOL, 2)),
        check=PROTOCOL,
    ),
    fatal("PING of seven bytes", frame(Type.PING, bytes(7)), check=SIZE),
    fatal(
        "RST_STREAM of three bytes", post(1), frame(Type.RST_STREAM, bytes(3), stream=1), check=SIZE
    ),
    fatal("WINDOW_UPDATE of three bytes", frame(Type.WINDOW_UPDATE, bytes(3)), check=SIZE),
    fatal("GOAWAY of seven bytes", frame(Type.GOAWAY, bytes(7)), check=SIZE),
    lenient(
        "PRIORITY of four bytes",
        post(1),
        frame(Type.PRIORITY, bytes(4), stream=1),
        check=was_reset(1, Code.FRAME_SIZE_ERROR),
        or_fatal=SIZE,
    ),
    fatal(
        "HEADERS that are too short for their priority",
        frame(Type.HEADERS, b"\0", stream=1, flags=PRIORITISED | END_HEADERS),
        check=PROTOCOL | SIZE,
    ),
    fatal(
        "more padding than DATA",
        post(1),
        frame(Type.DATA, b"\x09abc", stream=1, flags=PADDED),
        check=PROTOCOL,
    ),
    fatal(
        "more padding than HEADERS",
        frame(Type.HEADERS, b"\xff" + literal(pseudo()), stream=1, flags=PADDED | END_HEADERS),
        check=PROTOCOL,
    ),
    fatal(
        "padding without its length",
        post(1),
        frame(Type.DATA, b"", stream=1, flags=PADDED),
        check=PROTOCOL | SIZE,
    ),
    fatal(
        "DATA in a header block",
        headers(1, pseudo(), end_headers=False),
        data(1, b"abc"),
        check=PROTOCOL,
    ),
    fatal(
        "PING in a header block",
        headers(1, pseudo(), end_headers=False),
        frame(Type.PING, bytes(8)),
        check=PROTOCOL,
    ),
    fatal(
        "another stream in a header block",
        headers(1, pseudo(), end_headers=False),
        frame(Type.CONTINUATION, stream=3, flags=END_HEADERS),
        check=PROTOCOL,
    ),
    fatal(
        "an unknown frame in a header block",
        headers(1, pseudo(), end_headers=False),
        frame(Type.UNKNOWN, b"abc"),
        check=PROTOCOL,
    ),
    lenient(
        "a stream that depends on itself",
        frame(
            Type.HEADERS,
            _number(1) + b"\x10" + literal(pseudo()),
            stream=1,
            flags=PRIORITISED | END_HEADERS | END_STREAM,
        ),
        check=was_reset(1, Code.PROTOCOL_ERROR) | answered(1, 200),
        or_fatal=PROTOCOL,
    ),
    lenient(
        "PRIORITY on itself",
        frame(Type.PRIORITY, _number(3) + b"\x10", stream=3),
        check=ANYTHING,
        or_fatal=PROTOCOL,
    ),
    lenient(
        "unknown frames",
        frame(Type.UNKNOWN, b"abc")
        + frame(Type.UNKNOWN, b"abc", stream=1, flags=0xFF)
        + frame(Type.ALTSVC, bytes(9))
        + frame(Type.PRIORITY_UPDATE, _number(1) + b"u=9"),
        check=ANYTHING,
    ),
    lenient("unknown settings", settings((0xFFFF, 7), (0, 0), (9, 2**32 - 1)), check=ANYTHING),
]

FLOW_CONTROL = [
    fatal("WINDOW_UPDATE of 0", window_update(0, 0), check=PROTOCOL),
    fatal(
        "a connection window of 2**31", window_update(0, 2**31 - 1), window_update(0, 1), check=FLOW
    ),
    lenient(
        "WINDOW_UPDATE of 0 on a stream",
        post(1),
        window_update(1, 0),
        check=was_reset(1, Code.PROTOCOL_ERROR),
        or_fatal=PROTOCOL,
    ),
    lenient(
        "a stream window of 2**31",
        post(1),
        window_update(1, 2**31 - 1),
        check=was_reset(1, Code.FLOW_CONTROL_ERROR),
        or_fatal=FLOW,
    ),
    fatal(
        "settings that make a stream window overflow",
        post(1),
        window_update(1, 2**30),
        settings((Setting.INITIAL_WINDOW_SIZE, 2**31 - 1)),
        check=FLOW,
    ),
    lenient(
        "more DATA than the window",
        post(1, b"/limited"),
        *[data(1, bytes(16_384))] * 300,
        check=was_reset(1, Code.FLOW_CONTROL_ERROR, Code.NO_ERROR),
        or_fatal=FLOW,
    ),
    lenient(
        "a window of 0",
        settings((Setting.INITIAL_WINDOW_SIZE, 0)),
        get(1),
        settings((Setting.INITIAL_WINDOW_SIZE, 65_535)),
        check=answered(1, 200),
    ),
    lenient(
        "a window below 0",
        get(1, b"/tick"),
        Until(Check("a tick", lambda a: bool(a.h2.body(1)))),
        settings((Setting.INITIAL_WINDOW_SIZE, 0)),
        reset(1),
        settings((Setting.INITIAL_WINDOW_SIZE, 65_535)),
        check=ANYTHING,
    ),
]

HTTP2_FRAME_CASES: list[Case] = [*MALFORMED, *FRAMES, *FLOW_CONTROL]
