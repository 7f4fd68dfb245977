"""What a handler gives back: a status, headers, and a body that nobody has entered yet."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import Any, NoReturn, TypeAlias

import attrs
import trio

from tsstream._errors import ResponseConsumed
from tsstream._sansio.encoders import BYTES, NDJSON, SSE, TEXT, Encoder, bytes_encoder, to_json
from tsstream._sansio.headers import Headers

from .content import Content, Items, check_content, is_whole, open_items
from .policy import StreamPolicy

HeadersLike: TypeAlias = (
    Headers | Mapping[str, str] | Iterable[tuple[str | bytes, str | bytes]] | None
)
BODILESS = frozenset({204, 205, 304})  # RFC 9110, 15.3.5, 15.3.6, 15.4.5


@attrs.define(eq=False)
class _Use:
    """Whether a content was entered; copies of a response that share the content share it."""

    content: object
    entered: bool = False
    opened: AbstractAsyncContextManager[trio.abc.ReceiveChannel[bytes]] | None = None


def _to_headers(headers: HeadersLike) -> Headers:
    # Also a Headers again: it may come from the wire, where nothing was checked (HOST fault 14).
    return Headers(headers)


@attrs.frozen(eq=False)
class Response:
    """One answer. It is itself an async context manager that yields the channel of its bytes.

    Building one has no side effect: nothing runs until it is sent (AC-2), and it is sent or
    entered once. It is a value: change it with :func:`attrs.evolve`.

    Args:
      content: bytes or text; an async context manager that yields a receive channel; or a
        channel, an (async) iterator, an async generator, a list, a file.
      status_code: 200 to 599.
      headers: a mapping or pairs. A Content-Length here is a promise that the body is held to.
      media_type: the Content-Type; else the encoder's, else ``text/plain`` for text and
        ``application/octet-stream``.
      encoder: turns the items of the body into bytes.
      live: the body has no natural end. Its head goes out as soon as the body is entered, so
        that a later error can only cut it.
      policy: the limits, instead of the app's.

    Raises:
      TypeError: *content* is nothing that can be streamed.
      ValueError: a header that is not valid (RFC 9110, section 5), a status out of range, or a
        body for a status that has none (D36).
    """

    content: Content = b""
    status_code: int = 200
    headers: Headers = attrs.field(default=None, converter=_to_headers)
    media_type: str | None = None
    encoder: Encoder = attrs.field(default=BYTES, kw_only=True)
    live: bool = attrs.field(default=False, kw_only=True)
    policy: StreamPolicy | None = attrs.field(default=None, kw_only=True)
    _use: _Use = attrs.field(default=None, kw_only=True, repr=False, alias="_use")

    def __attrs_post_init__(self) -> None:
        check_content(self.content)
        if not (isinstance(self.status_code, int) and 200 <= self.status_code <= 599):
            raise ValueError(
                f"a response's status_code is 200 to 599, not {self.status_code!r}: "
                "1xx responses are the server's"
            )
        if self.status_code in BODILESS and not (is_whole(self.content) and not self.content):
            raise ValueError(
                f"a response with status {self.status_code} has no body (RFC 9110, section 15): "
                "give it the content b''"
            )
        if self._use is None or self._use.content is not self.content:
            object.__setattr__(self, "_use", _Use(self.content))

    async def __aenter__(self) -> trio.abc.ReceiveChannel[bytes]:
        """Enter the body, and give the channel of its bytes. May block."""
        opened = _open_bytes(self)
        channel = await opened.__aenter__()
        self._use.opened = opened  # now, so that a second, failing entry cannot replace it
        return channel

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        """Leave the body; before its end, by cancelling it. May block."""
        opened, self._use.opened = self._use.opened, None
        assert opened is not None, "left without having been entered"
        return await opened.__aexit__(kind, error, traceback)  # noqa: ASYNC102 (it is ours)

    def __iter__(self) -> NoReturn:
        raise TypeError("a Response is not iterable: use 'async with response as chunks'")

    def __aiter__(self) -> NoReturn:
        raise TypeError(
            "a Response is not iterable: use 'async with response as chunks', then "
            "'async for chunk in chunks'"
        )


def open_body(response: Response) -> AbstractAsyncContextManager[Items]:
    """Enter a response's body, the only time that this is possible.

    Raises:
      ResponseConsumed: it was entered before (AC-9, D42).
    """
    consume(response)
    return open_items(response.content)


def consume(response: Response) -> None:
    """Take the one use that a response has, or raise ResponseConsumed."""
    if response._use.entered:
        raise ResponseConsumed(
            "this response was sent or entered before; build a new Response, and a new body, "
            "for each request"
        )
    response._use.entered = True


def body_entered(response: Response) -> bool:
    """Say whether the body was ever entered."""
    return response._use.entered


@asynccontextmanager
async def _open_bytes(response: Response) -> AsyncIterator[trio.abc.ReceiveChannel[bytes]]:
    async with open_body(response) as items:
        yield _ByteChannel(items, item_encoder(response))


class _ByteChannel(trio.abc.ReceiveChannel[bytes]):
    """The items of a body, encoded one by one; empty chunks are left out."""

    def __init__(self, items: Items, encoder: Encoder) -> None:
        self._items = items
        self._encode = encoder.encode

    async def receive(self) -> bytes:
        while True:
            try:
                item = await self._items.channel.receive()
            except trio.EndOfChannel:
                self._items.ended = True
                raise
            if chunk := self._encode(item):
                return bytes(chunk)

    def receive_nowait(self) -> bytes:
        """Give a chunk that is ready, or raise :class:`trio.WouldBlock`."""
        receive_nowait = getattr(self._items.channel, "receive_nowait", None)
        if receive_nowait is None:
            raise trio.WouldBlock
        while True:
            try:
                item = receive_nowait()
            except trio.EndOfChannel:
                self._items.ended = True
                raise
            if chunk := self._encode(item):
                return bytes(chunk)

    async def aclose(self) -> None:
        # The body's context manager closes what it yielded; there is nothing of ours to close.
        await trio.lowlevel.checkpoint()


def item_encoder(response: Response) -> Encoder:
    """Give the response's encoder, with the charset that its Content-Type names (AC-5)."""
    if response.encoder is BYTES or response.encoder is TEXT:
        charset = _charset(content_type(response))
        if charset not in (None, "utf-8"):
            return bytes_encoder(charset)
    return response.encoder


def content_type(response: Response) -> str:
    """Give the Content-Type: from the headers, the media type, the encoder or the content."""
    if "content-type" in response.headers:
        return response.headers["content-type"]
    if response.media_type is not None:
        media_type = response.media_type
        bare_text = media_type.startswith("text/") and "charset=" not in media_type
        return f"{media_type}; charset=utf-8" if bare_text else media_type
    if response.encoder.media_type is not None:
        return response.encoder.media_type
    return (
        "text/plain; charset=utf-8"
        if isinstance(response.content, str)
        else "application/octet-stream"
    )


def _charset(content_type: str) -> str | None:
    for parameter in content_type.split(";")[1:]:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset":
            return value.strip().strip('"').lower()
    return None


def to_response(value: object) -> Response:
    """Make what a handler gave a Response, or raise TypeError with the remedy (D3)."""
    return value if isinstance(value, Response) else Response(value)  # type: ignore[arg-type]


def text_response(
    content: Content,
    status_code: int = 200,
    headers: HeadersLike = None,
    *,
    live: bool = False,
    policy: StreamPolicy | None = None,
) -> Response:
    """Answer with text, whole or item by item, as ``text/plain`` in UTF-8."""
    return Response(content, status_code, headers, encoder=TEXT, live=live, policy=policy)


def json_response(data: Any, status_code: int = 200, headers: HeadersLike = None) -> Response:
    """Answer with *data* as JSON.

    Raises:
      TypeError: there is something in *data* that JSON has not.
      ValueError: there is a NaN, an infinity or a circle in *data* (RFC 8259).
    """
    return Response(to_json(data), status_code, headers, "application/json")


def ndjson_response(
    content: Content,
    status_code: int = 200,
    headers: HeadersLike = None,
    *,
    live: bool = False,
    policy: StreamPolicy | None = None,
) -> Response:
    """Answer with one line of JSON for each item of *content*."""
    return Response(content, status_code, headers, encoder=NDJSON, live=live, policy=policy)


def sse_response(
    content: Content,
    status_code: int = 200,
    headers: HeadersLike = None,
    *,
    live: bool = True,
    policy: StreamPolicy | None = None,
) -> Response:
    """Answer with Server-Sent Events: one for each item of *content* (WHATWG HTML, 9.2).

    An item is a :class:`ServerSentEvent`, text, or data that is sent as JSON. A browser opens
    such a response with ``new EventSource(url)``.
    """
    return Response(content, status_code, headers, encoder=SSE, live=live, policy=policy)
