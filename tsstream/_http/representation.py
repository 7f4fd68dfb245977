"""Responses of which a request may have the whole, a part or nothing (RFC 9110, 13 and 14)."""

from __future__ import annotations

import math
import secrets
import time
from abc import abstractmethod
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from types import TracebackType
from typing import Any, TypeAlias

import attrs
import trio

from tsstream._adapters import _open_feeder
from tsstream._sansio.conditions import (
    Validators,
    Verdict,
    format_date,
    is_range_wanted,
    judge,
    parse_date,
)
from tsstream._sansio.encoders import BYTES
from tsstream._sansio.headers import Headers
from tsstream._sansio.ranges import (
    ByteRanges,
    Span,
    content_range,
    parse_ranges,
    unsatisfied_range,
)

from .content import Content
from .request import Request
from .response import Response, consume, content_type

Opened: TypeAlias = AbstractAsyncContextManager[trio.abc.ReceiveChannel[bytes]]
OpenRange: TypeAlias = Callable[[int, int], Opened]

# What says of the content how it is, or of the client what to do with it.
_OF_CONTENT = (
    *("content-type", "content-length", "content-range", "content-encoding"),
    *("content-language", "content-disposition"),
)
# What does not hold for an error either: it is no state of the representation, and not to be kept.
_OF_REPRESENTATION = (
    *("accept-ranges", "etag", "last-modified"),
    *("cache-control", "expires", "content-location"),
)


@attrs.frozen(kw_only=True)
class Representation:
    """What a response would send, as it is now: the "selected representation" of RFC 9110, 3.2.

    Args:
      length: in bytes.
      open_whole: gives an async context manager that yields the channel of its bytes.
      open_range: the same for the bytes ``start <= i < stop``; None if parts cannot be had.
      etag: a strong one, with its quotes: whenever a byte changes it does.
      last_modified: in seconds since the epoch. Left out while it is no strong validator.
      dated: no other state can have the same *last_modified*, so that it is as good as an *etag*.
    """

    length: int
    open_whole: Callable[[], Opened]
    open_range: OpenRange | None = None
    etag: str | None = None
    last_modified: float | None = None
    dated: bool = False


class Represented(AbstractAsyncContextManager[trio.abc.ReceiveChannel[bytes]]):
    """A response's content that knows what it is before it is entered.

    As the context manager that every content may be it gives the whole.
    """

    _opened: Opened | None = None

    @abstractmethod
    async def represent(self) -> Representation:
        """Look at what is there. May block; nothing stays open.

        Raises:
          HTTPError: there is nothing (404).
        """

    async def __aenter__(self) -> trio.abc.ReceiveChannel[bytes]:
        opened = (await self.represent()).open_whole()
        channel = await opened.__aenter__()
        self._opened = opened
        return channel

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        opened, self._opened = self._opened, None
        assert opened is not None, "left without having been entered"
        return await opened.__aexit__(kind, error, traceback)  # noqa: ASYNC102 (it is ours)


async def select(request: Request[Any], response: Response) -> Response:
    """Give of *response*, whose content is Represented, what *request* is to have.

    That is 200 with a Content-Length, 206, 304, 412 or 416. Conditions are for GET and HEAD,
    ranges for GET, and both for a response with status 200; any other gives the whole. A
    validator in the response's headers stands instead of the representation's own.

    Raises:
      Exception: whatever looking at the representation raises.
    """
    assert isinstance(response.content, Represented)
    representation = await response.content.represent()
    if response.status_code != 200:
        return _whole(request, response, representation)
    response = attrs.evolve(response, headers=_describe(response.headers, representation))
    if request.method not in ("GET", "HEAD"):
        return _whole(request, response, representation)
    validators = _validators(response.headers, dated=representation.dated)
    verdict = judge(request.headers, validators)
    if verdict is Verdict.NOT_MODIFIED:
        headers = response.headers.remove(*_OF_CONTENT)
        return attrs.evolve(response, content=b"", status_code=304, headers=headers, live=False)
    if verdict is Verdict.FAILED:
        return _refusal(response, 412, "Precondition Failed")
    if representation.open_range is None:
        return _whole(request, response, representation)
    response = attrs.evolve(response, headers=response.headers.setdefault("accept-ranges", "bytes"))
    spans = None
    if _can_be_parted(request, response) and is_range_wanted(request.headers, validators):
        spans = parse_ranges(request.headers["range"], representation.length)
    if spans is None:
        return _whole(request, response, representation)
    if not spans:
        headers = Headers({"content-range": unsatisfied_range(representation.length)})
        return _refusal(response, 416, "Range Not Satisfiable", headers)
    return _part(response, representation, representation.open_range, spans)


def _can_be_parted(request: Request[Any], response: Response) -> bool:
    return (
        request.method == "GET"  # for no other is it defined (14.2)
        and "range" in request.headers
        and response.headers["accept-ranges"].lower() == "bytes"
    )


def _describe(headers: Headers, representation: Representation) -> Headers:
    if representation.etag is not None:
        headers = headers.setdefault("etag", representation.etag)
    modified = representation.last_modified
    # In the second of a change there may be another one, with the same date (8.8.2.2); nor is it
    # ever to be in the future (8.8.2.1). So whoever has been told a date has a strong validator.
    if modified is not None and 0 <= math.floor(modified) <= time.time() - 1:
        headers = headers.setdefault("last-modified", format_date(math.floor(modified)))
    return headers


def _validators(headers: Headers, *, dated: bool) -> Validators:
    modified = headers.get("last-modified")
    return Validators(
        etag=headers.get("etag"),
        last_modified=None if modified is None else parse_date(modified),
        dated=dated,
    )


def _whole(request: Request[Any], response: Response, representation: Representation) -> Response:
    if request.method != "HEAD":
        consume(response)
    return _with_content(response, representation.open_whole(), representation.length)


def _part(
    response: Response,
    representation: Representation,
    open_range: OpenRange,
    spans: tuple[Span, ...],
) -> Response:
    consume(response)
    length = representation.length
    if len(spans) == 1:
        headers = response.headers.set("content-range", content_range(spans[0], length))
        response = attrs.evolve(response, status_code=206, headers=headers)
        size = spans[0].stop - spans[0].start
        return _with_content(response, open_range(*spans[0]), size)
    form = ByteRanges(spans, length, content_type(response), secrets.token_hex(16))
    headers = response.headers.set("content-type", form.content_type)
    response = attrs.evolve(response, status_code=206, headers=headers)
    return _with_content(response, _open_parts(form, open_range), form.size)


def _with_content(response: Response, content: Content, length: int) -> Response:
    headers = response.headers.set("content-length", str(length))
    return attrs.evolve(response, content=content, headers=headers)


def _open_parts(form: ByteRanges, open_range: OpenRange) -> Opened:
    # In a task of its own, as parts are entered and left while the channel is received from.
    return _open_feeder(partial(_send_parts, form, open_range))


async def _send_parts(
    form: ByteRanges, open_range: OpenRange, send_channel: trio.MemorySendChannel[bytes]
) -> None:
    for span in form.spans:
        await send_channel.send(form.head(span))
        async with open_range(*span) as chunks:
            async for chunk in chunks:
                await send_channel.send(chunk)
    await send_channel.send(form.tail)


def _refusal(
    response: Response, status_code: int, text: str, headers: Headers | None = None
) -> Response:
    kept = response.headers.remove(*_OF_CONTENT, *_OF_REPRESENTATION)
    return attrs.evolve(
        response,
        content=text,
        status_code=status_code,
        headers=[*kept.raw, *(headers or Headers()).raw],
        media_type="text/plain",
        encoder=BYTES,
        live=False,
    )
