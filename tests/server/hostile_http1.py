"""The corpus: hostile HTTP/1.1."""

from __future__ import annotations

from conversation import (
    NOTHING,
    SWITCHED,
    Case,
    Check,
    HangUp,
    Pause,
    Step,
    Until,
    answered,
    contains,
    goaway,
    one_by_one,
    status,
    statuses,
)
from frames_h2 import PREFACE, START, Code, get, settings

HELLO = b"GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n"
HOST = b"Host: localhost\r\n"
REFUSED = status(400)
TOO_LARGE = status(431, 414)
CUT = Check("no clean end", lambda answer: b"\r\n0\r\n" not in answer.data)


def _refused(name: str, *steps: Step, check: Check = REFUSED) -> Case:
    """Make a case of a request that is answered with an error, after which the server closes."""
    return Case(f"http1: {name}", steps, check)


def _served(name: str, *steps: Step, check: Check, closes: bool = False) -> Case:
    """Make a case of what is strange, but no failure of the connection."""
    return Case(f"http1: {name}", steps, check, closes, records=(0,))


def _head(*lines: bytes, target: bytes = b"/hello", method: bytes = b"GET") -> bytes:
    return b"\r\n".join(
        [method + b" " + target + b" HTTP/1.1", b"Host: localhost", *lines, b"", b""]
    )


def _upload(*lines: bytes, path: bytes = b"/echo") -> bytes:
    return _head(*lines, target=path, method=b"POST")


def _chunked(body: bytes, *lines: bytes) -> bytes:
    return _upload(b"Transfer-Encoding: chunked", *lines) + body


REQUEST_LINES = [
    _refused("bytes that are no text", b"\x00\x01\x02\xff\xfe\r\n\r\n"),
    _refused("a TLS client hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500)),
    _refused("the banner of SSH", b"SSH-2.0-OpenSSH_9.6\r\n\r\n"),
    _refused("a greeting of SMTP", b"EHLO localhost\r\n\r\n"),
    _refused("a request of RTSP", b"OPTIONS rtsp://localhost/ RTSP/1.0\r\nCSeq: 1\r\n\r\n"),
    _refused("a request line without a version", b"GET /hello\r\n\r\n"),
    _refused("a request line without a target", b"GET HTTP/1.1\r\n" + HOST + b"\r\n"),
    _refused("a lower-case protocol name", b"GET /hello http/1.1\r\n" + HOST + b"\r\n"),
    _refused("two spaces in the request line", b"GET  /hello HTTP/1.1\r\n" + HOST + b"\r\n"),
    _refused("tabs in the request line", b"GET\t/hello\tHTTP/1.1\r\n" + HOST + b"\r\n"),
    _refused("a NUL in the target", _head(target=b"/hel\0lo")),
    _refused("a target that is not ASCII", _head(target=b"/hell\xc3\xb6")),
    _refused("a method that is not ASCII", _head(method=b"G\xcb\x99T")),
    _refused("a method in parentheses", _head(method=b"(GET)")),
    _refused("a version of one digit", b"GET /hello HTTP/1\r\n" + HOST + b"\r\n"),
    _refused("HTTP/9.9", b"GET /hello HTTP/9.9\r\n" + HOST + b"\r\n", check=status(505)),
    _refused(
        "HTTP/2.0 in a request line", b"GET / HTTP/2.0\r\n" + HOST + b"\r\n", check=status(505)
    ),
    _refused("nothing but empty lines", b"\r\n" * 10_000, check=REFUSED | TOO_LARGE),
    _refused("an endless request line", b"GET /" + b"a" * 100_000, check=TOO_LARGE),
    _refused("an endless method", b"A" * 100_000, check=TOO_LARGE | status(400, 501)),
    _served("a target with bad escapes", _head(target=b"/%zz%ff%"), check=status(404)),
    _served("a target of slashes and dots", _head(target=b"//../../etc/passwd"), check=status(404)),
    _served("the absolute form", _head(target=b"http://localhost/hello"), check=status(200)),
    _served("an asterisk", _head(target=b"*", method=b"OPTIONS"), check=status(200, 404)),
    _served("a method that nobody knows", _head(method=b"!#$%"), check=status(200, 405, 501)),
    Case(
        "http1: CONNECT to another host",
        (b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n",),
        status(400, 404, 405, 501),
        closes=None,
        records=(0, 1),
    ),
]

HEADERS = [
    _refused("no Host", b"GET /hello HTTP/1.1\r\n\r\n"),
    _refused("two Hosts", _head(b"Host: example.org")),
    _refused("a Host with a space", b"GET /hello HTTP/1.1\r\nHost: a b\r\n\r\n"),
    _refused("a header without a colon", _head(b"nonsense")),
    _refused("a header without a name", _head(b": value")),
    _refused("a space before the colon", _head(b"Accept : a")),
    _refused("a name that is not ASCII", _head(b"N\xc3\xa4me: a")),
    _refused("a NUL in a value", _head(b"A: b\0c")),
    _refused("a bare CR in a value", _head(b"A: b\rC: d")),
    _refused("a folded first header", b"GET /hello HTTP/1.1\r\n folded\r\n" + HOST + b"\r\n"),
    _refused("a header of 100 kB", _head(b"A: " + b"b" * 100_000), check=TOO_LARGE),
    _refused("ten thousand headers", _head(*[b"A: b"] * 10_000), check=TOO_LARGE),
    _refused("headers without an end", HELLO[:-2] + b"A: b\r\n" * 20_000, check=TOO_LARGE),
    Case("http1: a folded header", (_head(b"A: b\r\n  c"),), status(200, 400), None, (0, 1)),
    Case(
        "http1: lines that end with LF",
        (HELLO.replace(b"\r", b""),),
        status(200, 400),
        None,
        (0, 1),
    ),
    _served("a value that is not ASCII", _head(b"Cookie: \xff\xfe\xc3"), check=status(200)),
    _served(
        "an Upgrade to nonsense",
        _head(b"Connection: upgrade", b"Upgrade: \xff/9"),
        check=status(200),
    ),
    _served("a Connection of nonsense", _head(b"Connection: ,,\xff;;="), check=status(200)),
]

FRAMING = [
    *(
        _refused(f"Content-Length: {value!r}", _upload(b"Content-Length: " + value))
        for value in (
            b"abc",
            b"-1",
            b"+5",
            b"5, 6",
            b"0x10",
            b"1e3",
            b"\xd9\xa3",
            b"9" * 30,
            b"5 5",
        )
    ),
    _refused("two Content-Lengths", _upload(b"Content-Length: 3", b"Content-Length: 4") + b"abcd"),
    *(
        _refused(
            f"Transfer-Encoding: {value!r}",
            _upload(b"Transfer-Encoding: " + value) + b"0\r\n\r\n",
            check=status(501, 400),
        )
        for value in (b"gzip", b"identity", b"gzip, chunked", b"chunked, chunked", b"\x0bchunked")
    ),
    Case(
        "http1: Content-Length with Transfer-Encoding",
        (_chunked(b"3\r\nabc\r\n0\r\n\r\n" + HELLO, b"Content-Length: 3"),),
        status(200, 400),  # and then closed: what follows may be smuggled (RFC 9112 6.1)
        records=(0, 1),
    ),
    Case(
        "http1: Transfer-Encoding in HTTP/1.0",
        (_chunked(b"3\r\nabc\r\n0\r\n\r\n").replace(b"HTTP/1.1", b"HTTP/1.0"),),
        status(200, 400),
        records=(0, 1),
    ),
    _refused("a chunk size that is no number", _chunked(b"zz\r\nabc\r\n0\r\n\r\n")),
    _refused("a negative chunk size", _chunked(b"-3\r\nabc\r\n0\r\n\r\n")),
    _refused("a chunk size of 30 digits", _chunked(b"f" * 30 + b"\r\nabc")),
    _refused(
        "a chunk size without an end", _chunked(b"1" * 100_000), check=TOO_LARGE | status(400, 413)
    ),
    _refused(
        "an endless chunk extension",
        _chunked(b"3;" + b"a" * 100_000),
        check=TOO_LARGE | status(400, 413),
    ),
    _refused("an empty chunk size", _chunked(b"\r\nabc\r\n0\r\n\r\n")),
    Case(
        "http1: a chunk that is longer than it says",
        (_chunked(b"3\r\nabcdef\r\n0\r\n\r\n"),),
        REFUSED | (status(200) & CUT),  # the echo of the first chunk may have started
    ),
    Case(
        "http1: a bad second chunk, after the response has started",
        (_chunked(b"3\r\nabc\r\n"), Until(contains(b"abc\r\n")), b"zz\r\n\r\n"),
        status(200) & CUT,
    ),
    Case(
        "http1: trailers without an end",
        (_chunked(b"0\r\n" + b"A: b\r\n" * 20_000),),
        TOO_LARGE | status(400, 413),
    ),
    _refused("a trailer without a name", _chunked(b"0\r\n: b\r\n\r\n")),
]

CONNECTIONS = [
    _served("a hundred pipelined requests", HELLO * 100, check=statuses(*[200] * 100)),
    Case("http1: garbage after a request", (HELLO + b"\0garbage\r\n\r\n",), statuses(200, 400)),
    Case(
        "http1: more than the Content-Length",
        (_upload(b"Content-Length: 3") + b"abc\0more\r\n\r\n",),
        statuses(200, 400),
    ),
    _served(
        "a request after Connection: close",
        _head(b"Connection: close") + HELLO,
        check=statuses(200),
        closes=True,
    ),
    _served(
        "a request in single bytes",
        *one_by_one(HELLO),
        check=status(200),
    ),
    _served(
        "an Expect that nobody knows", _head(b"Expect: the-unexpected"), check=status(200, 417)
    ),
    _served("100-continue for nothing", _head(b"Expect: 100-continue"), check=status(200)),
    _served(
        "a body that is not read",
        _upload(b"Content-Length: 20000", path=b"/ignore") + bytes(20_000),
        check=status(200),
    ),
    Case(
        "http1: an early 413 while the body goes on",
        (_upload(b"Content-Length: 10000000", path=b"/limited"), *[bytes(50_000)] * 100),
        status(413),
        records=(0,),
    ),
    Case("http1: a FIN before anything", (HangUp.FIN,), NOTHING, records=(0,)),
    Case("http1: a reset before anything", (HangUp.RESET,), NOTHING, records=(0,)),
    Case("http1: a FIN in the head", (HELLO[:20], HangUp.FIN), NOTHING | REFUSED, records=(0, 1)),
    Case(
        "http1: a FIN in the body",
        (_upload(b"Content-Length: 9") + b"abc", HangUp.FIN),
        NOTHING | status(200, 400),
        records=(0, 1),
    ),
    Case(
        "http1: a FIN in a chunk",
        (_chunked(b"9\r\nabc"), HangUp.FIN),
        NOTHING | status(200, 400),
        records=(0, 1),
    ),
    Case(
        "http1: a reset in the body",
        (_upload(b"Content-Length: 9") + b"abc", HangUp.RESET),
        NOTHING,
        records=(0, 1),
    ),
    Case(
        "http1: a reset in a stream",
        (_head(target=b"/tick"), Until(contains(b"tick")), HangUp.RESET),
        status(200),
        records=(0,),
    ),
    Case(
        "http1: a head that stays away", (HELLO[:20],), status(408), options={"header_timeout": 0.2}
    ),
    Case(
        "http1: a head that comes slowly",
        tuple(step for byte in HELLO for step in (bytes([byte]), Pause(0.02))),
        status(408),
        options={"header_timeout": 0.2},
    ),
    Case(
        "http1: a body that stays away",
        (_upload(b"Content-Length: 9"),),
        status(408),
        options={"body_timeout": 0.2},
    ),
]

TO_HTTP2 = [
    *(
        Case(
            f"http1: an upgrade to h2c with {what}",
            (_head(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", *lines),),
            status(200, 400),  # ignored, or refused
            closes=None,
            records=(0, 1),
        )
        for what, lines in {
            "settings that are no base64": [b"HTTP2-Settings: !!!!"],
            "settings that are not ASCII": [b"HTTP2-Settings: \xff\xfe\xfd"],
            "half a setting": [b"HTTP2-Settings: AAMAAA"],
            "a setting out of range": [b"HTTP2-Settings: AAX_____"],
            "two settings": [b"HTTP2-Settings: AAMAAABk", b"HTTP2-Settings: AAMAAABk"],
            "no settings": [],
        }.items()
    ),
    Case(
        "http1: an upgrade to h2c with a body",
        (
            _upload(
                b"Connection: Upgrade, HTTP2-Settings",
                b"Upgrade: h2c",
                b"HTTP2-Settings: AAMAAABk",
                b"Content-Length: 3",
            )
            + b"abc",
        ),
        status(200, 400),
        closes=None,
        records=(0, 1),
    ),
    Case(
        "http1: an upgrade to h2c, then no preface",
        (
            _head(
                b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk"
            ),
            Until(SWITCHED | status(200)),
            b"nonsense\r\n\r\n" * 10,
        ),
        statuses(200, 400) | SWITCHED,
    ),
    Case(
        "http1: a preface with a wrong end",
        (PREFACE[:18] + b"XX\r\n\r\n" + settings(),),
        goaway(Code.PROTOCOL_ERROR) | status(400, 505),
    ),
    Case(
        "http1: a preface with headers",
        (b"PRI * HTTP/2.0\r\nHost: localhost\r\n\r\nSM\r\n\r\n",),
        status(400, 505) | goaway(Code.PROTOCOL_ERROR),
    ),
    Case(
        "http1: a preface for a path", (b"PRI /hello HTTP/2.0\r\n\r\nSM\r\n\r\n",), status(400, 505)
    ),
    Case(
        "http1: a preface after a request",
        (HELLO, Until(status(200)), START + get(1)),
        statuses(200, 400) | statuses(200, 505),
    ),
    Case(
        "http1: a preface in single bytes",
        (*one_by_one(START), get(1)),
        answered(1, 200),
        False,
    ),
]

HTTP1_CASES: list[Case] = [*REQUEST_LINES, *HEADERS, *FRAMING, *CONNECTIONS, *TO_HTTP2]
