"""WebSocket rules that need no connection: the pieces of a message, codes, handshakes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsstream._sansio.http1 import Refusal
from tsstream._sansio.websocket import (
    MessageBuffer,
    MessageTooBig,
    accept_headers,
    check_close,
    check_handshake,
    refusal_headers,
    subprotocols,
)

KEY = (b"Sec-WebSocket-Key", b"dGhlIHNhbXBsZSBub25jZQ==")
VERSION = (b"Sec-WebSocket-Version", b"13")


@given(st.lists(st.text(), min_size=1) | st.lists(st.binary(), min_size=1))
def test_pieces_make_one_message(pieces: list[str] | list[bytes]) -> None:
    buffer = MessageBuffer(10_000)
    for _ in range(2):  # nothing of the first is left in the second
        results = [buffer.add(piece, last=False) for piece in pieces[:-1]]
        whole = buffer.add(pieces[-1], last=True)
        assert results == [None] * (len(pieces) - 1)
        assert whole is not None
        message, size = whole
        text = "".join(map(str, pieces)) if isinstance(pieces[0], str) else None
        binary = None if text is not None else b"".join(map(bytes, pieces))  # type: ignore[arg-type]
        assert message == {"type": "websocket.receive", "text": text, "bytes": binary}
        assert size == len((text or "").encode() + (binary or b""))


@pytest.mark.parametrize("sizes", [[11], [5, 6], [10, 0, 1], [1] * 11])
def test_message_too_big_is_not_kept(sizes: list[int]) -> None:
    buffer = MessageBuffer(10)
    with pytest.raises(MessageTooBig, match="10"):
        for i, size in enumerate(sizes, 1):
            buffer.add(b"x" * size, last=i == len(sizes))
    assert buffer.add(b"x" * 10, last=True) is not None


def test_size_of_text_is_that_of_its_utf8() -> None:
    assert MessageBuffer(4).add("\xe9\xe9", last=True) is not None
    with pytest.raises(MessageTooBig):
        MessageBuffer(4).add("\xe9\xe9\xe9", last=True)


@pytest.mark.parametrize(
    ("code", "reason", "checked"),
    [
        (None, None, (1000, "")),
        (1000, "", (1000, "")),
        (1014, "x" * 123, (1014, "x" * 123)),
        (4999, "\xe9", (4999, "\xe9")),
    ],
)
def test_close_that_can_be_sent(code: object, reason: object, checked: tuple[int, str]) -> None:
    assert check_close(code, reason) == checked


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, "1000", 1e3])
def test_code_that_cannot_be_sent(code: object) -> None:
    with pytest.raises(ValueError, match="close code"):
        check_close(code, None)


def test_handshakes() -> None:
    check_handshake([KEY, VERSION], "1.1")
    check_handshake([VERSION], "2")
    with pytest.raises(Refusal) as refused:
        check_handshake([VERSION], "1.1")
    assert refused.value.status_code == 400


def test_accept_of_the_rfcs_example() -> None:
    assert dict(accept_headers("chat", ["chat"], [(b"X-A", b"b")], key=KEY[1])) == {
        b"x-a": b"b",
        b"sec-websocket-protocol": b"chat",
        b"sec-websocket-accept": b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
        b"upgrade": b"websocket",
        b"connection": b"Upgrade",
    }
    assert accept_headers(None, [], [], key=None) == []


@pytest.mark.parametrize(
    ("status", "http_version", "allowed"),
    [
        (200, "1.1", True),
        (200, "2", False),
        (404, "2", True),
        (101, "1.1", False),
        (600, "2", False),
    ],
)
def test_status_of_a_refusal(status: int, http_version: str, allowed: bool) -> None:
    if allowed:
        refusal_headers(status, [], http_version)
    else:
        with pytest.raises(ValueError, match=str(status)):
            refusal_headers(status, [], http_version)


def test_subprotocols_of_several_fields() -> None:
    fields = [
        (b"Sec-WebSocket-Protocol", b"a, b,"),
        (b"x", b"y"),
        (b"sec-websocket-protocol", b"c"),
    ]
    assert subprotocols(fields) == ["a", "b", "c"]
