"""From an exception to the response that tells the client of it."""

from __future__ import annotations

import traceback
from collections.abc import Mapping

import attrs
import trio

from tsstream._errors import HTTPError
from tsstream._util import leaves

from .response import Response


@attrs.frozen
class ErrorPages:
    """Which status an exception gets, and what its page shows.

    Args:
      statuses: for exceptions that are not an :class:`HTTPError`; subclasses count, and the most
        specific class decides.
      debug: show the traceback. Never where strangers can see it.
    """

    statuses: Mapping[type[Exception], int] = attrs.field(factory=dict)
    debug: bool = False

    def __attrs_post_init__(self) -> None:
        for status_code in self.statuses.values():
            HTTPError(status_code)  # or ValueError now, and not when it is needed

    def http_error(self, error: BaseException) -> HTTPError:
        """Give the first leaf that has a status: an HTTPError, else a registered type, else 500.

        In a group an HTTPError is looked for first, because somebody chose it (D6, AC-24).
        """
        found = list(leaves(error))
        for leaf in found:
            if isinstance(leaf, HTTPError):
                return leaf
        for leaf in found:
            for kind in type(leaf).__mro__:
                if issubclass(kind, Exception) and kind in self.statuses:
                    return HTTPError(self.statuses[kind])
        return HTTPError(500)

    def response(self, error: BaseException) -> Response:
        """Give the response for *error*, with nothing in it of the response that failed (AC-25)."""
        answer = self.http_error(error)
        if self.debug and answer.status_code >= 500:
            text = "".join(traceback.format_exception(error))
        else:
            text = answer.detail
        # An error may quote what UTF-8 cannot say, such as half a surrogate pair from JSON.
        page = text.encode(errors="replace")
        return Response(page, answer.status_code, answer.headers, "text/plain")


def timeout_error(text: str, *, can_answer: bool) -> Exception:
    """Give the exception for a limit that was reached: 504 if it can be answered (D24)."""
    if can_answer:
        return HTTPError(504, f"Gateway Timeout: {text} reached")
    return trio.TooSlowError(f"{text} reached")
