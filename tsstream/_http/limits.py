"""How much of a request's body is taken, and how long it may be silent."""

from __future__ import annotations

from typing import Any

import attrs


def _positive(_: object, field: attrs.Attribute[Any], value: float) -> None:
    if not value > 0:
        raise ValueError(f"{field.name} is a number above 0: got {value!r}")


def _positive_or_none(_: object, field: attrs.Attribute[Any], value: float | None) -> None:
    if value is not None and not value > 0:
        raise ValueError(f"{field.name} is a number above 0, or None: got {value!r}")


@attrs.frozen(kw_only=True)
class BodyLimits:
    """The limits of request bodies; what goes over one is answered with 413, silence with 408.

    Given to an :class:`App` they hold for all its requests. A handler changes them for its own
    request, before it reads::

        request.body_limits = attrs.evolve(request.body_limits, max_stream=10 * 2**30)
    """

    max_body: int = attrs.field(default=16 * 1024 * 1024, validator=_positive)
    """What ``read()``, ``text()``, ``json()`` and ``form()`` keep in memory, in bytes. Quart's and
    Django's order of magnitude."""
    max_stream: int | None = attrs.field(default=None, validator=_positive_or_none)
    """The size of any body, streamed ones too, in bytes; ``None``, the default, is no limit
    (RQ-10)."""
    timeout: float | None = attrs.field(default=60.0, validator=_positive_or_none)
    """Silence while somebody waits for the next chunk, in seconds; ``None`` for a conversation
    that may pause as long as it likes. nginx and Quart give it as long (RQ-14)."""
    max_parts: int = attrs.field(default=1000, validator=_positive)
    """Parts of a multipart body."""
    max_part_header: int = attrs.field(default=8 * 1024, validator=_positive)
    """Bytes of the header block of one part."""
    max_field: int = attrs.field(default=1024 * 1024, validator=_positive)
    """Bytes of one field of a form, or of a part that is read into memory."""
