"""What may be said on a WebSocket: in its handshake, in a Close, and how much in one message."""

from __future__ import annotations

import binascii
import re
from base64 import b64decode, b64encode
from collections.abc import Iterable, Sequence
from hashlib import sha1
from io import BytesIO
from typing import Any

from tsstream._sansio.headers import Headers
from tsstream._sansio.http1 import Refusal

VERSION = b"13"
MAX_REASON = 123  # bytes: a control frame has 125, and the code takes 2
LOST = 1006  # said to the application: no Close has come
# What may be sent (RFC 6455, 7.4, and the registry of IANA): 1004 to 1006 and 1015 are reserved.
CODES = frozenset({1000, 1001, 1002, 1003, *range(1007, 1015), *range(3000, 5000)})

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # of the protocol
_KEY_SIZE = 16  # bytes, decoded
_LENGTH_OF_NONE = re.compile(rb"0+")
# The accept's own: who sets them would break the handshake.
_HANDSHAKE_HEADERS = (b"connection", b"upgrade", b"content-length")


class MessageTooBig(Exception):
    """The client's message is above the limit."""


def check_handshake(headers: Iterable[tuple[bytes, bytes]], http_version: str) -> None:
    """Refuse a handshake that is not RFC 6455's (4.2.1) or, on HTTP/2, RFC 8441's.

    Raises:
      Refusal: 426 for another version of the protocol, 400 for all else.
    """
    fields: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        fields.setdefault(name.lower(), []).append(value)
    if http_version < "1.1":
        raise Refusal(400, "a WebSocket handshake in HTTP/1.0")
    if fields.get(b"sec-websocket-version") != [VERSION]:
        raise Refusal(426, "a version of the WebSocket protocol that is not spoken here")
    if http_version == "1.1" and not _valid_key(fields.get(b"sec-websocket-key", [])):
        raise Refusal(400, "no valid Sec-WebSocket-Key")
    for name, values in fields.items():
        if is_of_handshake(name) and not all(value.isascii() for value in values):
            raise Refusal(400, "a WebSocket handshake that is not ASCII")
    lengths = fields.get(b"content-length", [])
    if b"transfer-encoding" in fields or not all(map(_LENGTH_OF_NONE.fullmatch, lengths)):
        raise Refusal(400, "a WebSocket handshake with a body")


def is_of_handshake(name: bytes) -> bool:
    """Say whether a header field is read by the handshake itself."""
    name = name.lower()
    return name.startswith(b"sec-websocket-") or name == b"connection"


def subprotocols(headers: Iterable[tuple[bytes, bytes]]) -> list[str]:
    """Give what a valid handshake offers, from all of its Sec-WebSocket-Protocol fields."""
    values = [value for name, value in headers if name.lower() == b"sec-websocket-protocol"]
    tokens = [token.strip().decode("ascii") for value in values for token in value.split(b",")]
    return [token for token in tokens if token]


def accept_headers(
    subprotocol: str | None,
    offered: Sequence[str],
    headers: Iterable[tuple[bytes, bytes]],
    *,
    key: bytes | None,
) -> list[tuple[bytes, bytes]]:
    """Give the headers that accept a handshake.

    Args:
      subprotocol: the application's choice.
      offered: what it could choose from.
      headers: the application's.
      key: the client's, in HTTP/1.1; HTTP/2 has none.

    Raises:
      ValueError: the subprotocol was not offered, or a header is not the application's to set, or
        would break the head.
    """
    fields = list(Headers(headers).raw)
    for name, _ in fields:
        if name.startswith(b"sec-websocket-") or name in _HANDSHAKE_HEADERS:
            raise ValueError(
                f"header {name.decode()!r} is the server's; leave it out of websocket.accept "
                "(a subprotocol goes into its 'subprotocol')"
            )
    if subprotocol is not None:
        if subprotocol not in offered:
            raise ValueError(
                f"the client has not offered the subprotocol {subprotocol!r}; "
                "choose one of scope['subprotocols'], or None"
            )
        fields.append((b"sec-websocket-protocol", subprotocol.encode("ascii")))
    if key is not None:
        token = b64encode(sha1(key + _GUID, usedforsecurity=False).digest())
        fields.append((b"sec-websocket-accept", token))
        fields += [(b"upgrade", b"websocket"), (b"connection", b"Upgrade")]
    return fields


def refusal_headers(
    status: int, headers: Iterable[tuple[bytes, bytes]], http_version: str
) -> list[tuple[bytes, bytes]]:
    """Give the headers of an application's response that refuses a handshake.

    Raises:
      ValueError: the status does not refuse, or a header would break the head.
    """
    # On HTTP/2 any 2xx would accept (RFC 8441, 5).
    if not (300 if http_version == "2" else 200) <= status <= 599:
        raise ValueError(f"the status {status!r} does not refuse a WebSocket; use 4xx or 5xx")
    closing = [] if http_version == "2" else [(b"connection", b"close")]
    return [*Headers(headers).raw, *closing]


def check_close(code: object, reason: object) -> tuple[int, str]:
    """Give code and reason of an application's Close; not given, they are 1000 and empty.

    Raises:
      ValueError: they may not, or cannot, be sent.
    """
    code, reason = 1000 if code is None else code, "" if reason is None else reason
    if not isinstance(code, int) or code not in CODES:
        raise ValueError(
            f"{code!r} cannot be sent as a close code; use 1000, another code that RFC 6455 lets "
            "an endpoint send, or one of your own from 3000 to 4999"
        )
    if not isinstance(reason, str) or len(reason.encode()) > MAX_REASON:
        raise ValueError(
            f"the reason of a close is text of at most {MAX_REASON} bytes of UTF-8, not {reason!r}"
        )
    return int(code), reason


class MessageBuffer:
    """Puts messages together from their pieces, of at most *limit* bytes each.

    Bytes are kept as they are, text as UTF-8, so that neither many small pieces nor wide
    characters take more memory than what the client has sent.

    Args:
      limit: bytes, of text as UTF-8.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._file = BytesIO()

    def add(self, data: str | bytes, *, last: bool) -> tuple[dict[str, Any], int] | None:
        """Add a piece; give the ASGI message and its bytes if it was the *last*.

        Raises:
          MessageTooBig: nothing is kept.
        """
        piece = data.encode() if isinstance(data, str) else data
        size = self._file.tell() + len(piece)
        if size > self._limit:
            self._file = BytesIO()
            raise MessageTooBig(f"a message above the limit of {self._limit} bytes")
        if not last:
            self._file.write(piece)
            return None
        if self._file.tell():
            self._file.write(piece)
            piece = self._file.getvalue()
            self._file = BytesIO()
            data = piece.decode() if isinstance(data, str) else piece
        text, binary = (data, None) if isinstance(data, str) else (None, bytes(data))
        return {"type": "websocket.receive", "text": text, "bytes": binary}, size


def _valid_key(keys: list[bytes]) -> bool:
    try:
        return len(keys) == 1 and len(b64decode(keys[0], validate=True)) == _KEY_SIZE
    except binascii.Error:
        return False
