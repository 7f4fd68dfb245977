"""From a method and a path to an endpoint, by a tree of path segments."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Generic, TypeAlias, TypeVar

import attrs

from .patterns import Segment, find_parameters, parse_pattern

T = TypeVar("T")
M = TypeVar("M")

_METHOD = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # a token, RFC 9110 9.1


@attrs.frozen
class Found(Generic[T]):
    """A route takes the request: its endpoint, the path's parameters, and its pattern."""

    endpoint: T
    path_params: dict[str, str]
    pattern: str


@attrs.frozen
class Mounted(Generic[M]):
    """A mounted application takes the request; *prefix* belongs into its ``root_path``."""

    endpoint: M
    prefix: str


@attrs.frozen
class NotAllowed:
    """The path exists, but not with this method (405); *allow* is sorted."""

    allow: tuple[str, ...]


@attrs.frozen
class NotFound:
    """No route and no mount has this path (404)."""


class Router(Generic[T, M]):
    """Routes with endpoints of type *T*, and mounts of type *M*.

    A path is the segments between its slashes; empty ones count, so ``/a`` and ``/a/`` differ. At
    each segment literal text wins over ``{name}``, ``{name}`` over ``{name:path}``, and that over
    what is mounted there. If the better way leads nowhere, or only to other methods, the next
    is tried. A match costs what its path and the parameters cost, however many literals there are.
    """

    def __init__(self) -> None:
        self._root: _Node[T, M] = _Node()

    def add(self, path: str, methods: Iterable[str], endpoint: T) -> None:
        """Route *methods* on *path* to *endpoint*.

        Args:
          path: a pattern of decoded text, such as ``/items/{name}`` or ``/files/{rest:path}``.
            ``{name}`` is one segment that is not empty; ``{rest:path}`` is all that follows, at
            least one character.
          methods: put into upper case. GET answers HEAD as well.
          endpoint: what :meth:`match` finds.

        Raises:
          ValueError: the pattern or a method is malformed, or the same paths are already routed
            for one of the methods.
        """
        segments = parse_pattern(path)
        route = _Route(endpoint, path, find_parameters(segments))
        verbs = _verbs(path, methods)
        node = self._root.grow(segments)
        routes = node.rest if segments[-1].kind == "rest" else node.exact
        for verb in verbs:
            if verb in routes:
                raise ValueError(
                    f"{verb} {path!r} is already routed by {routes[verb].pattern!r}; remove one"
                )
        routes.update(dict.fromkeys(verbs, route))

    def mount(self, prefix: str, endpoint: M) -> None:
        """Give *endpoint* every method on *prefix* and all below it, unless a route has it.

        Args:
          prefix: such as ``/api``; a last slash is dropped, so that ``/`` mounts at the root,
            with the prefix ``""``.
          endpoint: what :meth:`match` finds.

        Raises:
          ValueError: the prefix is malformed, has parameters, or is already mounted.
        """
        segments = parse_pattern(prefix.removesuffix("/")) if prefix != "/" else ()
        if any(segment.kind != "literal" for segment in segments):
            raise ValueError(f"mount {prefix!r} has a parameter; mount below literal text only")
        node = self._root.grow(segments)
        if node.mounted is not None:
            raise ValueError(f"{prefix!r} is already mounted; use another prefix")
        node.mounted = Mounted(endpoint, prefix.removesuffix("/"))

    def match(self, method: str, path: str) -> Found[T] | Mounted[M] | NotAllowed | NotFound:
        """Find who takes the request.

        Args:
          method: as sent: methods are case-sensitive (RFC 9110 9.1).
          path: decoded, without the ``root_path``.
        """
        if not path.startswith("/"):  # "*", as in OPTIONS *
            return NotFound()
        segments = path[1:].split("/")
        allow: set[str] = set()
        for claim in _claims(self._root, segments, 0):
            if isinstance(claim, Mounted):
                return claim
            if route := _route_for(method, claim):
                return route.found(segments)
            allow.update(claim)
        return _refusal(allow)


@attrs.frozen
class _Route(Generic[T]):
    endpoint: T
    pattern: str
    parameters: dict[str, slice]  # the segments of the path that each one takes

    def found(self, segments: list[str]) -> Found[T]:
        values = {name: "/".join(segments[part]) for name, part in self.parameters.items()}
        return Found(self.endpoint, values, self.pattern)


_Routes: TypeAlias = dict[str, _Route[T]]  # by method


@attrs.define(eq=False)
class _Node(Generic[T, M]):
    """Where the routes and mounts stand that share their first segments."""

    literals: dict[str, _Node[T, M]] = attrs.Factory(dict)
    name: _Node[T, M] | None = None
    exact: _Routes[T] = attrs.Factory(dict)  # for paths that end here
    rest: _Routes[T] = attrs.Factory(dict)  # for paths that go on in any way
    mounted: Mounted[M] | None = None

    def grow(self, segments: Iterable[Segment]) -> _Node[T, M]:
        """Give the node for these segments, making what is not there yet."""
        node = self
        for segment in segments:
            if segment.kind == "literal":
                node = node.literals.setdefault(segment.text, _Node())
            elif segment.kind == "name":
                node.name = node = node.name or _Node()
        return node


def _claims(
    node: _Node[T, M], segments: list[str], depth: int
) -> Iterator[_Routes[T] | Mounted[M]]:
    """Give what has this path below the node, the best first.

    Visits a node once at most, so that back-tracking costs no more than the tree has parameters.
    """
    if depth == len(segments):
        if node.exact:
            yield node.exact
    else:
        segment = segments[depth]
        if segment in node.literals:
            yield from _claims(node.literals[segment], segments, depth + 1)
        if segment and node.name is not None:
            yield from _claims(node.name, segments, depth + 1)
        if node.rest and (segment or depth + 1 < len(segments)):
            yield node.rest
    if node.mounted is not None:
        yield node.mounted


def _route_for(method: str, routes: _Routes[T]) -> _Route[T] | None:
    if method == "HEAD" and "HEAD" not in routes:
        return routes.get("GET")
    return routes.get(method)


def _refusal(allow: set[str]) -> NotAllowed | NotFound:
    if not allow:
        return NotFound()
    return NotAllowed(tuple(sorted(allow | {"HEAD"} if "GET" in allow else allow)))


def _verbs(path: str, methods: Iterable[str]) -> list[str]:
    verbs = [] if isinstance(methods, str) else [method.upper() for method in methods]
    if not verbs or not all(map(_METHOD.fullmatch, verbs)):
        raise ValueError(f"route {path!r} has methods {methods!r}; give a list such as ['GET']")
    return verbs
