"""What the test client gives: responses, and requests, as a whole or with a channel for a body."""

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


class RequestBody(trio.abc.SendChannel[bytes | str]):
    """The body of a request, sent chunk by chunk.

    There is no buffer: ``send()`` waits until the application receives the chunk.
    """

    def __init__(self, exchange: Exchange, *, closed: bool) -> None:
        self._exchange = exchange
        self._closed = closed

    async def send(self, chunk: bytes | str) -> None:
        """Send a chunk. If it is cancelled, the application has not received it.

        Raises:
          trio.BrokenResourceError: nor will it, as it has ended its response or returned.
          trio.ClosedResourceError: the test has ended the body, or left.
          TypeError: the chunk is neither bytes nor str.
        """
        if self._closed:
            raise trio.ClosedResourceError("the body of the request is complete, or broken off")
        await self._exchange.send_chunk(chunk)

    def close(self) -> None:
        """End the body: what was sent is the whole of it."""
        if not self._closed:
            self._closed = True
            self._exchange.end_request()

    async def aclose(self) -> None:
        """End the body as :meth:`close` does; a checkpoint."""
        self.close()
        await trio.lowlevel.checkpoint()


@attrs.frozen(eq=False)
class StreamedRequest:
    """A request under way, before its response.

    Attributes:
      body: a :class:`trio.abc.SendChannel`; closing it is the end of the body.
    """

    body: RequestBody
    _exchange: Exchange

    async def response(self) -> StreamedResponse:
        """Wait for the head of the response.

        Raises:
          trio.ClosedResourceError: the client left before.
          whatever the application raised instead of starting one, unless ``raise_app_errors`` is
            false.
        """
        status_code, headers = await self._exchange.wait_started()
        return StreamedResponse(status_code, headers, Body(self._exchange))

    def abort(self) -> None:
        """Leave, as the client, wherever the request and its response are.

        From now on the application receives ``http.disconnect``, in place of the rest of an
        unfinished body too, and what it sends goes nowhere.
        """
        self._exchange.leave()
        self.body.close()
