"""From items to bytes: what is copied, what is not, and what is refused (AC-5, AC-26 to AC-29)."""

from __future__ import annotations

import array
import json
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsstream._sansio.encoders import BYTES, NDJSON, SSE, TEXT, Encoder, bytes_encoder, to_json
from tsstream._sansio.sse import ServerSentEvent

both = pytest.mark.parametrize("encoder", [BYTES, TEXT], ids=["BYTES", "TEXT"])


@attrs.frozen
class Reading:
    station: str
    at: datetime
    inner: Reading | None = None


@dataclass
class Point:
    x: int
    y: float


# --- BYTES and TEXT ---


@both
@pytest.mark.parametrize(
    ("item", "data"),
    [
        (b"", b""),
        ("", b""),
        ("café", b"caf\xc3\xa9"),  # AC-5
        (bytearray(b"ab"), b"ab"),
        (memoryview(b"ab"), b"ab"),
        (memoryview(b""), b""),
        (memoryview(b"abcd").cast("I")[1:], b""),
        (memoryview(b"abcd")[::2], b"ac"),
        (memoryview(b"\1\0\0\0").cast("I"), b"\1\0\0\0"),
        (memoryview(b"abcd").cast("B", (2, 2)), b"abcd"),
        (memoryview(array.array("H", [0x6161])), b"aa"),
    ],
)
def test_what_a_stream_can_send(encoder: Encoder, item: object, data: bytes) -> None:
    # AC-26
    assert bytes(encoder.encode(item)) == data


@both
def test_bytes_are_not_copied(encoder: Encoder) -> None:
    data = b"abc"
    assert encoder.encode(data) is data


@both
def test_a_view_on_bytes_is_not_copied(encoder: Encoder) -> None:
    # AC-28: a view of 1 GiB must not become another GiB.
    data = bytes(1024)
    for item in (memoryview(data), memoryview(data)[24:], memoryview(data).cast("I")):
        view = encoder.encode(item)
        assert isinstance(view, memoryview)
        assert view.obj is data
        assert len(view) == item.nbytes


@both
@pytest.mark.parametrize("wrap", [bytearray, memoryview, lambda b: memoryview(b).toreadonly()])
def test_mutable_buffers_are_copied(encoder: Encoder, wrap: Any) -> None:
    # AC-29
    buffer = bytearray(b"before")
    item = buffer if wrap is bytearray else wrap(buffer)
    data = encoder.encode(item)
    buffer[:] = b"after!"
    assert data == b"before"


@both
@pytest.mark.parametrize("item", [None, 5, [b"a"], object(), {"a": 1}, array.array("b")])
def test_anything_else_is_refused_with_its_type(encoder: Encoder, item: object) -> None:
    # AC-26, D33
    with pytest.raises(TypeError, match=rf"{type(item).__name__}; give bytes or str, or choose"):
        encoder.encode(item)


@both
def test_text_that_utf_8_cannot_express_is_an_error(encoder: Encoder) -> None:
    with pytest.raises(UnicodeEncodeError):
        encoder.encode("\ud800")


def test_the_charset_of_str_items() -> None:
    # AC-5
    encoder = bytes_encoder("latin-1")
    assert encoder.encode("café") == b"caf\xe9"
    assert encoder.encode(b"\xff") == b"\xff"
    with pytest.raises(UnicodeEncodeError):
        encoder.encode("€")


@pytest.mark.parametrize("charset", ["utf-88", "hex"])
def test_an_unknown_charset_is_refused_at_once(charset: str) -> None:
    with pytest.raises(LookupError, match=charset):
        bytes_encoder(charset)


# --- JSON ---

AT = datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("item", "line"),
    [
        ({"a": [1, 2.5, None, True]}, '{"a":[1,2.5,null,true]}'),
        ("é\n\r\0", '"é\\n\\r\\u0000"'),
        ("a\x85\u2028\u2029", '"a\\u0085\\u2028\\u2029"'),
        ((1, 2), "[1,2]"),
        (Point(1, 2.0), '{"x":1,"y":2.0}'),
        (Reading("é", AT), '{"station":"é","at":"2025-01-02T03:04:05+00:00","inner":null}'),
        ({"d": date(2025, 1, 2), "t": time(3, 4)}, '{"d":"2025-01-02","t":"03:04:00"}'),
    ],
)
def test_json(item: object, line: str) -> None:
    assert to_json(item) == line.encode()
    assert NDJSON.encode(item) == line.encode() + b"\n"


def test_json_goes_into_nested_values() -> None:
    reading = Reading("a", AT, Reading("b", AT))
    text = to_json([reading, {"p": Point(1, 2)}])
    assert json.loads(text)[0]["inner"]["station"] == "b"
    assert json.loads(text)[1] == {"p": {"x": 1, "y": 2}}


@pytest.mark.parametrize("item", [object(), {1, 2}, b"a", Point, Reading, [object()]])
def test_json_names_the_type_that_it_has_not(item: object) -> None:
    culprit = item[0] if isinstance(item, list) else item
    with pytest.raises(TypeError, match=f"nothing for {type(culprit).__name__}; convert"):
        to_json(item)


def test_json_refuses_what_json_has_not() -> None:
    circular: list[object] = []
    circular.append(circular)
    for item in (float("nan"), float("-inf"), circular):
        with pytest.raises(ValueError, match=r"JSON|Circular"):
            to_json(item)


WORDS = st.text(st.characters(codec="utf-8"))
NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | WORDS,
    lambda inner: st.lists(inner) | st.dictionaries(WORDS, inner),
    max_leaves=5,
)


@given(st.lists(JSON_VALUES, max_size=3))
def test_every_value_is_one_line(items: list[object]) -> None:
    # For readers by str.splitlines() too, which knows more line ends than JSON escapes.
    text = b"".join(bytes(NDJSON.encode(item)) for item in items).decode()
    assert [json.loads(line) for line in text.splitlines()] == items


# --- server-sent events ---


@pytest.mark.parametrize(
    ("item", "data"),
    [
        (ServerSentEvent("x", event="e"), b"event: e\ndata: x\n\n"),
        ("a\nb", b"data: a\ndata: b\n\n"),
        ("", b"data: \n\n"),
        ("café".encode(), b"data: caf\xc3\xa9\n\n"),
        (bytearray(b"a"), b"data: a\n\n"),
        (memoryview(b"a"), b"data: a\n\n"),
        (None, b"data: null\n\n"),
        ({"a": "b\nc"}, b'data: {"a":"b\\nc"}\n\n'),
        (Point(1, 2), b'data: {"x":1,"y":2}\n\n'),
    ],
)
def test_events(item: object, data: bytes) -> None:
    assert SSE.encode(item) == data


@pytest.mark.parametrize(
    ("item", "error"), [(b"\xff", UnicodeDecodeError), ("\ud800", ValueError), ({1}, TypeError)]
)
def test_items_that_are_no_event(item: object, error: type[Exception]) -> None:
    with pytest.raises(error):
        SSE.encode(item)


# --- what a response needs to know ---


@pytest.mark.parametrize(
    ("encoder", "media_type", "heartbeat"),
    [
        (BYTES, None, None),
        (TEXT, "text/plain; charset=utf-8", None),
        (NDJSON, "application/x-ndjson", b"\n"),
        (SSE, "text/event-stream", b":\n\n"),
    ],
)
def test_formats(encoder: Encoder, media_type: str | None, heartbeat: bytes | None) -> None:
    assert (encoder.media_type, encoder.heartbeat) == (media_type, heartbeat)


def test_events_are_neither_stored_nor_buffered_on_the_way() -> None:
    assert dict(SSE.headers) == {"cache-control": "no-store", "x-accel-buffering": "no"}


def test_half_a_surrogate_pair_is_escaped() -> None:
    """RFC 8259, 8.2: a client may send one, and it must not break whoever echoes it."""
    assert to_json("\ud800 é") == b'"\\ud800 \\u00e9"'
    assert json.loads(to_json("\ud800")) == "\ud800"
