"""Ranges of bytes that a request asks for, and how they are answered (RFC 9110, section 14)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import attrs

MAX_RANGES = 100  # a player or a viewer of documents asks for a few; who asks for more gets all
_RANGE = re.compile(r"(\d*)-(\d*)", re.ASCII)
_MAX_DIGITS = 18  # of a position: far beyond every end, and fast to convert


class Span(NamedTuple):
    """The bytes ``start <= i < stop`` of a representation."""

    start: int
    stop: int


def parse_ranges(value: str, length: int) -> tuple[Span, ...] | None:
    """Read a ``Range`` of something that is *length* bytes long.

    Ranges that overlap or touch become one; the others keep the request's order (15.3.7.2).

    Returns:
      what there is of it; nothing of it, for 416; or None, if the field is to be ignored: it is
      malformed or of another unit, it asks for too many ranges, or for more than the whole
      (14.2), or for the end of nothing, which no Content-Range can express.
    """
    unit, _, ranges = value.partition("=")
    specs = [spec for part in ranges.split(",") if (spec := part.strip(" \t"))]
    if unit.lower() != "bytes" or not 0 < len(specs) <= MAX_RANGES:
        return None
    spans = []
    for spec in specs:
        span = _to_span(spec, length)
        if span is None or (not length and span.start == 0 and spec.startswith("-")):
            return None
        spans.append(span)
    there = [span for span in spans if span.start < span.stop]
    if sum(span.stop - span.start for span in there) > length:
        return None
    return _merge(there)


def _to_span(spec: str, length: int) -> Span | None:
    """Give what *spec* means, empty if it lies beyond the end; None if it is malformed."""
    match = _RANGE.fullmatch(spec)
    if match is None or spec == "-":
        return None
    first, last = match.groups()
    if not first:
        return Span(max(0, length - _number(last)), length)
    if last and _number(last) < _number(first):
        return None
    return Span(_number(first), min(_number(last) + 1, length) if last else length)


def _number(digits: str) -> int:
    digits = digits.lstrip("0")
    return int(digits or "0") if len(digits) <= _MAX_DIGITS else 10**_MAX_DIGITS


def _merge(spans: Sequence[Span]) -> tuple[Span, ...]:
    merged: list[Span] = []
    for span in spans:
        apart = []
        for other in merged:
            if span.start <= other.stop and other.start <= span.stop:
                span = Span(min(span.start, other.start), max(span.stop, other.stop))
            else:
                apart.append(other)
        merged = [*apart, span]
    return tuple(merged)


def content_range(span: Span, length: int) -> str:
    """Give the ``Content-Range`` of a part of *length* bytes."""
    return f"bytes {span.start}-{span.stop - 1}/{length}"


def unsatisfied_range(length: int) -> str:
    """Give the ``Content-Range`` of a 416."""
    return f"bytes */{length}"


@attrs.frozen
class ByteRanges:
    """A ``multipart/byteranges`` body (RFC 9110, 14.6): what stands round the parts.

    Args:
      spans: the parts, in their order.
      length: of the whole, in bytes.
      media_type: of the whole.
      boundary: a line that is in none of the parts; a long random one is in none.
    """

    spans: Sequence[Span]
    length: int
    media_type: str
    boundary: str

    @property
    def content_type(self) -> str:
        """The body's own."""
        return f"multipart/byteranges; boundary={self.boundary}"

    @property
    def size(self) -> int:
        """The body's length in bytes."""
        parts = sum(len(self.head(span)) + span.stop - span.start for span in self.spans)
        return parts + len(self.tail)

    def head(self, span: Span) -> bytes:
        """Give what stands before a part."""
        # The line break before a delimiter belongs to it; one before the first is allowed.
        lines = (
            f"\r\n--{self.boundary}",
            f"Content-Type: {self.media_type}",
            f"Content-Range: {content_range(span, self.length)}",
            "\r\n",
        )
        return "\r\n".join(lines).encode("latin-1")

    @property
    def tail(self) -> bytes:
        """What stands after the last part."""
        return f"\r\n--{self.boundary}--\r\n".encode("latin-1")
