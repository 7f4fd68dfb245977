"""A request as the application sees it: its ASGI scope, and its body as messages."""

from __future__ import annotations

from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Iterable,
    Mapping,
    MutableMapping,
)
from contextlib import aclosing, nullcontext
from typing import Any, TypeAlias
from urllib.parse import quote, unquote

import trio

from tsstream._asgi import Message
from tsstream._sansio.headers import Headers

Content: TypeAlias = bytes | str | Iterable[bytes | str] | AsyncIterable[bytes | str]
HeadersInit: TypeAlias = (
    Headers | Mapping[str, str] | Iterable[tuple[str | bytes, str | bytes]] | None
)

SPEC_VERSION = "2.3"  # the last in which send() after a disconnect does nothing; 2.4 makes it raise
PATH_CHARACTERS = "/%:@!$&'()*+,;=~"  # besides the unreserved ones: RFC 3986, 3.3
BODY_METHODS = ("PATCH", "POST", "PUT")  # an empty body of theirs has a Content-Length: RFC 9110


def build_scope(
    method: str, path: str, headers: HeadersInit, content: Content
) -> MutableMapping[str, Any]:
    """Build an ``http`` scope with every key of the specification but ``state``.

    Raises:
      ValueError: *path* is not a path, or a header cannot be sent.
    """
    if not path.startswith("/") and path != "*":
        raise ValueError(f"{path!r} is not a path: give it from '/', without scheme and host")
    raw_path, _, query = path.partition("?")
    raw_path = quote(raw_path, safe=PATH_CHARACTERS)
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": SPEC_VERSION},
        "http_version": "1.1",
        "method": method.upper(),
        "scheme": "http",
        "path": unquote(raw_path),
        "raw_path": raw_path.encode("ascii"),
        "query_string": quote(query, safe=PATH_CHARACTERS + "?").encode("ascii"),
        "root_path": "",
        "headers": _fields(method.upper(), Headers(headers), content),
        "client": ("testclient", 50000),
        "server": ("testserver", 80),
        "extensions": {},
    }


def _fields(method: str, headers: Headers, content: Content) -> list[tuple[bytes, bytes]]:
    fields = list(headers.raw)
    if "host" not in headers:
        fields.insert(0, (b"host", b"testserver"))
    if "content-length" in headers:
        return fields
    body = whole_body(content)
    if body is None:
        fields.append((b"transfer-encoding", b"chunked"))
    elif body or method in BODY_METHODS:
        fields.append((b"content-length", b"%d" % len(body)))
    return fields


def whole_body(content: Content) -> bytes | None:
    """Give *content* as bytes if it is known as a whole, None if it is an upload."""
    whole = isinstance(content, bytes | bytearray | memoryview | str)
    return _to_bytes(content) if whole else None


async def upload(content: Content, send_channel: trio.abc.SendChannel[Message]) -> None:
    """Send an ``http.request`` for each item, and the last one when there are no more.

    Raises:
      TypeError: an item is neither bytes nor str.
    """
    if isinstance(content, AsyncIterable):
        async with aclosing(content) if isinstance(content, AsyncGenerator) else nullcontext():
            async for item in content:
                await send_channel.send(request_message(_to_bytes(item), more=True))
    else:
        for part in content:
            await send_channel.send(request_message(_to_bytes(part), more=True))
    await send_channel.send(request_message(b"", more=False))


def _to_bytes(item: object) -> bytes:
    if isinstance(item, str):
        return item.encode()
    if isinstance(item, bytes | bytearray | memoryview):
        return bytes(item)
    raise TypeError(f"content gave {item!r}; give bytes or str, or an iterable of those")


def request_message(body: bytes, *, more: bool) -> Message:
    """Build an ``http.request`` message."""
    return {"type": "http.request", "body": body, "more_body": more}
