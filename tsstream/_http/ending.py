"""How an exchange ended, told once to the log and to the app's hook."""

from __future__ import annotations

import logging
from typing import Literal, TypeAlias

import attrs

logger = logging.getLogger("tsstream")

Reason: TypeAlias = Literal["complete", "error", "disconnect", "timeout", "shutdown", "cancelled"]


@attrs.frozen(kw_only=True)
class Ending:
    """How one request ended; given to the ``on_end`` hook of the app, once (AC-53).

    Attributes:
      reason: ``complete``, the client was sent all of a response, be it an error page; ``error``,
        the response was cut; ``disconnect``, the client left first; ``timeout``, a limit of the
        :class:`StreamPolicy` was reached, be it answered with 504 or cut; ``shutdown``, a live
        response was given a clean end because the server shuts down; ``cancelled``, the server
        stopped or somebody else cancelled the app.
      status_code: of the response, ``None`` if none was started.
      bytes_sent: of the body, taken by the server.
      duration: in seconds, from the request's head to the end.
      error: what the handler or a producer raised, if anything.
      limit: the limit that was reached.
    """

    reason: Reason
    status_code: int | None
    bytes_sent: int
    duration: float
    error: BaseException | None = None
    limit: str | None = None
