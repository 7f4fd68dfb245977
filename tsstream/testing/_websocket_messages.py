"""The messages of an application to a WebSocket: their order in a table, their content checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum, auto
from typing import Any, Final, TypeAlias

import attrs

from tsstream._sansio.headers import Headers
from tsstream._sansio.websocket import accept_headers, check_close

from ._messages import Data, Start, Transcript, message_kind, parse_headers
from ._request import KEY
from ._response import ClientResponse

ACCEPT = "websocket.accept"
SEND = "websocket.send"
CLOSE = "websocket.close"
REJECT = "websocket.http.response.start"
REJECT_BODY = "websocket.http.response.body"


class Stage(Enum):
    """How far the application has come with its WebSocket."""

    CONNECTING = auto()  # the handshake is not answered
    OPEN = auto()  # it was accepted
    REJECTING = auto()  # a response to it was started
    CLOSED = auto()  # by the application, or rejected


# Which messages may come, and where they lead; the last body message leads to CLOSED.
TABLE: Final[Mapping[Stage, Mapping[str, Stage]]] = {
    Stage.CONNECTING: {ACCEPT: Stage.OPEN, CLOSE: Stage.CLOSED, REJECT: Stage.REJECTING},
    Stage.OPEN: {SEND: Stage.OPEN, CLOSE: Stage.CLOSED},
    Stage.REJECTING: {REJECT_BODY: Stage.REJECTING},
    Stage.CLOSED: {},
}
REMEDIES: Final[Mapping[Stage, str]] = {
    Stage.CONNECTING: f"the WebSocket is not open yet; send {ACCEPT!r} first",
    Stage.OPEN: f"the WebSocket is open; {SEND!r} and {CLOSE!r} may follow",
    Stage.REJECTING: f"the WebSocket is being rejected; only {REJECT_BODY!r} may follow",
    Stage.CLOSED: "the WebSocket is closed, and that was the last message to it",
}


@attrs.frozen
class Accept:
    """The handshake is accepted."""

    subprotocol: str | None
    headers: Headers


@attrs.frozen
class Close:
    """A WebSocket is closed."""

    code: int
    reason: str


# What goes to the client: a message is str or bytes, and a rejection not whole yet is None.
Event: TypeAlias = Accept | str | bytes | Close | ClientResponse | None


class WebSocketTranscript:
    """What an application has sent so far, and whether it may send what it sends next.

    Args:
      offered: the subprotocols of the handshake.
    """

    def __init__(self, offered: Sequence[str]) -> None:
        self.stage = Stage.CONNECTING
        self._offered = offered
        self._rejection = Transcript("GET")
        self._start: Start | None = None
        self._body = bytearray()

    def add(self, message: Any) -> Event:
        """Take the next message and give what of it goes to the client.

        Raises:
          AssertionError: the message breaks the ASGI specification.
        """
        kind = message_kind(message)
        if not any(kind in kinds for kinds in TABLE.values()):
            raise AssertionError(
                f"send() of {kind!r}: it is no message to a WebSocket; "
                f"use {ACCEPT!r}, {SEND!r} and {CLOSE!r}"
            )
        if kind not in TABLE[self.stage]:
            raise AssertionError(f"send() of {kind!r}: {REMEDIES[self.stage]}")
        event = self._parse(kind, message)
        ended = kind == REJECT_BODY and event is not None
        self.stage = Stage.CLOSED if ended else TABLE[self.stage][kind]
        return event

    def _parse(self, kind: str, message: Mapping[str, Any]) -> Event:
        if kind == ACCEPT:
            return self._parse_accept(message)
        if kind == SEND:
            return _parse_send(message)
        if kind == CLOSE:
            close = _parse_close(message)
            # The code of a WebSocket that was never open goes nowhere.
            return close if self.stage is Stage.OPEN else bare_response(403)
        return self._add_rejection(message)

    def _parse_accept(self, message: Mapping[str, Any]) -> Accept:
        subprotocol = message.get("subprotocol")
        if not isinstance(subprotocol, str | None):
            raise AssertionError(f"the subprotocol of {ACCEPT!r} is a str, not {subprotocol!r}")
        headers = parse_headers(ACCEPT, message.get("headers", []))
        try:
            fields = accept_headers(subprotocol, self._offered, headers.raw, key=KEY)
        except ValueError as error:
            raise AssertionError(f"send() of {ACCEPT!r}: {error}") from error
        return Accept(subprotocol, Headers.from_wire(fields))

    def _add_rejection(self, message: Mapping[str, Any]) -> ClientResponse | None:
        """Take a part of the response, which is like any other's; give it when it is whole."""
        kind = message["type"].removeprefix("websocket.")
        part = self._rejection.add({**message, "type": kind})
        if isinstance(part, Start):
            if part.status_code < 300:  # on HTTP/2 any 2xx would accept (RFC 8441, 5)
                raise AssertionError(
                    f"the status {part.status_code} of {REJECT!r} does not reject a WebSocket; "
                    "use 4xx or 5xx"
                )
            self._start = part
        return self._add_rejection_body(part) if isinstance(part, Data) else None

    def _add_rejection_body(self, part: Data) -> ClientResponse | None:
        self._body += part.data
        if not part.last:
            return None
        if self._rejection.shortfall:
            raise AssertionError(f"send() of {REJECT_BODY!r}: {self._rejection.shortfall}")
        assert self._start is not None
        return ClientResponse(self._start.status_code, self._start.headers, bytes(self._body))


def bare_response(status_code: int) -> ClientResponse:
    """Give the response by which a server rejects a WebSocket if it was not given one."""
    return ClientResponse(status_code, Headers({"content-length": "0"}), b"")


def _parse_send(message: Mapping[str, Any]) -> str | bytes:
    text, data = message.get("text"), message.get("bytes")
    if (text is None) == (data is None):
        raise AssertionError(f"{SEND!r} has either 'text' or 'bytes', and the other one is None")
    if data is not None:
        if not isinstance(data, bytes):
            raise AssertionError(f"the bytes of {SEND!r} are bytes, not {type(data).__name__}")
        return data
    if not isinstance(text, str):
        raise AssertionError(f"the text of {SEND!r} is a str, not {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise AssertionError(f"the text of {SEND!r} is not Unicode: {error}") from error
    return text


def _parse_close(message: Mapping[str, Any]) -> Close:
    try:
        return Close(*check_close(message.get("code"), message.get("reason")))
    except ValueError as error:
        raise AssertionError(f"send() of {CLOSE!r}: {error}") from error
