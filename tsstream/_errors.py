"""The exceptions of tsstream; each says whose fault it is."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from http import HTTPStatus

from tsstream._sansio.headers import Headers

_LOGGED = "_tsstream_logged"  # the attribute of an exception that the log has been told of


class HTTPError(Exception):
    """Answer the request with this status: the client's fault or the handler's wish.

    It works from a handler, from a producer, while a body is entered and from a body read, as
    long as the response has not started: that of a live response starts when its body has been
    entered. After that the response is cut.

    Args:
      status_code: 400 to 599.
      detail: the text of the response; the status's own phrase if not given.
      headers: further headers of the response.

    Raises:
      ValueError: the status is not an error's, or a header is not valid.
    """

    def __init__(
        self,
        status_code: int,
        detail: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        if not 400 <= status_code <= 599:
            raise ValueError(
                f"HTTPError is for the statuses 400 to 599, not {status_code}; "
                "return a Response for any other"
            )
        self.status_code: int = status_code
        self.detail: str = _phrase(status_code) if detail is None else detail
        self.headers: Headers = Headers(headers)
        super().__init__(status_code, self.detail)

    def __str__(self) -> str:
        return f"{self.status_code} {self.detail}"


class ResponseConsumed(RuntimeError):
    """A response was entered or sent a second time; build a new one for each request."""


class BodyConsumed(RuntimeError):
    """The request's body was read before, and is not kept; read it once, and pass on the result."""


class WebSocketClosed(Exception):
    """The WebSocket is closed: nothing more will come, and nothing can be sent.

    One that leaves a handler is a normal end.

    Attributes:
      code: the close code (RFC 6455, section 7.4); 1006 if the client left without one, or if
        the server does not say.
      reason: the client's text, mostly ``""``.
    """

    def __init__(self, code: int | None = 1006, reason: str = "") -> None:
        self.code = code
        self.reason = reason
        super().__init__(code, reason)

    def __str__(self) -> str:
        return f"the WebSocket is closed: {self.code} {self.reason}".rstrip()


class FeedError(Exception):
    """A feed failed: it could not connect, or its peer closed it with other than 1000 or 1001.

    Attributes:
      code: the WebSocket close code (RFC 6455, section 7.4), 1006 if the connection broke,
        ``None`` if it was never open.
    """

    def __init__(self, message: str, *, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code


class TruncatedBodyError(Exception):
    """A response body ended without the end that says it is complete (``tsstream.testing``)."""


def mark_logged(error: BaseException) -> None:
    """Note on *error*, and on all in it if it is a group, that the log has been told of it.

    For a server of ours, which would log it a second time when it is raised to it.
    """
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            mark_logged(inner)
    with suppress(Exception):  # a class of its own kind may allow no attributes
        setattr(error, _LOGGED, True)


def is_logged(error: BaseException) -> bool:
    """Say whether the log has been told of *error*."""
    with suppress(Exception):
        return getattr(error, _LOGGED, False) is True
    return False


def _phrase(status_code: int) -> str:
    try:
        return HTTPStatus(status_code).phrase
    except ValueError:
        return "Error"
