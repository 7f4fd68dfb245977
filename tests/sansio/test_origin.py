"""Which origins are the same, and which handshakes are trusted (HOST: foreign origins)."""

from __future__ import annotations

from typing import Any

import pytest

from tsstream._sansio.origin import check_allowed, is_trusted, parse_origin


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("https://example.org", ("https", "example.org", 443)),
        ("HTTPS://Example.ORG:443", ("https", "example.org", 443)),
        ("https://example.org:", ("https", "example.org", 443)),
        ("http://example.org:8000", ("http", "example.org", 8000)),
        ("http://[::1]:80", ("http", "[::1]", 80)),
        ("http://[0:0::0:1]", ("http", "[::1]", 80)),
        ("app://bundle", ("app", "bundle", None)),
        ("null", None),
        ("", None),
        ("example.org", None),
        ("https://", None),
        ("https://example.org/", None),
        ("https://example.org/path", None),
        ("https://example.org?", None),
        ("https://user@example.org", None),
        ("https://example.org, https://evil.test", None),
        ("https://example.org https://evil.test", None),
        ("https://example.org:65536", None),
        ("https://example.org:99999999", None),
        ("https://example.org:-1", None),
        ("https://[::1", None),
        ("https://[::zz]", None),
        ("https://[1.2.3.4]", None),
        ("https://example.org\n", None),
        ("https://exa\x00mple.org", None),
        ("*", None),
    ],
)
def test_parse_origin(text: str, origin: Any) -> None:
    assert parse_origin(text) == origin


@pytest.mark.parametrize(
    ("origins", "hosts", "scheme", "trusted"),
    [
        ([], ["example.org"], "ws", True),
        ([], [], "ws", True),
        (["http://example.org"], ["example.org"], "ws", True),
        (["http://example.org"], ["EXAMPLE.org:80"], "ws", True),
        (["http://example.org:80"], ["example.org"], "http", True),
        (["https://example.org"], ["example.org"], "wss", True),
        (["https://example.org"], ["example.org:443"], "https", True),
        (["http://localhost:8000"], ["localhost:8000"], "ws", True),
        (["http://[::1]:8000"], ["[0::1]:8000"], "ws", True),
        (["https://example.org"], ["example.org"], "ws", False),
        (["http://example.org"], ["example.org"], "wss", False),
        (["http://example.org:8000"], ["example.org"], "ws", False),
        (["http://evil.test"], ["example.org"], "ws", False),
        (["http://example.org.evil.test"], ["example.org"], "ws", False),
        (["http://sub.example.org"], ["example.org"], "ws", False),
        (["null"], ["null"], "ws", False),
        (["http://example.org/"], ["example.org"], "ws", False),
        ([""], ["example.org"], "ws", False),
        (["http://example.org"], [], "ws", False),
        (["http://example.org"], ["example.org", "example.org"], "ws", False),
        (["http://example.org", "http://example.org"], ["example.org"], "ws", False),
        (["http://example.org"], ["example.org/x"], "ws", False),
    ],
)
def test_same_origin(origins: list[str], hosts: list[str], scheme: str, trusted: bool) -> None:
    assert is_trusted(origins, hosts, scheme, check_allowed(())) is trusted


@pytest.mark.parametrize(
    ("origin", "trusted"),
    [
        ("https://example.org", True),
        ("https://EXAMPLE.org:443", True),
        ("http://localhost:3000", True),
        ("http://example.org", False),
        ("http://localhost", False),
        ("null", False),
    ],
)
def test_allowed_origins_are_trusted_besides(origin: str, trusted: bool) -> None:
    allowed = check_allowed(["https://Example.org", "http://localhost:3000"])
    assert is_trusted([origin], ["other.test"], "ws", allowed) is trusted


@pytest.mark.parametrize(
    "allowed", ["https://example.org/", "https://*.example.org", "example.org", "null", "*", ""]
)
def test_what_is_no_origin_cannot_be_allowed(allowed: str) -> None:
    with pytest.raises(ValueError, match="is no origin"):
        check_allowed([allowed])


@pytest.mark.parametrize("allowed", [b"https://example.org", None, ["https://example.org"]])
def test_origins_are_given_as_str(allowed: Any) -> None:
    with pytest.raises(TypeError, match="as a str"):
        check_allowed([allowed])
