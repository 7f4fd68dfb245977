"""Preconditions of a request: does it want what there is now (RFC 9110, section 13)?"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import Enum, auto

import attrs

_ETAG = r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"'  # RFC 9110 8.8.3
_ONE_ETAG = re.compile(_ETAG)
# Commas may stand alone, between members and at the ends (RFC 9110 5.6.1.2).
_ETAGS = re.compile(rf"[ \t,]*{_ETAG}(?:[ \t]*,[ \t,]*{_ETAG})*[ \t,]*")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTH = rf"(?P<month>{'|'.join(_MONTHS)})"
_TIME = r"(?P<hour>\d\d):(?P<minute>\d\d):(?P<second>\d\d)"
# RFC 9110 5.6.7: what is sent now, what RFC 850 had, what asctime() gives.
_DATES = (
    re.compile(rf"[A-Z][a-z]{{2}}, (?P<day>\d\d) {_MONTH} (?P<year>\d{{4}}) {_TIME} GMT", re.ASCII),
    re.compile(rf"[A-Z][a-z]+day, (?P<day>\d\d)-{_MONTH}-(?P<year>\d\d) {_TIME} GMT", re.ASCII),
    re.compile(rf"[A-Z][a-z]{{2}} {_MONTH} (?P<day>[ \d]\d) {_TIME} (?P<year>\d{{4}})", re.ASCII),
)


class Verdict(Enum):
    """What a request gets, as far as its preconditions decide."""

    PROCEED = auto()
    NOT_MODIFIED = auto()  # 304: the client has it
    FAILED = auto()  # 412: it is not what the client thinks it is


@attrs.frozen(kw_only=True)
class Validators:
    """What tells one state of a representation from another (RFC 9110, section 8.8).

    Args:
      etag: with its quotes, and with ``W/`` if it is weak.
      last_modified: in seconds since the epoch. Where there is no *etag* taken for a strong
        validator: only given when nobody can have been sent two states with the same one.
      dated: it is one although there is an *etag*.
    """

    etag: str | None = None
    last_modified: int | None = None
    dated: bool = False


def judge(headers: Mapping[str, str], validators: Validators) -> Verdict:
    """Evaluate the preconditions of a GET or HEAD in the order of RFC 9110, 13.2.2."""
    if "if-match" in headers:
        if not _has_etag(headers["if-match"], validators.etag, weak=False):
            return Verdict.FAILED
    elif _changed_since(headers.get("if-unmodified-since"), validators) is True:
        return Verdict.FAILED
    if "if-none-match" in headers:
        if _has_etag(headers["if-none-match"], validators.etag, weak=True):
            return Verdict.NOT_MODIFIED
    elif _changed_since(headers.get("if-modified-since"), validators) is False:
        return Verdict.NOT_MODIFIED
    return Verdict.PROCEED


def is_range_wanted(headers: Mapping[str, str], validators: Validators) -> bool:
    """Say whether ``If-Range`` lets ``Range`` be answered: what it names is here still.

    An entity tag is compared strongly; a date must be the very one that was sent. Who was told a
    tag must come with that (13.1.5), unless no other state can have the same date.
    """
    condition = headers.get("if-range")
    if condition is None:
        return True
    if _ONE_ETAG.fullmatch(condition):
        return not condition.startswith("W/") and condition == validators.etag
    if validators.etag is not None and not validators.dated:
        return False
    date = parse_date(condition)
    return date is not None and date == validators.last_modified


def parse_date(value: str) -> int | None:
    """Give the seconds since the epoch of an HTTP-date in one of its three forms, or None."""
    for form in _DATES:
        if found := form.fullmatch(value):
            return _to_seconds(found)
    return None


def format_date(seconds: int) -> str:
    """Give the HTTP-date for a number of seconds since the epoch.

    Not by ``strftime()``, which speaks the language of the machine.
    """
    when = datetime.fromtimestamp(seconds, UTC)
    day, month = _DAYS[when.weekday()], _MONTHS[when.month - 1]
    return f"{day}, {when.day:02} {month} {when.year:04} {when:%H:%M:%S} GMT"


def _to_seconds(found: re.Match[str]) -> int | None:
    year = int(found["year"])
    if len(found["year"]) == 2:
        # The one that is not more than 50 years in the future (RFC 9110 5.6.7).
        newest = datetime.now(UTC).year + 50
        year = newest - (newest - year) % 100
    month = _MONTHS.index(found["month"]) + 1
    second = min(int(found["second"]), 59)  # 60 is a leap second
    try:
        when = datetime(
            *(year, month, int(found["day"]), int(found["hour"]), int(found["minute"]), second),
            tzinfo=UTC,
        )
    except ValueError:
        return None
    return int(when.timestamp())


def _changed_since(value: str | None, validators: Validators) -> bool | None:
    """Compare with a date; None if either side has none, and so nothing is to be concluded."""
    date = None if value is None else parse_date(value)
    if date is None or validators.last_modified is None:
        return None
    return validators.last_modified > date


def _has_etag(value: str, etag: str | None, *, weak: bool) -> bool:
    """Say whether *value*, ``*`` or a list of entity tags, has *etag* (RFC 9110 8.8.3.2)."""
    if value == "*":
        return True
    if etag is None or not _ETAGS.fullmatch(value):
        return False
    listed = _ONE_ETAG.findall(value)
    if weak:
        return etag.removeprefix("W/") in [other.removeprefix("W/") for other in listed]
    return not etag.startswith("W/") and etag in listed
