"""What the pattern of a route says: ``/items/{name}``, ``/files/{rest:path}``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

import attrs

_PARAMETER = re.compile(r"\{([^{}:]*)(?::([^{}]*))?\}")


@attrs.frozen
class Segment:
    """What a pattern has between two slashes: text, ``{name}``, or ``{name:path}`` as "rest"."""

    kind: Literal["literal", "name", "rest"]
    text: str  # the literal itself, or the name of the parameter


def parse_pattern(pattern: str) -> tuple[Segment, ...]:
    """Give the segments of a pattern; there is at least one, and only the last can be "rest".

    Raises:
      ValueError: the pattern is malformed; says where and what to write.
    """
    if not pattern.startswith("/"):
        raise ValueError(f"pattern {pattern!r} does not start with '/'; write {'/' + pattern!r}")
    segments = tuple(_parse_segment(pattern, text) for text in pattern[1:].split("/"))
    names = [segment.text for segment in segments if segment.kind != "literal"]
    if len(names) != len(set(names)):
        raise ValueError(f"pattern {pattern!r} has two parameters of one name; rename one")
    if any(segment.kind == "rest" for segment in segments[:-1]):
        raise ValueError(
            f"pattern {pattern!r} goes on after '{{name:path}}', which takes all; end there"
        )
    return segments


def _parse_segment(pattern: str, text: str) -> Segment:
    if "{" not in text and "}" not in text:
        return Segment("literal", text)
    parameter = _PARAMETER.fullmatch(text)
    if parameter is None:
        raise ValueError(
            f"pattern {pattern!r} mixes braces and text in {text!r}; "
            "a parameter is a whole segment, as in '/items/{name}'"
        )
    name, kind = parameter.groups()
    if kind not in (None, "path"):
        raise ValueError(
            f"pattern {pattern!r} asks for {text!r}; there are only {{name}} and {{name:path}}, "
            "so convert the value in the handler"
        )
    if not name.isidentifier():
        raise ValueError(
            f"pattern {pattern!r} has a parameter {name!r}; name it as a Python variable"
        )
    return Segment("rest" if kind else "name", name)


def find_parameters(segments: Iterable[Segment]) -> dict[str, slice]:
    """Give for each parameter the segments of a path that it takes."""
    return {
        segment.text: slice(depth, None if segment.kind == "rest" else depth + 1)
        for depth, segment in enumerate(segments)
        if segment.kind != "literal"
    }
