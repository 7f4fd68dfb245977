"""What may happen to a WebSocket, pair by pair."""

from __future__ import annotations

import pytest

from tsstream._sansio.websocket_states import WEBSOCKET_TABLE, WebSocketEvent, WebSocketState

# Columns: CONNECTING, OPEN, CLOSING, CLOSED, REFUSED, GONE; "-" cannot happen.
EXPECTED = {
    "ACCEPT": "OPEN - - - - -",
    "REFUSE": "REFUSED - - - - -",
    "CLOSE": "- CLOSING - - - -",
    "SEND_CLOSE": "- - CLOSED - - -",
    "LEAVE": "GONE GONE GONE CLOSED REFUSED GONE",
}


@pytest.mark.parametrize("event", WebSocketEvent)
def test_every_pair(event: WebSocketEvent) -> None:
    # RQ-37, RQ-38, RQ-39
    found = [WEBSOCKET_TABLE[state].get(event) for state in WebSocketState]
    names = ["-" if state is None else state.name for state in found]
    assert names == EXPECTED[event.name].split()
