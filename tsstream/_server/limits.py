"""What the guarded server allows a client, besides what Hypercorn's Config says."""

from __future__ import annotations

from typing import Any

import attrs

# Seconds. nginx has 60 for sending, the head and the body; a head fits in one packet or two.
STALL_TIMEOUT = 60.0
HEADER_TIMEOUT = 10.0
BODY_TIMEOUT = 60.0
PONG_TIMEOUT = 20.0


def _positive(instance: object, attribute: attrs.Attribute[Any], value: float | None) -> None:
    if value is not None and not value > 0:
        raise ValueError(f"{attribute.name} must be a positive number, or None for no limit")


def _not_negative(instance: object, attribute: attrs.Attribute[float], value: float) -> None:
    if not value >= 0:
        raise ValueError(f"{attribute.name} must be a number of seconds, 0 or more")


@attrs.frozen(kw_only=True)
class Limits:
    """Limits of one server; ``None`` is no limit.

    Args:
      stall_timeout: seconds in which a client must accept something of what it is sent.
      header_timeout: seconds from the first byte of a request, or from the connection, to the end
        of the request's head.
      body_timeout: seconds of silence within a request's body before its response has started;
        after that an upload may be as slow as the application likes (a duplex stream). An app of
        tsstream's minds it itself.
      pong_timeout: seconds in which a WebSocket that was pinged must send anything at all.
      max_connections: open at the same time.
      max_headers: fields in one request; Apache's LimitRequestFields.
      half_close: a client that has closed its sending side still gets the response that is under
        way; otherwise that is a disconnect.
      farewell_spread: seconds, within which WebSockets are closed at a shutdown.
    """

    stall_timeout: float | None = attrs.field(default=STALL_TIMEOUT, validator=_positive)
    header_timeout: float | None = attrs.field(default=HEADER_TIMEOUT, validator=_positive)
    body_timeout: float | None = attrs.field(default=BODY_TIMEOUT, validator=_positive)
    pong_timeout: float | None = attrs.field(default=PONG_TIMEOUT, validator=_positive)
    max_connections: int | None = attrs.field(default=None, validator=_positive)
    max_headers: int = 100
    half_close: bool = False
    farewell_spread: float = attrs.field(default=0.0, validator=_not_negative)
