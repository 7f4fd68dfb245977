"""Test a streaming application in process: no socket, no thread, and virtual time if you like."""

from tsstream._errors import TruncatedBodyError

from ._response import ClientResponse, StreamedRequest, StreamedResponse
from ._websocket import ClientWebSocket, WebSocketRejected
from .client import Client, open_client

__all__ = [
    "Client",
    "ClientResponse",
    "ClientWebSocket",
    "StreamedRequest",
    "StreamedResponse",
    "TruncatedBodyError",
    "WebSocketRejected",
    "open_client",
]
