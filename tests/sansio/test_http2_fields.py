"""Field blocks of HTTP/2: which requests are served, refused or malformed; what a response says."""

from __future__ import annotations

import pytest

from tsstream._sansio.http2_fields import (
    BadRequest,
    Field,
    RequestHead,
    build_fields,
    build_response,
    check_trailers,
    content_length,
    parse_request,
)

GET: list[Field] = [
    (b":method", b"GET"),
    (b":scheme", b"https"),
    (b":authority", b"example.org:8000"),
    (b":path", b"/a?b=c"),
]
CONNECT: list[Field] = [(b":method", b"CONNECT"), (b":authority", b"example.org:443")]
WEBSOCKET: list[Field] = [
    (b":method", b"CONNECT"),
    (b":protocol", b"websocket"),
    *GET[1:],
]


def parse(fields: list[Field], *, max_size: int = 1000, max_count: int = 10) -> RequestHead:
    return parse_request(fields, max_size=max_size, max_count=max_count)


def replaced(name: bytes, value: bytes) -> list[Field]:
    return [(name, value) if field[0] == name else field for field in GET]


def without(name: bytes, fields: list[Field] = GET) -> list[Field]:
    return [field for field in fields if field[0] != name]


def test_a_request_is_read() -> None:
    head = parse([*GET, (b"x-a", b"1"), (b"te", b"trailers"), (b"x-a", b"")])
    assert (head.method, head.path, head.protocol) == ("GET", b"/a?b=c", b"")
    assert head.headers == [
        (b"host", b"example.org:8000"),
        (b"x-a", b"1"),
        (b"te", b"trailers"),
        (b"x-a", b""),
    ]
    assert (head.length, head.continues) == (None, False)


def test_what_is_said_of_a_body_is_read() -> None:
    head = parse([*GET, (b"content-length", b"12"), (b"expect", b"100-Continue")])
    assert (head.length, head.continues) == (12, True)


@pytest.mark.parametrize(
    "fields",
    [
        [*GET, (b"host", b"example.org:8000")],
        [*without(b":authority"), (b"x", b"y"), (b"host", b"example.org:8000")],
    ],
)
def test_the_host_comes_first_and_once(fields: list[Field]) -> None:
    headers = parse(fields).headers
    assert headers[0] == (b"host", b"example.org:8000")
    assert [name for name, _ in headers].count(b"host") == 1


def test_a_websocket_is_asked_for_with_its_protocol() -> None:
    head = parse(WEBSOCKET)
    assert (head.method, head.protocol, head.path) == ("CONNECT", b"websocket", b"/a?b=c")


@pytest.mark.parametrize("path", [b"/", b"*", b"/a%20b", b"//a", b"/~a/b;c=[d]?e='f'"])
def test_a_path_is_absolute_or_a_star(path: bytes) -> None:
    assert parse(replaced(b":path", path)).path == path


@pytest.mark.parametrize(
    "fields",
    [
        [],
        without(b":method"),
        without(b":scheme"),
        without(b":path"),
        replaced(b":path", b""),
        [*GET, (b":path", b"/")],
        [*GET, (b":status", b"200")],
        [*GET, (b":new", b"1")],
        [(b"a", b"b"), *GET],
        [*GET, (b":protocol", b"websocket")],
        [*CONNECT, (b":path", b"/")],
        [*CONNECT, (b":scheme", b"https")],
        without(b":path", WEBSOCKET),
        without(b":scheme", WEBSOCKET),
        replaced(b":path", b"/a\r\nb"),
        *([*GET, (name, b"a")] for name in (b"", b"A", b"a b", b"a:", b"a\r", b"\xe4", b"a\0")),
        *([*GET, (b"a", value)] for value in (b"a\nb", b"a\r", b"\0", b" a", b"a\t")),
        *([*GET, (name, b"a")] for name in (b"connection", b"upgrade", b"keep-alive")),
        *([*GET, (name, b"a")] for name in (b"transfer-encoding", b"proxy-connection")),
        [*GET, (b"te", b"gzip")],
        *([*GET, (b"content-length", value)] for value in (b"", b"-1", b"+1", b"1.0", b"a")),
        [*GET, (b"content-length", b"1"), (b"content-length", b"2")],
    ],
    ids=repr,
)
def test_a_malformed_request_has_no_status(fields: list[Field]) -> None:
    with pytest.raises(BadRequest) as caught:
        parse(fields)
    assert caught.value.status is None


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        (CONNECT, 501),
        ([(n, b"tcp" if n == b":protocol" else v) for n, v in WEBSOCKET], 501),
        (replaced(b":method", b"G\xcb\x99T"), 400),
        (replaced(b":method", b"GET /"), 400),
        (replaced(b":method", b""), 400),
        (replaced(b":path", b"a"), 400),
        (replaced(b":path", b"/\xc3\xb6"), 400),
        (replaced(b":path", b"/a b"), 400),
        (replaced(b":path", b"https://example.org/"), 400),
        (without(b":authority"), 400),
        ([*GET, (b"host", b"example.com")], 400),
        ([*without(b":authority"), (b"host", b"a"), (b"host", b"a")], 400),
        (replaced(b":authority", b"ex\xe4mple.org"), 400),
        (replaced(b":authority", b"example.org/a"), 400),
        ([*GET, *[(b"a", b"b")] * 11], 431),
        ([*GET, (b"a", b"b" * 1000)], 431),
    ],
    ids=repr,
)
def test_a_request_that_is_not_served_has_a_status(fields: list[Field], status: int) -> None:
    with pytest.raises(BadRequest) as caught:
        parse(fields)
    assert caught.value.status == status


def test_the_size_is_counted_as_the_settings_say() -> None:
    size = sum(len(name) + len(value) + 32 for name, value in GET)  # RFC 9113 6.5.2
    assert parse(GET, max_size=size).path == b"/a?b=c"
    with pytest.raises(BadRequest):
        parse(GET, max_size=size - 1)


@pytest.mark.parametrize("field", [(b":path", b"/"), (b"A", b""), (b"te", b"a"), (b"a", b"\r")])
def test_trailers_are_fields_without_pseudo_headers(field: Field) -> None:
    check_trailers([(b"a", b"b"), (b"c", b"")])
    with pytest.raises(BadRequest):
        check_trailers([(b"a", b"b"), field])


def test_a_response_has_lower_case_names_and_nothing_of_the_connection() -> None:
    headers = [(b"X-A", b" b\t"), (b"Connection", b"close"), (b"set-cookie", b"a"), (b"c", b"")]
    assert build_response(404, headers, informational=False) == [
        (b":status", b"404"),
        (b"x-a", b"b"),
        (b"set-cookie", b"a"),
        (b"c", b""),
    ]


@pytest.mark.parametrize(
    ("status", "informational", "good"),
    [
        (99, False, False),
        (103, False, False),
        (199, False, False),
        (200, False, True),
        (599, False, True),
        (600, False, False),
        (100, True, True),
        (101, True, False),
        (103, True, True),
        (200, True, False),
    ],
)
def test_a_status_is_one_of_its_kind(status: int, informational: bool, good: bool) -> None:
    if good:
        fields = build_response(status, [], informational=informational)
        assert fields == [(b":status", b"%d" % status)]
    else:
        with pytest.raises(ValueError, match=str(status)):
            build_response(status, [], informational=informational)


@pytest.mark.parametrize(
    "field", [(b"", b"a"), (b":a", b""), (b"a b", b""), (b"a", b"b\nc"), (b"a", b"\0")]
)
def test_a_field_that_would_break_the_message_is_an_error(field: Field) -> None:
    with pytest.raises(ValueError, match=r"name|value"):
        build_fields([field])


@pytest.mark.parametrize(
    ("values", "length"), [([], None), ([b"0"], 0), ([b"12"], 12), ([b"12", b"12"], 12)]
)
def test_a_content_length_is_one_number(values: list[bytes], length: int | None) -> None:
    assert content_length([(b"content-length", value) for value in values]) == length
