"""Request bodies of HTTP/1: from h11, and past it."""

from __future__ import annotations

from typing import Any

import h11
from h11._readers import ContentLengthReader

from tsstream._server.inbox import ROOM
from tsstream._server.transport import RECEIVE_SIZE

PIECES = 256  # h11 takes about a millisecond for so many
MAX_READ_SIZE = 512 * 1024  # bytes: asked of a client that has filled RECEIVE_SIZE the last time


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

    def count_past(self, size: int) -> bool:
        """Have h11 count bytes of the body that it is not shown; say whether it could.

        It copies them three times otherwise, which is most of what a large upload costs. It can
        if they are the next of a body with a Content-Length, and not its last, which h11 is to see.
        """
        reader: Any = self._h11._reader
        if (
            not isinstance(reader, ContentLengthReader)
            or reader._remaining <= size
            or self._h11._receive_buffer
            or self._h11.they_are_waiting_for_100_continue
        ):
            self.read_size = RECEIVE_SIZE
            return False
        reader._remaining -= size
        # A piece costs the same passes of the scheduler, whatever its size.
        if size >= RECEIVE_SIZE:
            self.read_size = MAX_READ_SIZE
        elif size < RECEIVE_SIZE // 4:
            self.read_size = RECEIVE_SIZE
        return True
