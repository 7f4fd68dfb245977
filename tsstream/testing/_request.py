"""A request as the application sees it: its ASGI scope."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any, TypeAlias
from urllib.parse import quote, unquote

from tsstream._sansio.headers import Headers
from tsstream._sansio.websocket import VERSION
from tsstream._sansio.websocket import subprotocols as offered_subprotocols

from ._upload import Content, whole_body

HeadersInit: TypeAlias = (
    Headers | Mapping[str, str] | Iterable[tuple[str | bytes, str | bytes]] | None
)

SPEC_VERSION = "2.3"  # the last in which send() after a disconnect does nothing; 2.4 makes it raise
PATH_CHARACTERS = "/%:@!$&'()*+,;=~"  # besides the unreserved ones: RFC 3986, 3.3
KEY = b"dGhlIHNhbXBsZSBub25jZQ=="  # the example of RFC 6455, 1.3: in a test nothing is random
HANDSHAKE = (
    (b"connection", b"Upgrade"),
    (b"upgrade", b"websocket"),
    (b"sec-websocket-version", VERSION),
    (b"sec-websocket-key", KEY),
)
BODY_METHODS = ("PATCH", "POST", "PUT")  # an empty body of theirs has a Content-Length: RFC 9110


def build_http_scope(
    method: str, path: str, headers: HeadersInit, content: Content | None
) -> MutableMapping[str, Any]:
    """Build an ``http`` scope with every key of the specification but ``state``.

    Raises:
      ValueError: *path* is not a path, or a header cannot be sent.
    """
    method = method.upper()
    fields = _with_host(headers)
    if "content-length" not in Headers(fields):
        fields += _framing(method, content)
    return {
        "type": "http",
        "method": method,
        "scheme": "http",
        **_target(path),
        "headers": fields,
        "extensions": {},
    }


def build_websocket_scope(
    path: str, headers: HeadersInit, subprotocols: Iterable[str]
) -> MutableMapping[str, Any]:
    """Build a ``websocket`` scope with every key of the specification but ``state``.

    Raises:
      ValueError: *path* is not a path, or a header cannot be sent.
      TypeError: *subprotocols* is one str.
    """
    if isinstance(subprotocols, str):
        raise TypeError(f"subprotocols is {subprotocols!r}; give a list of them")
    offer = ", ".join(subprotocols)
    offers = Headers({"sec-websocket-protocol": offer} if offer else {})
    fields = [*_with_host(headers), *HANDSHAKE, *offers.raw]
    return {
        "type": "websocket",
        "scheme": "ws",
        **_target(path),
        "headers": fields,
        "subprotocols": offered_subprotocols(fields),
        "extensions": {"websocket.http.response": {}},
    }


def _target(path: str) -> dict[str, Any]:
    if not path.startswith("/") and path != "*":
        raise ValueError(f"{path!r} is not a path: give it from '/', without scheme and host")
    raw_path, _, query = path.partition("?")
    raw_path = quote(raw_path, safe=PATH_CHARACTERS)
    return {
        "asgi": {"version": "3.0", "spec_version": SPEC_VERSION},
        "http_version": "1.1",
        "path": unquote(raw_path),
        "raw_path": raw_path.encode("ascii"),
        "query_string": quote(query, safe=PATH_CHARACTERS + "?").encode("ascii"),
        "root_path": "",
        "client": ("testclient", 50000),
        "server": ("testserver", 80),
    }


def _with_host(headers: HeadersInit) -> list[tuple[bytes, bytes]]:
    fields = Headers(headers)
    return [*([] if "host" in fields else [(b"host", b"testserver")]), *fields.raw]


def _framing(method: str, content: Content | None) -> list[tuple[bytes, bytes]]:
    body = whole_body(content)
    if body is None:
        return [(b"transfer-encoding", b"chunked")]
    if body or method in BODY_METHODS:
        return [(b"content-length", b"%d" % len(body))]
    return []
