"""The parts of a multipart/form-data body, each a channel, one after the other as they arrive."""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import trio

from tsstream._errors import BodyConsumed, HTTPError
from tsstream._pieces import Pieces
from tsstream._sansio.headers import Headers
from tsstream._sansio.multipart import (
    NEED_DATA,
    PART_END,
    BadMultipart,
    Event,
    MultipartReader,
    PartHead,
)

from .body import RequestBody
from .limits import BodyLimits
from .saving import save_chunks

if TYPE_CHECKING:
    from .request import Request

Body: TypeAlias = RequestBody | trio.MemoryReceiveChannel[bytes]

# The encodings of the Web, by Python's names. Others are no encodings of text, or take quadratic
# time to decode ("idna").
_TEXT_CODECS = re.compile(
    r"utf-8|ascii|iso8859-\d+|cp125\d|utf-16(-[bl]e)?|koi8-[ru]|gbk|gb18030|big5|euc_(jp|kr)"
    r"|shift_jis"
)

NEXT_PART = (
    "the body of this part is closed because the next part has been asked for; read, save or "
    "iterate over a part before you ask for the next one"
)
CLOSED = "the body of this part was closed by its reader"
PARTS_CLOSED = "the parts of this request were closed by their reader"
TAKEN = "read(), text() or save() has taken this part's body; call it once and pass on its result"
BUSY = "another task is reading the parts of this request; let one task read them and pass on data"


class PartBody(trio.abc.ReceiveChannel[bytes]):
    """The data of one part, as it arrives and no faster than it is read.

    The channel ends only if the part is whole.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._received = False  # some of it
        self._taken = False  # by read() or save()
        self._ended = False
        self._why_closed: str | None = None

    async def receive(self) -> bytes:
        """Give the next piece of the part, never an empty one; cancelling it loses nothing.

        Raises:
          trio.EndOfChannel: the part is complete.
          HTTPError: 400, the body is malformed or ends within the part; 413 and 408, as
            ``request.body``. Every later call raises the same.
          trio.BusyResourceError: another task is reading the parts.
          trio.ClosedResourceError: the next part has been asked for; or as ``request.body``.
          BodyConsumed: ``read()`` or ``save()`` has taken it.
        """
        if self._taken:
            raise BodyConsumed(TAKEN)
        return await self._receive()

    def close(self) -> None:
        """Read no more: the rest is dropped when the next part is asked for."""
        self._close(CLOSED)

    async def aclose(self) -> None:
        """Read no more; always a checkpoint."""
        self.close()
        await trio.lowlevel.checkpoint()

    @contextmanager
    def _take(self) -> Iterator[None]:
        """Let the block alone read it, to its end; or not at all, if it fails before it has."""
        if self._taken:
            raise BodyConsumed(TAKEN)
        if self._received:
            raise BodyConsumed(
                "a piece of this part was received before read() or save(); use the one or the "
                "other"
            )
        self._taken = True
        try:
            yield
        except BaseException:
            self._taken = self._received
            raise

    async def _receive(self) -> bytes:
        if self._why_closed is not None:
            raise trio.ClosedResourceError(self._why_closed)
        if self._ended:
            await trio.lowlevel.checkpoint()
            raise trio.EndOfChannel
        event = await self._parts._next_event()
        if event is PART_END:
            self._ended = True
            raise trio.EndOfChannel
        assert isinstance(event, bytes)
        self._received = True
        return event

    def _close(self, why: str) -> None:
        if self._why_closed is None and not self._ended:
            self._why_closed = why


class Part:
    """One part of a multipart/form-data body: a field of the form, or a file.

    What the client says of it is only what the client says: ``filename`` may be ``../x`` or
    empty, and is never a path (BK-30); ``content_type`` need not be true.

    Attributes:
      name: of the field of the form.
      filename: as the client sent it, but for the directory of a Windows path and ``%22``, which
        is ``"``; ``None`` for what is no file.
      content_type: the media type in lower case, without parameters; ``None`` if there is none.
      headers: all of the part's header fields.
      body: the data, a receive channel. Ask for the next part only when you are done with it.
    """

    def __init__(self, head: PartHead, body: PartBody, limits: BodyLimits) -> None:
        self.name: str = head.name
        self.filename: str | None = head.filename
        self.content_type: str | None = head.content_type
        self.headers: Headers = head.headers
        self.body: trio.abc.ReceiveChannel[bytes] = body
        self._body = body
        self._charset = head.charset
        self._max_field = limits.max_field
        self._read: bytes | None = None
        self._failure: HTTPError | None = None  # a limit that was crossed stays so (RQ-13)

    def __repr__(self) -> str:
        return f"<Part name={self.name!r} filename={self.filename!r}>"

    async def read(self, *, limit: int | None = None) -> bytes:
        """Give all of the part; a second call gives the same bytes.

        Args:
          limit: of what is kept in memory, in bytes, instead of ``body_limits.max_field``.

        Raises:
          HTTPError: 413, the part is larger than *limit*; and as ``body.receive()``.
          BodyConsumed: a piece of it was received before, or ``save()`` has taken it.
        """
        if self._failure is not None:
            raise self._failure
        if self._read is not None:
            await trio.lowlevel.checkpoint()
            return self._read
        limit = self._max_field if limit is None else limit
        too_large = HTTPError(413, f"A part of the form is larger than {limit} bytes.")
        return await self._read_whole(limit, too_large)

    async def text(self, *, limit: int | None = None) -> str:
        """Give all of the part as text, in the charset of its Content-Type, or else UTF-8.

        Raises:
          HTTPError: 400, it is not in that charset, or the charset is none of the Web's; and as
            :meth:`read`.
        """
        codec = self._codec()
        data = await self.read(limit=limit)
        try:
            return data.decode(codec)
        except UnicodeDecodeError as error:
            raise HTTPError(400, f"A part of the form is not valid text: {error}.") from None

    async def save(self, path: str | os.PathLike[str]) -> int:
        """Write the part to the file *path*, all or nothing; give its size in bytes.

        The data goes to a new file in the same directory, which takes the place of *path* when
        all of it is on the disk. If anything fails, or this is cancelled, the new file is removed
        and an old one at *path* is as it was. It has the mode of any new file.

        Never make *path* of ``filename``, which may be ``../x``.

        Raises:
          OSError: the file cannot be written, e.g. ``errno.ENOSPC``: the disk is full.
          HTTPError: as ``body.receive()``.
          BodyConsumed: a piece of it was received before, or ``read()`` or ``save()`` has taken it.
        """
        with self._body._take():
            return await save_chunks(self._body._receive, path)

    async def _read_whole(self, limit: int, too_large: HTTPError) -> bytes:
        pieces = Pieces()
        with self._body._take():
            try:
                while pieces.size <= limit:
                    pieces.add(await self._body._receive())
            except trio.EndOfChannel:
                self._read = pieces.join()
                return self._read  # noqa: ASYNC910 (_receive() was one)
            self._failure = too_large
            raise too_large

    def _codec(self) -> str:
        charset = self._charset or "utf-8"
        try:
            codec = codecs.lookup(charset).name
        except (LookupError, ValueError):  # ValueError: a NUL in it
            codec = ""
        if not _TEXT_CODECS.fullmatch(codec):
            raise HTTPError(400, f"A part of the form is in the charset {charset!a}, not UTF-8.")
        return codec


class Parts(trio.abc.ReceiveChannel[Part]):
    """The parts of a request's body, one at a time, in the order in which they arrive.

    Asking for the next part drops what has not been read of the one before, whose body is closed
    then. The channel ends only if the body is complete. In memory there is never more than one
    chunk of the request's body. Only one task may read, be it parts or a part's body.
    """

    def __init__(self, body: Body, reader: MultipartReader, limits: BodyLimits) -> None:
        self._body = body
        self._reader = reader
        self._limits = limits
        self._part: PartBody | None = None  # the last one given
        self._reading = False
        self._closed = False

    async def receive(self) -> Part:
        """Give the next part.

        Cancelling it loses no part, but what had not been read of the one before may be gone.

        Raises:
          trio.EndOfChannel: there is no part after the last one.
          HTTPError: 400, the body is malformed or ends too early; 413, it has too many parts, or
            too large headers; 413 and 408, as ``request.body``. Every later call raises the same.
          trio.BusyResourceError: another task is reading the parts.
          trio.ClosedResourceError: as ``request.body``.
        """
        head = await self._next_event(skip_part=True)
        if not isinstance(head, PartHead):
            raise trio.EndOfChannel
        self._part = PartBody(self)
        return Part(head, self._part, self._limits)

    def close(self) -> None:
        """Read no more parts, nor any of the request's body."""
        self._closed = True
        self._body.close()

    async def aclose(self) -> None:
        """Read no more; always a checkpoint."""
        self.close()
        await trio.lowlevel.checkpoint()

    async def _next_event(self, *, skip_part: bool = False) -> Event:
        """Wait for the next event, or the next that is not about the part given last."""
        if self._closed:
            raise trio.ClosedResourceError(PARTS_CLOSED)
        if self._reading:
            raise trio.BusyResourceError(BUSY)
        self._reading = True
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            if skip_part and self._part is not None:
                self._part._close(NEXT_PART)
            waited = False
            while (event := self._parse()) is NEED_DATA or (
                skip_part and (event is PART_END or isinstance(event, bytes))
            ):
                if event is NEED_DATA:
                    self._reader.receive_data(await self._receive_chunk())
                    waited = True
            if not waited:
                await trio.lowlevel.cancel_shielded_checkpoint()
            return event
        finally:
            self._reading = False

    def _parse(self) -> Event:
        try:
            return self._reader.next_event()
        except BadMultipart as error:
            raise HTTPError(error.status_code, str(error)) from None

    async def _receive_chunk(self) -> bytes:
        try:
            return await self._body.receive()
        except trio.EndOfChannel:
            return b""  # noqa: ASYNC910 (receive() was one)


def open_parts(request: Request[Any]) -> Parts:
    """Give the parts of the request's body; see ``Request.parts``.

    Raises:
      HTTPError: 415, the body is no multipart/form-data; 400, it has no usable boundary.
      BodyConsumed: the body was received before, or its parts were asked for.
    """
    body, limits = request.body, request.body_limits
    try:
        reader = MultipartReader(
            request.headers.get("content-type"),
            max_parts=limits.max_parts,
            max_part_header=limits.max_part_header,
        )
    except BadMultipart as error:
        raise HTTPError(error.status_code, str(error)) from None
    body._claim()
    return Parts(body, reader, limits)
