"""A multipart/form-data body, parsed as it arrives: bytes in, parts and their data out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from enum import Enum, auto
from typing import Any, Literal, TypeAlias
from urllib.parse import unquote

import attrs
import multipart  # type: ignore[import-untyped]  # it has annotations, and no py.typed

from .headers import Headers

MAX_BOUNDARY = 70  # bytes (RFC 2046, 5.1.1)
_BOUNDARY = re.compile(r"[\x20-\x7e]*[\x21-\x7e]")
_HEADER_LINE = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+[\t ]*:[\t\x20-\x7e\x80-\xff]*")
# Not only tokens: clients do send "boundary=----=_Part_1/2" without quotes.
_PARAMETER = re.compile(r';[\t ]*([^\s;="]+)[\t ]*=[\t ]*("(?:[^"\\]|\\.)*"|[^";]*)')
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*+"?')  # to the end, if it is not closed: linear time
_ANY_FILENAME = re.compile(r";[\t ]*filename[*\t =;]*", re.IGNORECASE)
_EXT_FILENAME = re.compile(r";[\t ]*filename\*=(utf-8|iso-8859-1)'[^';]*'([^\s;]*)", re.IGNORECASE)


class BadMultipart(ValueError):
    """The body cannot be taken for multipart/form-data.

    Attributes:
      status_code: 400 it is malformed, 413 a limit was crossed, 415 it is something else.
    """

    def __init__(self, status_code: int, message: str) -> None:
        self.status_code = status_code
        super().__init__(message)


@attrs.frozen(kw_only=True)
class PartHead:
    """What the headers of one part say; see :class:`Part` for what the fields mean."""

    name: str
    filename: str | None
    content_type: str | None
    charset: str | None
    headers: Headers


class Signal(Enum):
    """What is neither a part nor data."""

    NEED_DATA = auto()
    PART_END = auto()  # the part is whole
    END = auto()  # the body is: nothing follows


Event: TypeAlias = PartHead | bytes | Signal
NEED_DATA: Literal[Signal.NEED_DATA] = Signal.NEED_DATA
PART_END: Literal[Signal.PART_END] = Signal.PART_END
END: Literal[Signal.END] = Signal.END


class MultipartReader:
    """The events of one body: for each part its head, its data and ``PART_END``; then ``END``.

    The events do not depend on how the body is cut into chunks, but for where the data is. A
    part ends only at its boundary, the body only behind the final one: one that breaks off is
    malformed. What follows the final boundary is dropped (RFC 2046, 5.1.1), but a preamble is
    an error: only mails have one. Errors stay errors.

    Args:
      content_type: the value of the header, or ``None`` if there is none.
      max_parts: parts of the body.
      max_part_header: bytes of one part's header block.

    Raises:
      BadMultipart: 415, the content type is another; 400, it has no usable boundary.
    """

    def __init__(self, content_type: str | None, *, max_parts: int, max_part_header: int) -> None:
        boundary = _find_boundary(content_type)
        self._opening = b"--" + boundary
        self._opening_held: bytes | None = b""  # until there is enough to compare
        self._parser = _Parser(boundary, max_part_header)
        self._parsed: Iterator[Any] = iter(())
        self._max_parts = max_parts
        self._parts = 0
        self._ended = False
        self._failure: tuple[int, str] | None = None

    def receive_data(self, data: bytes) -> None:
        """Take the next chunk, once ``NEED_DATA`` was given; ``b""`` is the end of the body."""
        if not data:
            self._ended = True
        elif self._opening_held is None:
            self._parsed = self._parser.parse(data)
        else:
            self._receive_opening(self._opening_held + data)

    def next_event(self) -> Event:
        """Give the next event of what was received.

        Raises:
          BadMultipart: 400, the body is malformed or breaks off; 413, a limit was crossed.
        """
        if self._failure is None:
            try:
                return self._next_event()
            except BadMultipart as error:
                self._failure = error.status_code, str(error)
            except multipart.ParserLimitReached:
                self._failure = 413, f"A part's headers take more than {self._max_header} bytes."
            except multipart.MultipartError as error:
                self._failure = 400, f"The multipart body is malformed: {error}."
        raise BadMultipart(*self._failure)

    @property
    def _max_header(self) -> int:
        return int(self._parser.max_header_size)

    def _receive_opening(self, held: bytes) -> None:
        # The parser would look for the first boundary in one chunk, and so find what is none, or
        # none where there is one, just because of where the chunks begin.
        start = held.removeprefix(b"\r\n")  # some clients
        if len(start) < len(self._opening):
            self._opening_held = held
            return
        self._opening_held = None
        if start.startswith(self._opening):
            self._parsed = self._parser.parse(start)
        else:
            self._failure = 400, "The multipart body does not begin with its boundary."

    def _next_event(self) -> Event:
        found = next(self._parsed, NEED_DATA)
        if found is None:
            return PART_END
        if isinstance(found, multipart.MultipartSegment):
            self._parser.header_bytes = 0
            return self._next_part(found)
        if found is NEED_DATA and self._ended:
            return self._end()
        event: Event = found
        return event

    def _next_part(self, segment: Any) -> PartHead:
        self._parts += 1
        if self._parts > self._max_parts:
            raise BadMultipart(413, f"The multipart body has more than {self._max_parts} parts.")
        return _part_head(segment)

    def _end(self) -> Signal:
        try:
            self._parser.close()
        except multipart.MultipartError:
            raise BadMultipart(400, "The multipart body ends before its final boundary.") from None
        return END


class _Parser(multipart.PushMultipartParser):  # type: ignore[misc]  # see the import
    """The parser, stricter about header lines; otherwise it is as strict as is needed.

    Not its strict mode: that fails at the line break behind the final boundary, if this comes in
    a chunk of its own.
    """

    def __init__(self, boundary: bytes, max_header: int) -> None:
        self.header_bytes = 0  # of this part's block, so far
        # The block as a whole is limited here, and so is every line. Latin-1 keeps the bytes.
        super().__init__(
            boundary,
            max_header_size=max_header,
            max_header_count=max_header,
            header_charset="latin-1",
        )

    def _on_segment_headerline(self, line: bytes) -> None:
        self.header_bytes += len(line) + len(b"\r\n")
        if self.header_bytes > self.max_header_size:
            raise multipart.ParserLimitReached
        # It would take a bare LF for a line break in one chunk, and for a value's in another.
        if not _HEADER_LINE.fullmatch(line):
            raise multipart.ParserError("Invalid segment header line")
        super()._on_segment_headerline(line)


def parse_content_type(value: str) -> tuple[str, dict[str, str]]:
    """Give the media type, in lower case, and its parameters; of a repeated one the first."""
    media_type, semicolon, parameters = value.partition(";")
    found: dict[str, str] = {}
    for name, text in _PARAMETER.findall(semicolon + parameters):
        if text.startswith('"'):
            text = re.sub(r"\\(.)", r"\1", text[1:-1])
        found.setdefault(name.lower(), text.strip(" \t"))
    return media_type.strip(" \t").lower(), found


def _find_boundary(content_type: str | None) -> bytes:
    media_type, parameters = parse_content_type(content_type or "")
    if media_type != "multipart/form-data":
        raise BadMultipart(415, "The request body is to be multipart/form-data.")
    boundary = parameters.get("boundary", "")
    if len(boundary) > MAX_BOUNDARY or not _BOUNDARY.fullmatch(boundary):
        raise BadMultipart(
            400, "The Content-Type has no boundary, or one that is not valid (RFC 2046, 5.1.1)."
        )
    return boundary.encode("ascii")


def _part_head(segment: Any) -> PartHead:
    """Make the head of what the parser has found in a part's headers, all in Latin-1."""
    fields: Sequence[tuple[str, str]] = segment.headerlist
    disposition = _only(fields, "Content-Disposition") or ""
    if segment.name == "" and multipart.parse_content_disposition(disposition)[1] is None:
        raise BadMultipart(400, "The multipart body is malformed: a part has no name.")
    media_type, parameters = parse_content_type(_only(fields, "Content-Type") or "")
    return PartHead(
        name=_to_text(segment.name),
        filename=_filename(segment.filename, disposition),
        content_type=media_type or None,
        charset=parameters.get("charset"),
        headers=Headers.from_wire([(n.encode("latin-1"), v.encode("latin-1")) for n, v in fields]),
    )


def _only(fields: Sequence[tuple[str, str]], name: str) -> str | None:
    values = [value for field, value in fields if field == name]
    if len(values) > 1:
        raise BadMultipart(400, f"The multipart body is malformed: a part has two {name} headers.")
    return values[0] if values else None


def _filename(filename: str | None, disposition: str) -> str | None:
    # RFC 7578, 4.2 has no "filename*", but .NET and others send it, some of them alone: then the
    # part would be taken for a field.
    if found := _EXT_FILENAME.search(_QUOTED.sub('""', disposition)):
        return unquote(found[2], encoding=found[1], errors="replace")
    if filename is None and _ANY_FILENAME.search(_QUOTED.sub('""', disposition)):
        raise BadMultipart(400, "The multipart body is malformed: a filename cannot be read.")
    return None if filename is None else _to_text(filename)


def _to_text(value: str) -> str:
    # What is not UTF-8 becomes U+FFFD, as in a query.
    return value.encode("latin-1").decode("utf-8", "replace")
