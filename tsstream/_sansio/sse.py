"""Server-sent events, written so that a parser gets back exactly what went in."""

from __future__ import annotations

import re

import attrs

# The three line ends of WHATWG HTML 9.2.5, and no others: str.splitlines() knows more.
_LINE_END = re.compile(r"\r\n|\r|\n")


@attrs.frozen
class ServerSentEvent:
    """One event for a browser's ``EventSource``.

    Without *data* nothing is dispatched to the page, but *id* and *retry* still take effect.

    Args:
      data: the text; CR, LF and CRLF in it all arrive as LF.
      event: the type of the event; ``message`` if not given.
      id: what a client that reconnects sends as ``Last-Event-ID``; ``""`` makes it forget the
        last one. Keep it ASCII, because it comes back in a header.
      retry: milliseconds after which the client reconnects.
      comment: ignored by clients.

    Raises:
      ValueError: a client would get something else: *event* or *id* has a line end, *id* a NUL,
        *event* is empty or without *data*, *retry* is negative, or there is no field at all.
      TypeError: *data* is not a str, or *retry* not an int.
    """

    data: str | None = None
    event: str | None = attrs.field(default=None, kw_only=True)
    id: str | None = attrs.field(default=None, kw_only=True)
    retry: int | None = attrs.field(default=None, kw_only=True)
    comment: str | None = attrs.field(default=None, kw_only=True)

    def __attrs_post_init__(self) -> None:
        _check_types(self.data, self.retry)
        if flaw := _flaw(self):
            raise ValueError(flaw)


def format_event(event: ServerSentEvent) -> bytes:
    """Write the event as WHATWG HTML 9.2.5 has it, with the blank line that dispatches it.

    Raises:
      ValueError: a field holds a lone surrogate, which UTF-8 cannot express.
    """
    block = (
        _field("", event.comment)
        + _field("event", event.event)
        + _field("id", event.id)
        + _field("retry", None if event.retry is None else f"{event.retry:d}")
        + _field("data", event.data)
    )
    return f"{block}\n".encode()


def _field(name: str, text: str | None) -> str:
    if text is None:
        return ""
    # The space is taken off again by the parser, which keeps a space that begins the text.
    return "".join([f"{name}: {line}\n" for line in _LINE_END.split(text)])


def _check_types(data: object, retry: object) -> None:
    if not isinstance(data, str | None):
        raise TypeError(
            f"the data of an event is {type(data).__name__}, not str; "
            "send the value without ServerSentEvent to have it written as JSON"
        )
    if not isinstance(retry, int | None):
        raise TypeError(f"retry={retry!r} is no int; give whole milliseconds")


def _flaw(event: ServerSentEvent) -> str | None:
    """Say why a client would not get this event as it is (WHATWG HTML 9.2.6)."""
    if attrs.astuple(event) == (None,) * 5:
        return "an event without any field says nothing; give it data or a comment"
    if event.event is not None and event.data is None:
        return f'event={event.event!r} without data is not dispatched; give data=""'
    if event.event == "":
        return "event='' arrives as 'message'; leave it out"
    if _LINE_END.search(event.event or ""):
        return f"event={event.event!r} has a line end; take it out"
    if _LINE_END.search(event.id or "") or "\0" in (event.id or ""):
        return f"id={event.id!r} has a line end or NUL; take it out"
    if event.retry is not None and event.retry < 0:
        return f"retry={event.retry} is negative; give milliseconds"
    return None
