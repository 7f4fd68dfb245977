"""The body of a request, as a receive channel."""

from __future__ import annotations

import trio

from tsstream._errors import HTTPError

HANDLER_RETURNED = (
    "the request body is closed because the handler has returned; to read it while responding, "
    "write the handler with @asynccontextmanager and yield the response"
)
STARTED_UNOPENED = (
    "the request body is closed because the response started before anybody had asked for it; "
    "write 'body = request.body' before yielding the response, and pass that to the producer"
)


class RequestBody(trio.abc.ReceiveChannel[bytes]):
    """The chunks of a request's body, as they arrive and no faster than they are read.

    The channel ends only when the body is complete. If the client goes first, whoever waits here
    is cancelled with the handler; a task that is shielded gets ``BrokenResourceError``, never an
    end (RQ-19). Only one task may receive at a time.
    """

    def __init__(self) -> None:
        self._send_channel, self._receive_channel = trio.open_memory_channel[bytes](0)
        self._why_closed: str | None = None
        self._opened = False  # somebody has received, or tried to
        self._receiving = False
        self._complete = False

    async def receive(self) -> bytes:
        """Give the next chunk, never an empty one.

        Raises:
          trio.EndOfChannel: the body is complete.
          trio.BrokenResourceError: the client left before the end.
          trio.BusyResourceError: another task is receiving.
          trio.ClosedResourceError: the handler has returned, which ends the request; or its
            response started before ``request.body`` was asked for (RQ-23).
        """
        if self._receiving:
            raise trio.BusyResourceError(
                "another task is reading this request body; let one task read it and pass on "
                "the chunks through a channel"
            )
        self._receiving = self._opened = True
        try:
            return await self._receive_channel.receive()
        except trio.EndOfChannel:
            if self._complete:
                raise
            raise trio.BrokenResourceError(
                "the client left before the request body was complete"
            ) from None
        except trio.ClosedResourceError:
            raise trio.ClosedResourceError(self._why_closed) from None
        finally:
            self._receiving = False

    def close(self) -> None:
        """Read no more: what still arrives is dropped."""
        self._close("this request body was closed by its reader")

    async def aclose(self) -> None:
        """Read no more; always a checkpoint."""
        self.close()
        await trio.lowlevel.checkpoint()

    def _close(self, why: str) -> None:
        """Close for a reason that a late reader is told; the first one holds."""
        if self._why_closed is None:
            self._why_closed = why
        self._receive_channel.close()

    async def _put(self, chunk: bytes) -> bool:
        """Wait until a reader takes *chunk*; say whether there can be one."""
        try:
            await self._send_channel.send(chunk)
        except trio.BrokenResourceError:
            return False  # noqa: ASYNC910 (send() was one)
        return True

    def _end(self, *, complete: bool) -> None:
        self._complete = self._complete or complete
        self._send_channel.close()


async def read_whole(body: RequestBody, *, declared: int | None, limit: int) -> bytes:
    """Read *body* to its end.

    Args:
      declared: the request's Content-Length in bytes, if it has one.
      limit: in bytes; more of a body is not kept.

    Raises:
      HTTPError: 413, the body is larger than *limit* (RQ-9, RQ-11).
    """
    if body._opened:
        raise RuntimeError(
            "part of the request body was received before read(); use the one or the other"
        )
    if declared is not None and declared > limit:
        raise _too_large(limit)
    chunks: list[bytes] = []
    size = 0
    async for chunk in body:
        size += len(chunk)
        if size > limit:
            raise _too_large(limit)
        chunks.append(chunk)
    return b"".join(chunks)


def _too_large(limit: int) -> HTTPError:
    return HTTPError(413, f"The request body is larger than {limit} bytes.")
