"""The header fields of HTTP/2: what a request's say, and what a response's may say."""

from __future__ import annotations

import re
from collections.abc import Iterable

import attrs

Field = tuple[bytes, bytes]

REQUEST_PSEUDO = {b":method", b":scheme", b":authority", b":path", b":protocol"}
CONNECTION_FIELDS = {  # RFC 9113 8.2.2: they have no meaning in HTTP/2
    *(b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"),
}
FIELD_OVERHEAD = 32  # bytes: what each field counts for beyond its text (RFC 9113 6.5.2)

_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")  # RFC 9110 5.6.2, without capitals
_METHOD = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_PATH = re.compile(rb"/[!-~]*|\*")
_AUTHORITY = re.compile(rb"[!-.0-~]*")  # no "/", no space, nothing beyond ASCII
_BAD_VALUE = re.compile(rb"[\0\r\n]|^[ \t]|[ \t]$")


class BadRequest(ValueError):
    """A request cannot be given to an application.

    Attributes:
      status: what to answer; None if the field block is malformed (RFC 9113 8.1.1), so that the
        stream is an error of the protocol.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


@attrs.frozen
class RequestHead:
    """What an application is called with.

    Attributes:
      method: upper-case.
      path: with the query string.
      headers: ``host`` first, without pseudo-headers.
      protocol: what an extended CONNECT (RFC 8441) asks for; else empty.
      length: the Content-Length, if there is one.
      continues: the client waits for a ``100 Continue`` with its body.
    """

    method: str
    path: bytes
    headers: list[Field]
    protocol: bytes
    length: int | None
    continues: bool


def parse_request(fields: Iterable[Field], *, max_size: int, max_count: int) -> RequestHead:
    """Read a request's field block.

    Args:
      fields: in their order; cookie fields joined already.
      max_size: bytes of all fields together, as SETTINGS_MAX_HEADER_LIST_SIZE counts them.
      max_count: fields that are no pseudo-headers.

    Raises:
      BadRequest: it is malformed, too large, or nothing that can be served.
    """
    pseudo: dict[bytes, bytes] = {}
    headers: list[Field] = []
    size = 0
    for name, value in fields:
        size += len(name) + len(value) + FIELD_OVERHEAD
        if name[:1] != b":":
            _check_field(name, value)
            headers.append((name, value))
        elif headers or name in pseudo or name not in REQUEST_PSEUDO or _BAD_VALUE.search(value):
            raise BadRequest(f"pseudo-header {name!r}")
        else:
            pseudo[name] = value
    _check_pseudo(pseudo)
    if size > max_size or len(headers) > max_count:
        raise BadRequest("too many header fields", 431)
    _check_servable(pseudo)
    return RequestHead(
        method=pseudo[b":method"].decode("ascii").upper(),
        path=pseudo[b":path"],
        headers=_put_host_first(pseudo.get(b":authority"), headers),
        protocol=pseudo.get(b":protocol", b""),
        length=_request_length(headers),
        continues=any(n == b"expect" and v.lower() == b"100-continue" for n, v in headers),
    )


def check_trailers(fields: Iterable[Field]) -> None:
    """Check the field block behind a request's body, of which nothing is used.

    Raises:
      BadRequest: it is malformed.
    """
    for name, value in fields:
        _check_field(name, value)


def build_response(status: int, headers: Iterable[Field], *, informational: bool) -> list[Field]:
    """Make the field block of a response's head.

    Names are lower-cased; what speaks of the connection is left out.

    Raises:
      ValueError: a field or the status would break the message.
    """
    if not (100 <= status < 200 if informational else 200 <= status < 600) or status == 101:
        raise ValueError(f"{status} cannot be the status of this response")
    return [(b":status", b"%d" % status), *build_fields(headers)]


def build_fields(headers: Iterable[Field]) -> list[Field]:
    """Make a field block without a status: trailers, or what follows one.

    Raises:
      ValueError: a field would break the message.
    """
    fields = []
    for name, value in headers:
        name, value = name.lower(), value.strip(b" \t")
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not the name of a header field")
        if _BAD_VALUE.search(value):
            raise ValueError(f"the value of {name!r} must not contain CR, LF or NUL: {value!r}")
        if name not in CONNECTION_FIELDS:
            fields.append((name, value))
    return fields


def content_length(fields: Iterable[Field]) -> int | None:
    """Give the Content-Length of a field block, None if it has none.

    Raises:
      ValueError: it is not a number, or there are two different ones.
    """
    found = {value for name, value in fields if name == b"content-length"}
    if not found:
        return None
    value = found.pop()
    if found or not value.isdigit():
        raise ValueError("content-length must be one number of bytes")
    return int(value)


def _request_length(headers: Iterable[Field]) -> int | None:
    try:
        return content_length(headers)
    except ValueError as error:
        raise BadRequest(str(error)) from None


def _check_field(name: bytes, value: bytes) -> None:
    if not _NAME.fullmatch(name) or _BAD_VALUE.search(value):
        raise BadRequest(f"header field {name!r}")
    if name in CONNECTION_FIELDS or (name == b"te" and value.lower() != b"trailers"):
        raise BadRequest(f"header field {name!r} has no place in HTTP/2")


def _check_pseudo(pseudo: dict[bytes, bytes]) -> None:
    """Check which there are: RFC 9113 8.3.1 and 8.5, RFC 8441 4."""
    if pseudo.get(b":method") == b"CONNECT" and b":protocol" not in pseudo:
        if b":scheme" in pseudo or b":path" in pseudo:
            raise BadRequest("a CONNECT has neither :scheme nor :path")
    elif not pseudo.keys() >= {b":method", b":scheme", b":path"} or not pseudo[b":path"]:
        raise BadRequest("a pseudo-header is missing")
    elif b":protocol" in pseudo and pseudo[b":method"] != b"CONNECT":
        raise BadRequest(":protocol belongs to CONNECT")


def _check_servable(pseudo: dict[bytes, bytes]) -> None:
    method = pseudo[b":method"]
    if not _METHOD.fullmatch(method):
        raise BadRequest("the method is not a token", 400)
    if method == b"CONNECT" and pseudo.get(b":protocol") != b"websocket":
        raise BadRequest("no tunnels here", 501)
    if not _PATH.fullmatch(pseudo[b":path"]):
        raise BadRequest("the path is not an absolute one in ASCII", 400)


def _put_host_first(authority: bytes | None, headers: list[Field]) -> list[Field]:
    hosts = [value for name, value in headers if name == b"host"]
    if authority is None and not hosts:
        raise BadRequest("neither :authority nor host", 400)
    host = hosts[0] if authority is None else authority
    if any(other != host for other in hosts) or len(hosts) > 1:
        raise BadRequest("host differs from :authority", 400)
    if not _AUTHORITY.fullmatch(host):
        raise BadRequest("the host is not one", 400)
    return [(b"host", host), *(field for field in headers if field[0] != b"host")]
