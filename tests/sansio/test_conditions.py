"""What the preconditions of a request come to, one by one and together."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsstream._sansio.conditions import (
    Validators,
    Verdict,
    format_date,
    is_range_wanted,
    judge,
    parse_date,
)

MODIFIED = 784111777
DATE = "Sun, 06 Nov 1994 08:49:37 GMT"
EARLIER, LATER = "Sun, 06 Nov 1994 08:49:36 GMT", "Sun, 06 Nov 1994 08:49:38 GMT"
THIS = Validators(etag='"v1"', last_modified=MODIFIED)
PROCEED, NOT_MODIFIED, FAILED = Verdict.PROCEED, Verdict.NOT_MODIFIED, Verdict.FAILED


@pytest.mark.parametrize(
    ("headers", "verdict"),
    [
        ({}, PROCEED),
        # RFC 9110 13.1.1: strong comparison
        ({"if-match": '"v1"'}, PROCEED),
        ({"if-match": '"v0", "v1"'}, PROCEED),
        ({"if-match": "*"}, PROCEED),
        ({"if-match": '"v0"'}, FAILED),
        ({"if-match": 'W/"v1"'}, FAILED),
        ({"if-match": "v1"}, FAILED),
        # 13.1.2: weak comparison
        ({"if-none-match": '"v1"'}, NOT_MODIFIED),
        ({"if-none-match": 'W/"v1"'}, NOT_MODIFIED),
        ({"if-none-match": '"v0",W/"v1" ,"v2"'}, NOT_MODIFIED),
        ({"if-none-match": ', "v1",,'}, NOT_MODIFIED),
        ({"if-none-match": "*"}, NOT_MODIFIED),
        ({"if-none-match": '"v0"'}, PROCEED),
        ({"if-none-match": '"a,"v1"'}, PROCEED),
        ({"if-none-match": "v1"}, PROCEED),
        ({"if-none-match": ""}, PROCEED),
        ({"if-none-match": 'w/"v1"'}, PROCEED),
        # 13.1.3
        ({"if-modified-since": DATE}, NOT_MODIFIED),
        ({"if-modified-since": LATER}, NOT_MODIFIED),
        ({"if-modified-since": EARLIER}, PROCEED),
        ({"if-modified-since": "yesterday"}, PROCEED),
        # 13.1.4
        ({"if-unmodified-since": DATE}, PROCEED),
        ({"if-unmodified-since": LATER}, PROCEED),
        ({"if-unmodified-since": EARLIER}, FAILED),
        ({"if-unmodified-since": "tomorrow"}, PROCEED),
        # 13.2.2: entity tags stand above dates, "match" above "none match"
        ({"if-match": '"v1"', "if-unmodified-since": EARLIER}, PROCEED),
        ({"if-match": '"v0"', "if-unmodified-since": LATER}, FAILED),
        ({"if-none-match": '"v0"', "if-modified-since": LATER}, PROCEED),
        ({"if-none-match": '"v1"', "if-modified-since": EARLIER}, NOT_MODIFIED),
        ({"if-match": '"v0"', "if-none-match": '"v1"'}, FAILED),
        ({"if-match": '"v1"', "if-none-match": '"v1"'}, NOT_MODIFIED),
        ({"if-unmodified-since": EARLIER, "if-none-match": '"v1"'}, FAILED),
        ({"if-match": '"v1"', "if-modified-since": DATE}, NOT_MODIFIED),
    ],
)
def test_verdict(headers: dict[str, str], verdict: Verdict) -> None:
    assert judge(headers, THIS) is verdict


@pytest.mark.parametrize(
    ("headers", "verdict"),
    [
        ({"if-match": "*"}, PROCEED),
        ({"if-match": '"v1"'}, FAILED),
        ({"if-none-match": '"v1"'}, PROCEED),
        ({"if-modified-since": DATE}, PROCEED),
        ({"if-unmodified-since": EARLIER}, PROCEED),
    ],
)
def test_verdict_without_validators(headers: dict[str, str], verdict: Verdict) -> None:
    assert judge(headers, Validators()) is verdict


def test_a_weak_etag_matches_weakly_only() -> None:
    # RFC 9110 8.8.3.2
    weak = Validators(etag='W/"v1"')
    assert judge({"if-none-match": '"v1"'}, weak) is NOT_MODIFIED
    assert judge({"if-match": 'W/"v1"'}, weak) is FAILED
    assert not is_range_wanted({"if-range": 'W/"v1"'}, weak)


@pytest.mark.parametrize(
    ("if_range", "wanted"),
    [
        (None, True),
        ('"v1"', True),
        ('"v0"', False),
        ('W/"v1"', False),
        ('"v1", "v2"', False),
        ("*", False),
        (DATE, False),  # 13.1.5: a client that has a tag must not come with a date
        ("v1", False),
        ("", False),
    ],
)
def test_if_range(if_range: str | None, wanted: bool) -> None:
    # RFC 9110 13.1.5
    headers = {} if if_range is None else {"if-range": if_range}
    assert is_range_wanted(headers, THIS) is wanted


@pytest.mark.parametrize(
    ("if_range", "wanted"),
    [
        (DATE, True),
        (EARLIER, False),
        (LATER, False),
        ("Sunday, 06-Nov-94 08:49:37 GMT", True),
        ('"v1"', False),
        ("v1", False),
    ],
)
def test_if_range_of_what_has_a_date_only(if_range: str, wanted: bool) -> None:
    # RFC 9110 13.1.5
    dated = Validators(last_modified=MODIFIED)
    assert is_range_wanted({"if-range": if_range}, dated) is wanted


@pytest.mark.parametrize(("if_range", "wanted"), [(DATE, True), (EARLIER, False), ('"v1"', True)])
def test_if_range_of_what_can_be_told_by_its_date(if_range: str, wanted: bool) -> None:
    # RFC 9110 13.1.5
    dated = Validators(etag='"v1"', last_modified=MODIFIED, dated=True)
    assert is_range_wanted({"if-range": if_range}, dated) is wanted


@pytest.mark.parametrize("if_range", ['"v1"', DATE])
def test_if_range_without_validators_is_false(if_range: str) -> None:
    assert not is_range_wanted({"if-range": if_range}, Validators())


@pytest.mark.parametrize(
    "value", [DATE, "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"]
)
def test_the_three_forms_of_a_date(value: str) -> None:
    # RFC 9110 5.6.7
    assert parse_date(value) == MODIFIED


@pytest.mark.parametrize(
    "value",
    [
        *("", "now", "784111777", "Sun, 31 Feb 1994 08:49:37 GMT", "Sun, 06 Nov 1994 25:49:37 GMT"),
        *("Sun, 06 Nov 1994 08:49:37 CET", "Sun, 06 Nov 1994 08:49:37 +0100"),
        *("Sun, 06 nov 1994 08:49:37 GMT", "Sun, 6 Nov 1994 08:49:37 GMT", f"{DATE}, {DATE}"),
        *("Sun, 06 Nov 0000 08:49:37 GMT", "Sun Nov 99 08:49:37 1994", f" {DATE}"),
    ],
)
def test_what_is_no_date(value: str) -> None:
    assert parse_date(value) is None


def test_a_year_of_two_digits_is_at_most_50_years_ahead() -> None:
    # RFC 9110 5.6.7
    this_year = datetime.now(UTC).year
    for ahead in (-49, 0, 49, 50):
        found = parse_date(f"Sunday, 06-Nov-{(this_year + ahead) % 100:02} 08:49:37 GMT")
        assert found is not None
        assert datetime.fromtimestamp(found, UTC).year == this_year + ahead


def test_a_leap_second_is_a_time() -> None:
    assert parse_date("Sat, 31 Dec 2016 23:59:60 GMT") == 1483228799


@given(st.integers(0, 253402300799))
def test_a_date_survives(seconds: int) -> None:
    assert parse_date(format_date(seconds)) == seconds


def test_a_date_as_it_is_sent() -> None:
    assert format_date(MODIFIED) == DATE


@given(st.text(st.sampled_from('"W/,v1 \t*x'), max_size=30))
def test_any_list_of_etags_is_taken(value: str) -> None:
    assert judge({"if-none-match": value}, THIS) in (PROCEED, NOT_MODIFIED)


def test_a_long_list_of_etags_takes_no_time() -> None:
    # what a regular expression could take exponential time for
    assert judge({"if-none-match": ", ," * 20_000 + '"v0'}, THIS) is PROCEED
    assert judge({"if-none-match": '"v0",' * 20_000 + "x"}, THIS) is PROCEED
    assert judge({"if-none-match": '"v0"\t \t' * 20_000 + "x"}, THIS) is PROCEED
