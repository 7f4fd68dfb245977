"""What the test client gives: a whole response, or one whose body is a channel."""

from __future__ import annotations

import json
from email.message import Message
from typing import Any

import attrs
import trio

from tsstream._sansio.headers import Headers

from ._exchange import Exchange


@attrs.frozen
class ClientResponse:
    """A response with its whole body."""

    status_code: int
    headers: Headers
    content: bytes

    @property
    def text(self) -> str:
        """The body as text, in the charset of its media type, UTF-8 if there is none."""
        media_type = Message()
        media_type["content-type"] = self.headers.get("content-type", "")
        return self.content.decode(media_type.get_content_charset("utf-8"))

    def json(self) -> Any:
        """Decode the body as JSON."""
        return json.loads(self.content)


class Body(trio.abc.ReceiveChannel[bytes]):
    """The body of a response, each chunk as the application sent it.

    There is no buffer: the application's ``send()`` waits until the chunk is received.
    """

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    async def receive(self) -> bytes:
        """Receive the next chunk. Cancelling it loses nothing.

        Raises:
          trio.EndOfChannel: the body is complete.
          TruncatedBodyError: it was cut; what the application raised is the cause.
          trio.ClosedResourceError: the client has left.
        """
        return self._checked(await self._exchange.next_chunk())

    def receive_nowait(self) -> bytes:
        """Receive the chunk that the application is waiting to hand over.

        Raises:
          trio.WouldBlock: there is none.
          as :meth:`receive`, besides.
        """
        return self._checked(self._exchange.next_chunk_nowait())

    def _checked(self, chunk: bytes | None) -> bytes:
        if chunk is None:
            self._exchange.check_complete()
            raise trio.EndOfChannel
        return chunk

    def close(self) -> None:
        """Leave, as the client: what the application sends goes nowhere from now on."""
        self._exchange.leave()

    async def aclose(self) -> None:
        """Leave as :meth:`close` does; a checkpoint."""
        self.close()
        await trio.lowlevel.checkpoint()


@attrs.frozen
class StreamedResponse:
    """A response whose head is there and whose body is coming.

    Attributes:
      body: a :class:`trio.abc.ReceiveChannel`; it ends only if the body was complete.
    """

    status_code: int
    headers: Headers
    body: Body
