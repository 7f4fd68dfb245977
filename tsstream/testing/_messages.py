"""The messages of an application's response: their order in a table, their content checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum, auto
from typing import Any, Final

import attrs

from tsstream._sansio.headers import Headers

START = "http.response.start"
BODY = "http.response.body"
BODYLESS_STATUSES = (204, 304)


class Stage(Enum):
    """How far the response has come."""

    IDLE = auto()  # nothing sent
    STARTED = auto()  # the start was sent; body messages follow
    ENDED = auto()  # the body message without more_body was sent


# Which messages may come, and where they lead; the last body message leads to ENDED.
TABLE: Final[Mapping[Stage, Mapping[str, Stage]]] = {
    Stage.IDLE: {START: Stage.STARTED},
    Stage.STARTED: {BODY: Stage.STARTED},
    Stage.ENDED: {},
}
REMEDIES: Final[Mapping[tuple[Stage, str], str]] = {
    (Stage.IDLE, BODY): f"there is no response yet; send {START!r} first",
    (Stage.STARTED, START): "the response has started already; a status can be sent only once",
    (Stage.ENDED, START): "the response has ended; there is one response to a request",
    (Stage.ENDED, BODY): "the response has ended with the message that had no more_body",
}


@attrs.frozen
class Start:
    """The head of a response."""

    status_code: int
    headers: Headers


@attrs.frozen
class Data:
    """A part of the body."""

    data: bytes
    last: bool


class Transcript:
    """What an application has sent so far, and whether it may send what it sends next.

    Args:
      method: of the request, because the response to HEAD has no body.
    """

    def __init__(self, method: str) -> None:
        self.stage = Stage.IDLE
        self.shortfall = ""  # what is missing from a body that has ended
        self._bodyless = method == "HEAD"
        self._length: int | None = None  # as Content-Length says
        self._size = 0

    def add(self, message: Any) -> Start | Data:
        """Take the next message and give what of it goes to the client.

        Raises:
          AssertionError: the message breaks the ASGI specification.
        """
        stage, kind = self._next_stage(message)
        if kind == START:
            start = _parse_start(message)
            self.stage = stage
            self._note_framing(start)
            return start
        data = _parse_body(message)
        self._count(data)
        self.stage = Stage.ENDED if data.last else stage
        return attrs.evolve(data, data=b"") if self._bodyless else data

    def _next_stage(self, message: Any) -> tuple[Stage, str]:
        kind = message_kind(message)
        if kind not in (START, BODY):
            raise AssertionError(
                f"send() of {kind!r}: scope['extensions'] does not offer it; "
                f"use {START!r} and {BODY!r}"
            )
        if kind not in TABLE[self.stage]:
            raise AssertionError(f"send() of {kind!r}: {REMEDIES[self.stage, kind]}")
        return TABLE[self.stage][kind], kind

    def _note_framing(self, start: Start) -> None:
        self._bodyless = self._bodyless or start.status_code in BODYLESS_STATUSES
        length = start.headers.get("content-length")
        if length is not None and not (length.isascii() and length.isdigit()):
            raise AssertionError(f"content-length {length!r} is not one number")
        self._length = None if length is None or self._bodyless else int(length)

    def _count(self, data: Data) -> None:
        self._size += len(data.data)
        if self._length is None:
            return
        if self._size > self._length:
            raise AssertionError(
                f"the body is longer than content-length says: {self._size} bytes and "
                f"not {self._length}; leave the header out if the length is not known"
            )
        if data.last and self._size < self._length:
            self.shortfall = f"content-length is {self._length}, but {self._size} bytes were sent"


def message_kind(message: Any) -> str:
    """Give the type of what an application has sent."""
    if not isinstance(message, Mapping) or not isinstance(message.get("type"), str):
        raise AssertionError(f"send({message!r}): a message is a dict with a 'type'")
    return str(message["type"])


def _parse_start(message: Mapping[str, Any]) -> Start:
    status = message.get("status")
    if not isinstance(status, int) or not 200 <= status <= 999:
        raise AssertionError(f"the status of {START!r} is an int from 200 to 999, not {status!r}")
    return Start(int(status), parse_headers(START, message.get("headers", [])))


def parse_headers(kind: str, fields: Any) -> Headers:
    """Give the headers of a message of this type.

    Raises:
      AssertionError: they cannot be sent.
    """
    if not isinstance(fields, Iterable):
        raise AssertionError(f"the headers of {kind!r} are an iterable of pairs, not {fields!r}")
    try:
        return Headers([_parse_field(kind, field) for field in fields])
    except ValueError as error:
        raise AssertionError(f"the headers of {kind!r}: {error}") from error


def _parse_field(kind: str, field: Any) -> tuple[bytes, bytes]:
    match field:
        case [bytes() as name, bytes() as value] if name == name.lower():
            return name, value
    raise AssertionError(
        f"header {field!r} of {kind!r} is not a pair of bytes with the name in lower case"
    )


def _parse_body(message: Mapping[str, Any]) -> Data:
    body, more_body = message.get("body", b""), message.get("more_body", False)
    if not isinstance(body, bytes):
        raise AssertionError(f"the body of {BODY!r} is bytes, not {type(body).__name__}")
    if not isinstance(more_body, bool):
        raise AssertionError(f"more_body of {BODY!r} is a bool, not {more_body!r}")
    return Data(body, last=not more_body)
