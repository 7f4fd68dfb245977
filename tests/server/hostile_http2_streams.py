"""The corpus: hostile HTTP/2, where each frame may be right and the sequence of them is not."""

from __future__ import annotations

import attrs
from conversation import (
    ANYTHING,
    Case,
    Check,
    HangUp,
    Step,
    Until,
    answered,
    goaway,
    was_reset,
)
from frames_h2 import (
    END_HEADERS,
    START,
    Code,
    Type,
    data,
    frame,
    get,
    headers,
    literal,
    post,
    pseudo,
    reset,
    websocket,
    window_update,
)
from frames_ws import Op, WSAnswer, close, ws_frame
from hostile_http2 import fatal, lenient

PROTOCOL = goaway(Code.PROTOCOL_ERROR)
CLOSED = goaway(Code.STREAM_CLOSED)
COMPRESSION = goaway(Code.COMPRESSION_ERROR)
CALM = goaway(Code.ENHANCE_YOUR_CALM)


def _ended(stream: int) -> Until:
    """Wait until the server has ended *stream*."""
    return Until(
        Check(
            f"the end of stream {stream}",
            lambda answer: stream in answer.h2.ended | answer.h2.resets.keys(),
        )
    )


def _ws_code(stream: int, *codes: int) -> Check:
    """A Close frame came on a *stream* that is a WebSocket."""
    return Check(
        f"Close({codes}) on stream {stream}",
        lambda answer: WSAnswer.of(answer.h2.body(stream)).code in codes,
    )


def _websocket(name: str, *steps: Step, check: Check) -> Case:
    """Make a case of a WebSocket that fails, on a connection that goes on."""
    return attrs.evolve(lenient(f"WebSocket: {name}", *steps, check=check), records=(0, 1))


ACCEPTED = Until(Check("an accepted WebSocket", lambda answer: answer.h2.statuses.get(1) == 200))


HPACK = [
    fatal(
        "a header block of nonsense",
        frame(Type.HEADERS, b"\xff" * 50, stream=1, flags=END_HEADERS),
        check=COMPRESSION,
    ),
    fatal("index 0", frame(Type.HEADERS, b"\x80", stream=1, flags=END_HEADERS), check=COMPRESSION),
    fatal(
        "an index beyond the table",
        frame(Type.HEADERS, b"\xbf\x7f", stream=1, flags=END_HEADERS),
        check=COMPRESSION,
    ),
    fatal(
        "a table that is too large",
        frame(Type.HEADERS, b"\x3f\xe1\xff\x7f" + literal(pseudo()), stream=1, flags=END_HEADERS),
        check=COMPRESSION,
    ),
    fatal(
        "a bad Huffman code",
        frame(Type.HEADERS, b"\0\x84\xff\xff\xff\xff\x01a", stream=1, flags=END_HEADERS),
        check=COMPRESSION,
    ),
    fatal(
        "a string without its end",
        frame(Type.HEADERS, b"\0\x01a\x7f\xff\x01", stream=1, flags=END_HEADERS),
        check=COMPRESSION,
    ),
    fatal(
        "an integer without an end",
        frame(Type.HEADERS, b"\xff" + b"\x80" * 1000, stream=1, flags=END_HEADERS),
        check=COMPRESSION,
    ),
]

AFTER_THE_END = [
    lenient(
        "DATA after the response",
        post(1, b"/ignore"),
        _ended(1),
        data(1, b"abc"),
        data(1, b"def", end=True),
        check=answered(1, 200),
    ),
    lenient(
        "an end after the response",
        post(1, b"/ignore"),
        _ended(1),
        data(1, end=True),
        check=answered(1, 200),
    ),
    lenient(
        "trailers after the response",
        post(1, b"/ignore"),
        _ended(1),
        headers(1, ((b"a", b"b"),)),
        check=answered(1, 200),
    ),
    lenient(
        "RST_STREAM after the response",
        post(1, b"/ignore"),
        _ended(1),
        reset(1),
        check=answered(1, 200),
    ),
    lenient(
        "WINDOW_UPDATE after the response",
        get(1),
        _ended(1),
        window_update(1, 9),
        check=answered(1, 200),
    ),
    lenient(
        "PRIORITY after the response",
        get(1),
        _ended(1),
        frame(Type.PRIORITY, bytes(5), stream=1),
        check=answered(1, 200),
    ),
    lenient(
        "DATA after RST_STREAM",
        post(1),
        reset(1),
        data(1, b"abc", end=True),
        check=ANYTHING,
        or_fatal=CLOSED,
    ),
    lenient(
        "DATA after END_STREAM",
        post(1),
        data(1, b"abc", end=True),
        data(1, b"more"),
        check=was_reset(1, Code.STREAM_CLOSED) | answered(1, 200),
        or_fatal=CLOSED | PROTOCOL,
    ),
    lenient(
        "HEADERS after END_STREAM",
        get(1, b"/tick"),
        headers(1, pseudo()),
        check=was_reset(1, Code.STREAM_CLOSED),
        or_fatal=CLOSED | PROTOCOL,
    ),
    lenient(
        "HEADERS on a stream that was reset",
        post(1),
        reset(1),
        get(3),
        _ended(3),
        get(1),
        check=was_reset(1, Code.STREAM_CLOSED),
        or_fatal=CLOSED | PROTOCOL,
    ),
    fatal("a stream after an ended one, again", get(1), _ended(1), get(1), check=CLOSED | PROTOCOL),
    Case(
        "http2: a request before a GOAWAY",  # not hostile at all: this is how clients say goodbye
        (START, get(1), frame(Type.GOAWAY, bytes(8))),
        answered(1, 200),
        True,
        (0,),
    ),
    Case(
        "http2: requests after a GOAWAY",
        (START, frame(Type.GOAWAY, bytes(8)), get(1)),
        ANYTHING,
        True,
        (0,),
    ),
    Case(
        "http2: a GOAWAY with an error",
        (START, get(1, b"/tick"), frame(Type.GOAWAY, bytes(4) + b"\0\0\0\x02debug"), HangUp.FIN),
        ANYTHING,
        True,
        (0,),
    ),
]

ENDS = [
    Case("http2: a FIN after the preface", (START, HangUp.FIN), ANYTHING, True, (0,)),
    Case("http2: a FIN in a frame", (START, get(1)[:12], HangUp.FIN), ANYTHING, True, (0, 1)),
    Case(
        "http2: a FIN in a header block",
        (START, headers(1, pseudo(), end_headers=False), HangUp.FIN),
        ANYTHING,
        True,
        (0, 1),
    ),
    Case(
        "http2: a FIN in an upload",
        (START, post(1), data(1, b"abc"), HangUp.FIN),
        ANYTHING,
        True,
        (0,),
    ),
    Case(
        "http2: a reset in many streams",
        (
            START,
            *[get(2 * i + 1, b"/tick") for i in range(50)],
            Until(answered(1, 0) | Check("a tick", lambda answer: b"tick" in answer.data)),
            HangUp.RESET,
        ),
        ANYTHING,
        True,
        (0,),
    ),
    Case(
        "http2: an upload that stays away",
        (START, post(1)),
        answered(1, 408)
        | was_reset(1, Code.CANCEL, Code.NO_ERROR, Code.PROTOCOL_ERROR)
        | goaway(Code.NO_ERROR, Code.PROTOCOL_ERROR, Code.ENHANCE_YOUR_CALM),
        None,
        (0, 1),
        {"body_timeout": 0.2},
    ),
    Case(
        "http2: a header block that stays away",
        (START, headers(1, pseudo(), end_headers=False)),
        goaway(*Code),
        True,
        (0, 1),
        {"header_timeout": 0.2},
    ),
]

WEBSOCKETS = [
    _websocket(
        "an unmasked frame",
        websocket(1),
        ACCEPTED,
        data(1, ws_frame(Op.TEXT, b"a", masked=False)),
        check=_ws_code(1, 1002),
    ),
    _websocket(
        "bad UTF-8",
        websocket(1),
        ACCEPTED,
        data(1, ws_frame(Op.TEXT, b"\xff")),
        check=_ws_code(1, 1007),
    ),
    _websocket(
        "a bad opcode before the answer",
        websocket(1),
        data(1, ws_frame(3)),
        check=_ws_code(1, 1002) | was_reset(1, *Code) | answered(1, 400),
    ),
    _websocket("RST_STREAM", websocket(1), ACCEPTED, reset(1), check=ANYTHING),
    _websocket(
        "an END_STREAM without a Close",
        websocket(1),
        ACCEPTED,
        data(1, end=True),
        check=ANYTHING,
    ),
    _websocket(
        "DATA after the Close",
        websocket(1),
        ACCEPTED,
        data(1, close()),
        data(1, ws_frame(Op.TEXT, b"a")),
        data(1, end=True),
        check=_ws_code(1, 1000),
    ),
    _websocket(
        "bytes after a rejection",
        websocket(1, b"/nowhere"),
        _ended(1),
        data(1, b"a" * 100),
        data(1, end=True),
        check=answered(1, 403),
    ),
    _websocket(
        "a version of 12",
        headers(
            1,
            (
                *pseudo(b"/ws", b"CONNECT"),
                (b":protocol", b"websocket"),
                (b"sec-websocket-version", b"12"),
            ),
            end=False,
        ),
        check=answered(1, 400, 426),
    ),
]

HTTP2_STREAM_CASES: list[Case] = [*HPACK, *AFTER_THE_END, *ENDS, *WEBSOCKETS]
