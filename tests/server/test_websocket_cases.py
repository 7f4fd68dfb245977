"""The cases of Autobahn's test suite that matter, by its numbers; scripts/autobahn runs all."""

from __future__ import annotations

import attrs
import pytest
from frames_ws import Op, close, ws_frame
from hypercorn.protocol.events import StreamClosed
from ws_fake import exchanges
from ws_kit import Talk, echo

EURO = "κόσμε € \U0001f40d".encode()
TEXT, BINARY, MORE, PING, PONG = Op.TEXT, Op.BINARY, Op.CONTINUATION, Op.PING, Op.PONG
SURROGATE = b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited"


@attrs.frozen
class Case:
    """What the client sends, and what an echo answers.

    Attributes:
      number: Autobahn's.
      data: the frames of the client.
      frames: those of the server, except for the Close.
      code: of the server's Close; None if there is none.
      heard: the code that the application hears; the server's if not given.
    """

    number: str
    data: bytes
    frames: list[tuple[int, bytes]]
    code: int | None
    heard: int | None = None


def echoes(number: str, op: int, size: int) -> Case:
    payload = b"*" * size
    return Case(number, ws_frame(op, payload) + close(), [(op, payload)], 1000)


def fails(number: str, *data: bytes, code: int = 1002, first: bytes = b"") -> Case:
    frames: list[tuple[int, bytes]] = [(TEXT, first)] if first else []
    return Case(number, b"".join(data), frames, code)


def closes(number: str, code: int | None, reason: bytes = b"") -> Case:
    heard = 1005 if code is None else code
    return Case(number, close(code, reason), [], heard)


def says(number: str, *pieces: bytes, op: int = TEXT) -> Case:
    """Give the case of a fragmented message, which is echoed in one piece."""
    whole = (op, b"".join(pieces))
    return Case(number, fragments(*pieces, op=op) + close(), [whole], 1000)


def fragments(*pieces: bytes, op: int = TEXT) -> bytes:
    last = len(pieces) - 1
    return b"".join(
        ws_frame(MORE if i else op, piece, fin=i == last) for i, piece in enumerate(pieces)
    )


def each_byte(data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]


HELLO = ws_frame(TEXT, b"hello")

CASES = [
    # 1: framing.
    *(echoes(f"1.1.{i}", TEXT, n) for i, n in enumerate([0, 125, 126, 127, 128, 65535, 65536], 1)),
    *(
        echoes(f"1.2.{i}", BINARY, n)
        for i, n in enumerate([0, 125, 126, 127, 128, 65535, 65536], 1)
    ),
    # 2: pings and pongs.
    Case("2.1", ws_frame(PING) + close(), [(PONG, b"")], 1000),
    Case("2.3", ws_frame(PING, b"\x00\xff\xfe") + close(), [(PONG, b"\x00\xff\xfe")], 1000),
    Case("2.4", ws_frame(PING, b"\xfe" * 125) + close(), [(PONG, b"\xfe" * 125)], 1000),
    fails("2.5", ws_frame(PING, b"\xfe" * 126)),
    Case("2.7", ws_frame(PONG) + close(), [], 1000),
    Case("2.8", ws_frame(PONG, b"unsolicited") + close(), [], 1000),
    Case(
        "2.9",
        ws_frame(PONG, b"unsolicited") + ws_frame(PING, b"ping") + close(),
        [(PONG, b"ping")],
        1000,
    ),
    Case(
        "2.10",
        b"".join(ws_frame(PING, b"%d" % i) for i in range(10)) + close(),
        [(PONG, b"%d" % i) for i in range(10)],
        1000,
    ),
    # 3: reserved bits.
    *(fails(f"3.{rsv}", ws_frame(TEXT, b"x", rsv=rsv)) for rsv in range(1, 5)),
    fails("3.5", ws_frame(BINARY, b"\xff", rsv=5)),
    fails("3.6", ws_frame(PING, b"x", rsv=6)),
    fails("3.7", ws_frame(Op.CLOSE, b"\x03\xe8", rsv=7)),
    # 4: reserved opcodes.
    *(fails(f"4.1.{op - 2}", ws_frame(op, b"x")) for op in range(3, 8)),
    *(fails(f"4.2.{op - 10}", ws_frame(op, b"x")) for op in range(11, 16)),
    # 5: fragments.
    fails("5.1", ws_frame(PING, b"frag", fin=False), ws_frame(MORE, b"ment")),
    fails("5.2", ws_frame(PONG, b"frag", fin=False), ws_frame(MORE, b"ment")),
    says("5.3", b"frag", b"ment"),
    Case(
        "5.6",
        ws_frame(TEXT, b"frag", fin=False)
        + ws_frame(PING, b"ping")
        + ws_frame(MORE, b"ment")
        + close(),
        [(PONG, b"ping"), (TEXT, b"fragment")],
        1000,
    ),
    fails("5.9", ws_frame(MORE, b"x"), HELLO),
    fails("5.10", ws_frame(MORE, b"x", fin=False), HELLO),
    fails("5.15", fragments(b"frag", b"ment"), ws_frame(MORE, b"x"), first=b"fragment"),
    fails("5.18", ws_frame(TEXT, b"frag", fin=False), HELLO),
    says("5.20", *each_byte(b"fragment"), op=BINARY),
    # 6: UTF-8.
    Case("6.1.1", ws_frame(TEXT) + close(), [(TEXT, b"")], 1000),
    says("6.1.2", b"", b"", b""),
    says("6.1.3", b"", b"middle", b""),
    Case("6.2.1", ws_frame(TEXT, EURO) + close(), [(TEXT, EURO)], 1000),
    says("6.2.3", *each_byte(EURO)),
    fails("6.3.1", ws_frame(TEXT, SURROGATE), code=1007),
    fails("6.3.2", fragments(*each_byte(SURROGATE)), code=1007),
    # It fails as soon as it is certain, not with the end of the message.
    fails("6.4.1", ws_frame(TEXT, SURROGATE, fin=False), code=1007),
    fails("6.4.3", ws_frame(TEXT, SURROGATE, length=2 * len(SURROGATE)), code=1007),
    Case("6.7.1", ws_frame(TEXT, b"\x00") + close(), [(TEXT, b"\x00")], 1000),
    Case(
        "6.9.4", ws_frame(TEXT, b"\xf4\x8f\xbf\xbf") + close(), [(TEXT, b"\xf4\x8f\xbf\xbf")], 1000
    ),
    *(
        fails(f"6.{number}", ws_frame(TEXT, data), code=1007)
        for number, data in [
            ("6.1", b"\xce"),
            ("6.3", b"\xce\xba\xe1"),
            ("8.1", b"\xf8\x88\x80\x80\x80"),
            ("10.1", b"\xf7\xbf\xbf\xbf"),
            ("11.5", b"\xf4\x90\x80\x80"),
            ("12.1", b"\x80"),
            ("14.1", b"\xc0"),
            ("16.1", b"\xed\xa0\x80"),
            ("18.1", b"\xc0\xaf"),
            ("20.1", b"\xed\xae\x80\xed\xb0\x80"),
        ]
    ),
    # 7: closing.
    Case("7.1.1", HELLO + close(), [(TEXT, b"hello")], 1000),
    Case("7.1.2", close() + close(), [], 1000),
    Case("7.1.3", close() + ws_frame(PING), [], 1000),
    Case("7.1.4", close() + HELLO, [], 1000),
    Case("7.1.5", ws_frame(TEXT, b"frag", fin=False) + close() + ws_frame(MORE, b"x"), [], 1000),
    closes("7.3.1", None),
    fails("7.3.2", ws_frame(Op.CLOSE, b"a")),
    closes("7.3.3", 1000),
    closes("7.3.4", 1000, b"reason"),
    closes("7.3.5", 1000, b"x" * 123),
    fails("7.3.6", ws_frame(Op.CLOSE, b"\x03\xe8" + b"x" * 124)),
    fails("7.5.1", close(1000, SURROGATE), code=1007),
    *(
        closes(f"7.7.{i}", code)
        for i, code in enumerate(
            [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999], 1
        )
    ),
    *(
        fails(f"7.9.{i}", close(code))
        for i, code in enumerate([0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999], 1)
    ),
    fails("7.13.1", close(5000)),
    fails("7.13.2", close(65535)),
    # 9: large messages.
    echoes("9.1.3", TEXT, 1024 * 1024),
    says("9.4.1", *(b"x" * 64 for _ in range(1024)), op=BINARY),
    # 10: a message in many segments of the network.
    echoes("10.1.1", TEXT, 65536),
    # Not Autobahn's: frames that are not as short as they can be, and not masked.
    fails("length in 2 bytes", ws_frame(TEXT, b"x", width=2)),
    fails("length in 8 bytes", ws_frame(TEXT, b"x" * 200, width=8)),
    fails("length of 2**63", ws_frame(TEXT, b"x", length=2**63)),
    fails("not masked", ws_frame(TEXT, b"x", masked=False)),
]


@pytest.mark.parametrize("segment", [None, 1300], ids=["whole", "in segments"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.number)
async def test_case(case: Case, segment: int | None) -> None:
    app = Talk(echo)
    step = segment or len(case.data)
    async with exchanges() as begin:
        exchange = await begin(app)
        for start in range(0, len(case.data), step):
            await exchange.exchange.receive_data(case.data[start : start + step])
    answer = exchange.answer
    # Pongs may overtake what the application still has to echo.
    frames = [frame for frame in answer.frames if frame[0] != Op.CLOSE]
    assert sorted(frames) == sorted(case.frames)
    assert (answer.code, answer.rest, answer.faults) == (case.code, b"", [])
    assert app.heard[-1]["code"] == (case.code if case.heard is None else case.heard)
    assert exchange.events[-1] == StreamClosed(1)
