"""Request bodies of HTTP/1: from h11, and past it."""

from __future__ import annotations

from typing import Any

import h11

from tsstream._server.inbox import ROOM

PIECES = 256  # h11 takes about a millisecond for so many


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


def count_past(engine: h11.Connection, size: int) -> bool:
    """Have h11 count bytes of a body that it is not shown; say whether it could.

    It copies them three times otherwise, which is most of what a large upload costs. It can if
    they are the next of a body with a Content-Length, and not the last: what is at its end, h11
    is shown.
    """
    reader: Any = engine._reader
    if not isinstance(reader, h11._readers.ContentLengthReader):
        return False
    if reader._remaining <= size or engine._receive_buffer:
        return False
    if engine.they_are_waiting_for_100_continue:
        return False
    reader._remaining -= size
    return True
