"""One PUT over HTTP/1.1 whose reply is read while the upload goes on.

A stage streams its result while it is still being sent the object. A client that reads no reply
before all is sent, as HTTP libraries do, waits for such a stage as soon as the buffers between
them are full, and the stage for the client.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from urllib.parse import SplitResult, urlsplit

import attrs
import h11
import trio

from tsstream import Headers, merge

from .channels import Chunks, PulledChannel, channel_of

CONNECT_TIMEOUT = 10.0  # seconds: for TCP and TLS
RECEIVE_SIZE = 64 * 1024  # bytes


class TransientError(Exception):
    """The put failed in a way that need not happen again."""


class RefusedError(Exception):
    """Nobody listens there."""


@attrs.frozen
class Reply:
    """What the other side says to a put: its status and headers; the body may still be coming.

    Attributes:
      uploaded: gives the number of bytes once all have been sent; ends without, if the other
        side would not take them.
    """

    status_code: int
    headers: Headers
    body: Chunks
    uploaded: trio.abc.ReceiveChannel[int]


@asynccontextmanager
async def open_put(
    url: str, headers: Mapping[str, str], content: bytes | Chunks, ssl_context: ssl.SSLContext
) -> AsyncIterator[Reply]:
    """Put *content*, and give the reply as soon as its head has come.

    Each put has a connection of its own: an idle one that its server has just closed would cost
    an attempt, and an upload cannot be sent twice. Leaving ends the upload, if it is under way.

    Raises:
      RefusedError: the connection was refused.
      TransientError: it failed otherwise, now or, in the body of the reply, later.
    """
    parts = urlsplit(url)
    framing = (
        {"content-length": str(len(content))}
        if isinstance(content, bytes)
        else {"transfer-encoding": "chunked"}
    )
    async with _open_stream(parts, ssl_context) as stream:
        exchange = _Exchange(stream)
        fields = {"host": parts.netloc.rpartition("@")[2], **headers, **framing}
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        await exchange.send(h11.Request(method="PUT", target=target, headers=[*fields.items()]))
        async with merge(partial(exchange.upload, content)) as uploaded:
            response = await exchange.read_head()
            yield Reply(
                response.status_code,
                Headers.from_wire(response.headers),
                PulledChannel(exchange.read_data),
                uploaded,
            )


class _Exchange:
    """One request and its reply, sent by one task and read by another."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._http = h11.Connection(h11.CLIENT)

    async def upload(
        self, content: bytes | Chunks, send_channel: trio.abc.SendChannel[int]
    ) -> None:
        sent = 0
        async for chunk in channel_of(content) if isinstance(content, bytes) else content:
            if not await self.send(h11.Data(chunk)):
                return
            sent += len(chunk)
        if await self.send(h11.EndOfMessage()):
            await send_channel.send(sent)

    async def send(self, event: h11.Event) -> bool:
        data = self._http.send(event)
        try:
            if data:
                await self._stream.send_all(data)
        except trio.BrokenResourceError:
            return False  # the reply says why, if there is one
        return True

    async def read_head(self) -> h11.Response:
        while True:
            event = await self._next_event()
            if isinstance(event, h11.Response):
                return event

    async def read_data(self) -> bytes:
        event = await self._next_event()
        return bytes(event.data) if isinstance(event, h11.Data) else b""

    async def _next_event(self) -> object:
        with network_errors():
            while (event := self._http.next_event()) is h11.NEED_DATA:
                data = bytes(await self._stream.receive_some(RECEIVE_SIZE))
                if not data and self._http.their_state is h11.SEND_RESPONSE:
                    raise TransientError("the node has closed the connection without an answer")
                self._http.receive_data(data)
            return event


@asynccontextmanager
async def _open_stream(
    url: SplitResult, ssl_context: ssl.SSLContext
) -> AsyncIterator[trio.abc.Stream]:
    secure = url.scheme == "https"
    host, port = url.hostname or "", url.port or (443 if secure else 80)
    async with AsyncExitStack() as stack:
        stream: trio.abc.Stream
        with network_errors(), trio.fail_after(CONNECT_TIMEOUT):
            stream = await stack.enter_async_context(await trio.open_tcp_stream(host, port))
            if secure:
                stream = trio.SSLStream(
                    stream, ssl_context, server_hostname=host, https_compatible=True
                )
                await stream.do_handshake()
        yield stream


@contextmanager
def network_errors() -> Iterator[None]:
    """Tell what may be tried again from what may not."""
    try:
        yield
    except (OSError, trio.BrokenResourceError, trio.TooSlowError, h11.RemoteProtocolError) as error:
        if _refused(error):
            raise RefusedError(str(error)) from error
        raise TransientError(str(error) or type(error).__name__) from error


def _refused(error: BaseException) -> bool:
    # Trio tries all addresses of a name, and gives the errors as a group.
    if isinstance(error.__cause__, ExceptionGroup):
        return all(isinstance(e, ConnectionRefusedError) for e in error.__cause__.exceptions)
    return isinstance(error, ConnectionRefusedError)
