"""One request with its response: what may happen next, in two tables.

Everything that decides about the order of an exchange lives here. The request side moves when
the server tells something (``receive()``) or when nobody wants the rest of the body any more;
the response side moves *before* the ``send()`` that it speaks of, so that a cancelled send can
never be mistaken for one that did not begin.

A pair that is not in a table cannot happen: it raises :class:`IllegalTransition`, which is a bug
of ours or of the server, never of the user.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from typing import Final

import attrs


class IllegalTransition(RuntimeError):
    """An event came in a state in which it cannot come."""


class _Key(Enum):
    """What a table is looked up by, which is done for each chunk: hashed in C."""

    __hash__ = object.__hash__


class RequestState(_Key):
    """How far the request has come."""

    READING = auto()  # the body goes to whoever reads it
    DISCARDING = auto()  # nobody can read the body any more: it is dropped as it arrives
    COMPLETE = auto()  # the body has ended; what can still come is a disconnect
    GONE = auto()  # http.disconnect came


class RequestEvent(_Key):
    """What the server tells (CHUNK, LAST, DISCONNECT), and that nobody reads on (CLOSE)."""

    CHUNK = auto()
    LAST = auto()
    CLOSE = auto()
    DISCONNECT = auto()


class ResponseState(_Key):
    """How far the response has come."""

    IDLE = auto()  # nothing sent: an error can still be answered
    BODY = auto()  # the start is on its way: an error can only cut
    FINISHING = auto()  # the final message is on its way: a disconnect means nothing any more
    DONE = auto()  # the final message was taken
    CUT = auto()  # ended without the final message


class ResponseEvent(_Key):
    """What we are about to send (START, DATA, FINISH), have sent (DONE) or never will (CUT)."""

    START = auto()
    DATA = auto()
    FINISH = auto()
    DONE = auto()
    CUT = auto()


REQUEST_TABLE: Final[Mapping[RequestState, Mapping[RequestEvent, RequestState]]] = {
    RequestState.READING: {
        RequestEvent.CHUNK: RequestState.READING,
        RequestEvent.LAST: RequestState.COMPLETE,
        RequestEvent.CLOSE: RequestState.DISCARDING,
        RequestEvent.DISCONNECT: RequestState.GONE,
    },
    RequestState.DISCARDING: {
        RequestEvent.CHUNK: RequestState.DISCARDING,
        RequestEvent.LAST: RequestState.COMPLETE,
        RequestEvent.CLOSE: RequestState.DISCARDING,
        RequestEvent.DISCONNECT: RequestState.GONE,
    },
    RequestState.COMPLETE: {
        RequestEvent.CLOSE: RequestState.COMPLETE,
        RequestEvent.DISCONNECT: RequestState.GONE,
    },
    RequestState.GONE: {
        RequestEvent.CLOSE: RequestState.GONE,
    },
}

RESPONSE_TABLE: Final[Mapping[ResponseState, Mapping[ResponseEvent, ResponseState]]] = {
    ResponseState.IDLE: {
        ResponseEvent.START: ResponseState.BODY,
        ResponseEvent.CUT: ResponseState.CUT,
    },
    ResponseState.BODY: {
        ResponseEvent.DATA: ResponseState.BODY,
        ResponseEvent.FINISH: ResponseState.FINISHING,
        ResponseEvent.CUT: ResponseState.CUT,
    },
    ResponseState.FINISHING: {
        ResponseEvent.DONE: ResponseState.DONE,
        ResponseEvent.CUT: ResponseState.CUT,
    },
    ResponseState.DONE: {},
    ResponseState.CUT: {},
}


@attrs.define(eq=False)
class Exchange:
    """The state of both sides; nothing else in tsstream knows where an exchange stands."""

    request: RequestState = RequestState.READING
    response: ResponseState = ResponseState.IDLE

    def on_request(self, event: RequestEvent) -> None:
        """Move the request side, or raise :class:`IllegalTransition`."""
        try:
            self.request = REQUEST_TABLE[self.request][event]
        except KeyError:
            raise IllegalTransition(f"{event} while the request is {self.request}") from None

    def on_response(self, event: ResponseEvent) -> None:
        """Move the response side, or raise :class:`IllegalTransition`."""
        try:
            self.response = RESPONSE_TABLE[self.response][event]
        except KeyError:
            raise IllegalTransition(f"{event} while the response is {self.response}") from None

    @property
    def can_answer_error(self) -> bool:
        """An error can still become a status: nothing was sent, and somebody listens."""
        return self.response is ResponseState.IDLE and self.request is not RequestState.GONE

    @property
    def disconnect_matters(self) -> bool:
        """A disconnect ends the exchange.

        It does not once the final message is on its way: servers report the end of a response as
        ``http.disconnect``, Hypercorn from inside our own last ``send()`` (HOST fault 7, RQ-32).
        """
        return self.response in (ResponseState.IDLE, ResponseState.BODY)

    @property
    def request_settled(self) -> bool:
        """Nothing more of the request's body will come (HOST fault 6)."""
        return self.request in (RequestState.COMPLETE, RequestState.GONE)
