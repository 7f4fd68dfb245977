"""One request in process: the server's side of it towards the application, and the client's."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

import trio

from tsstream._asgi import ASGIApp, Message
from tsstream._errors import TruncatedBodyError
from tsstream._sansio.headers import Headers

from ._call import Call
from ._messages import Data, Start, Transcript
from ._upload import Content, Upload


class Exchange:
    """One call of the application, and what the client sees of it.

    Both bodies go through channels of size zero: ``send()`` waits until the client takes the
    chunk, an upload waits until the application takes the item.
    """

    def __init__(
        self,
        app: ASGIApp,
        scope: MutableMapping[str, Any],
        content: Content | None,
        *,
        raises_errors: bool,
    ) -> None:
        self._name = f"{scope['method']} {scope['path']}"
        self._call = Call(app, scope, raises_errors=raises_errors)
        self._upload = Upload(content)
        self._transcript = Transcript(scope["method"])
        self._start: Start | None = None
        self._head_or_end = trio.Event()
        self._complete = False
        self._send_cancelled = False
        self._chunks_in, self._chunks_out = trio.open_memory_channel[bytes](0)

    # The application's side

    def start(self, nursery: trio.Nursery) -> None:
        """Start the application, and the upload if there is one."""
        nursery.start_soon(
            self._call.run, self._receive, self._send, self._app_ended, name=self._name
        )
        if self._upload.streamed:
            nursery.start_soon(self._upload.run, name=f"{self._name} (upload)")

    async def _receive(self) -> Message:
        if not self._over:
            try:
                return await self._upload.receive()
            except trio.EndOfChannel:
                pass
        await trio.lowlevel.checkpoint()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        part = self._checked(message)
        if isinstance(part, Start):
            self._start = None if self._over else part
            self._head_or_end.set()
        elif part.data and not self._over:
            await self._hand_over(part.data)
        if isinstance(part, Data) and part.last:
            self._response_ended()
            # Whoever waits in receive() has its http.disconnect before the final send() is
            # through: Hypercorn does it so (HOST fault 7). That takes receive() two rounds.
            for _ in range(2):
                await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()

    def _checked(self, message: Message) -> Start | Data:
        try:
            if self._send_cancelled and not self._over:
                raise AssertionError(
                    "send() after a send() that was cancelled: a server may have sent half of "
                    "that chunk, so return or raise instead, which cuts the response"
                )
            return self._transcript.add(message)
        except AssertionError as error:
            self._call.note_violation(error)
            raise

    async def _hand_over(self, data: bytes) -> None:
        try:
            await self._chunks_in.send(data)
        except trio.BrokenResourceError:  # the client has left
            await trio.lowlevel.checkpoint()
        except trio.Cancelled:
            self._send_cancelled = True
            raise

    @property
    def _over(self) -> bool:
        return self._complete or self._call.left.is_set()

    def _response_ended(self) -> None:
        if not self._call.left.is_set():
            self._complete = not self._transcript.shortfall
        self._chunks_in.close()
        self._upload.stop()

    def _app_ended(self) -> None:
        self._head_or_end.set()
        self._chunks_in.close()
        self._upload.stop()

    # The client's side

    @property
    def raises_problem(self) -> bool:
        """What the application did wrong comes out of the client."""
        return self._call.raises_problem

    async def send_chunk(self, chunk: bytes | str) -> None:
        """Send a part of the request's body, and wait until the application receives it.

        Raises:
          as :meth:`Upload.send`.
        """
        try:
            await self._upload.send(chunk)
        except trio.BrokenResourceError:
            raise trio.BrokenResourceError(
                "the application has ended its response, or returned, without this chunk"
            ) from None

    def end_request(self) -> None:
        """The body of the request is complete."""
        self._upload.end()

    def leave(self) -> None:
        """Hang up."""
        self._call.left.set()
        self._head_or_end.set()
        self._upload.stop()
        self._chunks_out.close()

    async def wait_started(self) -> tuple[int, Headers]:
        """Wait for the status and the headers.

        Raises:
          AssertionError: the application returned without a response.
          trio.ClosedResourceError: the client left before.
          whatever it raised instead of starting one.
        """
        await self._head_or_end.wait()
        if self._start is not None:
            return self._start.status_code, self._start.headers
        if self._call.left.is_set():
            raise trio.ClosedResourceError("the client has left before the response started")
        self._call.raise_problem()
        if self._call.problem is None and self._call.raises_errors:
            raise AssertionError(
                "the application returned without sending 'http.response.start'; "
                "on a server the client would get a 500"
            )
        self._complete = True
        return 500, Headers({"content-length": "0"})

    async def next_chunk(self) -> bytes | None:
        """Take the next chunk, or None when there are no more; :meth:`check_complete` says why.

        Raises:
          trio.ClosedResourceError: the client has left.
        """
        try:
            return await self._chunks_out.receive()
        except trio.EndOfChannel:
            pass
        except trio.ClosedResourceError:
            raise _closed() from None
        await trio.lowlevel.checkpoint()
        return None

    def next_chunk_nowait(self) -> bytes | None:
        """Take the next chunk if the application is waiting to hand it over.

        Raises:
          trio.WouldBlock: it is not.
          trio.ClosedResourceError: the client has left.
        """
        try:
            return self._chunks_out.receive_nowait()
        except trio.EndOfChannel:
            return None
        except trio.ClosedResourceError:
            raise _closed() from None

    def check_complete(self) -> None:
        """Say whether a body that has ended was the whole body.

        Raises:
          TruncatedBodyError: it was not; what the application raised is the cause.
        """
        if self._complete:
            return
        problem = self._call.see_problem()
        if self._transcript.shortfall:
            raise TruncatedBodyError(self._transcript.shortfall) from problem
        if problem is not None:
            raise TruncatedBodyError(
                f"the application raised {problem!r} before the end of the body"
            ) from problem
        raise TruncatedBodyError(
            "the application returned without its final message, the one without more_body"
        )


def _closed() -> trio.ClosedResourceError:
    return trio.ClosedResourceError(
        "the client has left; read the body inside the 'async with client.stream(...)' block"
    )
