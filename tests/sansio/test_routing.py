"""Routing: who wins, 404, 405 with Allow, HEAD from GET, mounts."""

from __future__ import annotations

import gc
import re
import sys
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsstream._sansio.routing import Found, Mounted, NotAllowed, NotFound, Router

# The endpoint of a route is its pattern, that of a mount its prefix.
Result = Found[str] | Mounted[str] | NotAllowed | NotFound


def router_of(
    *routes: str | tuple[str, Iterable[str]], mounts: Iterable[str] = ()
) -> Router[str, str]:
    router: Router[str, str] = Router()
    for route in routes:
        path, methods = (route, ["GET"]) if isinstance(route, str) else route
        router.add(path, methods, path)
    for prefix in mounts:
        router.mount(prefix, prefix)
    return router


# --- one pattern against one path ---


@pytest.mark.parametrize(
    ("pattern", "path", "params"),
    [
        ("/", "/", {}),
        ("/", "//", None),
        ("/", "", None),
        ("/", "*", None),
        ("/a", "/a", {}),
        ("/a", "/a/", None),
        ("/a", "a", None),
        ("/a", "/A", None),
        ("/a/", "/a/", {}),
        ("/a/", "/a", None),
        ("//", "//", {}),
        ("/a//b", "/a//b", {}),
        ("/a//b", "/a/b", None),
        ("/café", "/café", {}),
        ("/{id}", "/x", {"id": "x"}),
        ("/{id}", "/a b\n", {"id": "a b\n"}),
        ("/{id}", "/{id}", {"id": "{id}"}),
        ("/{id}", "/", None),
        ("/{id}", "/x/", None),
        ("/{id}/", "/x/", {"id": "x"}),
        ("/{id}/", "//", None),
        ("/a/{b}/c/{d}", "/a/1/c/2", {"b": "1", "d": "2"}),
        ("/f/{rest:path}", "/f/a", {"rest": "a"}),
        ("/f/{rest:path}", "/f/a/b/", {"rest": "a/b/"}),
        ("/f/{rest:path}", "/f//", {"rest": "/"}),
        ("/f/{rest:path}", "/f//a", {"rest": "/a"}),
        ("/f/{rest:path}", "/f/", None),
        ("/f/{rest:path}", "/f", None),
        ("/{a}/{rest:path}", "/1/2/3", {"a": "1", "rest": "2/3"}),
        ("/{rest:path}", "/", None),
    ],
)
def test_match(pattern: str, path: str, params: dict[str, str] | None) -> None:
    result = router_of(pattern).match("GET", path)
    assert result == (NotFound() if params is None else Found(pattern, params, pattern))


# --- several patterns: who wins ---

ROUTES = [
    "/items/new",
    "/items/{id}",
    "/items/{key}/edit",
    "/items/new/now",
    "/{page}/help",
    "/{rest:path}",
]


@pytest.mark.parametrize(
    ("path", "pattern", "params"),
    [
        ("/items/new", "/items/new", {}),
        ("/items/7", "/items/{id}", {"id": "7"}),
        ("/items/7/edit", "/items/{key}/edit", {"key": "7"}),
        # Back-tracking: "new" is a literal, but only the parameter goes on to "edit".
        ("/items/new/edit", "/items/{key}/edit", {"key": "new"}),
        ("/items/help", "/items/{id}", {"id": "help"}),
        ("/other/help", "/{page}/help", {"page": "other"}),
        ("/items/new/never", "/{rest:path}", {"rest": "items/new/never"}),
        ("/items/", "/{rest:path}", {"rest": "items/"}),
    ],
)
@pytest.mark.parametrize("order", [1, -1])
def test_the_more_specific_route_wins_in_any_order(
    order: int, path: str, pattern: str, params: dict[str, str]
) -> None:
    assert router_of(*ROUTES[::order]).match("GET", path) == Found(pattern, params, pattern)


# --- methods ---

METHODS: list[tuple[str, list[str]]] = [
    ("/a", ["GET"]),
    ("/b", ["post", "DELETE"]),
    ("/c/new", ["GET"]),
    ("/c/{id}", ["PUT"]),
    ("/d", ["HEAD"]),
]


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/a", Found("/a", {}, "/a")),
        ("HEAD", "/a", Found("/a", {}, "/a")),
        ("POST", "/a", NotAllowed(("GET", "HEAD"))),
        ("get", "/a", NotAllowed(("GET", "HEAD"))),
        ("POST", "/b", Found("/b", {}, "/b")),
        ("GET", "/b", NotAllowed(("DELETE", "POST"))),  # BK-16: 405 with Allow
        ("HEAD", "/b", NotAllowed(("DELETE", "POST"))),
        ("OPTIONS", "/b", NotAllowed(("DELETE", "POST"))),
        # The better route does not take the method; the next one does.
        ("PUT", "/c/new", Found("/c/{id}", {"id": "new"}, "/c/{id}")),
        ("POST", "/c/new", NotAllowed(("GET", "HEAD", "PUT"))),
        ("HEAD", "/c/7", NotAllowed(("PUT",))),
        ("HEAD", "/d", Found("/d", {}, "/d")),
        ("GET", "/d", NotAllowed(("HEAD",))),
        ("POST", "/none", NotFound()),
    ],
)
def test_methods(method: str, path: str, expected: Result) -> None:
    assert router_of(*METHODS).match(method, path) == expected


def test_a_head_route_of_its_own_goes_before_get() -> None:
    router: Router[str, str] = Router()
    router.add("/a", ["GET"], "get")
    router.add("/a", ["HEAD"], "head")
    assert router.match("HEAD", "/a") == Found("head", {}, "/a")


def test_each_route_keeps_its_own_parameter_names() -> None:
    router = router_of(("/{a}", ["GET"]), ("/{b}", ["POST"]))
    assert router.match("GET", "/1") == Found("/{a}", {"a": "1"}, "/{a}")
    assert router.match("POST", "/1") == Found("/{b}", {"b": "1"}, "/{b}")


# --- mounts ---


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/api", Mounted("/api", "/api")),
        ("BREW", "/api/", Mounted("/api", "/api")),
        ("GET", "/api/a/b", Mounted("/api", "/api")),
        ("GET", "/api/v2/x", Mounted("/api/v2", "/api/v2")),
        ("GET", "/apix", NotFound()),
        ("GET", "/API", NotFound()),
        ("GET", "/", NotFound()),
        ("GET", "/api/health", Found("/api/health", {}, "/api/health")),
        # A mount takes every method, so it also takes what a route does not.
        ("POST", "/api/health", Mounted("/api", "/api")),
    ],
)
def test_mounts(method: str, path: str, expected: Result) -> None:
    router = router_of("/api/health", mounts=["/api", "/api/v2"])
    assert router.match(method, path) == expected


def test_a_mount_at_the_root_takes_what_is_left() -> None:
    router = router_of("/a", "/{name}/x", mounts=["/"])
    assert router.match("GET", "/a") == Found("/a", {}, "/a")
    assert router.match("GET", "/b/x") == Found("/{name}/x", {"name": "b"}, "/{name}/x")
    assert router.match("GET", "/b/y") == Mounted("/", "")
    assert router.match("GET", "/") == Mounted("/", "")
    assert router.match("OPTIONS", "*") == NotFound()


def test_a_last_slash_of_a_prefix_is_dropped() -> None:
    router = router_of(mounts=["/api/"])
    assert router.match("GET", "/api") == Mounted("/api/", "/api")


def test_a_mount_below_literal_text_wins_over_parameters_above() -> None:
    router = router_of("/{name}/x", "/{rest:path}", mounts=["/api"])
    assert router.match("GET", "/api/x") == Mounted("/api", "/api")


# --- registration ---


@pytest.mark.parametrize(
    ("first", "second"),
    [("/a", "/a"), ("/{a}/x", "/{b}/x"), ("/f/{a:path}", "/f/{b:path}"), ("/", "/")],
)
def test_a_second_route_for_the_same_requests_is_refused(first: str, second: str) -> None:
    router = router_of((first, ["GET", "POST"]))
    with pytest.raises(ValueError, match=f"already routed by {re.escape(repr(first))}"):
        router.add(second, ["PUT", "POST"], second)
    assert router.match("PUT", "/x") in (NotFound(), NotAllowed(("GET", "HEAD", "POST")))
    router.add(second, ["PUT"], second)  # nothing of the refused route was kept


@pytest.mark.parametrize("methods", [[], "GET", [""], ["GET POST"], ["GET\n"], ["é"]])
def test_bad_methods_are_refused(methods: Iterable[str]) -> None:
    router: Router[str, str] = Router()
    with pytest.raises(ValueError, match=r"give a list such as \['GET'\]"):
        router.add("/", methods, "/")


@pytest.mark.parametrize(
    ("prefix", "remedy"),
    [
        ("", "write '/'"),
        ("api", "write '/api'"),
        ("/{name}", "mount below literal text only"),
        ("/a/{rest:path}", "mount below literal text only"),
        ("/taken", "use another prefix"),
        ("/taken/", "use another prefix"),
    ],
)
def test_a_bad_mount_names_the_remedy(prefix: str, remedy: str) -> None:
    router = router_of(mounts=["/taken"])
    with pytest.raises(ValueError, match=re.escape(remedy)):
        router.mount(prefix, prefix)


# --- against the naive way: a regular expression for each pattern, all of them tried ---


def as_regex(pattern: str) -> str:
    escaped = re.escape(pattern)
    rest = re.sub(r"\\{(\w+):path\\}", r"(?P<\1>(?s:.+))", escaped)
    return re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", rest)


def rank(pattern: str) -> list[int]:
    """Give what sorts patterns that match the same path: the lower, the better."""
    return [0 if "{" not in part else 2 if ":" in part else 1 for part in pattern[1:].split("/")]


def naive_match(routes: dict[str, set[str]], mounts: set[str], method: str, path: str) -> Result:
    claims: list[tuple[list[int], Result]] = []
    allow: set[str] = set()
    for pattern, methods in routes.items():
        if found := re.fullmatch(as_regex(pattern), path):
            takes = methods | {"HEAD"} if "GET" in methods else methods
            allow |= takes
            if method in takes:
                claims.append((rank(pattern), Found(pattern, found.groupdict(), pattern)))
    claims += [
        ([*rank(prefix), 3] if prefix else [3], Mounted(prefix or "/", prefix))
        for prefix in mounts
        if re.fullmatch(re.escape(prefix) + "(?s:/.*)?", path)
    ]
    if claims:
        return min(claims, key=lambda claim: claim[0])[1]
    return NotAllowed(tuple(sorted(allow))) if allow else NotFound()


TEXT = st.sampled_from(["", "a", "b", "ab"])
SEGMENTS = st.lists(TEXT, min_size=1, max_size=4)
PATHS = SEGMENTS.map(lambda parts: "/" + "/".join(parts))
VERBS = st.sampled_from(["GET", "HEAD", "POST"])


@st.composite
def patterns(draw: st.DrawFn) -> str:
    # Parameters are named by their place, so that two patterns of one form are the same text.
    parts = draw(st.lists(TEXT | st.just("{}"), max_size=3))
    parts += draw(st.just([]) | TEXT.map(lambda text: [text]) | st.just(["{:path}"]))
    named = [part.replace("{", f"{{p{place}") for place, part in enumerate(parts or [""])]
    return "/" + "/".join(named)


@given(
    st.dictionaries(patterns(), st.sets(VERBS, min_size=1), max_size=8),
    st.sets(PATHS.map(lambda path: path.rstrip("/")), max_size=3),
    VERBS,
    PATHS,
)
def test_routing_is_the_naive_one(
    routes: dict[str, set[str]], mounts: set[str], method: str, path: str
) -> None:
    router = router_of(*routes.items(), mounts=[prefix or "/" for prefix in mounts])
    assert router.match(method, path) == naive_match(routes, mounts, method, path)


def test_a_match_does_not_look_at_every_literal() -> None:
    # A deterministic cost instead of a clock: the calls that a match makes.
    few, many = router_of("/s1/x"), router_of(*[f"/s{number}/x" for number in range(1000)])
    assert calls(few, "/s1/x") == calls(many, "/s1/x") == calls(many, "/s999/x")


def test_back_tracking_visits_a_node_once() -> None:
    # Every segment can go two ways, but the tree has only so many nodes.
    path = "/a" * 12
    router = router_of(path + "/x", *["/a" * n + "/{p}" + "/a" * (11 - n) for n in range(12)])
    assert router.match("GET", path + "/y") == NotFound()
    assert calls(router, path + "/y") < 500


def calls(router: Router[str, str], path: str) -> int:
    """Count the Python functions that a match enters."""
    count = 0

    def profile(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event == "call"

    gc.disable()  # what it collects may have Python functions to call, too
    sys.setprofile(profile)
    try:
        router.match("GET", path)
    finally:
        sys.setprofile(None)
        gc.enable()
    return count
