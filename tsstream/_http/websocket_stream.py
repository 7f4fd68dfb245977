"""A body over a WebSocket: one message for each item."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress

import trio

from tsstream._asgi import Message
from tsstream._errors import WebSocketClosed
from tsstream._sansio.encoders import TEXT, Encoder

from .breakage import is_breakage, without_breakage
from .content import Items, open_items
from .cycle import LAST_WORDS
from .talk import Talk
from .writer import raise_suppressed

_UTF_8 = ("utf-8", "utf8", '"utf-8"')


async def stream_items(talk: Talk, content: object, encoder: Encoder) -> None:
    """Enter a body, accept the WebSocket, send the items as they come, leave the body.

    All of that in the task that calls. When the WebSocket is over the body is left by
    cancellation, and WebSocketClosed is raised.
    """
    pump = Pump(talk, message_maker(encoder))
    problem: Exception | None = None
    try:
        try:
            with talk.interrupting() as scope:
                await pump.run(content)
        except Exception as error:
            problem = error
            # If we are cancelled meanwhile, this error is in the Cancelled's context, and logged
            # from there.
            await pump.send_last()  # noqa: ASYNC120
        if problem is not None and not (scope.cancel_called and is_breakage(problem)):
            raise without_breakage(problem)
        if scope.cancelled_caught or (scope.cancel_called and pump.failure is not None):
            talk.raise_closed()
        if pump.failure is not None:
            await pump.send_last()
            await raise_suppressed(pump.failure)
    finally:
        del problem, pump.failure  # their tracebacks refer to us: nothing for the GC


def message_maker(encoder: Encoder) -> Callable[[object], Message]:
    """Give what makes a message of an item: of text, if the encoder's media type is one of text."""
    encode = encoder.encode

    def text(item: object) -> Message:
        whole = item if encoder is TEXT and isinstance(item, str) else bytes(encode(item)).decode()
        return {"type": "websocket.send", "text": whole}

    def binary(item: object) -> Message:
        return {"type": "websocket.send", "bytes": bytes(encode(item))}

    return text if _is_textual(encoder.media_type) else binary


class Pump:
    """What takes the items out of one body.

    Attributes:
      failure: why it stopped before the end of the body, which may have suppressed that.
    """

    def __init__(self, talk: Talk, to_message: Callable[[object], Message]) -> None:
        self._talk = talk
        self._to_message = to_message
        self._unsent: list[Message] = []  # at most one, that has not begun to go
        self.failure: BaseException | None = None

    async def run(self, content: object) -> None:
        """Enter the body, send its items, leave it."""
        async with open_items(content) as items:
            try:
                await self._send_items(items)
            except BaseException as error:
                self.failure = error
                raise

    async def send_last(self) -> None:
        """Send what was taken from a body that has failed (D10), unless we are cancelled too."""
        if self._unsent and trio.current_effective_deadline() > -math.inf:
            with trio.move_on_after(LAST_WORDS), suppress(WebSocketClosed):
                await self._talk.send(self._unsent.pop())

    async def _send_items(self, items: Items) -> None:
        try:
            await self._talk.accept()
            while True:
                try:
                    item = await items.channel.receive()
                except trio.EndOfChannel:
                    items.ended = True
                    return
                message = self._to_message(item)
                self._unsent.append(message)
                await self._talk.send(message, on_begin=self._unsent.clear)
        except WebSocketClosed:
            await trio.lowlevel.checkpoint()  # noqa: ASYNC120 (interrupting() has cancelled us)
            raise


def _is_textual(media_type: str | None) -> bool:
    """Say whether *media_type* is one of text in UTF-8."""
    if media_type is None:
        return False
    kind, *parameters = (part.strip().lower() for part in media_type.split(";"))
    charsets = [
        value for name, _, value in (p.partition("=") for p in parameters) if name == "charset"
    ]
    return all(charset in _UTF_8 for charset in charsets) and (
        kind.startswith("text/") or kind.endswith(("json", "xml"))
    )
