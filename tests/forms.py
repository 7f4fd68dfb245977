"""Multipart requests for the tests: a form with a field and two files, and what comes of asking."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import attrs
from asgi import Server, chunk, make_app

from tsstream import BodyLimits, Request, Response
from tsstream._asgi import Message

CONTENT_TYPE = "multipart/form-data; boundary=frontier"
END = b"--frontier--\r\n"

Look = Callable[[Request[Any]], Awaitable[Any]]


def part(name: str, data: bytes, filename: str | None = None, *fields: str) -> bytes:
    """Give one part, with the boundary that begins it and the line break that ends it."""
    disposition = f'Content-Disposition: form-data; name="{name}"'
    if filename is not None:
        disposition += f'; filename="{filename}"'
    lines = "\r\n".join(["--frontier", disposition, *fields, "", ""])
    return lines.encode() + data + b"\r\n"


FORM = (
    part("title", b"a photo")
    + part("photo", b"\r\n--front\0\xff", "../../etc/passwd", "Content-Type: image/png")
    + part("empty", b"", "")
    + END
)
FORM_PARTS = [
    ("title", None, b"a photo"),
    ("photo", "../../etc/passwd", b"\r\n--front\0\xff"),
    ("empty", "", b""),
]


def messages(*chunks: bytes) -> list[Message]:
    """Give the messages of a body of these chunks."""
    return [*(chunk(data) for data in chunks if data), chunk(b"", more=False)]


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


@attrs.define(eq=False)
class Asked:
    """What a handler found, and the server that saw the exchange."""

    server: Server
    found: Any = None

    @property
    def status(self) -> int | None:
        return self.server.status


async def ask(
    look: Look,
    *requests: Message,
    content_type: str | None = CONTENT_TYPE,
    limits: BodyLimits | None = None,
    length: int | None = None,
) -> Asked:
    """Post a body made of *requests* to a handler that gives the request to *look*.

    Args:
      length: the Content-Length, if the body is not chunked.
    """
    asked = Asked(Server(*requests))

    async def handler(request: Request[Any]) -> Response:
        asked.found = await look(request)
        return Response(b"ok")

    await post(asked.server, handler, content_type=content_type, limits=limits, length=length)
    return asked


async def post(
    server: Server,
    handler: Any,
    *,
    content_type: str | None = CONTENT_TYPE,
    limits: BodyLimits | None = None,
    length: int | None = None,
) -> None:
    """Post what *server* has to *handler*."""
    headers = [(b"transfer-encoding", b"chunked")]
    if length is not None:
        headers = [(b"content-length", b"%d" % length)]
    if content_type is not None:
        headers.append((b"content-type", content_type.encode("latin-1")))
    await server.call(make_app(handler, body_limits=limits), "POST", headers=headers)
