"""One WebSocket as ASGI messages: what may be sent now, in whose turn, and when it is over."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import NoReturn

import trio

from tsstream._asgi import Message, Receive, Scope, Send
from tsstream._errors import WebSocketClosed
from tsstream._sansio.headers import Headers
from tsstream._sansio.websocket import LOST, accept_headers, check_close
from tsstream._sansio.websocket_states import WEBSOCKET_TABLE, WebSocketEvent, WebSocketState

from .cycle import LOST_CONNECTION
from .host import client_of, host_of
from .mailbox import Mailbox

SENDS_PER_CHECKPOINT = 8  # a server's send() may be none once the client has gone (HOST fault 8)
ACCEPT_TIME = 5.0  # seconds: for the server to take an accept, which it need not wait with
LAST_WORD = 1.0  # seconds: for the guarded server to say how it ended, when a send has failed
ACCEPT_HEADERS = (2, 1)  # the first version of ASGI's WebSocket specification that has them


class Talk:
    """The two halves of one WebSocket.

    Messages go out whole and in the order in which tasks have asked for it. Who is cancelled
    while waiting for the turn has sent nothing: Hypercorn compresses a message before it waits,
    and would have spoilt all that follow.

    Args:
      scope, receive, send: the server's.
      on_told: called once, when it is over and the handler has all that came before.
      on_gone: called when the client has gone, before we have ended it, and :meth:`drop_input`
        was called.
      on_error: called once, with what went wrong in ``receive()``.

    Attributes:
      mailbox: the half that receives.
      state: how far it has come.
      accepted: it was, ever.
      subprotocol: the one that was agreed on.
      gone: set when the client has gone.
    """

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        *,
        on_told: Callable[[], None],
        on_gone: Callable[[], None],
        on_error: Callable[[Exception], None],
    ) -> None:
        self.mailbox = Mailbox(receive, self._hear_end, self._hear_failure)
        self.state = WebSocketState.CONNECTING
        self.accepted = False
        self.subprotocol: str | None = None
        self.gone = trio.Event()
        self._scope = scope
        self._send = send
        self._on_told = on_told
        self._on_gone = on_gone
        self._on_error = on_error
        self._guarded = host_of(scope) is not None
        self._client = client_of(scope)
        self._order = trio.StrictFIFOLock()  # of the messages
        self._sends = 0
        self._close_called = False
        self._told = False
        self._send_only = False
        self._stopped = False  # we have ended it
        self._end: tuple[int, str] = (LOST, "")  # code and reason, when it is over
        self._interrupted: set[trio.CancelScope] = set()

    @property
    def end_code(self) -> tuple[int, str]:
        """The code and the reason with which it was closed."""
        return self._end

    @property
    def stopped(self) -> bool:
        """We have ended it; else that was the client."""
        return self._stopped

    async def run(self) -> None:
        """Receive until the client has gone, or until cancelled."""
        if self._client is not None:
            self._client.on_leave = self.mailbox.hurry
        try:
            await self.mailbox.run()
        finally:
            self.gone.set()
            if self._client is not None:
                self._client.on_leave = None

    async def accept(
        self,
        subprotocol: str | None = None,
        headers: Iterable[tuple[bytes, bytes]] | None = None,
    ) -> None:
        """Accept, unless that was done before."""
        if self.state is WebSocketState.OPEN:
            if subprotocol is not None or headers is not None:
                raise RuntimeError(
                    "this WebSocket was accepted before: the first receive() or send() does "
                    "that; call accept() before them"
                )
            await trio.lowlevel.checkpoint()
            return
        message = self._accept_message(subprotocol, headers)
        async with self._order:
            await self._accept(message)

    async def receive(self) -> str | bytes | None:
        """Give the next message, or None if it is over."""
        if self.state is WebSocketState.CONNECTING:
            await self.accept()
        message = await self.mailbox.receive()
        if message is None or self.gone.is_set():
            self._tell()  # that was the last one
        return message

    async def send(self, message: Message, *, on_begin: Callable[[], None] | None = None) -> None:
        """Send one message.

        Args:
          on_begin: called when it is about to be given to the server: cancelling does not take it
            back any more, in general.
        """
        try:  # not "async with", which would be a pass of the scheduler for each message
            self._order.acquire_nowait()
        except trio.WouldBlock:
            await self._order.acquire()
        try:
            self._sends += 1
            if self._sends % SENDS_PER_CHECKPOINT:
                await trio.lowlevel.checkpoint_if_cancelled()
            else:
                await trio.lowlevel.checkpoint()
            if self.state is not WebSocketState.OPEN:
                await self._accept({"type": "websocket.accept"})
            if on_begin is not None:
                on_begin()
            await self._deliver(message)
        finally:
            self._order.release()

    async def close(self, code: int, reason: str) -> None:
        """Close; before the accept, refuse."""
        code, reason = check_close(code, reason)
        if self._close_called:
            raise RuntimeError("this WebSocket was closed before; close it once")
        self._close_called = True
        if self.state is WebSocketState.CONNECTING:
            self.refuse()
            self._tell()
            async with self._order:
                await self._deliver_last({"type": "websocket.close"})
        else:
            self.begin_close(code, reason)
            self._tell()
            await self.finish_close()

    def begin_close(self, code: int, reason: str = "") -> None:
        """Let nothing be sent any more but a Close; nothing if it is over anyhow."""
        if self.state is WebSocketState.OPEN:
            self._move(WebSocketEvent.CLOSE)
            self._stop(code, reason)

    async def finish_close(self) -> None:
        """Send the Close that :meth:`begin_close` has decided on, if that is not done."""
        async with self._order:
            if self.state is WebSocketState.CLOSING:
                self._move(WebSocketEvent.SEND_CLOSE)
                code, reason = self._end
                await self._deliver_last(
                    {"type": "websocket.close", "code": code, "reason": reason}
                )

    def drop_input(self) -> None:
        """Drop all messages, and call *on_gone* when the client has gone."""
        self._send_only = True
        self.mailbox.drop()
        self._cancel_if_unheard()

    def refuse(self) -> None:
        """The handshake is answered otherwise: it will never be accepted."""
        self._move(WebSocketEvent.REFUSE)
        self._stop(LOST, "")

    def end(self) -> None:
        """Whoever still receives or sends is not to wait: nothing is served any more."""
        self._leave()
        self.mailbox.end()
        self._on_told = self._on_gone = _do_nothing  # what they were knows us: nothing for the GC
        self._on_error = _ignore

    def closed(self) -> WebSocketClosed:
        """Give the exception that says that it is over."""
        return WebSocketClosed(*self._end)

    @contextmanager
    def interrupting(self) -> Iterator[trio.CancelScope]:
        """Cancel the block when the WebSocket is over, or is already."""
        with trio.CancelScope() as scope:
            if self.state not in (WebSocketState.CONNECTING, WebSocketState.OPEN):
                scope.cancel(reason="the WebSocket is closed")
            self._interrupted.add(scope)
            try:
                yield scope
            finally:
                self._interrupted.discard(scope)

    def raise_closed(self) -> NoReturn:
        """Raise WebSocketClosed, of which the handler has heard now."""
        self._tell()
        raise self.closed()

    def _accept_message(
        self, subprotocol: str | None, headers: Iterable[tuple[bytes, bytes]] | None
    ) -> Message:
        offered: list[str] = list(self._scope.get("subprotocols") or ())
        fields = Headers(headers)
        accept_headers(subprotocol, offered, fields.raw, key=None)  # raises what is wrong
        message: Message = {"type": "websocket.accept"}
        if subprotocol is not None:
            message["subprotocol"] = subprotocol
        if fields:
            if _spec_version(self._scope) < ACCEPT_HEADERS:
                raise RuntimeError(
                    "this server cannot send headers of an accept: it speaks a version of ASGI's "
                    "WebSocket specification before 2.1"
                )
            message["headers"] = list(fields.raw)
        return message

    async def _accept(self, message: Message) -> None:
        """Accept, if nobody has, or raise WebSocketClosed; in our turn."""
        if self.state is WebSocketState.CONNECTING:
            await trio.lowlevel.checkpoint_if_cancelled()
            self._move(WebSocketEvent.ACCEPT)
            self.accepted = True
            self.subprotocol = message.get("subprotocol")
            # Half an accept, or none, would spoil all that follows.
            with trio.move_on_after(ACCEPT_TIME, shield=True) as scope:
                try:
                    await self._deliver(message)
                except Exception:
                    self._leave()  # there is nothing to be closed
                    raise
            if scope.cancelled_caught:
                self._leave()
                self.raise_closed()
        elif self.state is not WebSocketState.OPEN:
            self.raise_closed()

    async def _deliver(self, message: Message) -> None:
        try:
            await self._send(message)
        except LOST_CONNECTION as error:
            await self._lose()  # noqa: ASYNC120 (the error says nothing that is not said below)
            self._tell()
            raise self.closed() from error

    async def _deliver_last(self, message: Message) -> None:
        """Send what nobody expects to arrive."""
        try:
            await self._send(message)
        except LOST_CONNECTION:
            await trio.lowlevel.checkpoint()

    async def _lose(self) -> None:
        """A send has failed: hear with which code, if the server is one that says so at once."""
        if self._guarded:
            self.mailbox.hurry()
            with trio.move_on_after(LAST_WORD):
                await self.gone.wait()
        if not self.gone.is_set():
            await trio.lowlevel.checkpoint()
            self._leave()

    def _hear_end(self, code: int, reason: str) -> None:
        self._leave()
        self.gone.set()
        if not self._stopped:
            self._end = (code, reason)
        self._cancel_if_unheard()
        if not self.mailbox.holding:
            self._tell()

    def _hear_failure(self, error: Exception) -> None:
        if isinstance(error, LOST_CONNECTION):
            self.mailbox.end()
            self._hear_end(LOST, "")
        else:
            self._on_error(error)

    def _cancel_if_unheard(self) -> None:
        if self._send_only and self.gone.is_set() and not self._stopped:
            self._on_gone()

    def _leave(self) -> None:
        self._move(WebSocketEvent.LEAVE)
        self._interrupt()

    def _stop(self, code: int, reason: str) -> None:
        """Let those who receive or stream hear that we have ended it."""
        self._stopped = True
        self._end = (code, reason)
        self.mailbox.drop()
        self.mailbox.end()
        self._interrupt()

    def _interrupt(self) -> None:
        for scope in self._interrupted:
            scope.cancel(reason="the WebSocket is closed")

    def _tell(self) -> None:
        if not self._told:
            self._told = True
            self._on_told()

    def _move(self, event: WebSocketEvent) -> None:
        self.state = WEBSOCKET_TABLE[self.state][event]


def _do_nothing() -> None:
    pass


def _ignore(_: Exception) -> None:
    pass


def _spec_version(scope: Scope) -> tuple[int, ...]:
    version: str = (scope.get("asgi") or {}).get("spec_version", "2.0")
    return tuple(int(part) for part in version.split("."))
