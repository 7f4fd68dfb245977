"""A streaming web framework for Trio: a response is an async context manager."""

# What may import what (tests/test_layers.py holds us to it):
#   _sansio    decides, without waiting: the standard library and attrs
#   _streams   fills channels: Trio, and nothing of HTTP
#   _http      the way of a request: Trio and _sansio, and nothing of producers
#   _server    hosts an app: Hypercorn
#   _files     gives files and archives of them as responses: _streams and _http
# Else _streams and _http meet in the user's handler, in trio.abc.ReceiveChannel.

from __future__ import annotations

from ._asgi import ASGIApp
from ._errors import BodyConsumed, FeedError, HTTPError, ResponseConsumed, WebSocketClosed
from ._files.extract import ExtractLimits, extract_tar
from ._files.file_response import file_response
from ._files.tar_response import tar_response
from ._files.zip_response import zip_response
from ._http.app import App
from ._http.ending import Ending
from ._http.limits import BodyLimits
from ._http.parts import Part
from ._http.policy import StreamPolicy
from ._http.request import Request
from ._http.response import (
    Response,
    json_response,
    ndjson_response,
    sse_response,
    text_response,
)
from ._http.websocket import WebSocket
from ._sansio.encoders import BYTES, NDJSON, SSE, TEXT, Encoder
from ._sansio.headers import Headers, content_disposition
from ._sansio.sse import ServerSentEvent
from ._server.serve import serve
from ._streams.feeds import websocket_feed
from ._streams.merge import merge
from ._streams.threads import open_thread_producer, run_thread_consumer

__all__ = [
    "BYTES",
    "NDJSON",
    "SSE",
    "TEXT",
    "ASGIApp",
    "App",
    "BodyConsumed",
    "BodyLimits",
    "Encoder",
    "Ending",
    "ExtractLimits",
    "FeedError",
    "HTTPError",
    "Headers",
    "Part",
    "Request",
    "Response",
    "ResponseConsumed",
    "ServerSentEvent",
    "StreamPolicy",
    "WebSocket",
    "WebSocketClosed",
    "content_disposition",
    "extract_tar",
    "file_response",
    "json_response",
    "merge",
    "ndjson_response",
    "open_thread_producer",
    "run_thread_consumer",
    "serve",
    "sse_response",
    "tar_response",
    "text_response",
    "websocket_feed",
    "zip_response",
]
