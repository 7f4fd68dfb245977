"""Why an exchange ended, and who is told: the log, the server, the app's hook."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import trio

from tsstream._errors import HTTPError, mark_logged

from .breakage import is_breakage
from .cancellation import hidden_errors
from .ending import Ending, Reason, logger
from .errors import ErrorPages
from .host import Host
from .request import Request


class Outcome:
    """What becomes of one exchange; the first reason for it to end early holds.

    Attributes:
      reason: why it ends before its time; ``None`` as long as nothing has gone wrong.
      error: what went wrong, if that is an exception.
      from_outside: *error* came from ``receive`` or ``send``: it belongs to the server or to a
        middleware round us, which may be waiting for it, so it is not answered but raised.
      shut_down: a live body was cancelled because the server shuts down. That is no failure:
        unless one comes on top, the response is given its end.
    """

    def __init__(self, request: Request[Any], pages: ErrorPages, host: Host | None) -> None:
        self._request = request
        self._pages = pages
        self._host = host
        self._began = trio.current_time()
        self._limit: str | None = None
        self.reason: Reason | None = None
        self.error: Exception | None = None
        self.from_outside = False
        self.shut_down = False

    def fail(self, error: Exception) -> None:
        """The user's code raised *error*, be it while it was being cancelled (D14)."""
        if (self.shut_down or self.reason is not None) and is_breakage(error):
            return  # that is what being cancelled did to it
        if self.reason is None:
            self.reason = "error"
            self.error = error
        elif self._pages.http_error(error).status_code >= 500:
            _log_error(error, "%s failed while it was being cancelled", self._request)

    def fail_page(self, error: Exception) -> None:
        """The page that was to tell of the error could not be sent (D45)."""
        if self.error is not None:
            self.error.add_note(f"The error page could not be sent: {error!r}")

    def blame_outside(self, error: Exception) -> None:
        """``receive`` or ``send`` raised *error*."""
        self.reason = "error"
        self.error = error
        self.from_outside = True

    def reach_limit(self, limit: str, error: Exception) -> None:
        """A limit of the policy was reached; *error* says so."""
        self.reason = "timeout"
        self.error = error
        self._limit = limit

    def stall(self, limit: float) -> None:
        """The client has not taken the last message of the exchange within *limit* seconds."""
        if self.error is not None and self._status() >= 500:
            _log_error(self.error, "%s failed", self._request)
        self.reach_limit("send", trio.TooSlowError(f"send limit of {limit:g} s reached"))

    def note_hidden(self, error: BaseException) -> None:
        """Tell of the errors that a cancellation replaced while they were on their way up."""
        for hidden in hidden_errors(error):
            logger.warning("%s: a cancellation replaced this error", self._request, exc_info=hidden)

    def conclude(self, *, answered: bool, bytes_sent: int) -> Reason:
        """Say how the exchange ended, and log it as section D says.

        Args:
          answered: the final message was sent, of whatever response.
          bytes_sent: of the body.
        """
        request, error = self._request, self.error
        if self.reason == "error" and not answered and request.disconnected.is_set():
            self._conclude_unheard()
        elif self.reason == "error" and answered:
            self._conclude_answered()
            return "complete"
        elif self.reason == "error" and not self._is_refusal_from_outside():
            self._log_cut(bytes_sent)
        elif self.reason == "timeout" and answered:
            logger.warning("%s: %s", request, error)
        elif self.reason == "timeout":
            logger.warning("%s: %s after %d bytes", request, error, bytes_sent)
        ended: Reason = "shutdown" if self.shut_down else "complete"
        reason: Reason = self.reason or (ended if answered else "disconnect")
        if reason == "disconnect":
            logger.debug("%s: client disconnected after %d bytes", request, bytes_sent)
        return reason

    def must_raise(self, *, answered: bool) -> bool:
        """Say whether the server is to hear of the error: of that of a cut it must.

        A limit that is reached is no error of the app's: the missing end says enough. Of an error
        that was answered only a test client that asks for it is told.
        """
        if not answered:
            return self.reason == "error"
        extensions = self._request.scope.get("extensions") or {}
        return "tsstream.raise_errors" in extensions and self._status() >= 500

    def report(
        self,
        reason: Reason,
        hook: Callable[[Request[Any], Ending], None] | None,
        *,
        status_code: int | None,
        bytes_sent: int,
    ) -> None:
        """Call the app's hook; the very last step."""
        if reason == "cancelled" and self.error is not None and self._status() >= 500:
            _log_error(self.error, "%s failed, and was cancelled", self._request)
        if reason in ("shutdown", "cancelled"):
            self._report_shutdown(reason, bytes_sent)
        if hook is None:
            return
        ending = Ending(
            reason=reason,
            status_code=status_code,
            bytes_sent=bytes_sent,
            duration=trio.current_time() - self._began,
            error=self.error,
            limit=self._limit,
        )
        try:
            hook(self._request, ending)
        except Exception:
            logger.exception("%s: the on_end hook failed", self._request)

    def _report_shutdown(self, reason: Reason, bytes_sent: int) -> None:
        """Tell what the server's shutdown has done to this exchange, if there is one (D23)."""
        if self._host is None or not self._host.shutting_down.is_set():
            return
        self._host.endings[reason] += 1
        what = "ended" if reason == "shutdown" else "cut"
        text = "%s: %s by the server's shutdown after %d bytes"
        logger.debug(text, self._request, what, bytes_sent)

    def _conclude_unheard(self) -> None:
        if self._status() >= 500:
            _log_error(self.error, "%s failed, and the client has gone", self._request)
        self.reason = "disconnect"

    def _log_cut(self, bytes_sent: int) -> None:
        text = "%s: stream failed after %d bytes"
        if isinstance(self.error, HTTPError) and self.error.status_code < 500:
            # The client's doing, like a body that pauses: it is not to write tracebacks (D24).
            logger.warning(f"{text}: %s", self._request, bytes_sent, self.error)
            mark_logged(self.error)
        else:
            _log_error(self.error, text, self._request, bytes_sent)

    def _conclude_answered(self) -> None:
        status_code = self._status()
        if status_code >= 500:
            _log_error(self.error, "%s: answered %d", self._request, status_code)

    def _is_refusal_from_outside(self) -> bool:
        """Say whether a middleware ended this with a 4xx of its own, which it will answer."""
        return self.from_outside and getattr(self.error, "status_code", 500) < 500

    def _status(self) -> int:
        assert self.error is not None
        return self._pages.http_error(self.error).status_code


def _log_error(error: BaseException | None, text: str, *args: object) -> None:
    logger.error(text, *args, exc_info=error)
    if error is not None:
        mark_logged(error)  # it may be raised to the server, which logs what it has not seen
