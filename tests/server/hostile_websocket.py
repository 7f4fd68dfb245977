"""The corpus: hostile WebSocket handshakes and frames."""

from __future__ import annotations

import zlib

from conversation import (
    ANYTHING,
    SWITCHED,
    Case,
    Check,
    HangUp,
    Step,
    Until,
    contains,
    one_by_one,
    status,
    ws_closed,
)
from frames_ws import Op, close, upgrade, ws_frame

WAIT = Until(SWITCHED | status(400, 403, 404, 426))
TOO_BIG = {"websocket_max_message_size": 1000}
REFUSED = status(400)


def _handshake(name: str, *steps: Step, check: Check = REFUSED) -> Case:
    """Make a case of a handshake that is refused, and then closed."""
    return Case(f"websocket: {name}", steps, check)


def _violation(name: str, *frames: Step, code: int = 1002, **options: object) -> Case:
    """Make a case of frames that the server answers with a Close of *code*."""
    return Case(f"websocket: {name}", (upgrade(), WAIT, *frames), ws_closed(code), options=options)


def _echoed(*payloads: bytes) -> Check:
    return Check(
        f"echoes of {payloads}",
        lambda answer: (
            [p for op, p in answer.ws.frames if op in (Op.TEXT, Op.BINARY)] == list(payloads)
        ),
    )


def _pongs(count: int) -> Check:
    return Check(f"{count} pongs", lambda answer: len(answer.ws.payloads(Op.PONG)) == count)


def _bomb(size: int) -> bytes:
    compressor = zlib.compressobj(9, wbits=-15)
    return compressor.compress(bytes(size)) + compressor.flush(zlib.Z_SYNC_FLUSH)[:-4]


HANDSHAKES = [
    _handshake("no key", upgrade(leave_out=(b"sec-websocket-key",))),
    _handshake("two keys", upgrade(b"/ws", b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==")),
    _handshake(
        "a key of 4 bytes",
        upgrade(b"/ws", b"Sec-WebSocket-Key: AAAAAA==", leave_out=(b"sec-websocket-key",)),
    ),
    _handshake(
        "a key that is no base64",
        upgrade(b"/ws", b"Sec-WebSocket-Key: !", leave_out=(b"sec-websocket-key",)),
    ),
    _handshake(
        "a key that is not ASCII",
        upgrade(b"/ws", b"Sec-WebSocket-Key: \xff\xfe", leave_out=(b"sec-websocket-key",)),
    ),
    _handshake(
        "no version", upgrade(leave_out=(b"sec-websocket-version",)), check=status(400, 426)
    ),
    _handshake(
        "version 12",
        upgrade(b"/ws", b"Sec-WebSocket-Version: 12", leave_out=(b"sec-websocket-version",)),
        check=status(400, 426)
        & Check("the right version", lambda a: b"sec-websocket-version: 13" in a.data.lower()),
    ),
    _handshake(
        "a version that is not ASCII",
        upgrade(b"/ws", b"Sec-WebSocket-Version: \xff", leave_out=(b"sec-websocket-version",)),
        check=status(400, 426),
    ),
    _handshake(
        "a subprotocol that is not ASCII", upgrade(b"/ws", b"Sec-WebSocket-Protocol: \xff\xfe")
    ),
    _handshake(
        "a Connection that is not ASCII",
        upgrade(b"/ws", b"Connection: \xff"),
        check=REFUSED | SWITCHED & ws_closed(1002) | status(200, 404),
    ),
    _handshake("a body with a Content-Length", upgrade(b"/ws", b"Content-Length: 5") + b"abcde"),
    _handshake(
        "a body in chunks",
        upgrade(b"/ws", b"Transfer-Encoding: chunked") + b"5\r\nabcde\r\n0\r\n\r\n",
    ),
    _handshake("a body that does not come", upgrade(b"/ws", b"Content-Length: 5"), HangUp.FIN),
    Case(
        "websocket: HTTP/1.0",
        (upgrade(version=b"1.0"),),
        status(400, 404, 426),
        records=(0, 1),
    ),
    Case("websocket: POST", (upgrade(method=b"POST"),), status(400, 404, 405, 426), None, (0, 1)),
    Case(
        "websocket: no Connection",
        (upgrade(leave_out=(b"connection",)),),
        status(200, 400, 404, 426),
        None,
        (0, 1),
    ),
    Case(
        "websocket: bytes after a rejection",
        (upgrade(b"/nowhere"), WAIT, b"a" * 100, ws_frame(Op.TEXT, b"a")),
        status(403),
        True,
        (0, 1),
    ),
    Case(
        "websocket: bytes before a rejection",
        (upgrade(b"/nowhere") + ws_frame(Op.TEXT, b"a") * 10,),
        status(400, 403),
        True,
        (0, 1),
    ),
    Case(
        "websocket: a request after a rejection",
        (upgrade(b"/nowhere"), WAIT, upgrade()),
        status(403),
        True,
        (0, 1),
    ),
    *(
        Case(
            f"websocket: extensions that are {what}",
            (
                upgrade(b"/ws", b"Sec-WebSocket-Extensions: " + value),
                WAIT,
                ws_frame(Op.TEXT, b"hi"),
                close(),
            ),
            status(400) | ws_closed(1000) & _echoed(b"hi"),
            True,
            (0, 1),
        )
        for what, value in {
            "not ASCII": b"\xff\xfe; \xfd=1",
            "out of range": b"permessage-deflate; server_max_window_bits=99",
            "no numbers": b"permessage-deflate; client_max_window_bits=abc",
            "twice the same": b"permessage-deflate; a=9; a=10",
            "nonsense": b';;=,,"',
        }.items()
    ),
    Case(
        "websocket: one byte after the handshake",
        (upgrade() + b"\x81", WAIT, ws_frame(Op.TEXT, b"hi")[1:], Until(contains(b"hi")), close()),
        _echoed(b"hi") & ws_closed(1000),
        True,
        (0,),
    ),
    Case(
        "websocket: one bad byte after the handshake",
        (upgrade() + b"x", WAIT, b"\x80" + bytes(20)),
        ws_closed(1002) | status(400),
    ),
    Case(
        "websocket: frames with the handshake",
        (upgrade() + ws_frame(Op.TEXT, b"hi") + close(),),
        _echoed(b"hi") & ws_closed(1000),
        True,
        (0,),
    ),
    Case(
        "websocket: a bad frame with the handshake",
        (upgrade() + ws_frame(3, b"hi"),),
        ws_closed(1002),
    ),
    Case("websocket: a reset with the handshake", (upgrade(), HangUp.RESET), ANYTHING, True, (0,)),
]

FRAMES = [
    _violation("an unmasked frame", ws_frame(Op.TEXT, b"hi", masked=False)),
    _violation("an unmasked Close", ws_frame(Op.CLOSE, b"\x03\xe8", masked=False)),
    *(_violation(f"opcode {op}", ws_frame(op, b"hi")) for op in (3, 7, 11, 15)),
    *(
        _violation(f"reserved bits {rsv:03b}", ws_frame(Op.TEXT, b"hi", rsv=rsv))
        for rsv in (1, 2, 4, 7)
    ),
    _violation("a fragmented PING", ws_frame(Op.PING, b"hi", fin=False)),
    _violation("a fragmented Close", ws_frame(Op.CLOSE, b"\x03\xe8", fin=False)),
    _violation("a PING of 126 bytes", ws_frame(Op.PING, bytes(126))),
    _violation("a Close of 126 bytes", ws_frame(Op.CLOSE, b"\x03\xe8" + bytes(124))),
    _violation("a continuation of nothing", ws_frame(Op.CONTINUATION, b"hi")),
    _violation(
        "a new message in an unfinished one",
        ws_frame(Op.TEXT, b"a", fin=False) + ws_frame(Op.TEXT, b"b"),
    ),
    _violation(
        "a continuation after the last",
        ws_frame(Op.TEXT, b"a", fin=False)
        + ws_frame(Op.CONTINUATION, b"b")
        + ws_frame(Op.CONTINUATION, b"c"),
    ),
    _violation("a length of 2 bytes that needs none", ws_frame(Op.TEXT, b"hi", width=2)),
    _violation("a length of 8 bytes that needs 2", ws_frame(Op.TEXT, bytes(300), width=8)),
    _violation("a length of more than 63 bits", ws_frame(Op.BINARY, bytes(50), length=2**63 + 5)),
    _violation("HTTP in a WebSocket", b"GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    _violation("bad UTF-8", ws_frame(Op.TEXT, b"\xff\xfe"), code=1007),
    _violation("half a character", ws_frame(Op.TEXT, b"\xe2\x82"), code=1007),
    _violation("a surrogate", ws_frame(Op.TEXT, b"\xed\xa0\x80"), code=1007),
    _violation("an overlong character", ws_frame(Op.TEXT, b"\xc0\xaf"), code=1007),
    _violation(
        "bad UTF-8 in a fragment",
        ws_frame(Op.TEXT, b"a", fin=False) + ws_frame(Op.CONTINUATION, b"\xff"),
        code=1007,
    ),
    _violation(
        "half a character at the end of fragments",
        ws_frame(Op.TEXT, b"\xe2", fin=False) + ws_frame(Op.CONTINUATION, b"\x82"),
        code=1007,
    ),
    _violation("a Close of one byte", ws_frame(Op.CLOSE, b"\x03")),
    *(
        _violation(f"a Close with {code}", close(code))
        for code in (0, 999, 1004, 1005, 1006, 1015, 2999, 5000, 65_535)
    ),
    Case(
        "websocket: a Close with bad UTF-8",
        (upgrade(), WAIT, close(1000, b"\xff")),
        ws_closed(1007, 1002),
    ),
    _violation("a message that is too big", ws_frame(Op.BINARY, bytes(1001)), code=1009, **TOO_BIG),
    _violation(
        "a message that is too big, announced",
        ws_frame(Op.BINARY, bytes(2000), length=2**40),
        code=1009,
        **TOO_BIG,
    ),
    _violation(
        "fragments that are too big together",
        ws_frame(Op.BINARY, bytes(400), fin=False),
        ws_frame(0, bytes(400), fin=False),
        ws_frame(0, bytes(400), fin=False),
        code=1009,
        **TOO_BIG,
    ),
    _violation(
        "a text of many bytes that is too big",
        ws_frame(Op.TEXT, "\u20ac".encode() * 400),
        code=1009,
        **TOO_BIG,
    ),
    _violation(
        "a stream of too big messages",
        *[ws_frame(Op.BINARY, bytes(60_000))] * 20,
        code=1009,
        **TOO_BIG,
    ),
    Case(
        "websocket: a bomb of deflate",
        (
            upgrade(b"/ws", b"Sec-WebSocket-Extensions: permessage-deflate"),
            WAIT,
            ws_frame(Op.BINARY, _bomb(10_000_000), rsv=4),
        ),
        ws_closed(1002, 1009),
        options=TOO_BIG,
    ),
    Case(
        "websocket: deflated nonsense",
        (
            upgrade(b"/ws", b"Sec-WebSocket-Extensions: permessage-deflate"),
            WAIT,
            ws_frame(Op.BINARY, b"\xff" * 50, rsv=4),
        ),
        ws_closed(1002, 1007),
    ),
]

STRANGE = [
    Case(
        "websocket: frames after a Close",
        (upgrade(), WAIT, close(1001, b"bye") + ws_frame(Op.TEXT, b"hi") * 5),
        ws_closed(1001) & _echoed(),
        True,
        (0,),
    ),
    Case(
        "websocket: two Closes",
        (upgrade(), WAIT, close() + close(1002)),
        ws_closed(1000),
        True,
        (0,),
    ),
    Case(
        "websocket: a Close without a code",
        (upgrade(), WAIT, close(None)),
        ws_closed(1005, 1000),
        True,
        (0,),
    ),
    Case(
        "websocket: 2,000 PINGs",
        (upgrade(), WAIT, ws_frame(Op.PING, b"hi") * 2000, close()),
        _pongs(2000) & ws_closed(1000),
        True,
        (0,),
    ),
    Case(
        "websocket: a PING in a message",
        (
            upgrade(),
            WAIT,
            ws_frame(Op.TEXT, b"a", fin=False) + ws_frame(Op.PING) + ws_frame(0, b"b"),
            Until(contains(b"ab")),
            close(),
        ),
        _echoed(b"ab") & _pongs(1),
        True,
        (0,),
    ),
    Case(
        "websocket: PONGs that nobody asked for",
        (upgrade(), WAIT, ws_frame(Op.PONG, b"hi") * 100, close()),
        ws_closed(1000),
        True,
        (0,),
    ),
    Case(
        "websocket: 5,000 empty fragments",
        (
            upgrade(),
            WAIT,
            ws_frame(Op.TEXT, fin=False) + ws_frame(0, fin=False) * 5000 + ws_frame(0, b"hi"),
            Until(contains(b"hi")),
            close(),
        ),
        _echoed(b"hi"),
        True,
        (0,),
    ),
    Case(
        "websocket: bytes one by one",
        (
            upgrade(),
            WAIT,
            *one_by_one(ws_frame(Op.TEXT, b"hi")),
            Until(contains(b"hi")),
            close(),
        ),
        _echoed(b"hi"),
        True,
        (0,),
    ),
    Case(
        "websocket: a FIN in a frame",
        (upgrade(), WAIT, ws_frame(Op.TEXT, b"hello")[:5], HangUp.FIN),
        SWITCHED,
        True,
        (0,),
    ),
    Case(
        "websocket: a FIN without a Close",
        (upgrade(), WAIT, ws_frame(Op.TEXT, b"hi"), HangUp.FIN),
        SWITCHED,
        True,
        (0,),
    ),
    Case(
        "websocket: a reset in a message",
        (upgrade(), WAIT, ws_frame(Op.TEXT, b"a", fin=False), HangUp.RESET),
        SWITCHED,
        True,
        (0,),
    ),
]

WEBSOCKET_CASES: list[Case] = [*HANDSHAKES, *FRAMES, *STRANGE]
