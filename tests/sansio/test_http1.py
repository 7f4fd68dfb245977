"""Rules of HTTP/1 that need no connection: which requests are refused, and what a head says."""

from __future__ import annotations

import pytest

from tsstream._sansio.http1 import (
    Head,
    Refusal,
    check_request,
    content_length,
    is_websocket,
    split_target,
)

MAX_HEADERS = 5
MAX_SIZE = 200  # bytes
HOST = (b"host", b"a")
CHUNKED = (b"transfer-encoding", b"chunked")
UPGRADE = ((b"connection", b"Upgrade"), (b"upgrade", b"websocket"))

Fields = list[tuple[bytes, bytes]]


def head_of(
    headers: Fields | None = None,
    method: bytes = b"GET",
    target: bytes = b"/",
    http_version: bytes = b"1.1",
) -> Head:
    """Make a request's head; the names are in lower case, as h11 gives them."""
    return Head(method, target, http_version, [HOST] if headers is None else headers)


def refusal(head: Head) -> int | None:
    """Give the status of the refusal, or None."""
    try:
        check_request(head, MAX_HEADERS, MAX_SIZE)
    except Refusal as error:
        return error.status_code
    return None


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (head_of(), None),
        (head_of(http_version=b"1.0", headers=[]), None),
        (head_of(http_version=b"1.2"), 505),
        (head_of(http_version=b"2.0"), 505),
        (head_of(http_version=b"0.9"), 505),
        (head_of(method=b"OPTIONS", target=b"*"), None),
        (head_of(method=b"PURGE"), None),
        (head_of(method=b"CONNECT", target=b"a:443"), 501),
        (head_of(method=b"CONNECT", target=b"/"), 501),
        # as many fields as are allowed, and one more
        (head_of(headers=[HOST] * MAX_HEADERS), None),
        (head_of(headers=[HOST] * (MAX_HEADERS + 1)), 431),
        # as many bytes: of the target, of a name, of a value
        (head_of(target=b"/" * MAX_SIZE, headers=[]), None),
        (head_of(target=b"/" * (MAX_SIZE + 1), headers=[]), 431),
        (head_of(headers=[(b"n" * (MAX_SIZE - 1), b"")]), None),
        (head_of(headers=[(b"n" * MAX_SIZE, b"")]), 431),
        (head_of(headers=[(b"n", b"v" * (MAX_SIZE - 2))]), None),
        (head_of(headers=[(b"n", b"v" * (MAX_SIZE - 1))]), 431),
        # how long the body is
        (head_of(headers=[HOST, CHUNKED]), None),
        (head_of(headers=[HOST, (b"content-length", b"1")]), None),
        (head_of(headers=[HOST, CHUNKED, (b"content-length", b"1")]), 400),
        (head_of(headers=[CHUNKED], http_version=b"1.0"), 400),
    ],
    ids=repr,
)
def test_which_requests_are_refused(head: Head, status: int | None) -> None:
    assert refusal(head) == status


@pytest.mark.parametrize(
    ("host", "status"),
    [
        (b"", None),
        (b"example.org", None),
        (b"EXAMPLE.org:8000", None),
        (b"example.org:", None),
        (b"127.0.0.1:80", None),
        (b"[::1]", None),
        (b"[::1]:80", None),
        (b"under_score", None),
        (b"a%41", None),
        (b"user@example.org", 400),
        (b"example.org/path", 400),
        (b"example.org, other.org", 400),
        (b"example.org:80:80", 400),
        (b"example.org:port", 400),
        (b"::1", 400),
        (b"[::1", 400),
        (b"a b", 400),
        (b"a?b", 400),
        (b"a#b", 400),
        (b"<a>", 400),
        (b"caf\xe9", 400),
    ],
)
def test_which_hosts_are_refused(host: bytes, status: int | None) -> None:
    assert refusal(head_of(headers=[(b"host", host)])) == status


@pytest.mark.parametrize(
    ("target", "path", "authority"),
    [
        (b"/", b"/", None),
        (b"/a/b?c=d", b"/a/b?c=d", None),
        (b"*", b"*", None),
        (b"//example.org/a", b"//example.org/a", None),
        (b"/a?next=http://other/b", b"/a?next=http://other/b", None),
        # RFC 9112, 3.2.2
        (b"http://example.org", b"/", b"example.org"),
        (b"http://example.org/", b"/", b"example.org"),
        (b"https://example.org/a/b", b"/a/b", b"example.org"),
        (b"HTTP://Example.org:80/a", b"/a", b"Example.org:80"),
        (b"http://[::1]:80/a?b", b"/a?b", b"[::1]:80"),
        # A path within the query is none.
        (b"http://example.org?q=1", b"/?q=1", b"example.org"),
        (b"http://example.org?next=/admin", b"/?next=/admin", b"example.org"),
        (b"http://example.org/a?b=/c", b"/a?b=/c", b"example.org"),
        (b"http://example.org/a?b=c?d", b"/a?b=c?d", b"example.org"),
        (b"http://example.org/a?", b"/a?", b"example.org"),
    ],
)
def test_a_target_is_a_path_or_names_the_host_as_well(
    target: bytes, path: bytes, authority: bytes | None
) -> None:
    assert split_target(target) == (path, authority)
    assert refusal(head_of(target=target)) is None


@pytest.mark.parametrize(
    "target",
    [
        b"",
        b"a",
        b"a/b",
        b"?q",
        b"**",
        b"example.org:80",
        b"x://",
        b"http:/a",
        b"http://",
        b"http:///a",
        b"http://?q",
        b"http://a#b",
        b"http://a/#b",
        b"http://user@example.org/",
        b"http://a:port/",
        b"http://<a>/",
        b"ftp://example.org/a",
        b"javascript:alert(1)",
        b" /",
    ],
)
def test_what_is_no_target_is_refused(target: bytes) -> None:
    assert refusal(head_of(target=target)) == 400


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (head_of(headers=[*UPGRADE]), True),
        (head_of(headers=[(b"connection", b"keep-alive, Upgrade"), UPGRADE[1]]), True),
        (head_of(headers=[(b"connection", b"a"), *UPGRADE]), True),  # fields of one name are a list
        (head_of(headers=[UPGRADE[0], (b"upgrade", b"h2c,WebSocket")]), True),
        (head_of(headers=[*UPGRADE], method=b"POST"), False),
        (head_of(headers=[UPGRADE[0]]), False),
        (head_of(headers=[UPGRADE[1]]), False),
        (head_of(headers=[(b"connection", b"close"), UPGRADE[1]]), False),
        (head_of(headers=[UPGRADE[0], (b"upgrade", b"websockets")]), False),
        (head_of(headers=[UPGRADE[0], (b"upgrade", b"h2c")]), False),
        (head_of(), False),
    ],
    ids=repr,
)
def test_who_asks_for_a_websocket(head: Head, expected: bool) -> None:
    assert is_websocket(head) is expected


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], None),
        ([CHUNKED], None),
        ([HOST, (b"content-length", b"0")], 0),
        ([HOST, (b"content-length", b"12")], 12),
    ],
)
def test_the_length_that_is_announced(headers: Fields, expected: int | None) -> None:
    assert content_length(head_of(headers=headers)) == expected
