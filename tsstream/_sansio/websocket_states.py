"""One WebSocket, seen from the application: what may happen next, in one table.

The state moves *before* the ``send()`` that it speaks of, so that a cancelled send can never be
mistaken for one that did not begin. A pair that is not in the table cannot happen.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from typing import Final


class WebSocketState(Enum):
    """How far a WebSocket has come."""

    CONNECTING = auto()  # the handshake waits for our answer
    OPEN = auto()  # accepted
    CLOSING = auto()  # we have decided to close, and our Close is not on its way yet
    CLOSED = auto()  # our Close is on its way: nothing can be sent behind it
    REFUSED = auto()  # the handshake was answered with an HTTP response, or with websocket.close
    GONE = auto()  # the peer has closed it, or is lost


class WebSocketEvent(Enum):
    """What we decide (CLOSE), are about to send (ACCEPT, REFUSE, SEND_CLOSE), or hear (LEAVE)."""

    ACCEPT = auto()
    REFUSE = auto()
    CLOSE = auto()
    SEND_CLOSE = auto()
    LEAVE = auto()


_State, _Event = WebSocketState, WebSocketEvent

WEBSOCKET_TABLE: Final[Mapping[WebSocketState, Mapping[WebSocketEvent, WebSocketState]]] = {
    _State.CONNECTING: {
        _Event.ACCEPT: _State.OPEN,
        _Event.REFUSE: _State.REFUSED,
        _Event.LEAVE: _State.GONE,
    },
    _State.OPEN: {
        _Event.CLOSE: _State.CLOSING,
        _Event.LEAVE: _State.GONE,
    },
    _State.CLOSING: {
        _Event.SEND_CLOSE: _State.CLOSED,
        _Event.LEAVE: _State.GONE,
    },
    _State.CLOSED: {
        _Event.LEAVE: _State.CLOSED,
    },
    _State.REFUSED: {
        _Event.LEAVE: _State.REFUSED,
    },
    _State.GONE: {
        _Event.LEAVE: _State.GONE,
    },
}
