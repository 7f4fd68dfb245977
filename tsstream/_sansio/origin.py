"""Which page opened a WebSocket: browsers let any page do so, and send the user's cookies along."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from ipaddress import IPv6Address
from typing import TypeAlias

Origin: TypeAlias = tuple[str, str, int | None]  # scheme, host and port, in their normal form

_HOST = r"(\[[0-9A-Fa-f:.]+\]|[^\s\x00-\x1f\[\]:/?#@\\,]+)(?::([0-9]{0,5}))?"
_ORIGIN = re.compile(rf"([A-Za-z][A-Za-z0-9+.-]*)://{_HOST}")
_AUTHORITY = re.compile(_HOST)
_HTTP = {"ws": "http", "wss": "https"}
_PORTS = {"http": 80, "https": 443}
_MAX_PORT = 65535


def parse_origin(text: str) -> Origin | None:
    """Give an origin in its normal form (RFC 6454, 4): ``None`` for ``null`` and what is none."""
    found = _ORIGIN.fullmatch(text)
    return None if found is None else _normal(*found.groups())


def check_allowed(allowed: Iterable[object]) -> frozenset[Origin]:
    """Give the origins that an application names.

    Raises:
      TypeError: one is not a str.
      ValueError: one is no origin, such as one with a path or a wildcard.
    """
    origins = set()
    for text in allowed:
        if not isinstance(text, str):
            raise TypeError(f"{text!r} is no origin; give each as a str: 'https://example.org'")
        origin = parse_origin(text)
        if origin is None or "*" in text:
            raise ValueError(
                f"{text!r} is no origin; give scheme, host and, if it is not the scheme's own, "
                "port, no wildcard and nothing behind them: 'https://example.org'"
            )
        origins.add(origin)
    return frozenset(origins)


def is_trusted(
    origins: Sequence[str], hosts: Sequence[str], scheme: str, allowed: frozenset[Origin]
) -> bool:
    """Say whether a handshake comes from a page of ours, or from no page at all.

    Args:
      origins: the values of its Origin fields.
      hosts: those of its Host fields.
      scheme: ``ws`` or ``wss``, or ``http`` or ``https``.
      allowed: other origins that are trusted.
    """
    if not origins:
        return True  # no browser: nobody's cookies are sent unasked
    origin = parse_origin(origins[0]) if len(origins) == 1 else None
    if origin is None:
        return False
    return origin in allowed or (len(hosts) == 1 and origin == _own(hosts[0], scheme))


def _own(host: str, scheme: str) -> Origin | None:
    found = _AUTHORITY.fullmatch(host)
    return None if found is None else _normal(_HTTP.get(scheme, scheme), *found.groups())


def _normal(scheme: str, host: str, port: str | None) -> Origin | None:
    scheme, host = scheme.lower(), host.lower()
    if host.startswith("["):
        try:
            host = f"[{IPv6Address(host[1:-1]).compressed}]"
        except ValueError:
            return None
    if not port:
        return scheme, host, _PORTS.get(scheme)
    return (scheme, host, int(port)) if int(port) <= _MAX_PORT else None
