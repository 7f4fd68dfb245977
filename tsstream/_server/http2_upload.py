"""Request bodies of HTTP/2: how they reach their application, and how slow they may be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import trio

from tsstream._server.inbox import Inbox

if TYPE_CHECKING:
    from tsstream._server.http2_stream import Stream


class BodyReceiver:
    """Gives a request's body to the inbox, one message at a time, whatever the frames' sizes.

    What has not been asked for yet is bounded by the stream's window, and kept in one piece, so
    that a client cannot make many small objects of it.
    """

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox
        self._gathered = bytearray()
        self._ended = False
        self._complete = False  # the last message was put

    def take(self, data: bytes, *, ended: bool) -> None:
        self._gathered += data
        self._ended = ended
        if not self._inbox.size:
            self.put()

    def put(self) -> None:
        """Put what has been gathered, as nothing of the body waits in the inbox any more."""
        if not self._complete and (self._gathered or self._ended):
            self._complete = self._ended
            data = bytes(self._gathered)
            self._gathered.clear()
            message = {"type": "http.request", "body": data, "more_body": not self._ended}
            self._inbox.put(message, len(data))

    def close(self) -> None:
        self._complete = True


class UploadWatch:
    """Answers 408 where a body pauses for too long and its response has not started.

    One task for all streams of a connection, and none if they have no bodies.

    Args:
      nursery: the connection's.
      streams: that are open.
      limit: seconds; None for no limit.
    """

    def __init__(
        self, nursery: trio.Nursery, streams: Mapping[int, Stream], limit: float | None
    ) -> None:
        self._nursery = nursery
        self._streams = streams
        self._limit = limit
        self._scope: trio.CancelScope | None = None

    def begin(self) -> None:
        """Watch, until there are no more bodies to come."""
        if self._limit is not None and self._scope is None:
            self._scope = trio.CancelScope()
            self._nursery.start_soon(self._run, self._scope, self._limit)

    def close(self) -> None:
        """Watch no more."""
        if self._scope is not None:
            self._scope.cancel()

    async def _run(self, scope: trio.CancelScope, limit: float) -> None:
        with scope:
            while uploads := [s for s in self._streams.values() if s.uploading]:
                await trio.sleep_until(min(stream.quiet_since for stream in uploads) + limit)
                for stream in uploads:
                    if stream.uploading and trio.current_time() >= stream.quiet_since + limit:
                        stream.refuse(408)
        self._scope = None
