"""The framing of chunked bodies, taken off where it is plain, and left alone where it is not."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsstream._sansio.chunked import MANY, Taken, take_chunks
from tsstream._server.http1_body import Incoming


@pytest.mark.parametrize(
    ("data", "left", "footer", "taken"),
    [
        (b"", 0, False, Taken(b"", 0, 0, False, 0)),
        (b"3\r\nabc\r\n", 0, False, Taken(b"abc", 8, 0, False, 1)),
        (b"3\r\nabc\r\n2\r\nde\r\n", 0, False, Taken(b"abcde", 15, 0, False, 2)),
        (b"A\r\nabc", 0, False, Taken(b"abc", 6, 7, True, 1)),
        (b"bc\r\n", 2, False, Taken(b"bc", 4, 0, False, 0)),
        (b"\r\n1\r\na", 0, True, Taken(b"a", 6, 0, True, 1)),
        (b"3\r\nabc\r", 0, False, Taken(b"abc", 6, 0, True, 1)),  # half of the line break
        (b"3\r\nabcd", 0, False, Taken(b"abc", 6, 0, True, 1)),  # no line break
        (b"1\r\na\r\n3", 0, False, Taken(b"a", 6, 0, False, 1)),  # half of a header
        (b"1\r\na\r\n0\r\n\r\n", 0, False, Taken(b"a", 6, 0, False, 1)),  # the last chunk
        (b"000\r\n", 0, False, Taken(b"", 0, 0, False, 0)),
        (b"1;x=y\r\na\r\n", 0, False, Taken(b"", 0, 0, False, 0)),
        (b"1 \r\na\r\n", 0, False, Taken(b"", 0, 0, False, 0)),
        (b"1\na\n", 0, False, Taken(b"", 0, 0, False, 0)),
        (b"-1\r\na\r\n", 0, False, Taken(b"", 0, 0, False, 0)),
        (b"0x1\r\na\r\n", 0, False, Taken(b"", 0, 0, False, 0)),
        (b"+1\r\na\r\n", 0, False, Taken(b"", 0, 0, False, 0)),
        (b"00000000000000001\r\na\r\n", 0, False, Taken(b"", 0, 0, False, 0)),
    ],
)
def test_take_chunks(data: bytes, left: int, footer: bool, taken: Taken) -> None:
    assert take_chunks(data, left=left, footer=footer) == taken


def test_no_more_than_many_are_taken_at_once() -> None:
    chunk = b"1\r\na\r\n"
    taken = take_chunks(chunk * 2 * MANY, left=0, footer=False)
    assert taken.chunks == MANY
    assert len(taken.body) == MANY - 1  # of the last one, the header


HEAD = b"POST / HTTP/1.1\r\nhost: x\r\n"
plain = st.binary(min_size=1, max_size=40).map(lambda d: b"%x\r\n%s\r\n" % (len(d), d))
odd = st.sampled_from(
    [b"2;a=b\r\nxy\r\n", b"3\r\nxy\r\n", b"\r\n", b"z\r\n", b"1\r\nab\r\n", b"02\r\nxy\r\n", b"F"]
)
ending = st.sampled_from([b"0\r\n\r\n", b"0\r\nx: y\r\n\r\n", b"", b"0\r\n", b"0;a\r\n\r\nGET"])


def read_body(framing: bytes, pieces: list[bytes], *, past: bool) -> tuple[bytes, str]:
    """Give the body and how it ended, as h11 alone has it, or with what goes past it."""
    engine = h11.Connection(h11.SERVER)
    engine.receive_data(HEAD + framing + b"\r\n")
    assert type(engine.next_event()) is h11.Request
    incoming = Incoming(engine)
    body = b""
    for piece in pieces:
        if past:
            taken, piece = incoming.take_past(piece)
            body += taken
        if piece:
            engine.receive_data(piece)
        while True:
            try:
                event: Any = engine.next_event()
            except h11.RemoteProtocolError as error:
                return body, str(error)
            if type(event) is h11.Data:
                body += bytes(event.data)
            elif type(event) is h11.EndOfMessage:
                return body, f"complete {event.headers} {engine.trailing_data}"
            else:
                break
    return body, "more to come"


@given(
    st.lists(st.one_of(plain, odd), max_size=8),
    ending,
    st.lists(st.integers(0, 300), max_size=12),
)
def test_a_chunked_body_is_what_h11_makes_of_it(
    chunks: list[bytes], end: bytes, cuts: list[int]
) -> None:
    data = b"".join(chunks) + end
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    pieces = [data[a:b] for a, b in pairwise(places)]
    framing = b"transfer-encoding: chunked\r\n"
    assert read_body(framing, pieces, past=True) == read_body(framing, pieces, past=False)


@given(st.binary(max_size=100), st.integers(0, 20), st.lists(st.integers(0, 120), max_size=8))
def test_a_body_with_a_length_is_what_h11_makes_of_it(
    body: bytes, more: int, cuts: list[int]
) -> None:
    data = body + b"GET / HTTP/1.1\r\n"[:more]
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    pieces = [data[a:b] for a, b in pairwise(places)]
    framing = b"content-length: %d\r\n" % len(body)
    assert read_body(framing, pieces, past=True) == read_body(framing, pieces, past=False)
