"""One WebSocket from its handshake to its Close, and what happens when its handler fails."""

from __future__ import annotations

import inspect
import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeAlias

import trio

from tsstream._asgi import Receive, Send
from tsstream._errors import HTTPError, WebSocketClosed
from tsstream._sansio.websocket_states import WebSocketState
from tsstream._util import leaves, unwrapping

from .breakage import is_breakage, without_breakage
from .cancellation import cancellation_within, error_within, hidden_errors, stray_cancellation
from .content import discard
from .cycle import Settings
from .ending import logger
from .host import host_of
from .rejection import Rejection, log_error
from .response import Response
from .talk import Talk
from .websocket import WebSocket

WebSocketHandler: TypeAlias = Callable[[WebSocket[Any]], Awaitable[Response | None]]

NORMAL, GOING_AWAY, INTERNAL_ERROR = 1000, 1001, 1011  # RFC 6455, 7.4.1
ACCEPTED = "it was accepted: by accept(), or by the first receive() or send()"
FAREWELL = 1.0  # seconds: for a Close when we are cancelled from outside (RQ-44)


class WebSocketCycle:
    """One WebSocket: a nursery with its reader, and the handler in the task of the caller.

    Args:
      handler: the user's.
      websocket: what it is called with.
      settings: the app's.
      receive, send: the server's.
    """

    def __init__(
        self,
        handler: WebSocketHandler,
        websocket: WebSocket[Any],
        settings: Settings,
        receive: Receive,
        send: Send,
    ) -> None:
        self._handler = handler
        self._websocket = websocket
        self._settings = settings
        self._host = host_of(websocket.scope)
        self._receive = receive
        self._scope = trio.CancelScope()  # round the handler
        self._interrupted = False  # by us, and not by the exit limit
        self._response: Response | None = None
        self._error: Exception | None = None
        self._from_outside = False  # the error is what receive() raised
        self._talk = websocket._talk = Talk(
            websocket.scope,
            receive,
            send,
            on_told=self._on_told,
            on_gone=self._on_gone,
            on_error=self._on_receive_error,
        )
        self._rejection = Rejection(websocket, settings, send, self._talk.gone)

    async def run(self) -> None:
        """Serve the WebSocket.

        Raises:
          Exception: what ``receive()`` raised; or what the handler did, if the server has to
            answer it or a test client asks for it.
        """
        try:
            await self._run()
        finally:
            vars(self).clear()  # we know the error, and its traceback knows us

    async def _run(self) -> None:
        message = await self._receive()
        if message["type"] == "websocket.disconnect":
            return
        if message["type"] != "websocket.connect":
            raise RuntimeError(f"the server began a WebSocket with {message['type']!r}")
        with unwrapping():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._talk.run)
                try:
                    await self._run_handler()
                    await self._finish()
                except BaseException as error:
                    if any(isinstance(leaf, trio.Cancelled) for leaf in leaves(error)):
                        await self._go_away()  # noqa: ASYNC102, ASYNC120 (it is shielded)
                    raise
                finally:
                    self._talk.end()
                nursery.cancel_scope.cancel(reason="the WebSocket is over")
        if self._error is not None and (self._from_outside or self._raises_errors):
            raise self._error

    @property
    def _raises_errors(self) -> bool:
        return "tsstream.raise_errors" in (self._websocket.scope.get("extensions") or {})

    # The handler.

    async def _run_handler(self) -> None:
        try:
            with self._scope:
                try:
                    self._response = await self._call_handler()
                except BaseException as error:
                    self._note_hidden(error)
                    raise
        except Exception as error:
            self._fail(error)
        except BaseException as error:  # noqa: ASYNC103 (a stray Cancelled is an error, D39)
            found = error_within(error)
            if found is not None:
                self._fail(found)
            if trio.current_effective_deadline() == -math.inf:
                raise cancellation_within(error) from None  # noqa: ASYNC104 (a part of it)
            if found is None:
                self._fail(stray_cancellation(error))
        if self._scope.cancel_called and not self._interrupted:
            text = "%s: exit limit of %g s reached: its handler went on after the end"
            logger.warning(text, self._websocket, self._settings.policy.exit)

    async def _call_handler(self) -> Response | None:
        result: object = self._handler(self._websocket)
        if not inspect.isawaitable(result):
            raise TypeError(
                f"the WebSocket handler gave a {type(result).__name__} without being awaited; "
                "write it with 'async def', and without a 'yield'"
            )
        given = await result
        if given is None:
            return None
        if not isinstance(given, Response):
            raise TypeError(
                f"the WebSocket handler returned {given!r}; it returns None, or a Response to "
                "refuse the WebSocket; messages are sent with websocket.send()"
            )
        refused = self._talk.state is WebSocketState.REFUSED
        if refused or self._talk.accepted:
            discard(given.content)
            raise TypeError(
                "the WebSocket handler returned a Response, which refuses a WebSocket, after "
                + ("close() had refused it with 403; do one of the two" if refused else ACCEPTED)
            )
        return given

    def _fail(self, error: Exception) -> None:
        """Keep *error*, if it is more than the news that the WebSocket is over."""
        if self._error is not None:
            log_error(error, "%s failed while it was being cancelled", self._websocket)
            return
        rest = _without_closed(error)
        if rest is not None and not (self._scope.cancel_called and is_breakage(rest)):
            self._error = rest

    def _note_hidden(self, error: BaseException) -> None:
        for hidden in hidden_errors(error):
            if _without_closed(hidden) is not None:
                text = "%s: a cancellation replaced this error"
                logger.warning(text, self._websocket, exc_info=hidden)

    # Telling the client.

    async def _finish(self) -> None:
        talk = self._talk
        if talk.state is WebSocketState.CONNECTING:
            talk.refuse()
            if not self._from_outside:
                await self._answer()
                return
        self._release_response()
        if self._error is not None:
            self._log_error(self._error)
        if talk.state is WebSocketState.REFUSED:  # by close()
            if self._error is None:
                logger.debug("%s: refused with 403", self._websocket)
            return
        talk.begin_close(NORMAL if self._error is None else INTERNAL_ERROR)
        limit = self._settings.policy.send
        with trio.move_on_after(math.inf if limit is None else limit):
            await talk.finish_close()
        who = "us" if talk.stopped else "the client"
        logger.debug("%s: closed by %s: %d %r", self._websocket, who, *talk.end_code)

    async def _answer(self) -> None:
        """Answer the handshake with a response; 403 if the handler had nothing to say."""
        error, self._error = self._error, None  # who answers it also logs and raises it
        try:
            if error is not None:
                await self._rejection.fail(error)
            elif self._response is not None:
                await self._rejection.answer(self._response)
            else:
                await self._rejection.fail(HTTPError(403))
        finally:
            del error  # its traceback may refer to us

    async def _go_away(self) -> None:
        """Say 1001: somebody has cancelled us. The guarded server may have said it already."""
        if self._host is not None and self._host.shutting_down.is_set():
            self._host.endings["cancelled"] += 1
        if self._error is not None:
            log_error(self._error, "%s failed, and was cancelled", self._websocket)
        self._talk.begin_close(GOING_AWAY)
        with trio.move_on_after(FAREWELL, shield=True), suppress(Exception):
            await self._talk.finish_close()

    def _log_error(self, error: Exception) -> None:
        state, status_code = self._talk.state, self._settings.pages.http_error(error).status_code
        if state is WebSocketState.GONE:
            if status_code >= 500:
                log_error(error, "%s failed, and the client has gone", self._websocket)
        elif state is WebSocketState.REFUSED and status_code < 500 and not self._from_outside:
            text = "%s: refused with 403, and not with %d"
            logger.debug(text, self._websocket, status_code)
        else:
            log_error(error, "%s failed", self._websocket)

    def _release_response(self) -> None:
        """Close what was opened for a response that there is nobody left to get."""
        if self._response is not None:
            try:
                discard(self._response.content)
            except Exception:
                text = "%r: a body that was not used cannot be closed"
                logger.exception(text, self._response)

    # What can come from the other side at any time.

    def _on_told(self) -> None:
        if self._settings.policy.exit is not None:
            self._scope.deadline = trio.current_time() + self._settings.policy.exit

    def _on_gone(self) -> None:
        self._interrupt("client disconnected")

    def _on_receive_error(self, error: Exception) -> None:
        if self._talk.state in (WebSocketState.CONNECTING, WebSocketState.OPEN):
            self._error = error
            self._from_outside = True
            self._interrupt(f"the server failed: {error!r}")
        else:
            text = "%s: the server failed at the end"
            logger.warning(text, self._websocket, exc_info=error)

    def _interrupt(self, text: str) -> None:
        self._interrupted = True
        self._scope.cancel(reason=text)


def _without_closed(error: Exception) -> Exception | None:
    """Give what is more in *error* than WebSocketClosed, and the channels that it has closed."""
    if not isinstance(error, ExceptionGroup):
        return None if isinstance(error, WebSocketClosed) else error
    closed, rest = error.split(WebSocketClosed)
    if rest is None or (closed is not None and is_breakage(rest)):
        return None
    return without_breakage(rest)
