"""Chunked bodies, as far as they are plain: sizes and data, one after the other."""

from __future__ import annotations

import re

import attrs

MANY = 1000  # chunks: about a millisecond
_HEADER = re.compile(rb"([0-9A-Fa-f]{1,16})\r\n")
_FOOTER = b"\r\n"


@attrs.frozen
class Taken:
    """What was taken of some data.

    Attributes:
      body: the data of the chunks, without their framing.
      used: bytes; what is behind them was not looked at, or is not plain.
      left: bytes that are still to come of the last chunk.
      footer: its line break is still to come, too.
      chunks: how many there were.
    """

    body: bytes
    used: int
    left: int
    footer: bool
    chunks: int


def take_chunks(data: bytes, *, left: int, footer: bool) -> Taken:
    """Take the framing off *data* (RFC 9112, 7.1), up to what is not plain.

    That is whatever a parser should have a look at: the last chunk, an extension, a header that is
    not all there, and all that is wrong.

    Args:
      left, footer: as the data before has left them.
    """
    view = memoryview(data)
    pieces: list[memoryview] = []
    at, end = 0, len(data)
    chunks = 0
    while at < end and chunks < MANY:
        if left:
            piece = view[at : at + left]
            pieces.append(piece)
            at += len(piece)
            left -= len(piece)
            footer = True
        elif footer:
            if data[at : at + len(_FOOTER)] != _FOOTER:
                break
            at += len(_FOOTER)
            footer = False
        else:
            header = _HEADER.match(data, at)
            if header is None or not (size := int(header[1], 16)):
                break
            at, left = header.end(), size
            chunks += 1
    return Taken(b"".join(pieces), at, left, footer, chunks)
