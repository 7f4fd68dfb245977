"""The bytes of one HTTP/1 response."""

from __future__ import annotations

from typing import TYPE_CHECKING

import h11

from tsstream._server.output import Output

if TYPE_CHECKING:
    from tsstream._server.server import Server

CHUNKED = b"\r\nTransfer-Encoding: chunked\r\n"  # as h11 writes it


class ResponseWriter:
    """Write one response: its head leaves with the first of its body, its end with the last.

    Args:
      engine: the connection's h11, in this cycle.
      output: where it goes.
      server: for the headers that it adds.

    Attributes:
      begun: there is a head, and so h11 makes no other one.
      sent: some of it has left.
    """

    def __init__(self, engine: h11.Connection, output: Output, server: Server) -> None:
        self.begun = self.sent = False
        self._h11 = engine
        self._output = output
        self._server = server
        self._chunked = False
        self._kept: list[bytes] = []

    def begin(self, status_code: int, headers: list[tuple[bytes, bytes]], *, close: bool) -> None:
        """Take the head.

        Args:
          status_code: of a final response.
          headers: the application's.
          close: the connection will not be used again; say so.

        Raises:
          h11.LocalProtocolError: it is invalid; another one can still be sent.
        """
        headers = [*headers, *self._server.response_headers("h11")]
        if close:
            headers.append((b"connection", b"close"))
        # Made before h11's state changes.
        response = h11.Response(status_code=status_code, headers=headers)
        head = self._h11.send(response) or b""
        self._chunked = CHUNKED in head
        self._kept = [head]
        self.begun = True

    async def write(self, data: bytes, *, last: bool) -> None:
        """Send *data*; if it is the last, keep it for :meth:`end`."""
        self._keep(data)
        if not last:
            await self._send_kept()

    def write_now(self, data: bytes) -> int | None:
        """Send *data* behind other data, unless some of that is on its way.

        Gives how many bytes the client has not taken yet; None if nothing was sent.
        """
        if not self._output.idle:
            return None
        self._keep(data)
        self._output.write_soon(*self._kept)
        self._kept = []
        return self._output.backlog

    def _keep(self, data: bytes) -> None:
        if not self._chunked:  # h11 counts what it was told, or drops what has no place
            self._kept.append(self._h11.send(h11.Data(data=data)) or b"")
        elif data:
            # RFC 9112, 7.1. h11 does no more for it, but copies the data.
            self._kept += (b"%x\r\n" % len(data), data, b"\r\n")

    async def end(self) -> None:
        """Send the end.

        Raises:
          h11.LocalProtocolError: the body is shorter than its Content-Length.
        """
        try:
            self._kept.append(self._h11.send(h11.EndOfMessage()) or b"")
        except h11.LocalProtocolError:
            await self._send_kept()  # noqa: ASYNC120 (its Cancelled is as good)
            raise
        await self._send_kept()

    async def switch_protocols(self, headers: list[tuple[bytes, bytes]]) -> None:
        """Send a 101."""
        headers = [*headers, *self._server.response_headers("h11")]
        response = h11.InformationalResponse(status_code=101, headers=headers)
        await self._output.write(self._h11.send(response) or b"")

    @property
    def possible(self) -> bool:
        """A response in the application's place can be sent."""
        return not self.begun and self._h11.our_state in (h11.IDLE, h11.SEND_RESPONSE)

    def go_on(self) -> None:
        """Send 100 Continue."""
        event = h11.InformationalResponse(status_code=100, headers=[])
        self._output.write_soon(self._h11.send(event) or b"")

    def refuse(self, status_code: int) -> None:
        """Send a response in the application's place, after which the connection closes."""
        self.begin(status_code, [(b"content-length", b"0")], close=True)
        self._output.write_soon(*self._kept, self._h11.send(h11.EndOfMessage()) or b"")

    def replace(self, status_code: int) -> None:
        """Send another response than the one that was begun, and of which nothing has left."""
        engine = h11.Connection(h11.SERVER)
        engine.receive_data(b"GET / HTTP/1.0\r\n\r\n")  # of which h11 wants to know
        engine.next_event()
        ResponseWriter(engine, self._output, self._server).refuse(status_code)

    async def _send_kept(self) -> None:
        pieces, self._kept, self.sent = self._kept, [], True
        await self._output.write(*pieces)
