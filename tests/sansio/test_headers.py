"""Headers that cannot break a message (HOST fault 14), and file names in them (BK-15)."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import unquote

import attrs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tsstream._sansio.headers import Headers, content_disposition

Fields = list[tuple[str | bytes, str | bytes]]

# --- what is accepted, and how it is written ---


@pytest.mark.parametrize(
    ("given_headers", "raw"),
    [
        (None, ()),
        ({}, ()),
        ({"Content-Type": "text/plain"}, ((b"content-type", b"text/plain"),)),
        ([("A", "1"), ("b", "2"), ("a", "3")], ((b"a", b"1"), (b"b", b"2"), (b"a", b"3"))),
        ([(b"X-Bytes", b"\xff")], ((b"x-bytes", b"\xff"),)),
        ({"x": "caf\xe9"}, ((b"x", b"caf\xe9"),)),
        ({"x": ""}, ((b"x", b""),)),
        ({"x": " \t a\tb \t"}, ((b"x", b"a\tb"),)),
        # U+0085 and U+00A0 are white space to str.strip(), but part of a header's value.
        ({"x": "\x85a\xa0"}, ((b"x", b"\x85a\xa0"),)),
        ({"!#$%&'*+-.^_`|~09az": "1"}, ((b"!#$%&'*+-.^_`|~09az", b"1"),)),
    ],
)
def test_raw_is_what_asgi_sends(
    given_headers: dict[str, str] | Fields | None, raw: tuple[tuple[bytes, bytes], ...]
) -> None:
    assert Headers(given_headers).raw == raw


@pytest.mark.parametrize(
    "value",
    [
        *("a\r\nx: y", "a\rb", "a\nb", "a\0b", "a\n", "\n", "\x01", "\x1f", "\x7f", "\x0b"),
        *("\u0100", "\u20ac", "\ud800"),
    ],
)
def test_values_that_would_break_the_message_are_refused(value: str) -> None:
    with pytest.raises(ValueError, match=r"header 'x-name' contains .*; percent-encode"):
        Headers({"x-name": value})


def test_bytes_values_are_checked_as_well() -> None:
    with pytest.raises(ValueError, match="'x-name' contains"):
        Headers([("x-name", b"a\r\nx: y")])


@pytest.mark.parametrize("name", ["", " ", "a b", "a:", "a\r\n", "a\n", "a\0", "é", "(a)", "a,b"])
def test_names_that_are_no_token_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is no header name; use"):
        Headers({name: "1"})


@pytest.mark.parametrize("name", [":status", ":x", "transfer-encoding", "Transfer-Encoding"])
def test_fields_that_frame_the_message_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"is the server's.*leave it out"):
        Headers({name: "1"})


@pytest.mark.parametrize("fields", [[("retry-after", 30)], [("x", None)], [(5, "x")]])
def test_other_types_are_refused_with_the_remedy(fields: Fields) -> None:
    with pytest.raises(TypeError, match="give it as str or bytes"):
        Headers(fields)


@given(st.lists(st.tuples(st.text() | st.binary(), st.text() | st.binary())))
@example([("x", "a\r\n")])
def test_raw_never_holds_what_would_break_a_message(fields: Fields) -> None:
    # HOST fault 14, on every way in.
    headers = Headers()
    for name, value in fields:
        try:
            headers = Headers([*headers.raw, (name, value)])
            if isinstance(name, str) and isinstance(value, str):
                headers = headers.add(name, value).set(name, value)
        except ValueError:
            continue
    for raw_name, raw_value in headers.raw:
        assert re.fullmatch(rb"[!#$%&'*+\-.^_`|~0-9a-z]+", raw_name)
        assert re.fullmatch(rb"[^\x00-\x08\x0a-\x1f\x7f]*", raw_value)
        assert raw_value == raw_value.strip(b" \t")


# --- reading ---

REPEATED = Headers([("A", "1"), ("B", "2"), ("a", "3"), ("Cookie", "c=1"), ("cookie", "d=2")])


def test_names_are_case_insensitive() -> None:
    assert REPEATED["b"] == REPEATED["B"] == REPEATED.get("b") == "2"
    assert "B" in REPEATED
    assert "b" in REPEATED


def test_repeated_fields_are_joined() -> None:
    assert REPEATED["a"] == "1, 3"  # RFC 9110 5.3
    assert REPEATED["cookie"] == "c=1; d=2"  # RFC 9113 8.2.3


def test_getlist_gives_every_value() -> None:
    assert REPEATED.getlist("A") == ["1", "3"]
    assert REPEATED.getlist("c") == []


def test_as_a_mapping_each_name_is_there_once() -> None:
    assert list(REPEATED) == ["a", "b", "cookie"]
    assert len(REPEATED) == 3
    assert dict(Headers({"A": "1"})) == {"a": "1"} == Headers({"A": "1"})


@pytest.mark.parametrize("name", ["c", "é", "\u212a", "\ud800"])
def test_a_missing_name_is_a_key_error(name: str) -> None:
    # The Kelvin sign, U+212A, is "k" in lower case, but no header is called so.
    headers = Headers({"a": "1", "k": "2"})
    assert name not in headers
    assert headers.get(name) is None
    with pytest.raises(KeyError):
        headers[name]


def test_a_name_that_is_no_str_is_not_there() -> None:
    name: object = b"a"
    assert name not in REPEATED


def test_repr_shows_every_field() -> None:
    assert repr(Headers([("A", "1"), ("a", "é")])) == "Headers([('a', '1'), ('a', 'é')])"


# --- changing ---


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        (lambda h: h.set("A", " 9 "), [(b"b", b"2"), (b"a", b"9")]),
        (lambda h: h.set("C", "9"), [(b"a", b"1"), (b"b", b"2"), (b"a", b"3"), (b"c", b"9")]),
        (lambda h: h.add("B", "9"), [(b"a", b"1"), (b"b", b"2"), (b"a", b"3"), (b"b", b"9")]),
        (lambda h: h.setdefault("A", "9"), [(b"a", b"1"), (b"b", b"2"), (b"a", b"3")]),
        (lambda h: h.setdefault("D", "9").remove("A", "b", "none"), [(b"d", b"9")]),
    ],
)
def test_changes_give_new_headers(
    change: Callable[[Headers], Headers], fields: list[tuple[bytes, bytes]]
) -> None:
    headers = Headers([("a", "1"), ("b", "2"), ("a", "3")])
    before = headers.raw
    assert change(headers).raw == tuple(fields)
    assert headers.raw == before


@pytest.mark.parametrize("change", [Headers.set, Headers.add, Headers.setdefault])
def test_changes_are_checked(change: Callable[[Headers, str, str], Headers]) -> None:
    with pytest.raises(ValueError, match="contains"):
        change(Headers(), "x", "a\r\nb")


def test_headers_are_immutable() -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        Headers().raw = ()  # type: ignore[misc]  # what is tested


# --- from the wire ---


def test_from_wire_takes_what_the_server_parsed() -> None:
    headers = Headers.from_wire([(b"Transfer-Encoding", b"chunked"), (b"x", b"\x01\xe9")])
    assert headers["transfer-encoding"] == "chunked"
    assert headers["X"] == "\x01é"


def test_headers_from_the_wire_are_checked_when_they_are_passed_on() -> None:
    # A proxy hands the headers of one message to another.
    headers = Headers.from_wire([(b"a", b"1"), (b"transfer-encoding", b"chunked")])
    with pytest.raises(ValueError, match="transfer-encoding"):
        Headers(headers)
    assert Headers(headers.remove("transfer-encoding")).raw == ((b"a", b"1"),)


def test_passing_on_keeps_repeated_fields_apart() -> None:
    headers = Headers([("set-cookie", "a=1"), ("set-cookie", "b=2")])
    assert Headers(headers).getlist("set-cookie") == ["a=1", "b=2"]


# --- file names ---


@pytest.mark.parametrize(
    ("filename", "value"),
    [
        ("backup.tar.gz", 'attachment; filename="backup.tar.gz"'),
        ("my file; really.txt", 'attachment; filename="my file; really.txt"'),
        ("é.txt", "attachment; filename*=utf-8''%C3%A9.txt"),
        # BK-15, word for word.
        ('a";\r\nX: y/é', "attachment; filename*=utf-8''a%22%3B%0D%0AX%3A%20y%2F%C3%A9"),
        # Clients disagree about a backslash and a percent sign within quotes (RFC 6266 D).
        ("a\\b", "attachment; filename*=utf-8''a%5Cb"),
        ("50%41", "attachment; filename*=utf-8''50%2541"),
        ("a\ud800", "attachment; filename*=utf-8''a%3F"),
    ],
)
def test_content_disposition(filename: str, value: str) -> None:
    assert content_disposition(filename) == value


def test_disposition_can_be_inline() -> None:
    assert content_disposition("a", "inline") == 'inline; filename="a"'


@pytest.mark.parametrize("disposition", ["", "attachment; x", "a\r\n"])
def test_a_disposition_that_is_no_token_is_refused(disposition: str) -> None:
    with pytest.raises(ValueError, match="use 'attachment' or 'inline'"):
        content_disposition("a", disposition)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_every_file_name_arrives(filename: str) -> None:
    # BK-15: one header line, and a client reads the same name.
    headers = Headers({"content-disposition": content_disposition(filename)})
    ((_, value),) = headers.raw
    assert value.isascii()
    if quoted := re.fullmatch(rb'attachment; filename="([^"\\]*)"', value):
        assert quoted[1].decode() == filename
    else:
        # attr-char of RFC 8187, and percent-encoding
        extended = re.fullmatch(rb"attachment; filename\*=utf-8''([\w.~%-]+)", value)
        assert extended
        assert unquote(extended[1].decode()) == filename
