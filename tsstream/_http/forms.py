"""A whole form in memory, whichever way it is encoded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import attrs

from tsstream._errors import HTTPError
from tsstream._sansio.headers import Headers
from tsstream._sansio.multipart import parse_content_type
from tsstream._sansio.query import QueryParams

from .limits import BodyLimits
from .parts import Part, Parts, open_parts

if TYPE_CHECKING:
    from .request import Request


@attrs.frozen(kw_only=True)
class FormFile:
    """A file of a form, in memory; big ones go through ``request.parts()``.

    Attributes:
      filename: as the client sent it, never a path; ``""`` if its user has chosen no file.
      content_type: the media type in lower case, without parameters; ``None`` if there is none.
      headers: all of the part's header fields.
      content: the data.
    """

    filename: str
    content_type: str | None
    headers: Headers
    content: bytes = attrs.field(repr=False)


@attrs.frozen(init=False, eq=False, repr=False)
class FormData(Mapping[str, str | FormFile]):
    """The fields and files of a form.

    As a mapping it has each name once, with its last value; :meth:`getlist` has them all. Values
    are ``str``, files are :class:`FormFile`. What is not UTF-8 becomes U+FFFD.

    Args:
      fields: names and values, in the order of the form.
    """

    _values: dict[str, list[str | FormFile]]

    def __init__(self, fields: Iterable[tuple[str, str | FormFile]] = ()) -> None:
        values: dict[str, list[str | FormFile]] = {}
        for name, value in fields:
            values.setdefault(name, []).append(value)
        object.__setattr__(self, "_values", values)

    def __getitem__(self, name: str) -> str | FormFile:
        return self._values[name][-1]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"FormData({self._values!r})"

    def getlist(self, name: str) -> list[str | FormFile]:
        """Give every value of the field in the order of the form; none is ``[]``."""
        return list(self._values.get(name, ()))


async def read_form(request: Request[Any]) -> FormData:
    """Read the whole form; see ``Request.form``.

    Raises:
      HTTPError: 415, the body is no form; 400, it is malformed; 413, a field is larger than
        ``body_limits.max_field``, there are more than ``max_parts`` fields and files, or all of
        it is larger than ``max_body``; 408, as ``request.body``.
      BodyConsumed: the body was received before, or a part of it.
    """
    media_type, _ = parse_content_type(request.headers.get("content-type", ""))
    if media_type == "application/x-www-form-urlencoded":
        return _parse_urlencoded(await request.read(), request.body_limits)
    if media_type == "multipart/form-data":
        return await _read_multipart(request)
    raise HTTPError(
        415,
        "The request body is to be a form: multipart/form-data or "
        "application/x-www-form-urlencoded.",
    )


def _parse_urlencoded(data: bytes, limits: BodyLimits) -> FormData:
    # Before they are parsed: a million empty fields take two bytes each here, and hundreds there.
    pairs = data.split(b"&", limits.max_parts)
    if len(pairs) > limits.max_parts:
        raise HTTPError(413, f"The form has more than {limits.max_parts} fields.")
    query = QueryParams(data)
    fields = [(name, value) for name in query for value in query.getlist(name)]
    if any(len(value.encode()) > limits.max_field for _, value in fields):
        raise HTTPError(413, f"A field of the form is larger than {limits.max_field} bytes.")
    return FormData(fields)


async def _read_multipart(request: Request[Any]) -> FormData:
    parts = open_parts(request)
    try:
        return await _read_parts(parts, request)
    except HTTPError as error:
        raise request._body._fail(error.status_code, error.detail) from None


async def _read_parts(parts: Parts, request: Request[Any]) -> FormData:
    body, room = request._body, request.body_limits.max_body
    too_large = HTTPError(413, f"The form is larger than {room} bytes.")
    fields: list[tuple[str, str | FormFile]] = []
    kept = 0  # bytes
    if (body._declared or 0) > room:
        raise too_large
    async for part in parts:
        data = await _read_part(part, room - kept, too_large)
        kept += len(data)
        fields.append((part.name, _to_value(part, data)))
        if body._received > room:  # as encoded, and perhaps a chunk ahead of the part
            raise too_large
    return FormData(fields)


async def _read_part(part: Part, room: int, too_large: HTTPError) -> bytes:
    if part.filename is None and part._max_field < room:
        return await part.read()
    return await part._read_whole(room, too_large)


def _to_value(part: Part, data: bytes) -> str | FormFile:
    if part.filename is None:
        return data.decode(part._codec(), "replace")
    return FormFile(
        filename=part.filename,
        content_type=part.content_type,
        headers=part.headers,
        content=data,
    )
