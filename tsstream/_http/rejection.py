"""A WebSocket's handshake that is answered with an HTTP response."""

from __future__ import annotations

from typing import Any

import attrs
import trio

from tsstream._asgi import Message, Scope, Send
from tsstream._errors import mark_logged

from .content import discard
from .cycle import LOST_CONNECTION, Cycle, Handler, Settings
from .ending import logger
from .host import CLIENT, EXTENSION, Client
from .request import Request
from .response import Response
from .websocket import WebSocket

EXTENSION_NAME = "websocket.http.response"
_SCHEMES = {"ws": "http", "wss": "https"}


class Rejection:
    """Answer a handshake as an ordinary request is answered: transforms, pages, limits, log.

    To a server without the extension for it nothing but "no" can be said, which it makes 403; an
    error it is given as it is, to answer it with 500.

    Args:
      websocket: whose client waits for an answer.
      settings: the app's.
      send: the server's.
      gone: set when the client has gone.
    """

    def __init__(
        self, websocket: WebSocket[Any], settings: Settings, send: Send, gone: trio.Event
    ) -> None:
        self._websocket = websocket
        self._settings = attrs.evolve(settings, on_end=None)  # which is for HTTP
        self._send = send
        self._gone = gone
        self._asked = False

    async def answer(self, response: Response) -> None:
        """Answer with a handler's response."""

        async def give(request: Request[Any]) -> Response:
            if response.status_code < 300:
                discard(response.content)
                raise ValueError(
                    f"a response with status {response.status_code} does not refuse a WebSocket; "
                    "use 4xx or 5xx, or 3xx"
                )
            return response

        if self._can_answer:
            await self._run(give)
        else:
            logger.debug("%s: refused with 403 for %r", self._websocket, response)
            discard(response.content)
            await self._close()

    async def fail(self, error: Exception) -> None:
        """Answer with the page for an error.

        Raises:
          Exception: *error* itself, which the server or a test client is to hear of.
        """
        errors = [error]  # taken out of it: the traceback will refer to whoever raises it

        async def give(request: Request[Any]) -> Response:
            raise errors.pop()

        del error
        if self._can_answer:
            await self._run(give)
            return
        status_code = self._settings.pages.http_error(errors[0]).status_code
        if status_code >= 500:
            log_error(errors[0], "%s failed before it was accepted", self._websocket)
            raise errors.pop()
        logger.debug("%s: refused with 403 for %d", self._websocket, status_code)
        await self._close()

    @property
    def _can_answer(self) -> bool:
        return EXTENSION_NAME in (self._websocket.scope.get("extensions") or {})

    async def _run(self, handler: Handler) -> None:
        websocket = self._websocket
        request = HandshakeRequest(
            websocket.app,
            _http_scope(websocket),
            path=websocket.path,
            path_params=websocket.path_params,
        )
        await Cycle(handler, request, self._settings, self._receive, self._send_http).run()

    async def _close(self) -> None:
        try:
            await self._send({"type": "websocket.close"})
        except LOST_CONNECTION:
            await trio.lowlevel.checkpoint()

    async def _receive(self) -> Message:
        """Give what an HTTP request without a body would: not the server's ``receive()``."""
        if not self._asked:
            self._asked = True
            await trio.lowlevel.checkpoint()
            return {"type": "http.request", "body": b"", "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send_http(self, message: Message) -> None:
        await self._send({**message, "type": f"websocket.{message['type']}"})


class HandshakeRequest(Request[Any]):
    """The request that a handshake is; the log calls it by the WebSocket that it was to become."""

    def __str__(self) -> str:
        return f"WebSocket {self._quoted_path}"


def log_error(error: Exception, text: str, *args: object) -> None:
    """Write the one record of *error*, which may be raised to the server."""
    logger.error(text, *args, exc_info=error)
    mark_logged(error)


def _http_scope(websocket: WebSocket[Any]) -> Scope:
    """Give the scope of the request that the handshake is."""
    scope = websocket.scope
    extensions = dict(scope.get("extensions") or {})
    if EXTENSION in extensions:
        extensions[CLIENT] = Client()  # the other one speaks of the WebSocket
    return {
        **scope,
        "type": "http",
        "method": "GET",
        "scheme": _SCHEMES.get(websocket.scheme, websocket.scheme),
        "extensions": extensions,
    }
