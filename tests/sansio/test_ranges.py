"""Which bytes a Range means, when it is ignored, and what stands round several of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsstream._sansio.ranges import (
    MAX_RANGES,
    ByteRanges,
    Span,
    content_range,
    parse_ranges,
    unsatisfied_range,
)


@pytest.mark.parametrize(
    ("value", "spans"),
    [
        # RFC 9110 14.1.2
        ("bytes=0-499", [(0, 500)]),
        ("bytes=500-999", [(500, 1000)]),
        ("bytes=-500", [(500, 1000)]),
        ("bytes=500-", [(500, 1000)]),
        ("bytes=0-0,-1", [(0, 1), (999, 1000)]),
        # what goes beyond the end ends there
        ("bytes=900-5000", [(900, 1000)]),
        ("bytes=-5000", [(0, 1000)]),
        ("bytes=0-" + "9" * 5000, [(0, 1000)]),
        ("bytes=-" + "9" * 5000, [(0, 1000)]),
        ("bytes=" + "0" * 50 + "5-7", [(5, 8)]),
        # units have no case; members of a list may be empty, and have spaces round them
        ("BYTES=1-1", [(1, 2)]),
        ("bytes=1-1 ,\t3-3,, 5-5,", [(1, 2), (3, 4), (5, 6)]),
        # the order of the request is kept
        ("bytes=10-11,0-1", [(10, 12), (0, 2)]),
        # those that overlap or touch become one
        ("bytes=0-9,5-14", [(0, 15)]),
        ("bytes=5-14,0-9", [(0, 15)]),
        ("bytes=0-9,10-19", [(0, 20)]),
        ("bytes=0-9,20-29,10-19", [(0, 30)]),
        ("bytes=50-59,0-9,5-14", [(50, 60), (0, 15)]),
        # what cannot be satisfied is left out, as long as something else can
        ("bytes=1000-1001,0-1", [(0, 2)]),
        ("bytes=-0,0-1", [(0, 2)]),
    ],
)
def test_ranges_of_1000_bytes(value: str, spans: list[tuple[int, int]]) -> None:
    assert parse_ranges(value, 1000) == tuple(Span(*span) for span in spans)


@pytest.mark.parametrize("value", ["bytes=1000-", "bytes=1000-2000", "bytes=-0", "bytes=5000-,-0"])
def test_a_range_beyond_the_end_is_unsatisfiable(value: str) -> None:
    # RFC 9110 14.1.2, 15.5.17
    assert parse_ranges(value, 1000) == ()


@pytest.mark.parametrize(
    "value",
    [
        *("", "bytes", "bytes=", "bytes=,", "bytes=-", "bytes=a-b", "bytes=1", "bytes=1-2-3"),
        *("bytes=2-1", "bytes=0-1,2-1", "bytes=--1", "bytes=+1-2", "bytes=1 - 2", "bytes 0-1"),
        *("bytes=0x1-2", "bytes=\u0660-\u0661", "bytes=0-1;2-3", "bytes=1_0-2_0"),
        *("items=0-1", "bytes=0-1, bytes=2-3"),
    ],
)
def test_what_is_malformed_or_of_another_unit_is_ignored(value: str) -> None:
    # RFC 9110 14.2
    assert parse_ranges(value, 1000) is None


def test_too_many_ranges_are_ignored() -> None:
    # RFC 9110 17.15
    specs = [f"{2 * i}-{2 * i}" for i in range(MAX_RANGES + 1)]
    most = parse_ranges("bytes=" + ",".join(specs[:-1]), 1000)
    assert most is not None
    assert len(most) == MAX_RANGES
    assert parse_ranges("bytes=" + ",".join(specs), 1000) is None


def test_ranges_of_more_than_the_whole_are_ignored() -> None:
    # RFC 9110 17.15: "bytes=0-,0-,0-" is an attack
    assert parse_ranges("bytes=0-499,500-999", 1000) == (Span(0, 1000),)
    assert parse_ranges("bytes=0-,0-", 1000) is None
    assert parse_ranges("bytes=0-500,500-999", 1000) is None


def test_of_nothing_there_are_no_bytes() -> None:
    # RFC 9110 14.1.2: a suffix is satisfiable, and no Content-Range can say of what
    assert parse_ranges("bytes=0-", 0) == ()
    assert parse_ranges("bytes=-5", 0) is None


@given(st.text(st.sampled_from("bytes=0123456789-, \t"), max_size=30), st.integers(0, 200))
def test_spans_are_disjoint_and_inside(text: str, length: int) -> None:
    spans = parse_ranges(f"bytes={text}", length)
    found = [i for span in spans or () for i in range(span.start, span.stop)]
    assert len(found) == len(set(found))
    assert all(0 <= i < length for i in found)
    assert all(span.start < span.stop for span in spans or ())


@given(
    st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), min_size=1, max_size=8),
    st.integers(100, 200),
)
def test_spans_are_what_was_asked_for(pairs: list[tuple[int, int]], length: int) -> None:
    asked = [range(min(pair), max(pair) + 1) for pair in pairs]
    spans = parse_ranges("bytes=" + ",".join(f"{r[0]}-{r[-1]}" for r in asked), length)
    if sum(map(len, asked)) > length:
        assert spans is None
    else:
        assert spans is not None
        found = {i for span in spans for i in range(span.start, span.stop)}
        assert found == {i for one in asked for i in one}


def test_content_range() -> None:
    # RFC 9110 14.4
    assert content_range(Span(0, 500), 1234) == "bytes 0-499/1234"
    assert unsatisfied_range(1234) == "bytes */1234"


def test_several_parts_as_the_rfc_shows_them() -> None:
    # RFC 9110 14.6
    form = ByteRanges((Span(0, 2), Span(7, 8)), 8, "text/plain", "THIS")
    body = form.head(Span(0, 2)) + b"ab" + form.head(Span(7, 8)) + b"h" + form.tail
    assert form.content_type == "multipart/byteranges; boundary=THIS"
    assert body == (
        b"\r\n--THIS\r\nContent-Type: text/plain\r\nContent-Range: bytes 0-1/8\r\n\r\nab"
        b"\r\n--THIS\r\nContent-Type: text/plain\r\nContent-Range: bytes 7-7/8\r\n\r\nh"
        b"\r\n--THIS--\r\n"
    )
    assert form.size == len(body)
