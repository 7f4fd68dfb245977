"""From the items of a stream to its bytes: one value for each format."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from datetime import date, time
from functools import partial
from typing import Any

import attrs

from .sse import ServerSentEvent, format_event


@attrs.frozen
class Encoder:
    """How a response turns items into bytes.

    Args:
      encode: gives the bytes of one item; it may give the item itself, or a view on it, only if
        that is immutable. What it raises is the producer's error.
      media_type: the Content-Type, if the response has none of its own.
      headers: what every response of this format needs.
      heartbeat: sent on silence and ignored by clients; None if the format has nothing like it.
      farewell: the last bytes of a live response that ends because the server shuts down; None
        if the format has nothing to say that with. Never part of any other response.
    """

    encode: Callable[[Any], bytes | memoryview]
    media_type: str | None = attrs.field(default=None, kw_only=True)
    headers: tuple[tuple[str, str], ...] = attrs.field(default=(), kw_only=True)
    heartbeat: bytes | None = attrs.field(default=None, kw_only=True)
    farewell: bytes | None = attrs.field(default=None, kw_only=True)


def bytes_encoder(charset: str = "utf-8") -> Encoder:
    """Give BYTES with str items in *charset* (AC-5).

    Raises:
      LookupError: Python has no such text encoding.
    """
    "".encode(charset)
    return Encoder(partial(_encode_bytes, charset=charset))


def _encode_bytes(item: object, charset: str = "utf-8") -> bytes | memoryview:
    if isinstance(item, bytes):
        return item
    if isinstance(item, str):
        return item.encode(charset)
    if isinstance(item, memoryview) and isinstance(item.obj, bytes) and item.c_contiguous:
        return item.cast("B")  # nobody can change it, so it goes without a copy (AC-28)
    if isinstance(item, bytearray | memoryview):
        return bytes(item)  # the producer may change it while we wait to send it (AC-29)
    raise TypeError(
        f"a stream cannot send {type(item).__name__}; "
        "give bytes or str, or choose an encoder such as NDJSON"
    )


def to_json(value: Any) -> bytes:
    """Write *value* as compact JSON on one line, in UTF-8.

    Knows attrs classes and dataclasses (as objects), dates and times (in ISO 8601), and all that
    :mod:`json` knows.

    Raises:
      TypeError: there is something else in it.
      ValueError: it holds NaN or an infinity, which JSON has not, or itself.
    """
    text = _json_encoder.encode(value)
    if text.isascii():
        return text.encode()
    try:
        return text.translate(_LINE_SEPARATORS).encode()
    except UnicodeEncodeError:
        # Half a surrogate pair, as a client may send it, can only be escaped (RFC 8259, 8.2).
        return _ascii_encoder.encode(value).encode()


# JSON allows these unescaped in a string, but clients that read lines by str.splitlines() or its
# like would break the line there.
_LINE_SEPARATORS = {code: f"\\u{code:04x}" for code in (0x85, 0x2028, 0x2029)}


def _json_default(value: Any) -> object:
    if attrs.has(type(value)):
        return attrs.asdict(value, recurse=False)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, date | time):
        return value.isoformat()
    raise TypeError(
        f"JSON has nothing for {type(value).__name__}; convert it to a dict, list, str or number"
    )


_json_encoder, _ascii_encoder = (
    json.JSONEncoder(
        ensure_ascii=ascii_only, allow_nan=False, separators=(",", ":"), default=_json_default
    )
    for ascii_only in (False, True)
)


def _encode_json_line(item: object) -> bytes:
    return to_json(item) + b"\n"


def _encode_event(item: object) -> bytes:
    if not isinstance(item, ServerSentEvent):
        item = ServerSentEvent(_event_data(item))
    return format_event(item)


def _event_data(item: object) -> str:
    if isinstance(item, str):
        return item
    if isinstance(item, bytes | bytearray | memoryview):
        return bytes(item).decode()
    return to_json(item).decode()


#: bytes and bytes-like as they are, str in UTF-8.
BYTES = bytes_encoder()

#: Text in UTF-8; nothing is put between the items.
TEXT = attrs.evolve(BYTES, media_type="text/plain; charset=utf-8")

#: Each item as JSON on a line of its own (:func:`to_json`).
NDJSON = Encoder(_encode_json_line, media_type="application/x-ndjson", heartbeat=b"\n")

#: Each item as a server-sent event: a ServerSentEvent as it is; str, and bytes as UTF-8, become
#: its data; anything else becomes its data as JSON.
SSE = Encoder(
    _encode_event,
    media_type="text/event-stream",
    # Nothing between us and the browser may keep or hold back a live stream; the second is nginx's.
    headers=(("cache-control", "no-store"), ("x-accel-buffering", "no")),
    heartbeat=b":\n\n",
    farewell=b": the server shuts down\n\n",
)
