"""Patterns fail at registration, with the remedy."""

from __future__ import annotations

import pytest

from tsstream._sansio.patterns import find_parameters, parse_pattern


@pytest.mark.parametrize(
    ("pattern", "segments"),
    [
        ("/", [("literal", "")]),
        ("/a", [("literal", "a")]),
        ("/a/", [("literal", "a"), ("literal", "")]),
        ("//", [("literal", ""), ("literal", "")]),
        ("/{id}/x y.é", [("name", "id"), ("literal", "x y.é")]),
        ("/f/{rest:path}", [("literal", "f"), ("rest", "rest")]),
        ("/{path:path}", [("rest", "path")]),
    ],
)
def test_segments(pattern: str, segments: list[tuple[str, str]]) -> None:
    assert [(found.kind, found.text) for found in parse_pattern(pattern)] == segments


@pytest.mark.parametrize(
    ("pattern", "remedy"),
    [
        ("", "write '/'"),
        ("items", "write '/items'"),
        ("*", "does not start with '/'"),
        ("/{rest:path}/x", "end there"),
        ("/{rest:path}/", "end there"),
        ("/{a}/{a}", "rename one"),
        ("/{a}/x/{a:path}", "rename one"),
        ("/{}", "name it as a Python variable"),
        ("/{:path}", "name it as a Python variable"),
        ("/{1a}", "name it as a Python variable"),
        ("/{a b}", "name it as a Python variable"),
        ("/{a-b}", "name it as a Python variable"),
        ("/{a:int}", "convert the value in the handler"),
        ("/{a:}", "convert the value in the handler"),
        ("/{a}.txt", "a parameter is a whole segment"),
        ("/v{a}", "a parameter is a whole segment"),
        ("/{a}{b}", "a parameter is a whole segment"),
        ("/{a", "a parameter is a whole segment"),
        ("/a}", "a parameter is a whole segment"),
        ("/{{a}}", "a parameter is a whole segment"),
        ("/{a/b}", "a parameter is a whole segment"),
    ],
)
def test_a_bad_pattern_names_the_remedy(pattern: str, remedy: str) -> None:
    with pytest.raises(ValueError, match="pattern ") as caught:
        parse_pattern(pattern)
    assert remedy in str(caught.value)


def test_parameters_know_their_place() -> None:
    segments = parse_pattern("/a/{b}/c/{d:path}")
    assert find_parameters(segments) == {"b": slice(1, 2), "d": slice(3, None)}
