"""The whole corpus of hostile conversations."""

from __future__ import annotations

from conversation import Case
from hostile_http1 import HTTP1_CASES
from hostile_http2 import HTTP2_FRAME_CASES
from hostile_http2_floods import HTTP2_FLOOD_CASES
from hostile_http2_streams import HTTP2_STREAM_CASES
from hostile_websocket import WEBSOCKET_CASES

CASES: list[Case] = [
    *HTTP1_CASES,
    *HTTP2_FRAME_CASES,
    *HTTP2_STREAM_CASES,
    *HTTP2_FLOOD_CASES,
    *WEBSOCKET_CASES,
]
