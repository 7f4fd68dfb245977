"""The corpus: hostile HTTP/2, where each frame may be right but there are far too many."""

from __future__ import annotations

import struct

from conversation import ANYTHING, Case, Check, answered, goaway, was_reset
from frames_h2 import (
    END_HEADERS,
    START,
    Code,
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
from hostile_http2 import fatal, lenient

PROTOCOL = goaway(Code.PROTOCOL_ERROR)
CLOSED = goaway(Code.STREAM_CLOSED)
COMPRESSION = goaway(Code.COMPRESSION_ERROR)
CALM = goaway(Code.ENHANCE_YOUR_CALM)


HTTP2_FLOOD_CASES: list[Case] = [
    Case(
        "http2: 1,100 PRIORITY frames",
        (
            START,
            *[frame(Type.PRIORITY, bytes(5), stream=2 * i + 1) for i in range(1100)],
            get(9001),
        ),
        answered(9001, 200) | CALM,
        None,
    ),
    Case(
        "http2: PRIORITY in a circle",
        (
            START,
            *[
                frame(Type.PRIORITY, struct.pack(">IB", (2 * i + 3) % 40 + 1, 7), stream=2 * i + 1)
                for i in range(20)
            ],
            get(101),
        ),
        answered(101, 200) | CALM | PROTOCOL,
        None,
    ),
    fatal(
        "1,000 times HEADERS and RST_STREAM",
        b"".join(get(2 * i + 1, b"/tick") + reset(2 * i + 1) for i in range(1000)),
        check=CALM,
    ),
    fatal(
        "1,000 times HEADERS and a frame that makes the server reset",
        b"".join(post(2 * i + 1) + window_update(2 * i + 1, 0) for i in range(1000)),
        check=CALM | PROTOCOL,
    ),
    fatal(
        "CONTINUATION without an end",
        headers(1, pseudo(), end_headers=False)
        + frame(Type.CONTINUATION, b"\0\x01a\x01b" * 2, stream=1) * 5_000,
        check=CALM | PROTOCOL,
    ),
    fatal(
        "empty CONTINUATION without an end",
        headers(1, pseudo(), end_headers=False) + frame(Type.CONTINUATION, stream=1) * 20_000,
        check=CALM | PROTOCOL,
    ),
    lenient(
        "a header list of 100 kB",
        headers(1, pseudo(), end_headers=False)
        + b"".join(
            frame(
                Type.CONTINUATION,
                literal(((b"a%d" % i, bytes([98]) * 16_000),)),
                stream=1,
                flags=END_HEADERS if i == 6 else 0,
            )
            for i in range(7)
        ),
        check=answered(1, 431) | was_reset(1, Code.ENHANCE_YOUR_CALM, Code.PROTOCOL_ERROR),
        or_fatal=CALM | COMPRESSION | PROTOCOL,
    ),
    fatal(
        "a bomb of HPACK",
        frame(
            Type.HEADERS,
            literal(pseudo()) + b"\x40\x01a\x7f\x81\x1e" + b"b" * 4_000 + b"\xbe" * 11_000,
            stream=1,
            flags=END_HEADERS,
        ),
        check=CALM | COMPRESSION | PROTOCOL,
    ),
    Case(
        "http2: 300 streams at once",
        (
            START,
            *[get(2 * i + 1, b"/tick") for i in range(300)],
            *[reset(2 * i + 1) for i in range(100)],
        ),
        Check("a refused stream", lambda answer: Code.REFUSED_STREAM in answer.h2.resets.values())
        | PROTOCOL
        | CALM,
        None,
    ),
    lenient("10,000 PINGs", frame(Type.PING, bytes(8)) * 10_000, check=ANYTHING, or_fatal=CALM),
    lenient("10,000 SETTINGS", settings() * 10_000, check=ANYTHING, or_fatal=CALM),
    lenient(
        "acknowledgements of nothing",
        settings(ack=True) * 100,
        check=ANYTHING,
        or_fatal=CALM | PROTOCOL,
    ),
    lenient(
        "10,000 empty DATA frames",
        post(1) + data(1) * 10_000 + data(1, end=True),
        check=answered(1, 200) | was_reset(1, Code.ENHANCE_YOUR_CALM),
        or_fatal=CALM,
    ),
    lenient(
        "10,000 WINDOW_UPDATEs of 1", window_update(0, 1) * 10_000, check=ANYTHING, or_fatal=CALM
    ),
    lenient(
        "10,000 unknown frames", frame(Type.UNKNOWN, b"a") * 10_000, check=ANYTHING, or_fatal=CALM
    ),
    lenient(
        "a setting a thousand times",
        settings(*[(Setting.HEADER_TABLE_SIZE, i % 2 * 4096) for i in range(1000)]),
        check=ANYTHING,
        or_fatal=CALM,
    ),
    lenient(
        "a header table of 4 GB",
        settings((Setting.HEADER_TABLE_SIZE, 2**32 - 1), (Setting.MAX_HEADER_LIST_SIZE, 0)),
        get(1),
        check=answered(1, 200),
    ),
]
