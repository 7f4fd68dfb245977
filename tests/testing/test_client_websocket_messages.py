"""What an application may send to a WebSocket, in which order: the table, and the content."""

from __future__ import annotations

from typing import Any

import pytest

from tsstream._sansio.headers import Headers
from tsstream.testing import ClientResponse
from tsstream.testing._websocket_messages import (
    ACCEPT,
    CLOSE,
    REJECT,
    REJECT_BODY,
    SEND,
    TABLE,
    Accept,
    Close,
    Stage,
    WebSocketTranscript,
)

EXAMPLES: dict[str, dict[str, Any]] = {
    ACCEPT: {"type": ACCEPT},
    SEND: {"type": SEND, "text": "a"},
    CLOSE: {"type": CLOSE},
    REJECT: {"type": REJECT, "status": 404, "headers": [(b"x-a", b"1")]},
    REJECT_BODY: {"type": REJECT_BODY, "body": b"sorry"},
}
WAYS: dict[Stage, list[str]] = {
    Stage.CONNECTING: [],
    Stage.OPEN: [ACCEPT],
    Stage.REJECTING: [REJECT],
    Stage.CLOSED: [ACCEPT, CLOSE],
}


def transcript(stage: Stage) -> WebSocketTranscript:
    found = WebSocketTranscript(["chat", "soap"])
    for kind in WAYS[stage]:
        found.add(EXAMPLES[kind])
    assert found.stage is stage
    return found


@pytest.mark.parametrize("kind", EXAMPLES)
@pytest.mark.parametrize("stage", Stage)
def test_every_pair(stage: Stage, kind: str) -> None:
    found = transcript(stage)
    if kind in TABLE[stage]:
        found.add(EXAMPLES[kind])
    else:
        with pytest.raises(AssertionError, match=f"send\\(\\) of '{kind}': the WebSocket is"):
            found.add(EXAMPLES[kind])
        assert found.stage is stage


def test_accept() -> None:
    found = WebSocketTranscript(["chat", "soap"])
    accept = found.add({"type": ACCEPT, "subprotocol": "soap", "headers": [(b"x-a", b"1")]})
    assert isinstance(accept, Accept)
    assert accept.subprotocol == "soap"
    assert accept.headers["sec-websocket-protocol"] == "soap"
    assert accept.headers["sec-websocket-accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # RFC 6455, 1.3
    assert accept.headers["x-a"] == "1"


@pytest.mark.parametrize(
    ("message", "event"),
    [
        ({"type": SEND, "text": "ä"}, "ä"),
        ({"type": SEND, "text": "", "bytes": None}, ""),  # RQ-36
        ({"type": SEND, "bytes": b""}, b""),
        ({"type": SEND, "bytes": b"a", "text": None}, b"a"),
        ({"type": CLOSE}, Close(1000, "")),
        ({"type": CLOSE, "code": 3000, "reason": "mine"}, Close(3000, "mine")),
        ({"type": CLOSE, "code": None, "reason": None}, Close(1000, "")),
    ],
)
def test_message(message: dict[str, Any], event: object) -> None:
    assert transcript(Stage.OPEN).add(message) == event


def test_close_before_accept_rejects_with_403() -> None:
    found = WebSocketTranscript([])
    event = found.add({"type": CLOSE, "code": 1008})
    assert event == ClientResponse(403, Headers({"content-length": "0"}), b"")
    assert found.stage is Stage.CLOSED


def test_rejection_is_given_when_it_is_whole() -> None:
    found = WebSocketTranscript([])
    assert found.add({"type": REJECT, "status": 401, "headers": [(b"x-a", b"1")]}) is None
    assert found.add({"type": REJECT_BODY, "body": b"go ", "more_body": True}) is None
    response = found.add({"type": REJECT_BODY, "body": b"away"})
    assert response == ClientResponse(401, Headers({"x-a": "1"}), b"go away")
    assert found.stage is Stage.CLOSED


@pytest.mark.parametrize(
    ("stage", "message", "complaint"),
    [
        (Stage.CONNECTING, {"type": "http.response.start"}, "is no message to a WebSocket"),
        (Stage.CONNECTING, b"hello", "is a dict"),
        (Stage.CONNECTING, {"type": ACCEPT, "subprotocol": "other"}, "has not offered"),
        (Stage.CONNECTING, {"type": ACCEPT, "subprotocol": b"soap"}, "is a str, not b'soap'"),
        (Stage.CONNECTING, {"type": ACCEPT, "headers": None}, "iterable of pairs"),
        (Stage.CONNECTING, {"type": ACCEPT, "headers": [(b"X-A", b"1")]}, "lower case"),
        (Stage.CONNECTING, {"type": ACCEPT, "headers": [(b"upgrade", b"x")]}, "is the server's"),
        (
            Stage.CONNECTING,
            {"type": ACCEPT, "headers": [(b"sec-websocket-protocol", b"chat")]},
            "goes into its 'subprotocol'",
        ),
        (Stage.CONNECTING, {"type": REJECT, "status": 200}, "does not reject"),
        (Stage.CONNECTING, {"type": REJECT, "status": 101}, "from 200 to 999"),
        (Stage.CONNECTING, {"type": CLOSE, "code": 1006}, "cannot be sent"),
        (Stage.OPEN, {"type": SEND}, "either 'text' or 'bytes'"),
        (Stage.OPEN, {"type": SEND, "text": "a", "bytes": b"a"}, "either 'text' or 'bytes'"),
        (Stage.OPEN, {"type": SEND, "text": b"a"}, "is a str, not bytes"),
        (Stage.OPEN, {"type": SEND, "text": "\ud800"}, "not Unicode"),
        (Stage.OPEN, {"type": SEND, "bytes": "a"}, "are bytes, not str"),
        (Stage.OPEN, {"type": SEND, "bytes": bytearray()}, "are bytes, not bytearray"),
        (Stage.OPEN, {"type": CLOSE, "code": 1005}, "cannot be sent"),
        (Stage.OPEN, {"type": CLOSE, "code": 999}, "cannot be sent"),
        (Stage.OPEN, {"type": CLOSE, "code": "1000"}, "cannot be sent"),
        (Stage.OPEN, {"type": CLOSE, "reason": "x" * 124}, "at most 123 bytes"),
        (Stage.OPEN, {"type": CLOSE, "reason": b"x"}, "is text"),
        (Stage.REJECTING, {"type": REJECT_BODY, "body": "text"}, "is bytes, not str"),
        (Stage.REJECTING, {"type": REJECT_BODY, "more_body": 1}, "is a bool"),
    ],
)
def test_broken_message_is_explained(stage: Stage, message: Any, complaint: str) -> None:
    found = transcript(stage)
    with pytest.raises(AssertionError, match=complaint):
        found.add(message)
    assert found.stage is stage


def test_rejection_keeps_its_content_length() -> None:
    found = WebSocketTranscript([])
    found.add({"type": REJECT, "status": 404, "headers": [(b"content-length", b"3")]})
    with pytest.raises(AssertionError, match="but 1 bytes were sent"):
        found.add({"type": REJECT_BODY, "body": b"a"})
