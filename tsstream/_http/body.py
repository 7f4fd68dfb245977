"""The body of a request, as a receive channel."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Protocol

import trio

from tsstream._errors import BodyConsumed, HTTPError
from tsstream._pieces import Pieces

from .limits import BodyLimits

HANDLER_RETURNED = (
    "the request body is closed because the handler has returned; to read it while responding, "
    "write the handler with @asynccontextmanager and yield the response"
)
STARTED_UNOPENED = (
    "the request body is closed because the response started before anybody had asked for it; "
    "write 'body = request.body' before yielding the response, and pass that to the producer"
)


class Source(Protocol):
    """Where the chunks come from: the one reader of ``receive()``."""

    async def next_chunk(self, limit: float) -> bytes | None:
        """Give the next chunk that is not empty, or None at the end of a complete body.

        Cancelling it loses nothing.

        Raises:
          trio.BrokenResourceError: the client left before.
          trio.ClosedResourceError: :meth:`close` was called meanwhile.
          trio.TooSlowError: none has come for *limit* seconds.
        """
        ...

    def close(self) -> None:
        """Nobody reads any more: drop what still comes."""
        ...


class RequestBody(trio.abc.ReceiveChannel[bytes]):
    """The chunks of a request's body, as they arrive and no faster than they are read.

    The channel ends only if the body is complete. If the client goes first, whoever waits here
    is cancelled with the handler; a task that is shielded gets ``BrokenResourceError``, never an
    end (RQ-19). Only one task may receive at a time.

    Args:
      limits: of this body.
      fields: of the request's head, as ASGI has them.
    """

    def __init__(self, limits: BodyLimits, fields: Iterable[tuple[bytes, bytes]]) -> None:
        self.limits = limits
        self._fields = fields
        self._source: Source | None = None  # until the exchange begins
        self._receiving = False
        self._opened = False  # somebody has received, or tried to
        self._claimed = False  # by somebody who is to read it as a whole
        self._received = 0  # bytes
        self._silence: float = 0  # seconds that somebody has waited since the last chunk
        self._ended = False  # and somebody was told so
        self._failure: tuple[int, str] | None = None  # a limit that was crossed stays so (RQ-13)
        self._why_closed: str | None = None
        self._kept: bytes | None = None  # by read()
        self._kept_is_due = False  # whoever iterates gets it once (RQ-17)

    async def receive(self) -> bytes:
        """Give the next chunk, never an empty one.

        Raises:
          trio.EndOfChannel: the body is complete.
          HTTPError: 413, the body is larger than ``limits.max_stream``; 408, nothing has come for
            ``limits.timeout`` seconds. Every later call raises the same.
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
        if self._failure is not None or self._why_closed is not None or self._ended:
            await trio.lowlevel.checkpoint()
            return self._after_the_end()
        if not self._opened:
            self._opened = True
            self._check_size(self._declared or 0)
        assert self._source is not None, "the exchange has not begun"
        limit = math.inf if self.limits.timeout is None else self.limits.timeout
        began = trio.current_time()
        self._receiving = True
        try:
            chunk = await self._source.next_chunk(max(0, limit - self._silence))
        except trio.Cancelled:
            # Who polls, with a limit of his own round this, waits all the same.
            self._silence += trio.current_time() - began
            raise
        except trio.ClosedResourceError:
            raise trio.ClosedResourceError(self._why_closed) from None
        except trio.TooSlowError:
            text = f"The request body has paused for {limit:g} seconds."
            raise self._fail(408, text) from None
        finally:
            self._receiving = False
        self._silence = 0
        if chunk is None:
            self._ended = True
            raise trio.EndOfChannel
        self._received += len(chunk)
        self._check_size(self._received)
        return chunk  # noqa: ASYNC910 (next_chunk() was one)

    def __aiter__(self) -> RequestBody:
        """Iterate over the chunks.

        Raises:
          BodyConsumed: they have all been received (RQ-17).
        """
        if self._ended and not self._kept_is_due and self._why_closed is None:
            raise BodyConsumed(
                "the request body was read to its end before; read it once and pass on what it "
                "gave, or use 'await request.read()', which can be called again"
            )
        return self

    def close(self) -> None:
        """Read no more: what still arrives is dropped."""
        self._close("this request body was closed by its reader")

    async def aclose(self) -> None:
        """Read no more; always a checkpoint."""
        self.close()
        await trio.lowlevel.checkpoint()

    async def read(self, limit: int, *, cache: bool) -> bytes:
        """Give the whole body, once, or again and again with *cache*; see ``Request.read``."""
        if self._failure is not None:
            raise HTTPError(*self._failure)
        if self._kept is not None:
            await trio.lowlevel.checkpoint()
            return self._kept
        self._claim()
        if (self._declared or 0) > limit:
            raise self._fail_as_too_large(limit)
        pieces = Pieces()
        async for chunk in self:
            if self._received > limit:
                raise self._fail_as_too_large(limit)
            pieces.add(chunk)
        data = pieces.join()
        if cache:
            self._kept, self._kept_is_due = data, True
        return data

    @property
    def _declared(self) -> int | None:
        """The request's Content-Length in bytes, if it has one."""
        for name, value in self._fields:
            if name == b"content-length":
                return int(value) if value.isdigit() and len(value) < 20 else None
        return None

    def _claim(self) -> None:
        """Let one reader have all of the body.

        Raises:
          HTTPError: a limit was crossed before.
          BodyConsumed: another one has had it, or a part of it.
        """
        if self._failure is not None:
            raise HTTPError(*self._failure)
        used = self._claimed or self._opened
        if used and not self._kept_is_due and self._why_closed is None:
            raise BodyConsumed(
                "the request body was received before, or a part of it, or its parts were asked "
                "for; read it once and pass on the result"
            )
        self._claimed = True

    def _after_the_end(self) -> bytes:
        if self._failure is not None:
            raise HTTPError(*self._failure)
        if self._why_closed is not None:
            raise trio.ClosedResourceError(self._why_closed)
        if self._kept_is_due:
            self._kept_is_due = False
            if self._kept:
                return self._kept
        raise trio.EndOfChannel

    def _check_size(self, size: int) -> None:
        limit = self.limits.max_stream
        if limit is not None and size > limit:
            raise self._fail_as_too_large(limit)

    def _fail_as_too_large(self, limit: int) -> HTTPError:
        return self._fail(413, f"The request body is larger than {limit} bytes.")

    def _fail(self, status_code: int, detail: str) -> HTTPError:
        """Give the error for whoever reads, now and from now on (RQ-13)."""
        self._failure = status_code, detail
        self._close(detail)
        return HTTPError(status_code, detail)

    def _close(self, why: str) -> None:
        """Close for a reason that a late reader is told; the first one holds."""
        if self._why_closed is None:
            self._why_closed = why
            source, self._source = self._source, None  # it refers to us
            if source is not None:
                source.close()
