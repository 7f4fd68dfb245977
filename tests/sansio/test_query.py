"""The query as a mapping: what Starlette's users expect, and no error whatever arrives."""

from __future__ import annotations

from urllib.parse import urlencode

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsstream._sansio.query import QueryParams


@pytest.mark.parametrize(
    ("query", "values"),
    [
        (b"", {}),
        (b"a=1", {"a": ["1"]}),
        (b"a=1&b=2&a=3", {"a": ["1", "3"], "b": ["2"]}),
        (b"a=&b&=c", {"a": [""], "b": [""], "": ["c"]}),
        (b"&&a=1&", {"a": ["1"]}),
        (b"a=b=c", {"a": ["b=c"]}),
        (b"a=1;b=2", {"a": ["1;b=2"]}),
        (b"a+b=c%20d%2B", {"a b": ["c d+"]}),
        (b"a=caf%C3%A9", {"a": ["café"]}),
        (b"a=caf\xc3\xa9", {"a": ["café"]}),  # not encoded, but what was meant is plain
        (b"a=%ff&b=\xff", {"a": ["\ufffd"], "b": ["\ufffd"]}),
        (b"a=%zz%", {"a": ["%zz%"]}),
        (b"a=%00%0d%0a", {"a": ["\0\r\n"]}),
    ],
)
def test_parsing(query: bytes, values: dict[str, list[str]]) -> None:
    params = QueryParams(query)
    assert {name: params.getlist(name) for name in params} == values


def test_the_last_value_is_the_mapping_s() -> None:
    params = QueryParams(b"a=1&b=2&a=3")
    assert params["a"] == "3"
    assert dict(params) == {"a": "3", "b": "2"}
    assert len(params) == 2


def test_a_missing_name() -> None:
    params = QueryParams()
    assert "a" not in params
    assert params.get("a", "default") == "default"
    assert params.getlist("a") == []
    with pytest.raises(KeyError):
        params["a"]


def test_params_are_immutable() -> None:
    params = QueryParams(b"a=1")
    params.getlist("a").append("2")
    assert params.getlist("a") == ["1"]
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        params._values = {}  # type: ignore[misc]  # what is tested


def test_repr_shows_every_value() -> None:
    assert repr(QueryParams(b"a=1&a=2")) == "QueryParams({'a': ['1', '2']})"


@given(st.binary())
def test_nothing_is_an_error(query: bytes) -> None:
    params = QueryParams(query)
    assert all(params[name] == params.getlist(name)[-1] for name in params)


WORDS = st.text(st.characters(codec="utf-8"))


@given(st.lists(st.tuples(WORDS, WORDS)))
def test_what_was_encoded_comes_back(pairs: list[tuple[str, str]]) -> None:
    params = QueryParams(urlencode(pairs).encode())
    for name in dict(pairs):
        assert params.getlist(name) == [value for other, value in pairs if other == name]
