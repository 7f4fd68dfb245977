"""What the test client gives for a WebSocket."""

from __future__ import annotations

import trio

from tsstream._errors import WebSocketClosed
from tsstream._sansio.headers import Headers
from tsstream._sansio.websocket import LOST, check_close

from ._response import ClientResponse
from ._websocket_exchange import WebSocketExchange
from ._websocket_messages import Accept


class WebSocketRejected(Exception):
    """The application has not accepted the WebSocket.

    Attributes:
      response: what it answered instead, a :class:`ClientResponse`; 403 if it only closed.
    """

    def __init__(self, response: ClientResponse) -> None:
        self.response: ClientResponse = response
        super().__init__(response)

    def __str__(self) -> str:
        return f"the application rejected the WebSocket with {self.response.status_code}"


class ClientWebSocket:
    """The client's end of a WebSocket that the application has accepted.

    There is no buffer: ``send()`` waits until the application receives, and the application's
    waits until the test receives. ``async for`` gives the messages until the application closes.

    Attributes:
      subprotocol: what the application has chosen, or None.
      headers: of the response that accepted.
    """

    def __init__(self, accept: Accept, exchange: WebSocketExchange) -> None:
        self.subprotocol: str | None = accept.subprotocol
        self.headers: Headers = accept.headers
        self._exchange = exchange

    async def send(self, message: str | bytes) -> None:
        """Send a text or binary message and wait until the application has received it.

        Cancelled, it was not received. An :class:`tsstream.App` receives one message ahead of
        its handler.

        Raises:
          WebSocketClosed: the application has closed the WebSocket.
          whatever the application raised, as itself, unless ``raise_app_errors`` is false: the
            code is 1011 then.
          trio.ClosedResourceError: the test has closed it.
          TypeError: the message is neither str nor bytes.
        """
        if not isinstance(message, str | bytes):
            raise TypeError(f"send({message!r}): give str for text or bytes for binary")
        await self._exchange.send(message)

    async def receive(self) -> str | bytes:
        """Receive the next message. Cancelling it loses nothing.

        Raises:
          WebSocketClosed: and whatever else :meth:`send` raises.
        """
        return await self._exchange.receive()

    def receive_nowait(self) -> str | bytes:
        """Receive the message that the application is waiting to hand over.

        Raises:
          trio.WouldBlock: there is none.
          WebSocketClosed: and whatever else :meth:`send` raises.
        """
        return self._exchange.receive_nowait()

    def __aiter__(self) -> ClientWebSocket:
        return self

    async def __anext__(self) -> str | bytes:
        try:
            return await self.receive()
        except WebSocketClosed:
            raise StopAsyncIteration from None

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the WebSocket, if it is open; a checkpoint.

        The application receives ``websocket.disconnect`` with code and reason, and what it sends
        goes nowhere.

        Raises:
          ValueError: the code or the reason cannot be sent.
        """
        self._exchange.leave(*check_close(code, reason))
        await trio.lowlevel.checkpoint()

    def abort(self) -> None:
        """Lose the connection: the application receives ``websocket.disconnect`` with 1006."""
        self._exchange.leave(LOST, "")
