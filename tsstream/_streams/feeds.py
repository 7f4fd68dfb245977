"""WebSocket feeds as producers; the one module that knows which client library is used."""

from __future__ import annotations

import re
import ssl
from base64 import b64encode
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import ExitStack, asynccontextmanager, closing
from typing import NoReturn
from urllib.parse import SplitResult, unquote_to_bytes, urlsplit

import attrs
import trio
from trio_websocket import (
    ConnectionClosed,
    ConnectionRejected,
    WebSocketConnection,
    wrap_client_stream,
)

from tsstream._errors import FeedError
from tsstream._util import unwrapping

CONNECT_TIMEOUT = 10.0  # seconds: what the websockets library allows; a browser gives up later
DISCONNECT_TIMEOUT = 1.0  # seconds: both Close frames are through, only the TCP close is missing
MAX_MESSAGE_SIZE = 1024 * 1024  # bytes: the limit of trio-websocket and of websockets
RECEIVE_SIZE = 64 * 1024  # bytes; the 4 KiB of trio-websocket make large messages 4 times slower
HANDSHAKE_SIZE = 64 * 1024  # bytes: four times what h11 allows for the head of an answer

NORMAL_CLOSES = (1000, 1001)  # RFC 6455, 7.4.1: the purpose is fulfilled; going away
ABNORMAL_CLOSE = 1006  # RFC 6455, 7.4.1: no Close frame came
MESSAGE_TOO_BIG = 1009

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110, 5.6.2
_FIELD_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")  # RFC 9110, 5.5
_VISIBLE_ASCII = re.compile(r"[!-~]+")
_HANDSHAKE_HEADERS = re.compile(r"host|upgrade|connection|sec-websocket-.*", re.IGNORECASE)


def websocket_feed(
    url: str,
    *,
    headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
    subprotocols: Iterable[str] = (),
    ssl_context: ssl.SSLContext | None = None,
    connect_timeout: float = CONNECT_TIMEOUT,
    disconnect_timeout: float = DISCONNECT_TIMEOUT,
    max_message_size: int = MAX_MESSAGE_SIZE,
) -> WebsocketFeed:
    """Give a producer that connects to *url* and sends on every message it receives.

    A text message is sent as ``str``, a binary one as ``bytes``. The producer returns when the
    server closes with 1000 or 1001. Each call makes one connection, so it can be called again.
    Cancelling it drops the connection at once, without a Close frame. It does not close its
    channel: :func:`merge` does.

    Calling the producer raises :exc:`~tsstream.FeedError`, with the client library's exception
    as its cause, if the connection cannot be opened or ends in any other way. Its message names
    the URL without user, password and query.

    Args:
      url: ``ws://`` or ``wss://``; a user and password in it are sent as Basic authentication.
      headers: more headers for the opening request.
      subprotocols: what to offer, the preferred one first.
      ssl_context: for ``wss://`` only; the default is ``ssl.create_default_context()``.
      connect_timeout: seconds for looking up the name, TCP, TLS and the opening handshake together.
      disconnect_timeout: seconds to wait for the server to close the TCP connection when both
        sides have said goodbye; then we do it, and return as usual.
      max_message_size: bytes of a binary message, characters of a text message. A longer one
        is a failure, with code 1009. At most two messages of this size are held at a time.

    Raises:
      ValueError: the URL, a header or a subprotocol cannot be sent like this.
    """
    if isinstance(subprotocols, str):
        raise TypeError(f"subprotocols is a sequence of names; write [{subprotocols!r}]")
    parts = _checked(url)
    if ssl_context is not None and parts.scheme == "ws":
        raise ValueError("ssl_context is for wss:// only; write wss:// or leave it out")
    return WebsocketFeed(
        parts=parts,
        headers=_wire_headers(headers, parts),
        subprotocols=tuple(map(_checked_token, subprotocols)),
        ssl_context=ssl_context,
        connect_timeout=connect_timeout,
        disconnect_timeout=disconnect_timeout,
        max_message_size=max_message_size,
    )


@attrs.frozen(kw_only=True, repr=False)
class WebsocketFeed:
    """A producer for the messages of one WebSocket server; see :func:`websocket_feed`."""

    parts: SplitResult
    headers: tuple[tuple[bytes, bytes], ...]
    subprotocols: tuple[str, ...]
    ssl_context: ssl.SSLContext | None
    connect_timeout: float
    disconnect_timeout: float
    max_message_size: int

    @property
    def name(self) -> str:
        """The URL without what is secret in it."""
        return _public(self.parts)

    def __repr__(self) -> str:
        return f"websocket_feed({self.name!r})"

    async def __call__(self, send_channel: trio.abc.SendChannel[str | bytes]) -> None:
        """Connect, and send every message on *send_channel* until the server closes."""
        async with _open_connection(self) as connection:
            while True:
                try:
                    message = await connection.get_message()
                except ConnectionClosed as closed:
                    _check_end(self, closed)
                    return
                await send_channel.send(message)


def _check_end(feed: WebsocketFeed, closed: ConnectionClosed) -> None:
    # No reason at all: the library has dropped the connection over a breach of the protocol.
    code = ABNORMAL_CLOSE if closed.reason is None else closed.reason.code
    if code in NORMAL_CLOSES:
        return
    said = closed.reason and closed.reason.reason
    message = f"{feed.name} ended with code {code}" + (f": {said!r}" if said else "")
    if code == MESSAGE_TOO_BIG:
        message += "; a larger max_message_size would let it pass"
    raise FeedError(message, code=code) from closed


# Opening and closing. open_websocket_url() of trio-websocket 0.12 does the same, but leaves the
# socket to the garbage collector if the handshake fails, waits for its whole timeout if the
# server hangs up during it, loses the cause of a TLS error, and waits without limit for the
# server to close TCP (tests/streams/test_websocket_feed.py).


@asynccontextmanager
async def _open_connection(feed: WebsocketFeed) -> AsyncIterator[WebSocketConnection]:
    connection: WebSocketConnection | None = None
    body_error: BaseException | None = None
    try:
        with unwrapping(), ExitStack() as sockets:
            async with trio.open_nursery() as nursery:
                with trio.fail_after(feed.connect_timeout):
                    stream = await _open_stream(feed, sockets)
                    connection = await _shake_hands(feed, nursery, stream)
                try:
                    yield connection
                except BaseException as error:
                    body_error = error
                    raise
                # RFC 6455, 7.1.1: it is the server's turn to close TCP. The library's reader sees
                # it, and is all that the nursery still waits for.
                nursery.cancel_scope.deadline = trio.current_time() + feed.disconnect_timeout
    except Exception as error:
        if error is body_error:
            raise
        _fail(feed, error, None if connection is None else ABNORMAL_CLOSE)
    finally:
        del body_error  # or it would be part of a reference cycle


async def _open_stream(feed: WebsocketFeed, sockets: ExitStack) -> trio.abc.Stream:
    """Connect TCP and TLS; leaving *sockets* closes, without waiting for anybody."""
    host = feed.parts.hostname or ""
    secure = feed.parts.scheme == "wss"
    tcp_stream = await trio.open_tcp_stream(host, feed.parts.port or (443 if secure else 80))
    sockets.enter_context(closing(tcp_stream.socket))
    if not secure:
        return tcp_stream
    ssl_context = feed.ssl_context
    if ssl_context is None:
        # In a thread: it reads and parses the system's certificates, which takes 15 ms.
        ssl_context = await trio.to_thread.run_sync(
            ssl.create_default_context, abandon_on_cancel=True
        )
    # https_compatible: TLS has a goodbye of its own, and few servers answer it.
    ssl_stream = trio.SSLStream(
        tcp_stream, ssl_context, server_hostname=host, https_compatible=True
    )
    await ssl_stream.do_handshake()
    return ssl_stream


async def _shake_hands(
    feed: WebsocketFeed, nursery: trio.Nursery, stream: trio.abc.Stream
) -> WebSocketConnection:
    guarded = _GuardedStream(stream, trio.CancelScope())
    with guarded.handshake:
        return await wrap_client_stream(
            nursery,
            guarded,  # type: ignore[arg-type]  # documented as "an arbitrary stream"
            feed.parts.netloc.rpartition("@")[2],
            (feed.parts.path or "/") + (feed.parts.query and f"?{feed.parts.query}"),
            subprotocols=feed.subprotocols,
            extra_headers=list(feed.headers),
            message_queue_size=0,  # our channel is where messages wait
            max_message_size=feed.max_message_size,
            receive_buffer_size=RECEIVE_SIZE,
        )
    raise trio.BrokenResourceError(guarded.problem)


@attrs.define(eq=False)
class _GuardedStream(trio.abc.Stream):
    """Cancels the opening handshake when it can no longer succeed.

    trio-websocket 0.12 goes on waiting for an answer after the connection has ended, and collects
    the body of a refusal without limit. Once the handshake is done, cancelling it has no effect.
    """

    stream: trio.abc.Stream
    handshake: trio.CancelScope
    problem: str = ""
    received: int = 0
    first_line: bytes = b""

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        try:
            data = await self.stream.receive_some(max_bytes)
        except trio.BrokenResourceError as error:
            self._give_up(str(error))
            raise
        if self.received <= HANDSHAKE_SIZE:
            self._watch(data)
        return data

    def _watch(self, data: bytes | bytearray) -> None:
        if not self.received:
            self.first_line = bytes(data).partition(b"\r\n")[0]
        self.received += len(data)
        if not data:
            self._give_up("the server closed the connection during the handshake")
        elif self.received > HANDSHAKE_SIZE:
            self._give_up("the server's answer is too long")

    def _give_up(self, problem: str) -> None:
        answer = self.first_line[:80].decode("latin-1")
        self.problem = f"{problem}, after {answer!r}" if answer else problem
        self.handshake.cancel(self.problem)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        try:
            await self.stream.send_all(data)
        except trio.BrokenResourceError as error:
            self._give_up(str(error))
            raise

    async def wait_send_all_might_not_block(self) -> None:
        await self.stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self.stream.aclose()


def _fail(feed: WebsocketFeed, error: Exception, code: int | None) -> NoReturn:
    raise FeedError(f"{feed.name} failed: {_describe(feed, error)}", code=code) from error


def _describe(feed: WebsocketFeed, error: Exception) -> str:
    match error:
        case trio.TooSlowError():
            return f"not open after {feed.connect_timeout} seconds (connect_timeout)"
        case ConnectionRejected():
            return f"the server answered {error.status_code} instead of opening a WebSocket"
        case trio.BrokenResourceError(__cause__=Exception() as cause):
            return str(cause) or repr(cause)  # a TLS error: Trio's own text says nothing
        case _:
            return str(error) or repr(error)


# Checks, at the call of websocket_feed().


def _checked(url: str) -> SplitResult:
    parts = urlsplit(url)
    name = _public(parts)
    if not _VISIBLE_ASCII.fullmatch(url):
        raise ValueError(
            f"the URL {name!r} has characters that cannot be sent; percent-encode the path and "
            "the query (urllib.parse.quote), and write the host in ASCII"
        )
    if parts.scheme not in ("ws", "wss"):
        raise ValueError(
            f"websocket_feed() takes a URL with ws:// (for http://) or wss:// (for https://), "
            f"not {name!r}"
        )
    if not parts.hostname:
        raise ValueError(f"the URL {name!r} has no host; write {parts.scheme}://host/path")
    if "#" in url:
        raise ValueError(f"a WebSocket URL has no fragment; write %23 for the # in {name!r}")
    parts.port  # noqa: B018  # raises ValueError if it is not a port
    return parts


def _public(parts: SplitResult) -> str:
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def _wire_headers(
    headers: Mapping[str, str] | Iterable[tuple[str, str]], parts: SplitResult
) -> tuple[tuple[bytes, bytes], ...]:
    pairs = list(headers.items() if isinstance(headers, Mapping) else headers)
    for name, value in pairs:
        _checked_token(name)
        if _HANDSHAKE_HEADERS.fullmatch(name):
            raise ValueError(
                f"the header {name!r} belongs to the handshake; leave it out "
                "(for Sec-WebSocket-Protocol there is subprotocols=)"
            )
        if not _FIELD_VALUE.fullmatch(value):
            raise ValueError(
                f"the value of the header {name!r} has control characters or characters outside "
                "Latin-1; encode it"
            )
    if parts.username is not None and not any(n.lower() == "authorization" for n, _ in pairs):
        pairs.append(("Authorization", _basic(parts)))
    return tuple((name.encode("ascii"), value.encode("latin-1")) for name, value in pairs)


def _basic(parts: SplitResult) -> str:
    user = unquote_to_bytes(parts.username or "")
    password = unquote_to_bytes(parts.password or "")
    return "Basic " + b64encode(user + b":" + password).decode("ascii")


def _checked_token(name: str) -> str:
    if not _TOKEN.fullmatch(name):
        raise ValueError(
            f"{name!r} is not the name of a header or subprotocol; it has letters, digits and "
            "!#$%&'*+-.^_`|~ only"
        )
    return name
