"""HTTP/1 besides h11: where a connection stands, and which requests are refused."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import Enum, auto
from typing import NamedTuple

# A host name, IPv4 or [IPv6] address, with a port or not (RFC 3986, 3.2.2); or empty.
HOST = re.compile(rb"[A-Za-z0-9._~!$&'()*+,;=%-]*(:[0-9]*)?|\[[0-9A-Fa-f:.]+\](:[0-9]*)?")

ABSOLUTE = re.compile(
    rb"https?://(?P<authority>[^/?#]+)(?P<path>/[^?#]*)?(?P<query>\?[^#]*)?", re.IGNORECASE
)


class Head(NamedTuple):
    """A request's head, with the names of its fields in lower case."""

    method: bytes
    target: bytes
    http_version: bytes
    headers: Sequence[tuple[bytes, bytes]]


class Phase(Enum):
    """What the reader of the connection waits for."""

    FIRST_BYTE = auto()  # of a request: the connection is idle
    HEAD = auto()
    BODY = auto()
    RESPONSE = auto()  # the request is all there
    REST = auto()  # of a body that nobody wants, as the response is complete
    OVER = auto()


class Refusal(Exception):
    """A request that is answered with an error status, after which the connection closes."""

    def __init__(self, status_code: int, reason: str) -> None:
        super().__init__(reason)
        self.status_code = status_code


def check_request(head: Head, max_headers: int, max_size: int) -> None:
    """Refuse what h11 lets through and an application must not see.

    Args:
      head: of the request.
      max_headers: fields in it.
      max_size: bytes of target and fields; h11 itself looks at incomplete heads only.

    Raises:
      Refusal: 400, 431, 501 or 505 (RFC 9110, RFC 9112, RFC 6585).
    """
    names, size = set(), len(head.target)
    for count, (name, value) in enumerate(head.headers, 1):
        names.add(name)
        size += len(name) + len(value)
        if count > max_headers:
            raise Refusal(431, f"more than {max_headers} header fields")
        if name == b"host" and not HOST.fullmatch(value):
            raise Refusal(400, "a Host that is no host")  # RFC 9112, 3.2
    if size > max_size:
        raise Refusal(431, f"a head of more than {max_size} bytes")
    if head.http_version not in (b"1.0", b"1.1"):
        raise Refusal(505, "an HTTP version that is not spoken here")
    if head.method == b"CONNECT":
        raise Refusal(501, "CONNECT is for proxies")
    if head.target[:1] != b"/" and head.target != b"*":
        absolute = ABSOLUTE.fullmatch(head.target)
        if absolute is None or not HOST.fullmatch(absolute["authority"]):
            raise Refusal(400, "the request's target is not a path")
    if b"transfer-encoding" in names and (
        b"content-length" in names or head.http_version == b"1.0"
    ):
        # Two servers that read such a request differently can be made to mix up two clients
        # (RFC 9112, 6.1 and 11.2).
        raise Refusal(400, "Transfer-Encoding with Content-Length, or in HTTP/1.0")


def is_websocket(head: Head) -> bool:
    """Say whether this asks for a WebSocket (RFC 6455, 4.1)."""
    if head.method != b"GET" or not (upgrade := _tokens(head, b"upgrade")):
        return False
    return b"websocket" in upgrade and b"upgrade" in _tokens(head, b"connection")


def split_target(target: bytes) -> tuple[bytes, bytes | None]:
    """Give the path with the query, and the authority if the target names it (RFC 9112, 3.2.2)."""
    found = None if target[:1] == b"/" else ABSOLUTE.fullmatch(target)
    if found is None:
        return target, None
    return (found["path"] or b"/") + (found["query"] or b""), found["authority"]


def content_length(head: Head) -> int | None:
    """Give the bytes of body that the head announces, None if it does not say."""
    for name, value in head.headers:
        if name == b"content-length":
            return int(value)
    return None


def _tokens(head: Head, wanted: bytes) -> set[bytes]:
    values = [value for name, value in head.headers if name == wanted]
    return {token.strip().lower() for value in values for token in value.split(b",")}
