"""One WebSocket in process: the server's side of it towards the application, and the client's."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

import trio

from tsstream._asgi import ASGIApp, Message
from tsstream._errors import WebSocketClosed
from tsstream._sansio.websocket import LOST

from ._call import Call
from ._response import ClientResponse
from ._websocket_messages import Accept, Close, Stage, WebSocketTranscript, bare_response

INTERNAL_ERROR = 1011  # RFC 6455, 7.4.1: what a server says for an application that has failed


class WebSocketExchange:
    """One call of the application with a ``websocket`` scope, and what the client sees of it.

    Messages go through channels of size zero: each side's ``send()`` waits until the other
    receives.
    """

    def __init__(
        self, app: ASGIApp, scope: MutableMapping[str, Any], *, raises_errors: bool
    ) -> None:
        self._name = f"WebSocket {scope['path']}"
        self._call = Call(app, scope, raises_errors=raises_errors)
        self._transcript = WebSocketTranscript(scope["subprotocols"])
        self._connect_told = False
        self._decided = trio.Event()  # accepted, rejected or failed
        self._returned = trio.Event()
        self._accept: Accept | None = None
        self._rejection: ClientResponse | None = None
        self._end: Close | None = None  # by whoever was the first
        self._send_cancelled = False
        self._to_app, self._from_client = trio.open_memory_channel[str | bytes](0)
        self._to_client, self._from_app = trio.open_memory_channel[str | bytes](0)

    # The application's side

    def start(self, nursery: trio.Nursery) -> None:
        """Start the application."""
        nursery.start_soon(
            self._call.run, self._receive, self._send, self._app_ended, name=self._name
        )

    async def _receive(self) -> Message:
        if not self._connect_told:
            await trio.lowlevel.checkpoint()
            self._connect_told = True
            return {"type": "websocket.connect"}
        try:
            data = await self._from_client.receive()
        except (trio.EndOfChannel, trio.ClosedResourceError):
            await trio.lowlevel.checkpoint()
            end = self._end or Close(LOST, "")
            return {"type": "websocket.disconnect", "code": end.code, "reason": end.reason}
        text, binary = (data, None) if isinstance(data, str) else (None, data)
        return {"type": "websocket.receive", "text": text, "bytes": binary}

    async def _send(self, message: Message) -> None:
        try:
            event = self._transcript.add(message)
            if self._send_cancelled and isinstance(event, str | bytes) and self._end is None:
                raise AssertionError(
                    "send() of a message after a send() that was cancelled: a server may have "
                    "sent half of that one, so close the WebSocket, raise or return instead"
                )
        except AssertionError as error:
            self._call.note_violation(error)
            raise
        if isinstance(event, Accept):
            self._accept = event
            self._decided.set()
        elif isinstance(event, ClientResponse):
            self._rejection = event
            self._decided.set()
            self._finish(Close(LOST, ""))
        elif isinstance(event, Close):
            self._finish(event)
        elif event is not None:
            await self._hand_over(event)
        await trio.lowlevel.checkpoint()

    async def _hand_over(self, data: str | bytes) -> None:
        try:
            await self._to_client.send(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):  # it is closed, by whomever
            await trio.lowlevel.checkpoint()
        except trio.Cancelled:
            self._send_cancelled = True
            raise

    def _finish(self, end: Close) -> None:
        """Nothing more comes from the application, and nothing goes to it."""
        self._end = self._end or end
        self._to_client.close()
        self._from_client.close()

    def _app_ended(self) -> None:
        if self._end is None and self._call.returned and self._call.raises_errors:
            self._call.note_violation(self._unfinished())
        self._finish(Close(INTERNAL_ERROR, ""))
        self._decided.set()
        self._returned.set()

    def _unfinished(self) -> AssertionError:
        if self._transcript.stage is Stage.CONNECTING:
            return AssertionError(
                "the application returned without accepting the WebSocket or rejecting it; "
                "on a server the client would get a 500"
            )
        if self._transcript.stage is Stage.REJECTING:
            return AssertionError(
                "the application returned without the final message of its rejection, the one "
                "without more_body"
            )
        return AssertionError(
            "the application returned without 'websocket.close'; send it, because servers do not "
            "agree on what the client gets then: 1000, 1006 or 1011"
        )

    # The client's side

    def leave(self, code: int, reason: str) -> None:
        """Close the WebSocket, if the application has not; *code* is what it is told."""
        self._end = self._end or Close(code, reason)
        self._call.left.set()
        self._to_app.close()
        self._from_app.close()

    async def wait_decided(self) -> Accept | ClientResponse:
        """Wait until the WebSocket is accepted, or rejected; with 500 if the application fails."""
        await self._decided.wait()
        if self._accept is not None:
            return self._accept
        if self._rejection is not None:
            return self._rejection
        return bare_response(500)

    async def send(self, data: str | bytes) -> None:
        """Send a message; it has been received then.

        Raises:
          WebSocketClosed: the application has closed the WebSocket.
          trio.ClosedResourceError: the client has.
          whatever the application raised.
        """
        try:
            await self._to_app.send(data)
        except trio.BrokenResourceError:
            pass
        except trio.ClosedResourceError:
            raise _closed() from None
        else:
            return
        raise await self._why_closed()

    async def receive(self) -> str | bytes:
        """Take the next message.

        Raises:
          as :meth:`send`.
        """
        try:
            return await self._from_app.receive()
        except trio.EndOfChannel:
            pass
        except trio.ClosedResourceError:
            raise _closed() from None
        raise await self._why_closed()

    def receive_nowait(self) -> str | bytes:
        """Take the message that the application is waiting to hand over.

        Raises:
          trio.WouldBlock: there is none.
          as :meth:`send`, besides.
        """
        try:
            return self._from_app.receive_nowait()
        except trio.EndOfChannel:
            pass
        except trio.ClosedResourceError:
            raise _closed() from None
        raise self._closure()

    # Raised outside of the "except" clauses: "from None" would take an error's own cause away.

    async def _why_closed(self) -> Exception:
        # Who closes with this code has failed, and is about to say why.
        if self._end is not None and self._end.code == INTERNAL_ERROR and self._call.raises_errors:
            await self._returned.wait()
        await trio.lowlevel.checkpoint()
        return self._closure()

    def _closure(self) -> Exception:
        assert self._end is not None
        if self._end.code == INTERNAL_ERROR and self._call.raises_problem:
            problem = self._call.see_problem()
            assert problem is not None
            return problem
        return WebSocketClosed(self._end.code, self._end.reason)


def _closed() -> trio.ClosedResourceError:
    return trio.ClosedResourceError(
        "the client has closed the WebSocket; use it inside the "
        "'async with client.websocket(...)' block, before close() and abort()"
    )
