"""A body over a WebSocket: one message for each item."""

from __future__ import annotations

from collections.abc import Callable

import trio

from tsstream._asgi import Message
from tsstream._errors import WebSocketClosed
from tsstream._sansio.encoders import TEXT, Encoder

from .breakage import is_breakage, without_breakage
from .content import Items, open_items
from .talk import Talk
from .writer import raise_suppressed

_UTF_8 = ("utf-8", "utf8", '"utf-8"')


async def stream_items(talk: Talk, content: object, encoder: Encoder) -> None:
    """Enter a body, accept the WebSocket, send the items as they come, leave the body.

    All of that in the task that calls. When the WebSocket is over the body is left by
    cancellation, and WebSocketClosed is raised.
    """
    to_message = message_maker(encoder)
    failure: BaseException | None = None
    problem: Exception | None = None
    try:
        with talk.interrupting() as scope:
            async with open_items(content) as items:
                try:
                    await _pump(talk, items, to_message)
                except BaseException as error:
                    failure = error
                    raise
    except Exception as error:
        problem = error
    if problem is not None and not (scope.cancel_called and is_breakage(problem)):
        raise without_breakage(problem)
    if scope.cancelled_caught or (scope.cancel_called and failure is not None):
        talk.raise_closed()
    if failure is not None:
        await raise_suppressed(failure)


def message_maker(encoder: Encoder) -> Callable[[object], Message]:
    """Give what makes a message of an item: of text, if the encoder's media type is one of text."""
    encode = encoder.encode

    def text(item: object) -> Message:
        whole = item if encoder is TEXT and isinstance(item, str) else bytes(encode(item)).decode()
        return {"type": "websocket.send", "text": whole}

    def binary(item: object) -> Message:
        return {"type": "websocket.send", "bytes": bytes(encode(item))}

    return text if _is_textual(encoder.media_type) else binary


async def _pump(talk: Talk, items: Items, to_message: Callable[[object], Message]) -> None:
    try:
        await talk.accept()
        while True:
            try:
                item = await items.channel.receive()
            except trio.EndOfChannel:
                items.ended = True
                return
            message = to_message(item)
            await talk.send(message)
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
