"""Header fields as an immutable value that cannot break a message."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from urllib.parse import quote

import attrs

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110 5.6.2
_NOT_IN_VALUE = re.compile(r"[^\t\x20-\x7e\x80-\xff]")  # RFC 9110 5.5
_NOT_IN_QUOTES = re.compile(r'[^\x20-\x7e]|["\\%]')  # RFC 6266 appendix D
NAMES_CACHED = 512  # names: far more than one application uses


@attrs.frozen(init=False, eq=False, repr=False)
class Headers(Mapping[str, str]):
    """The header fields of a message: ordered, case-insensitive, repeated names kept.

    As a mapping it has each name once, in lower case; a repeated field is joined with ``", "``
    (RFC 9110 5.3) and ``cookie`` with ``"; "`` (RFC 9113 8.2.3). Read ``set-cookie``, which cannot
    be joined, with :meth:`getlist`.

    Names are RFC 9110 tokens. Values are Latin-1 without control characters but TAB, and lose
    their outer spaces and tabs. This holds for every HTTP version (HOST fault 14).

    Args:
      headers: names and values. Other headers are checked again, because they may come
        :meth:`from_wire`.

    Raises:
      ValueError: a field would break the message, or is the server's to set; says which and what
        to do.
      TypeError: a name or a value is neither str nor bytes.
    """

    raw: tuple[tuple[bytes, bytes], ...]  # lower-case names; what ASGI wants

    def __init__(
        self,
        headers: Headers
        | Mapping[str, str]
        | Iterable[tuple[str | bytes, str | bytes]]
        | None = None,
    ) -> None:
        fields = [_field(name, value) for name, value in _pairs(headers)]
        object.__setattr__(self, "raw", tuple(fields))

    @classmethod
    def from_wire(cls, raw: Iterable[tuple[bytes, bytes]]) -> Headers:
        """Take what a server has parsed: names are lower-cased, nothing is checked."""
        return cls._of(tuple([(name.lower(), value) for name, value in raw]))

    @classmethod
    def _of(cls, raw: tuple[tuple[bytes, bytes], ...]) -> Headers:
        headers = cls.__new__(cls)
        object.__setattr__(headers, "raw", raw)
        return headers

    def __getitem__(self, name: str) -> str:
        values = self.getlist(name)
        if not values:
            raise KeyError(name)
        return ("; " if name.lower() == "cookie" else ", ").join(values)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and bool(self.getlist(name))

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(name.decode("latin-1") for name, _ in self.raw))

    def __len__(self) -> int:
        return len({name for name, _ in self.raw})

    def __repr__(self) -> str:
        fields = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in self.raw]
        return f"Headers({fields!r})"

    def getlist(self, name: str) -> list[str]:
        """Give every value of the field in the order of the message; none is ``[]``."""
        key = _key(name)
        return [value.decode("latin-1") for field, value in self.raw if field == key]

    def set(self, name: str, value: str) -> Headers:
        """Give headers with this value as the field's only one, at the end.

        Raises:
          ValueError: as for the class.
        """
        field = _field(name, value)
        return self._of((*[other for other in self.raw if other[0] != field[0]], field))

    def add(self, name: str, value: str) -> Headers:
        """Give headers with one field more; those of the same name stay.

        Raises:
          ValueError: as for the class.
        """
        return self._of((*self.raw, _field(name, value)))

    def setdefault(self, name: str, value: str) -> Headers:
        """Give headers that have the field: their own, or else this one.

        Raises:
          ValueError: as for the class.
        """
        return self if name in self else self.add(name, value)

    def remove(self, *names: str) -> Headers:
        """Give headers without any field of these names; they need not be there."""
        keys = {_key(name) for name in names}
        return self._of(tuple([field for field in self.raw if field[0] not in keys]))


def content_disposition(filename: str, disposition: str = "attachment") -> str:
    """Give a Content-Disposition value that no file name can break (BK-15).

    A plain ASCII name is quoted. Any other is percent-encoded UTF-8 (RFC 6266 4.3, RFC 8187),
    which every current browser decodes; what UTF-8 cannot express becomes ``?``.

    Raises:
      ValueError: *disposition* is not a token such as ``attachment`` or ``inline``.
    """
    if not _TOKEN.fullmatch(disposition):
        raise ValueError(f"{disposition!r} is no disposition; use 'attachment' or 'inline'")
    if _NOT_IN_QUOTES.search(filename):
        encoded = quote(filename, safe="", errors="replace")
        return f"{disposition}; filename*=utf-8''{encoded}"
    return f'{disposition}; filename="{filename}"'


def _pairs(
    headers: Mapping[str, str] | Iterable[tuple[str | bytes, str | bytes]] | None,
) -> Iterable[tuple[str | bytes, str | bytes]]:
    if headers is None:
        return ()
    if isinstance(headers, Headers):
        return headers.raw
    return headers.items() if isinstance(headers, Mapping) else headers


def _field(name: str | bytes, value: str | bytes) -> tuple[bytes, bytes]:
    text = value if isinstance(value, str) else _decode(value, f"the value of header {name!r}")
    if found := _NOT_IN_VALUE.search(text):
        raise ValueError(
            f"the value of header {name!r} contains {found[0]!r}; percent-encode what is not "
            "Latin-1 text on one line (content_disposition() does it for file names)"
        )
    key = _checked_name(name if isinstance(name, str) else _decode(name, "a header's name"))
    # Not a bare strip(): that would also take \x85 and \xa0, which are part of the value.
    return key, text.strip(" \t").encode("latin-1")


def _decode(part: object, what: str) -> str:
    if not isinstance(part, bytes):
        raise TypeError(f"{what} is {part!r}; give it as str or bytes")
    return part.decode("latin-1")


@lru_cache(NAMES_CACHED)
def _checked_name(name: str) -> bytes:
    if name.startswith(":") or name.lower() == "transfer-encoding":
        raise ValueError(
            f"header {name!r} is the server's, which frames the message; leave it out, "
            "or take it from headers that you pass on with .remove()"
        )
    if not _TOKEN.fullmatch(name):
        raise ValueError(
            f"{name!r} is no header name; use letters, digits and any of !#$%&'*+-.^_`|~"
        )
    return _key(name)


def _key(name: str) -> bytes:
    # In this order: str.lower() would make an ASCII "k" of the Kelvin sign.
    return name.encode("utf-8", "replace").lower()
