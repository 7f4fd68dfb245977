"""How long a stream may take over what."""

from __future__ import annotations

from typing import Any

import attrs


def _positive(_: object, field: attrs.Attribute[Any], value: float | None) -> None:
    if value is not None and not value > 0:
        raise ValueError(f"{field.name} is a number of seconds above 0, or None: got {value!r}")


@attrs.frozen(kw_only=True)
class StreamPolicy:
    """The limits of a stream, all in seconds; ``None`` is no limit.

    Given to an :class:`App` it holds for all its responses; a :class:`Response` may bring its
    own, which replaces it as a whole: ``attrs.evolve(app.policy, idle=5)`` keeps the rest.

    There is no limit on the total time unless you set one, so a download may take all day (BK-8).
    Whoever runs over a limit is cancelled, with the limit's name as the reason, and the client
    gets 504 if nothing was sent yet and a visibly cut body otherwise (D24).
    """

    handler: float | None = attrs.field(default=None, validator=_positive)
    """Until the handler has given its response."""
    first_item: float | None = attrs.field(default=None, validator=_positive)
    """From entering the body to its first item."""
    idle: float | None = attrs.field(default=None, validator=_positive)
    """From one item to the next."""
    send: float | None = attrs.field(default=60.0, validator=_positive)
    """For the client to take one batch. nginx gives it as long."""
    exit: float | None = attrs.field(default=10.0, validator=_positive)
    """For the body's context managers to leave once its channel has ended (D13)."""
    lifetime: float | None = attrs.field(default=None, validator=_positive)
    """For the whole body."""
    heartbeat: float | None = attrs.field(default=None, validator=_positive)
    """Of silence before a sign of life is sent, for encoders that have one."""
