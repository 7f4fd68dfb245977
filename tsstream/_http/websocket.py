"""What the handler of a WebSocket is told about it, and talks through."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from tsstream._asgi import Message, Scope
from tsstream._errors import HTTPError
from tsstream._sansio.encoders import TEXT, Encoder
from tsstream._sansio.headers import Headers
from tsstream._sansio.origin import check_allowed, is_trusted

from .connection import Connection, StateT
from .content import Content
from .response import HeadersLike
from .talk import Talk
from .websocket_stream import stream_items

if TYPE_CHECKING:
    from .app import App


class WebSocket(Connection[StateT]):
    """One WebSocket: an async iterator of messages, ``str`` for text and ``bytes`` for binary.

    ``WebSocket[State]`` tells a type checker what the app's lifespan yields. For instance::

        @app.websocket("/ws/echo")
        async def echo(websocket: WebSocket) -> None:
            async for message in websocket:
                await websocket.send(message)

    Until the first :meth:`receive`, :meth:`send` or :meth:`accept` the handler may refuse it:
    by an :class:`HTTPError`, or by returning a :class:`Response`. Then, when the handler returns
    the client hears 1000, and 1011 if it fails.

    One message is read ahead; a handler that does not receive stops its client. While messages
    wait unread nobody may hear that client leave: so receive in some task, or say
    :meth:`send_only`. When the client has gone, ``async for`` ends, and :meth:`receive` and
    :meth:`send` raise :class:`WebSocketClosed`, which may leave the handler. From the end, and
    the last message before it, the handler has the ``exit`` seconds of the app's
    :class:`StreamPolicy`, and is then cancelled.

    Attributes:
      app: the :class:`App` that serves it.
      scope: the ASGI connection scope, as the server gave it.
      path: percent-decoded, without the prefix that this app is mounted under.
      root_path: that prefix, ``""`` if there is none.
      path_params: what the ``{names}`` of the route matched.
      subprotocols: those that the client offers.
    """

    def __init__(
        self,
        app: App[StateT],
        scope: Scope,
        *,
        path: str,
        path_params: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(app, scope, path=path, path_params=path_params)
        self.subprotocols: list[str] = list(scope.get("subprotocols") or ())
        self._talk: Talk  # the cycle's
        self._send_only = False

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol that was agreed on, if any."""
        return self._talk.subprotocol

    def check_origin(self, *allowed: str) -> None:
        """Refuse pages of other sites, which browsers let connect with the user's cookies.

        Trusted are handshakes without an Origin, which come from no browser, those of the same
        origin as the Host (scheme, host and port), and those of an origin in *allowed*. Behind a
        proxy that ends TLS the server sees ``ws`` where the page has ``https``: name the page's
        origin there. Call it before accepting.

        Args:
          allowed: such as ``"https://example.org"`` or ``"http://localhost:3000"``.

        Raises:
          HTTPError: 403, it comes from elsewhere.
          ValueError: one of *allowed* is no origin, such as one with a path.
        """
        trusted = check_allowed(allowed)
        origins, hosts = self.headers.getlist("origin"), self.headers.getlist("host")
        if not is_trusted(origins, hosts, self.scheme, trusted):
            raise HTTPError(403, "This WebSocket cannot be opened from another site.")

    async def accept(self, subprotocol: str | None = None, headers: HeadersLike = None) -> None:
        """Accept the handshake; the first :meth:`receive` or :meth:`send` does so by itself.

        Without arguments it may be called again.

        Args:
          subprotocol: one of :attr:`subprotocols`.
          headers: of the server's answer.

        Raises:
          ValueError: the subprotocol was not offered, or a header is not valid or the server's.
          RuntimeError: it was accepted before, and is to be now with something else; or the
            server cannot send headers.
          WebSocketClosed: the client has gone, or :meth:`close` has refused it.
        """
        await self._talk.accept(subprotocol, None if headers is None else Headers(headers).raw)

    async def receive(self) -> str | bytes:
        """Give the next message; cancelling it loses none.

        Raises:
          WebSocketClosed: no message will come any more.
          trio.BusyResourceError: another task is receiving.
          RuntimeError: :meth:`send_only` was called.
        """
        message = await self._receive()
        if message is None:
            raise self._talk.closed()
        return message

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str | bytes:
        message = await self._receive()
        if message is None:
            raise StopAsyncIteration
        return message

    async def _receive(self) -> str | bytes | None:
        if self._send_only:
            raise RuntimeError("send_only() was called: what the client sends is dropped")
        return await self._talk.receive()

    async def send(self, message: str | bytes | bytearray | memoryview) -> None:
        """Send one message, as text or as binary, and wait until the server has taken it.

        Several tasks may send; their messages go out whole, in the order of the calls. A message
        of a send that was cancelled may have been sent.

        Raises:
          WebSocketClosed: the WebSocket is closed.
          TypeError: it is neither text nor bytes.
        """
        await self._talk.send(_send_message(message))

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close, behind the message that is being sent; before it is accepted, refuse with 403.

        What :meth:`stream` is sending is cancelled. Returning from the handler closes with 1000.
        Nothing happens if the client has gone. Either way the handler has the policy's ``exit``
        seconds from now on.

        Args:
          code: 1000 to 1014 as far as RFC 6455 (7.4) lets us send it, or 3000 to 4999.
          reason: at most 123 bytes of UTF-8.

        Raises:
          ValueError: *code* or *reason* cannot be sent.
          RuntimeError: this was called before.
        """
        await self._talk.close(code, reason)

    def send_only(self) -> None:
        """Drop what the client sends, from now on, and be cancelled as soon as it leaves (RQ-40).

        For handlers that never receive.
        """
        if not self._send_only:
            self._send_only = True
            self._talk.drop_input()

    async def stream(self, content: Content, *, encoder: Encoder = TEXT) -> None:
        """Send one message for each item of a body, which is whatever a Response can stream.

        The WebSocket is accepted when the body has been entered, so that an error until then is
        still answered with a status. What a body gives before it fails is sent, if the client
        takes it. When the client leaves, the body is left by cancellation; to hear of that while
        the client's messages wait unread, call :meth:`send_only` first.

        Args:
          content: entered, iterated and left in this task.
          encoder: each item's bytes are one message: of text if the encoder's media type is one
            of text (TEXT, NDJSON, SSE), else binary (BYTES).

        Raises:
          WebSocketClosed: it was closed before the body had ended.
          Exception: what the body raises.
        """
        await stream_items(self._talk, content, encoder)

    def __str__(self) -> str:
        return f"WebSocket {self._quoted_path}"


def _send_message(message: Any) -> Message:
    if isinstance(message, str):
        return {"type": "websocket.send", "text": message}
    if isinstance(message, bytes | bytearray | memoryview):
        return {"type": "websocket.send", "bytes": bytes(message)}
    raise TypeError(
        f"a WebSocket sends str, as text, or bytes, as binary, not {type(message).__name__}; "
        "for data, use json.dumps(), or stream() with an encoder"
    )
