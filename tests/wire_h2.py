"""A raw HTTP/2 client with prior knowledge, one task reading for all streams."""

from __future__ import annotations

import math
import socket
import struct
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from itertools import count

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings
import trio

from tsstream._util import unwrapping

HOST = "127.0.0.1"
RECEIVE_SIZE = 64 * 1024  # bytes
INITIAL_WINDOW = 65_535  # bytes: the protocol's own default for a stream
CONNECTION_WINDOW = 2**24  # bytes: so that one unread stream does not stall the others


class Truncated(Exception):
    """The peer ended a body, a head, a stream or the connection before its clean end.

    Attributes:
      body: what ``read_body()`` had read of the body until then.
      error_code: of the RST_STREAM or GOAWAY frame that did it, if there was one.
    """

    def __init__(self, message: str, *, error_code: int | None = None) -> None:
        super().__init__(message)
        self.body = b""
        self.error_code = error_code


@asynccontextmanager
async def open_h2(
    port: int, *, window: int = INITIAL_WINDOW, credit: bool = True
) -> AsyncIterator[H2Connection]:
    """Connect to *port* for HTTP/2 without TLS; leaving the block closes the socket.

    Args:
      port: on 127.0.0.1.
      window: bytes that the server may send on each stream before it gets more credit.
      credit: whether a chunk gives its window back when it is read; if not, only
        :meth:`H2Connection.grant` does.
    """
    connection = H2Connection(await trio.open_tcp_stream(HOST, port), window, credit=credit)
    with unwrapping():
        async with trio.open_nursery() as nursery:
            try:
                await connection._start()
                nursery.start_soon(connection._run_reader)
                nursery.start_soon(connection._run_creditor)
                yield connection
                nursery.cancel_scope.cancel()
            finally:
                connection.close()


class H2Connection:
    """One HTTP/2 connection; each stream's events wait, in order, to be taken."""

    def __init__(self, stream: trio.SocketStream, window: int, *, credit: bool) -> None:
        self.stream = stream
        self.credit = credit
        self.terminated: h2.events.ConnectionTerminated | None = None
        self._h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=True, header_encoding="latin-1")
        )
        codes = h2.settings.SettingCodes
        self._h2.local_settings = h2.settings.Settings(
            client=True,
            initial_values={codes.ENABLE_PUSH: 0, codes.INITIAL_WINDOW_SIZE: window},
        )
        self._send_lock = trio.Lock()
        # Unbounded: what arrives is bounded by the window, and by the test.
        self._events: dict[
            int,
            tuple[
                trio.MemorySendChannel[h2.events.Event], trio.MemoryReceiveChannel[h2.events.Event]
            ],
        ] = {}
        self._pings = count(1)
        self._pongs: dict[bytes, trio.Event] = {}
        self._window_updated = trio.Event()
        self._credit_given = trio.Event()
        self._closed = False

    async def request(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        *,
        end_stream: bool = True,
    ) -> int:
        """Send a request, with its *body* if there is one; give the stream id."""
        self._check_open()
        stream_id = self._h2.get_next_available_stream_id()
        self._events[stream_id] = trio.open_memory_channel(math.inf)
        pseudo = {":method": method, ":scheme": "http", ":authority": HOST, ":path": path}
        self._h2.send_headers(
            stream_id, [*pseudo.items(), *(headers or {}).items()], end_stream and not body
        )
        await self._flush()
        if body:
            await self.send_data(stream_id, body, end_stream=end_stream)
        return stream_id

    async def send_data(self, stream_id: int, data: bytes, *, end_stream: bool = False) -> None:
        """Send *data* as DATA frames, waiting for the server's window credit."""
        while True:
            size = min(
                self._h2.local_flow_control_window(stream_id), self._h2.max_outbound_frame_size
            )
            if data and size <= 0:
                await self._window_updated.wait()
                self._check_open()
                continue
            piece, data = data[:size], data[size:]
            self._h2.send_data(stream_id, piece, end_stream=end_stream and not data)
            await self._flush()
            if not data:
                return

    async def next_event(self, stream_id: int) -> h2.events.Event:
        """Take the stream's next event: a response's head, DATA, its end or its reset.

        Cancelling it loses nothing.
        The window credit of a DataReceived is given back here if :attr:`credit` is set.

        Raises:
          Truncated: there are no more, because the connection has ended.
        """
        try:
            event = await self._events[stream_id][1].receive()
        except trio.EndOfChannel:
            raise self._truncated() from None
        if isinstance(event, h2.events.DataReceived) and self.credit and not self._over:
            self._h2.acknowledge_received_data(event.flow_controlled_length, stream_id)
            self._credit_given.set()  # not sent here: a cancelled send would lose the event
        return event

    async def read_head(self, stream_id: int) -> tuple[int, dict[str, str]]:
        """Read the response head: the status, and the headers without pseudo-headers.

        Raises:
          Truncated: the stream was reset or the connection ended.
        """
        event = await self.next_event(stream_id)
        if isinstance(event, h2.events.StreamReset):
            raise _reset(event)
        assert isinstance(
            event, h2.events.ResponseReceived | h2.events.InformationalResponseReceived
        ), f"not a response head: {event!r}"
        status, headers = 0, dict[str, str]()
        for field in event.headers or []:
            name, value = str(field[0]), str(field[1])
            if name == ":status":
                status = int(value)
            else:
                headers[name] = f"{headers[name]}, {value}" if name in headers else value
        return status, headers

    async def read_chunk(self, stream_id: int) -> bytes | None:
        """Read the bytes of one DATA frame, or None at END_STREAM.

        Raises:
          Truncated: the stream was reset (see ``error_code``) or the connection ended.
        """
        while True:
            event = await self.next_event(stream_id)
            if isinstance(event, h2.events.StreamReset):
                raise _reset(event)
            if isinstance(event, h2.events.StreamEnded):
                return None
            if isinstance(event, h2.events.DataReceived) and event.data:
                return event.data

    async def read_body(self, stream_id: int) -> bytes:
        """Read up to END_STREAM.

        Raises:
          Truncated: there is none; its ``body`` holds what came.
        """
        body = bytearray()
        try:
            while (chunk := await self.read_chunk(stream_id)) is not None:
                body += chunk
        except Truncated as error:
            error.body = bytes(body)
            raise
        return bytes(body)

    async def grant(self, stream_id: int, size: int) -> None:
        """Give *size* bytes of window credit to one stream (0: to the connection)."""
        self._h2.increment_flow_control_window(size, stream_id or None)
        await self._flush()

    async def reset(
        self, stream_id: int, error_code: h2.errors.ErrorCodes = h2.errors.ErrorCodes.CANCEL
    ) -> None:
        """Send RST_STREAM."""
        self._h2.reset_stream(stream_id, error_code)
        await self._flush()

    async def ping(self) -> float:
        """Send a PING and wait for its answer; give the seconds it took.

        Raises:
          Truncated: the connection ended before the answer.
        """
        data = next(self._pings).to_bytes(8, "big")
        pong = self._pongs[data] = trio.Event()
        self._check_open()
        start = trio.current_time()
        self._h2.ping(data)
        await self._flush()
        await pong.wait()
        self._check_open()
        return trio.current_time() - start

    def close(self) -> None:
        """Close the socket, without a GOAWAY."""
        self._closed = True
        self.stream.socket.close()

    def abort(self) -> None:
        """Close the socket with a reset (RST)."""
        self.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    async def _start(self) -> None:
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(CONNECTION_WINDOW)
        await self._flush()

    @property
    def _over(self) -> bool:
        return self._closed or self.terminated is not None

    async def _flush(self) -> None:
        async with self._send_lock:
            await self.stream.send_all(self._h2.data_to_send())

    async def _run_creditor(self) -> None:
        while True:
            await self._credit_given.wait()
            self._credit_given = trio.Event()
            try:
                await self._flush()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return

    async def _run_reader(self) -> None:
        try:
            while data := await self.stream.receive_some(RECEIVE_SIZE):
                for event in self._h2.receive_data(data):
                    self._take(event)
                await self._flush()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            self._closed = True
            self._window_updated.set()
            for send_channel, _ in self._events.values():
                send_channel.close()
            for pong in self._pongs.values():
                pong.set()

    def _take(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.ConnectionTerminated):
            self.terminated = event
        elif isinstance(event, h2.events.PingAckReceived):
            self._pongs[event.ping_data].set()
        elif isinstance(event, h2.events.WindowUpdated | h2.events.RemoteSettingsChanged):
            self._window_updated.set()
            self._window_updated = trio.Event()
        else:
            stream_id = getattr(event, "stream_id", None)
            if stream_id in self._events:
                self._events[stream_id][0].send_nowait(event)

    def _check_open(self) -> None:
        if self._over:
            raise self._truncated()

    def _truncated(self) -> Truncated:
        if self.terminated is None:
            return Truncated("the connection was closed")
        code = int(self.terminated.error_code or 0)
        return Truncated(f"GOAWAY with error code {code}", error_code=code)


def _reset(event: h2.events.StreamReset) -> Truncated:
    code = int(event.error_code or 0)
    return Truncated(f"RST_STREAM with error code {code}", error_code=code)
