"""The head of an HTTP/1 request as Hypercorn's event."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hypercorn.protocol.events import Request
from hypercorn.typing import ConnectionState

from tsstream._sansio.http1 import Head, split_target

STREAM_ID = 1  # Hypercorn's events have one


def build_request(head: Head, fields: Iterable[tuple[bytes, bytes]], state: Any) -> Request:
    """Give the event for a request that was checked.

    Args:
      fields: of the head, with their names as the client wrote them, if that is wanted.
      state: of the lifespan.
    """
    headers = list(fields)
    target, authority = split_target(head.target)
    if authority is not None:
        headers = [field for field in headers if field[0].lower() != b"host"]
        headers.append((b"host", authority))
    return Request(
        stream_id=STREAM_ID,
        headers=headers,
        http_version=head.http_version.decode(),
        method=head.method.decode().upper(),
        raw_path=target,
        state=ConnectionState(state),
    )
