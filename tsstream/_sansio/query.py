"""The query of a URL as a mapping."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from urllib.parse import parse_qsl

import attrs


@attrs.frozen(init=False, eq=False, repr=False)
class QueryParams(Mapping[str, str]):
    """The parameters of a query such as ``b"a=1&a=2"``.

    As a mapping it has each name once, with its last value; :meth:`getlist` has them all. Blank
    values are kept. ``+`` is a space (WHATWG URL 5.1). Nothing is an error: what is not UTF-8
    becomes U+FFFD.

    Args:
      query: what follows the ``?``, still percent-encoded: ASGI's ``query_string``.
    """

    _values: dict[str, list[str]]

    def __init__(self, query: bytes = b"") -> None:
        object.__setattr__(self, "_values", _parse(query))

    def __getitem__(self, name: str) -> str:
        return self._values[name][-1]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"QueryParams({self._values!r})"

    def getlist(self, name: str) -> list[str]:
        """Give every value of the parameter in the order of the query; none is ``[]``."""
        return list(self._values.get(name, ()))


def _parse(query: bytes) -> dict[str, list[str]]:
    values: dict[str, list[str]] = {}
    text = query.decode("utf-8", "replace")
    for name, value in parse_qsl(text, keep_blank_values=True, errors="replace"):
        values.setdefault(name, []).append(value)
    return values
