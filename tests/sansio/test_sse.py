"""Server-sent events against a parser that follows the specification to the letter."""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from typing import Any

import attrs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tsstream._sansio.encoders import NDJSON, SSE
from tsstream._sansio.sse import ServerSentEvent, format_event

# --- the client: WHATWG HTML 9.2.5 and 9.2.6 ---


@attrs.frozen
class Dispatched:
    data: str
    type: str = "message"
    last_event_id: str = ""


@attrs.define
class EventSource:
    """What a browser makes of the bytes, in whatever pieces they come."""

    dispatched: list[Dispatched] = attrs.Factory(list)
    last_event_id: str = ""
    reconnection_time: int | None = None
    _decoder: codecs.IncrementalDecoder = attrs.Factory(
        lambda: codecs.getincrementaldecoder("utf-8")("replace")
    )
    _line: str = ""
    _at_start: bool = True
    _after_cr: bool = False
    _data: str = ""
    _type: str = ""
    _id: str = ""

    def feed(self, data: bytes) -> None:
        for character in self._decoder.decode(data):
            self._take(character)

    def _take(self, character: str) -> None:
        at_start, self._at_start = self._at_start, False
        after_cr, self._after_cr = self._after_cr, character == "\r"
        if at_start and character == "\ufeff":  # "UTF-8 decode" strips one byte order mark
            return
        if character == "\n" and after_cr:  # the second half of CRLF
            return
        if character in "\r\n":
            line, self._line = self._line, ""
            self._process_line(line)
        else:
            self._line += character

    def _process_line(self, line: str) -> None:
        if not line:
            self._dispatch()
        elif not line.startswith(":"):
            name, _, value = line.partition(":")
            self._process_field(name, value.removeprefix(" "))

    def _process_field(self, name: str, value: str) -> None:
        if name == "event":
            self._type = value
        elif name == "data":
            self._data += value + "\n"
        elif name == "id" and "\0" not in value:
            self._id = value
        elif name == "retry" and value.isascii() and value.isdigit():
            self.reconnection_time = int(value)

    def _dispatch(self) -> None:
        self.last_event_id = self._id
        data, self._data = self._data, ""
        event_type, self._type = self._type, ""
        if data:
            event = Dispatched(data.removesuffix("\n"), event_type or "message", self._id)
            self.dispatched.append(event)


def receive(pieces: Iterable[bytes]) -> EventSource:
    client = EventSource()
    for piece in pieces:
        client.feed(piece)
    return client


def one_by_one(data: bytes) -> list[bytes]:
    return [data[place : place + 1] for place in range(len(data))]


THREE_EVENTS = b"""\
: test stream

data: first event
id: 1

data:second event
id

data:  third event

"""


@pytest.mark.parametrize(
    ("data", "dispatched"),
    [
        # The specification's own examples, 9.2.6.
        (b"data: YHOO\ndata: +2\ndata: 10\n\n", [Dispatched("YHOO\n+2\n10")]),
        (
            THREE_EVENTS,
            [
                Dispatched("first event", last_event_id="1"),
                Dispatched("second event"),
                Dispatched(" third event"),
            ],
        ),
        (b"data\n\ndata\ndata\n\ndata:", [Dispatched(""), Dispatched("\n")]),
        (b"data:test\n\ndata: test\n\n", [Dispatched("test"), Dispatched("test")]),
        # Its other rules.
        (b"\xef\xbb\xbfdata: a\r\n\r\ndata: b\r\r", [Dispatched("a"), Dispatched("b")]),
        (b"event: x\nid: 1\n\ndata: a\n\n", [Dispatched("a", last_event_id="1")]),
        (b"id: 1\nid: 2\0\ndata: a\n\n", [Dispatched("a", last_event_id="1")]),
    ],
)
def test_the_parser_is_the_specification_s(data: bytes, dispatched: list[Dispatched]) -> None:
    assert receive([data]).dispatched == dispatched
    assert receive(one_by_one(data)).dispatched == dispatched


# --- what we write ---


@pytest.mark.parametrize(
    ("event", "data"),
    [
        (ServerSentEvent("a"), b"data: a\n\n"),
        (ServerSentEvent(""), b"data: \n\n"),
        (ServerSentEvent(" a"), b"data:  a\n\n"),
        (ServerSentEvent("a\r\nb\rc\nd\n"), b"data: a\ndata: b\ndata: c\ndata: d\ndata: \n\n"),
        (ServerSentEvent("a\u2028b\x85c\x0bd"), "data: a\u2028b\x85c\x0bd\n\n".encode()),
        (ServerSentEvent(id="7"), b"id: 7\n\n"),
        (ServerSentEvent(id=""), b"id: \n\n"),
        (ServerSentEvent(retry=1500), b"retry: 1500\n\n"),
        (ServerSentEvent(retry=True), b"retry: 1\n\n"),
        (ServerSentEvent(comment="a\nb"), b": a\n: b\n\n"),
        (
            ServerSentEvent("d", event="e", id="i", retry=0, comment="c"),
            b": c\nevent: e\nid: i\nretry: 0\ndata: d\n\n",
        ),
    ],
)
def test_format(event: ServerSentEvent, data: bytes) -> None:
    assert format_event(event) == data


@pytest.mark.parametrize(
    ("fields", "remedy"),
    [
        ({}, "give it data or a comment"),
        ({"event": "x"}, 'give data=""'),
        ({"event": "", "data": "a"}, "leave it out"),
        # FastAPI lets these through: an event that the sender did not write (HOST).
        ({"event": "x\ndata: evil", "data": "a"}, "event=.* has a line end; take it out"),
        ({"event": "x\r", "data": "a"}, "event=.* has a line end; take it out"),
        ({"id": "1\n\ndata: evil"}, "id=.* has a line end or NUL; take it out"),
        ({"id": "1\r"}, "id=.* has a line end or NUL; take it out"),
        ({"id": "1\0"}, "id=.* has a line end or NUL; take it out"),
        ({"retry": -1}, "give milliseconds"),
    ],
)
def test_what_a_client_would_not_get_is_refused(fields: dict[str, Any], remedy: str) -> None:
    with pytest.raises(ValueError, match=remedy):
        ServerSentEvent(**fields)


@pytest.mark.parametrize(
    ("fields", "remedy"),
    [
        ({"data": {"a": 1}}, "dict, not str; send the value without ServerSentEvent"),
        ({"data": b"a"}, "bytes, not str"),
        ({"data": "a", "retry": 1.5}, "give whole milliseconds"),
    ],
)
def test_other_types_are_refused(fields: dict[str, Any], remedy: str) -> None:
    with pytest.raises(TypeError, match=remedy):
        ServerSentEvent(**fields)


# Text of what could go wrong: line ends and what others take for one, NUL, BOM, field names.
HOSTILE = st.lists(
    st.sampled_from(["\r", "\n", "\0", " ", ":", "data: ", "id: ", "\x85", "\u2028", "\ufeff"])
    | st.text(max_size=3)
).map("".join)


@st.composite
def events(draw: st.DrawFn) -> ServerSentEvent | None:
    """Draw any fields at all; None if they were refused."""
    text = st.none() | HOSTILE
    line = text | st.sampled_from([" a", "b: ", "\ufeff", "data", "\u2028"])
    try:
        event = ServerSentEvent(
            draw(text),
            event=draw(line),
            id=draw(line),
            retry=draw(st.none() | st.integers()),
            comment=draw(text),
        )
        format_event(event)
    except ValueError:
        return None
    return event


@given(st.lists(events()))
@example([ServerSentEvent("\ufeffa\r", event=" e ", id=" ", comment="\r\ndata: x")])
def test_a_client_gets_exactly_what_was_sent(drawn: list[ServerSentEvent | None]) -> None:
    sent = [event for event in drawn if event is not None]
    expected = EventSource()
    for event in sent:
        if event.id is not None:
            expected.last_event_id = event.id
        if event.retry is not None:
            expected.reconnection_time = event.retry
        if event.data is not None:
            text = event.data.replace("\r\n", "\n").replace("\r", "\n")
            kind = "message" if event.event is None else event.event
            expected.dispatched.append(Dispatched(text, kind, expected.last_event_id))

    data = b"".join(map(format_event, sent))
    for pieces in ([data], one_by_one(data), [data, b"data: cut off"]):
        client = receive(pieces)
        assert client.dispatched == expected.dispatched
        assert client.last_event_id == expected.last_event_id
        assert client.reconnection_time == expected.reconnection_time


@given(st.lists(events()))
def test_a_heartbeat_changes_nothing(drawn: list[ServerSentEvent | None]) -> None:
    heartbeat = SSE.heartbeat
    assert heartbeat is not None
    blocks = [format_event(event) for event in drawn if event is not None]
    plain = receive(blocks)
    beaten = receive([heartbeat, *[block + heartbeat for block in blocks]])
    assert beaten.dispatched == plain.dispatched
    assert beaten.last_event_id == plain.last_event_id


def test_json_items_arrive_as_json() -> None:
    item = {"text": "a\nb\u2028"}
    data = receive([bytes(SSE.encode(item))]).dispatched[0].data
    assert data.encode() + b"\n" == NDJSON.encode(item)
