"""One request in process: the server's side of it towards the application, and the client's."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

import trio

from tsstream._asgi import ASGIApp, Message
from tsstream._errors import TruncatedBodyError
from tsstream._sansio.headers import Headers

from ._messages import Data, Start, Transcript
from ._request import Content, request_message, upload, whole_body


class Exchange:
    """One call of the application, and what the client sees of it.

    Both bodies go through channels of size zero: ``send()`` waits until the client takes the
    chunk, an upload waits until the application takes the item.

    Attributes:
      problem: what the application raised, or how it broke the ASGI specification.
    """

    def __init__(
        self,
        app: ASGIApp,
        scope: MutableMapping[str, Any],
        content: Content,
        *,
        raise_app_errors: bool,
    ) -> None:
        self.problem: Exception | None = None
        self._app = app
        self._scope = scope
        self._content = content
        self._raise_app_errors = raise_app_errors
        self._problem_seen = False
        self._violation: AssertionError | None = None
        self._transcript = Transcript(scope["method"])
        self._start: Start | None = None
        self._head_or_return = trio.Event()
        self._complete = False
        self._interrupted = False
        self._left = trio.Event()
        self._uploading = trio.CancelScope()
        body = whole_body(content)
        # A body that is there as a whole is one message, ready at once.
        self._requests_in, self._requests_out = trio.open_memory_channel[Message](
            0 if body is None else 1
        )
        if body is not None:
            self._requests_in.send_nowait(request_message(body, more=False))
        self._chunks_in, self._chunks_out = trio.open_memory_channel[bytes](0)

    # The application's side

    def start(self, nursery: trio.Nursery) -> None:
        """Start the application, and the upload if there is one."""
        name = f"{self._scope['method']} {self._scope['path']}"
        nursery.start_soon(self._run_app, name=name)
        if whole_body(self._content) is None:
            nursery.start_soon(self._run_upload, name=f"{name} (upload)")

    async def _run_app(self) -> None:
        """Call the application; when the client has left, raise what nobody has seen."""
        try:
            await self._app(self._scope, self._receive, self._send)
        except Exception as error:
            self.problem = error
        finally:
            self._app_returned()
        # Shielded, or a cancelled test would lose the error; its block is being left then.
        with trio.CancelScope(shield=True):
            await self._left.wait()
        if self.problem is not None and self.raises_problem and not self._problem_seen:
            raise self.problem

    async def _run_upload(self) -> None:
        """Offer the items of a streamed request body, one at a time, as long as they are wanted."""
        with self._uploading:
            await upload(self._content, self._requests_in)

    async def _receive(self) -> Message:
        if not self._over:
            try:
                return await self._requests_out.receive()
            except trio.EndOfChannel:
                pass
        await trio.lowlevel.checkpoint()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        part = self._checked(message)
        if isinstance(part, Start):
            self._start = part
            self._head_or_return.set()
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
            if self._interrupted and not self._over:
                raise AssertionError(
                    "send() after a send() that was cancelled: a server may have sent half of "
                    "that chunk, so return or raise instead, which cuts the response"
                )
            return self._transcript.add(message)
        except AssertionError as error:
            # Kept, because an application may well catch it.
            self._violation = self._violation or error
            raise

    async def _hand_over(self, data: bytes) -> None:
        try:
            await self._chunks_in.send(data)
        except trio.BrokenResourceError:  # the client has left
            await trio.lowlevel.checkpoint()
        except trio.Cancelled:
            self._interrupted = True
            raise

    @property
    def _over(self) -> bool:
        return self._complete or self._left.is_set()

    def _response_ended(self) -> None:
        if not self._left.is_set():
            self._complete = not self._transcript.shortfall
        self._chunks_in.close()
        self._stop_requests()

    def _app_returned(self) -> None:
        self.problem = self.problem or self._violation
        self._head_or_return.set()
        self._chunks_in.close()
        self._stop_requests()

    def _stop_requests(self) -> None:
        self._uploading.cancel()
        self._requests_in.close()  # whoever waits in receive() gets http.disconnect

    # The client's side

    @property
    def raises_problem(self) -> bool:
        """What the application did wrong comes out of the client."""
        shown = self._raise_app_errors or self._violation is not None
        return shown and self.problem is not None

    def leave(self) -> None:
        """Hang up."""
        self._left.set()
        self._stop_requests()
        self._chunks_out.close()

    async def wait_started(self) -> tuple[int, Headers]:
        """Wait for the status and the headers.

        Raises:
          AssertionError: the application returned without a response.
          whatever it raised instead of starting one.
        """
        await self._head_or_return.wait()
        if self._start is not None:
            return self._start.status_code, self._start.headers
        if self.problem is not None and self.raises_problem:
            self._problem_seen = True
            raise self.problem
        if self.problem is None and self._raise_app_errors:
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
        self._problem_seen = self.problem is not None
        if self._transcript.shortfall:
            raise TruncatedBodyError(self._transcript.shortfall) from self.problem
        if self.problem is not None:
            raise TruncatedBodyError(
                f"the application raised {self.problem!r} before the end of the body"
            ) from self.problem
        raise TruncatedBodyError(
            "the application returned without its final message, the one without more_body"
        )


def _closed() -> trio.ClosedResourceError:
    return trio.ClosedResourceError(
        "the client has left; read the body inside the 'async with client.stream(...)' block"
    )
