"""Multipart bodies: the same parts however they are cut, and no end that is none."""

from __future__ import annotations

import time
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsstream._sansio.multipart import (
    END,
    NEED_DATA,
    PART_END,
    BadMultipart,
    Event,
    MultipartReader,
    PartHead,
    parse_content_type,
)

CONTENT_TYPE = "multipart/form-data; boundary=frontier"
FIELD = b'--frontier\r\nContent-Disposition: form-data; name="a"\r\n\r\n'
END_OF_BODY = b"\r\n--frontier--\r\n"

BROWSER = (
    b"--frontier\r\n"
    b'Content-Disposition: form-data; name="title"\r\n'
    b"\r\n"
    b"two\r\nlines\r\n--front\r\n"
    b"--frontier\r\n"
    b'Content-Disposition: form-data; name="upload"; filename="caf\xc3\xa9 %22x%22.bin"\r\n'
    b"Content-Type: application/octet-stream\r\n"
    b"\r\n"
    b"\r\n\r--\0\xff\r\n-\r\n"
    b"--frontier\r\n"
    b'Content-Disposition: form-data; name="empty"; filename=""\r\n'
    b"\r\n"
    b"\r\n"
    b"--frontier--\r\n"
)
BROWSER_PARTS = [
    ("title", None, b"two\r\nlines\r\n--front"),
    ("upload", 'café "x".bin', b"\r\n\r--\0\xff\r\n-"),
    ("empty", "", b""),
]


def make_reader(
    content_type: str | None = CONTENT_TYPE, *, max_parts: int = 10, max_part_header: int = 1000
) -> MultipartReader:
    return MultipartReader(content_type, max_parts=max_parts, max_part_header=max_part_header)


def events(reader: MultipartReader, chunks: Iterable[bytes]) -> list[Event]:
    """Give every event of the whole body."""
    found: list[Event] = []
    for data in (*(chunk for chunk in chunks if chunk), b""):
        reader.receive_data(data)
        while (event := reader.next_event()) not in (NEED_DATA, END):
            found.append(event)
    assert event is END
    return found


def parse(chunks: Iterable[bytes], **options: Any) -> list[tuple[str, str | None, bytes]]:
    """Give the name, the filename and the data of every part."""
    parts: list[tuple[str, str | None, bytes]] = []
    ended = True
    for event in events(make_reader(**options), chunks):
        if isinstance(event, PartHead):
            assert ended
            parts.append((event.name, event.filename, b""))
        elif isinstance(event, bytes):
            assert event  # never empty
            assert not ended
            name, filename, data = parts.pop()
            parts.append((name, filename, data + event))
        ended = event is PART_END
    assert ended
    return parts


def head(disposition: bytes, *fields: bytes) -> PartHead:
    """Give the head of a part with these headers."""
    lines = b"\r\n".join([b"Content-Disposition: " + disposition, *fields])
    found = events(make_reader(), [b"--frontier\r\n" + lines + b"\r\n\r\n" + END_OF_BODY])[0]
    assert isinstance(found, PartHead)
    return found


def single_bytes(data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]


def test_parts_of_a_browser_s_form() -> None:
    assert parse([BROWSER]) == BROWSER_PARTS


def test_a_body_cut_in_two_anywhere_gives_the_same() -> None:
    # BK-29
    for cut in range(len(BROWSER) + 1):
        assert parse([BROWSER[:cut], BROWSER[cut:]]) == BROWSER_PARTS


def test_a_body_in_chunks_of_any_size_gives_the_same() -> None:
    # BK-29
    for size in range(1, len(BROWSER) + 1):
        chunks = [BROWSER[i : i + size] for i in range(0, len(BROWSER), size)]
        assert parse(chunks) == BROWSER_PARTS


def test_data_is_passed_on_as_it_comes() -> None:
    reader = make_reader()
    reader.receive_data(FIELD)
    assert isinstance(reader.next_event(), PartHead)
    assert reader.next_event() is NEED_DATA
    chunk = b"x" * 65536
    reader.receive_data(chunk)
    assert reader.next_event() is chunk  # not a copy
    assert reader.next_event() is NEED_DATA


# What looks like a boundary more often than chance would have it.
DATA = st.lists(
    st.sampled_from([b"\r", b"\n", b"-", b"--", b"\r\n", b"frontier", b"\r\n--front", b"x", b"\0"])
    | st.binary(max_size=5),
    max_size=12,
).map(b"".join)
TEXT = st.text(st.characters(codec="utf-8", exclude_characters='"%\\', categories=["L", "N", "S"]))


@st.composite
def bodies(draw: st.DrawFn) -> tuple[bytes, list[tuple[str, str | None, bytes]]]:
    parts = draw(st.lists(st.tuples(TEXT, st.none() | TEXT, DATA), max_size=4))
    parts = [part for part in parts if b"\r\n--frontier" not in b"\r\n" + part[2]]
    body = b""
    for name, filename, data in parts:
        ending = "" if filename is None else f'; filename="{filename}"'
        line = f'Content-Disposition: form-data; name="{name}"{ending}'
        body += b"--frontier\r\n" + line.encode() + b"\r\n\r\n" + data + b"\r\n"
    return body + b"--frontier--" + draw(st.sampled_from([b"", b"\r\n", b"\r\nepilogue"])), parts


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted({place % (len(data) + 1) for place in cuts}), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


@given(bodies(), st.lists(st.integers(0, 2000)))
def test_whatever_was_sent_comes_out_however_it_is_cut(
    made: tuple[bytes, list[tuple[str, str | None, bytes]]], cuts: list[int]
) -> None:
    # BK-29
    body, parts = made
    assert parse(cut(body, cuts)) == parts
    assert parse(single_bytes(body)) == parts


def outcome(chunks: Iterable[bytes]) -> object:
    """Give the parts, or the status of the error."""
    try:
        return parse(chunks)
    except BadMultipart as error:
        return error.status_code


@given(st.sampled_from([b"", FIELD, BROWSER[:200]]), st.binary() | DATA, st.lists(st.integers(0)))
def test_any_bytes_are_parts_or_a_bad_request(start: bytes, rest: bytes, cuts: list[int]) -> None:
    found = outcome(cut(start + rest, cuts))
    assert found == 400 or isinstance(found, list)
    assert outcome(single_bytes(start + rest)) == found


@given(st.binary() | DATA, st.lists(st.integers(0)))
def test_any_headers_are_a_part_or_a_bad_request(lines: bytes, cuts: list[int]) -> None:
    body = FIELD.removesuffix(b"\r\n") + lines + b"\r\n\r\n" + END_OF_BODY
    found = outcome(cut(body, cuts))
    assert found == 400 or isinstance(found, list)
    assert outcome(single_bytes(body)) == found


def test_a_body_that_breaks_off_never_ends_a_part_early() -> None:
    # BK-41
    last_boundary = BROWSER.index(b"--frontier--")
    for size in range(last_boundary + len(b"--frontier--")):
        for chunks in ([BROWSER[:size]], single_bytes(BROWSER[:size])):
            with pytest.raises(BadMultipart, match="ends before its final boundary") as caught:
                parse(chunks)
            assert caught.value.status_code == 400

    title_ends = BROWSER.index(b"\r\n--frontier\r\n") + len(b"\r\n--frontier\r\n")
    for size in range(1, title_ends):
        reader = make_reader()
        reader.receive_data(BROWSER[:size])
        while (event := reader.next_event()) is not NEED_DATA:
            assert event is not PART_END


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\r\n",
        b"frontier",
        b"--frontie",
        b"preamble\r\n" + BROWSER,
        b"\r\n\r\n" + BROWSER,
        b"\n" + BROWSER,
        BROWSER.replace(b"\r\n", b"\n"),
        b"--frontier \r\n" + BROWSER[12:],
        b"--frontier\n" + BROWSER[12:],
        b"--frontiers\r\n" + BROWSER,
        FIELD + b"\r\n--frontiers" + END_OF_BODY,
        b"--frontier\r\n\r\n" + END_OF_BODY,
        b"--frontier\r\nContent-Type: text/plain\r\n\r\n" + END_OF_BODY,
        FIELD.replace(b"form-data", b"attachment") + END_OF_BODY,
        FIELD.replace(b'; name="a"', b"") + END_OF_BODY,
        FIELD.replace(b'name="a"', b'filename="a"') + END_OF_BODY,
        FIELD.replace(b'name="a"', b'name="a"; filename="b') + END_OF_BODY,
        FIELD.replace(b'name="a"', b'name="a"; filename') + END_OF_BODY,
        FIELD.replace(b'name="a"', b'name="a"; filename*="UTF-8\'\'b"') + END_OF_BODY,
        FIELD.replace(b"form-data;", b"form-data;\r\n") + END_OF_BODY,  # folded: RFC 9112, 5.2
        FIELD.replace(b'"a"', b'"a\nb"') + END_OF_BODY,
        FIELD.replace(b'"a"', b'"a\rb"') + END_OF_BODY,
        FIELD.replace(b'"a"', b'"a\0b"') + END_OF_BODY,
        FIELD.replace(b"Content-", b"C\xc3\xb6ntent-") + END_OF_BODY,
        FIELD.replace(b"Disposition:", b"Disposition") + END_OF_BODY,
        FIELD.replace(b"\r\n\r\n", b"\r\nno colon\r\n\r\n") + END_OF_BODY,
        FIELD.replace(b"\r\n\r\n", b"\r\n: x\r\n\r\n") + END_OF_BODY,
        FIELD.replace(b"\r\n\r\n", b'\r\ncontent-disposition: form-data; name="b"\r\n\r\n')
        + END_OF_BODY,
        FIELD.replace(b"\r\n\r\n", b"\r\nContent-Type: a/b\r\nContent-Type: c/d\r\n\r\n")
        + END_OF_BODY,
        FIELD.replace(b"\r\n\r\n", b"\r\nContent-Length: 3\r\n\r\n") + b"ab" + END_OF_BODY,
        FIELD.replace(b"\r\n\r\n", b"\r\nContent-Length: 3\r\n\r\n") + b"abcd" + END_OF_BODY,
    ],
)
def test_malformed(body: bytes) -> None:
    for chunks in ([body], single_bytes(body)):
        with pytest.raises(BadMultipart) as caught:
            parse(chunks)
        assert caught.value.status_code == 400


@pytest.mark.parametrize(
    "body",
    [
        b"\r\n" + FIELD + b"x" + END_OF_BODY,
        FIELD + b"x\r\n--frontier--",
        FIELD + b"x" + END_OF_BODY + BROWSER,
        FIELD + b"x" + END_OF_BODY + b"\0" * 1000,
        FIELD.replace(b"Content-Disposition: ", b"content-disposition :") + b"x" + END_OF_BODY,
        FIELD.replace(b"\r\n\r\n", b"\r\nContent-Length: 1\r\nX-Y: z\r\n\r\n") + b"x" + END_OF_BODY,
    ],
)
def test_what_some_clients_send_is_no_error(body: bytes) -> None:
    for chunks in ([body], single_bytes(body)):
        assert parse(chunks) == [("a", None, b"x")]


def test_a_form_without_fields() -> None:
    for chunks in ([b"--frontier--\r\n"], single_bytes(b"--frontier--\r\n")):
        assert parse(chunks) == []


@pytest.mark.parametrize(
    ("disposition", "name", "filename"),
    [
        (b'form-data; name="a"', "a", None),
        (b"form-data; name=a; filename=b.txt", "a", "b.txt"),
        (b'FORM-DATA;name="a";filename="b"', "a", "b"),
        (b'form-data; filename="b"; name="a"', "a", "b"),
        (b'form-data; name=""', "", None),
        (b'form-data; name="a"; filename=""', "a", ""),
        (b'form-data; name="a;b"; filename="c=d; e"', "a;b", "c=d; e"),
        (b'form-data; name="a%0D%0A%22"', 'a\r\n"', None),  # WHATWG HTML 4.10.21.8
        (b'form-data; name="a"; filename="b\\"c"', "a", 'b"c'),  # RFC 2183
        (b'form-data; name="a"; filename="../../etc/passwd"', "a", "../../etc/passwd"),  # BK-30
        (b'form-data; name="a"; filename="C:\\dir\\b.txt"', "a", "b.txt"),  # Internet Explorer
        (b'form-data; name="\xc3\xa9"; filename="\xe2\x82\xac"', "é", "€"),
        (b'form-data; name="\xe9"; filename="\xff"', "\ufffd", "\ufffd"),
        (b"form-data; name=a; filename*=utf-8''%e2%82%ac.txt", "a", "€.txt"),  # RFC 8187
        (b"form-data; name=a; filename=x; filename*=UTF-8'en'%C3%A9", "a", "é"),
        (b"form-data; name=a; filename*=iso-8859-1''%e9; filename=x", "a", "é"),
        (b"form-data; name=a; filename=x; filename*=klingon''y", "a", "x"),
        (b"form-data; name=\"a; filename*=utf-8''x\"", "a; filename*=utf-8''x", None),
    ],
)
def test_names(disposition: bytes, name: str, filename: str | None) -> None:
    found = head(disposition)
    assert (found.name, found.filename) == (name, filename)


@pytest.mark.parametrize(
    ("value", "content_type", "charset"),
    [
        (b"text/plain", "text/plain", None),
        (b'Text/Plain ; Charset="ISO-8859-1"', "text/plain", "ISO-8859-1"),
        (b"multipart/mixed; boundary=x", "multipart/mixed", None),
        (b"", None, None),
    ],
)
def test_content_type_of_a_part(
    value: bytes, content_type: str | None, charset: str | None
) -> None:
    found = head(b'form-data; name="a"', b"content-type: " + value)
    assert (found.content_type, found.charset) == (content_type, charset)


def test_headers_of_a_part_are_kept_as_they_were_sent() -> None:
    found = head(b'form-data; name="\xc3\xa9"', b"X-Kind:  caf\xe9 ", b"x-kind: b")
    assert found.headers.raw == (
        (b"content-disposition", b'form-data; name="\xc3\xa9"'),
        (b"x-kind", b"caf\xe9 "),
        (b"x-kind", b"b"),
    )


@pytest.mark.parametrize(
    ("content_type", "status_code"),
    [
        (None, 415),
        ("", 415),
        ("text/plain; boundary=frontier", 415),
        ("multipart/mixed; boundary=frontier", 415),
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data", 400),
        ("multipart/form-data; boundary=", 400),
        ('multipart/form-data; boundary=""', 400),
        ('multipart/form-data; boundary="frontier', 400),
        ("multipart/form-data; boundary=\xe9", 400),
        ('multipart/form-data; boundary="a\tb"', 400),
        ("multipart/form-data; boundary=" + "x" * 71, 400),
    ],
)
def test_content_types_that_are_refused(content_type: str | None, status_code: int) -> None:
    with pytest.raises(BadMultipart) as caught:
        make_reader(content_type)
    assert caught.value.status_code == status_code


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        ("Multipart/Form-Data;BOUNDARY=x", b"x"),
        ('multipart/form-data; charset=utf-8; boundary="x y"', b"x y"),
        ("multipart/form-data; boundary=----=_Part_1/2:(3)?", b"----=_Part_1/2:(3)?"),
        ('multipart/form-data; boundary="a\\"b"', b'a"b'),
        ("multipart/form-data; boundary=x; boundary=y", b"x"),
        ("multipart/form-data; boundary=" + "x" * 70, b"x" * 70),
    ],
)
def test_boundaries(content_type: str, boundary: bytes) -> None:
    body = FIELD + b"data" + END_OF_BODY
    assert parse([body.replace(b"frontier", boundary)], content_type=content_type) == [
        ("a", None, b"data")
    ]


def test_parameters_of_a_content_type() -> None:
    assert parse_content_type(' Text/HTML ; a=1;B="x;\\"y" ; c ; a=2') == (
        "text/html",
        {"a": "1", "b": 'x;"y'},
    )


def test_too_many_parts() -> None:
    body = b"\r\n".join([FIELD, FIELD, FIELD + END_OF_BODY])
    assert len(parse([body], max_parts=3)) == 3
    for chunks in ([body], single_bytes(body)):
        with pytest.raises(BadMultipart, match="more than 2 parts") as caught:
            parse(chunks, max_parts=2)
        assert caught.value.status_code == 413


@pytest.mark.parametrize("line", [b"x: " + b"y" * 57, b"x:y\r\n" * 11 + b"x: yyyy"])
def test_too_large_headers(line: bytes) -> None:
    body = FIELD.replace(b"\r\n\r\n", b"\r\n" + line + b"\r\n\r\n") + END_OF_BODY
    block = len(body) - len(b"--frontier\r\n") - len(b"\r\n" + END_OF_BODY)
    for chunks in ([body], single_bytes(body)):
        assert len(parse(chunks, max_part_header=block)) == 1
        with pytest.raises(BadMultipart, match="headers take more than") as caught:
            parse(chunks, max_part_header=block - 1)
        assert caught.value.status_code == 413


def test_header_limit_is_each_part_s() -> None:
    body = b"\r\n".join([FIELD] * 5) + END_OF_BODY
    assert len(parse([body], max_part_header=len(FIELD))) == 5


def test_an_endless_header_is_refused_while_it_comes() -> None:
    reader = make_reader(max_part_header=1000)
    reader.receive_data(b"--frontier\r\nX: ")
    with pytest.raises(BadMultipart, match="more than 1000 bytes") as caught:
        for _ in range(3):
            assert reader.next_event() is NEED_DATA
            reader.receive_data(b"y" * 500)
    assert caught.value.status_code == 413


@pytest.mark.parametrize(
    "body",
    [
        b"rubbish" * 10,
        FIELD + b"x\r\n--frontier??",
        FIELD + b"\r\n" + FIELD + b"x\r\n" + FIELD + b"third" + END_OF_BODY,
        b"--frontier\r\nX: " + b"y" * 1000,
    ],
)
def test_errors_stay_errors(body: bytes) -> None:
    # RQ-13
    reader = make_reader(max_parts=2, max_part_header=500)
    reader.receive_data(body)
    messages = set()
    for data in (b"", FIELD, END_OF_BODY):
        with pytest.raises(BadMultipart) as caught:
            for _ in range(10):
                reader.next_event()
        messages.add((caught.value.status_code, str(caught.value)))
        reader.receive_data(data)
    assert len(messages) == 1


@pytest.mark.parametrize(
    "disposition",
    [
        b'form-data; name="' + b'\\"' * 100_000,
        b'form-data; name=a; filename="' + b'\\"' * 100_000,
        b'form-data; name="' + b'"' * 200_000,
        b"form-data; name=a" + b"; filename*=" * 20_000,
        b"form-data; name=a" + b'; x="\\"' * 30_000,
        b"form-data" + b";" * 200_000,
    ],
)
def test_hostile_headers_take_no_quadratic_time(disposition: bytes) -> None:
    body = b"--frontier\r\nContent-Disposition: " + disposition + b"\r\n\r\n" + END_OF_BODY
    start = time.perf_counter()
    try:
        parse([body], max_part_header=1_000_000)
    except BadMultipart:
        pass
    assert time.perf_counter() - start < 2.0  # seconds; quadratic time is minutes


def test_a_head_is_a_value() -> None:
    found = head(b'form-data; name="a"')
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        found.name = "b"  # type: ignore[misc]  # what is tested
