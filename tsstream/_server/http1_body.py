"""Request bodies of HTTP/1: from h11, and past it."""

from __future__ import annotations

from typing import Any

import h11
from h11._readers import ChunkedReader, ContentLengthReader

from tsstream._sansio.chunked import take_chunks
from tsstream._server.inbox import ROOM
from tsstream._server.transport import RECEIVE_SIZE

PIECES = 256  # h11 takes about a millisecond for so many
MAX_READ_SIZE = 512 * 1024  # bytes: asked of a client that has filled RECEIVE_SIZE the last time,
FRAMING = 1024  # of which so many may have been no body


def gather(engine: h11.Connection, first: h11.Data) -> tuple[bytes, Any]:
    """Join the pieces of a body that have arrived together.

    A client may send thousands of small chunks in one packet, and each costs the application a
    ``receive()`` otherwise. Gives also the event behind them, or None if there may be more.
    """
    pieces = [bytes(first.data)]
    size = len(first.data)
    while size < ROOM and len(pieces) < PIECES:
        event = engine.next_event()
        if type(event) is not h11.Data:
            return b"".join(pieces), event
        pieces.append(bytes(event.data))
        size += len(event.data)
    return b"".join(pieces), None


class Incoming:
    """What comes in of one request's body.

    Args:
      engine: the connection's h11.
      length: in bytes, if the client has said it, else 0.

    Attributes:
      unread: bytes that are still to come, if the client has said so.
      dropped: bytes that nobody wanted.
      read_size: bytes that are worth asking the connection for.
    """

    def __init__(self, engine: h11.Connection, length: int = 0) -> None:
        self.unread = length
        self.dropped = 0
        self.read_size = RECEIVE_SIZE
        self._h11 = engine

    def take_past(self, data: bytes) -> tuple[bytes, bytes]:
        """Take what is plainly body without showing it to h11, and have that count it.

        It copies a body three times, which is most of what a large upload costs, and takes each
        chunk apart slowly. What is at the end of a body, and all that is not plain, it is to see.

        Gives what is body, and what is for h11.
        """
        reader: Any = self._h11._reader
        if self._h11._receive_buffer or self._h11.they_are_waiting_for_100_continue:
            body = b""
        elif isinstance(reader, ContentLengthReader) and reader._remaining > len(data):
            reader._remaining -= len(data)
            body, data = data, b""
        elif isinstance(reader, ChunkedReader) and not reader._reading_trailer:
            body, data = self._take_chunks(reader, data)
        else:
            body = b""
        # A piece costs the same passes of the scheduler, whatever its size.
        if len(body) >= RECEIVE_SIZE - FRAMING:
            self.read_size = MAX_READ_SIZE
        elif len(body) < RECEIVE_SIZE // 4:
            self.read_size = RECEIVE_SIZE
        return body, data

    def _take_chunks(self, reader: Any, data: bytes) -> tuple[bytes, bytes]:
        footer = reader._bytes_to_discard
        if footer not in (b"", b"\r\n"):
            return b"", data  # half of it has come
        # Between the last byte of a chunk and its line break h11 knows of the line break alone.
        taken = take_chunks(data, left=reader._bytes_in_chunk, footer=bool(footer))
        reader._bytes_in_chunk = taken.left
        reader._bytes_to_discard = b"\r\n" if taken.footer and not taken.left else b""
        return taken.body, data[taken.used :]
