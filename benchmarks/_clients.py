"""Raw clients that do little but count bytes, so that it is the server that is measured."""

from __future__ import annotations

import re
import select
import socket
import struct
from collections.abc import Sequence

BUFFER_SIZE = 1024 * 1024  # bytes: what one call of the kernel may give
BLOCK = b"x" * (256 * 1024)  # bytes: what one call of the kernel is given of an upload


class Wire:
    """The bytes that come from a socket, taken without copying those that only count."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._buffer = bytearray(BUFFER_SIZE)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0

    def fill(self) -> None:
        """Wait for more bytes; the connection's end is an error."""
        rest = self._view[self._start : self._end]
        self._start, self._end = 0, len(rest)
        self._view[: self._end] = rest
        size = self.sock.recv_into(self._view[self._end :])
        assert size, "the server closed the connection"
        self._end += size

    def take(self, size: int) -> bytes:
        while self._end - self._start < size:
            self.fill()
        self._start += size
        return bytes(self._view[self._start - size : self._start])

    def take_until(self, end: bytes) -> bytes:
        """Take what comes before *end*, which is dropped."""
        while (at := self._buffer.find(end, self._start, self._end)) < 0:
            self.fill()
        taken = bytes(self._view[self._start : at])
        self._start = at + len(end)
        return taken

    def skip(self, size: int) -> None:
        while size > (ready := self._end - self._start):
            size -= ready
            self._start = self._end = 0
            self.fill()
        self._start += size

    @property
    def empty(self) -> bool:
        return self._start == self._end


def request(path: str, *lines: str, method: str = "GET") -> bytes:
    """Give the head of an HTTP/1.1 request."""
    return "\r\n".join([f"{method} {path} HTTP/1.1", "host: localhost", *lines, "", ""]).encode()


def take_head(wire: Wire, status: int = 200) -> bytes:
    head = wire.take_until(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d" % status), head
    return head


def count_chunked(wire: Wire) -> int:
    """Take a chunked body up to its clean end, and give its size without the framing."""
    total = 0
    while size := int(wire.take_until(b"\r\n"), 16):
        wire.skip(size + 2)
        total += size
    assert wire.take(2) == b"\r\n"
    return total


def take_hello(wire: Wire) -> None:
    take_head(wire)
    assert wire.take(5) == b"hello"


def ask_hellos(socks: Sequence[socket.socket], count: int) -> None:
    """Make *count* requests, always one at a time on each of *socks*."""
    wires = {sock.fileno(): Wire(sock) for sock in socks}
    head = request("/hello")
    poller = select.poll()
    for sock in socks:
        poller.register(sock, select.POLLIN)
        sock.sendall(head)
    asked, answered = len(socks), 0
    while answered < count:
        for fileno, _ in poller.poll():
            wire = wires[fileno]
            take_hello(wire)
            assert wire.empty
            answered += 1
            if asked < count:
                wire.sock.sendall(head)
                asked += 1


def ask_number(sock: socket.socket, path: str) -> int:
    sock.sendall(request(path))
    return take_number(sock)


def take_number(sock: socket.socket) -> int:
    """Wait for a response whose body is a number."""
    wire = Wire(sock)
    length = re.search(rb"content-length: (\d+)", take_head(wire))
    assert length is not None
    return int(wire.take(int(length[1])))


def ask_stream(sock: socket.socket, count: int, size: int) -> None:
    sock.sendall(request(f"/stream?count={count}&size={size}"))
    wire = Wire(sock)
    assert b"chunked" in take_head(wire)
    assert count_chunked(wire) == count * size
    assert wire.empty


def upload(sock: socket.socket, size: int) -> None:
    sock.sendall(request("/upload", f"content-length: {size}", method="POST"))
    for _ in range(size // len(BLOCK)):
        sock.sendall(BLOCK)
    wire = Wire(sock)
    take_head(wire)
    answer = b"%d" % size
    assert wire.take(len(answer)) == answer


def open_websocket(sock: socket.socket, path: str) -> Wire:
    """Shake hands, and give what comes after that."""
    sock.sendall(
        request(
            path,
            "connection: upgrade",
            "upgrade: websocket",
            "sec-websocket-version: 13",
            "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
        )
    )
    wire = Wire(sock)
    take_head(wire, 101)
    return wire


def echo(sock: socket.socket, count: int, at_once: int) -> None:
    """Send *count* messages of 100 bytes, *at_once* before their echoes are waited for."""
    wire = open_websocket(sock, "/echo")
    body = bytes(range(100))
    # A final binary frame; a client's is masked, here with zeros, which change nothing.
    sent = (b"\x82\xe4" + bytes(4) + body) * at_once
    echoed = (b"\x82\x64" + body) * at_once
    for _ in range(count // at_once):
        sock.sendall(sent)
        assert wire.take(len(echoed)) == echoed
    assert wire.empty


DATA, HEADERS, RST_STREAM, SETTINGS, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 7, 8
END_STREAM, END_HEADERS = 1, 4
INITIAL_WINDOW_SIZE = 4  # the setting
DEFAULT_WINDOW = 65_535  # bytes: of a connection and of a stream, unless said otherwise
MAX_WINDOW = 2**31 - 1  # bytes
STATUS_200 = 0x88  # in HPACK


def frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + struct.pack(">BBI", kind, flags, stream_id) + payload


def field(name_index: int, value: bytes) -> bytes:
    """Encode a header of HPACK's static table, as a literal that is not remembered."""
    return bytes([name_index, len(value)]) + value


class H2Client:
    """One HTTP/2 connection (prior knowledge) whose windows are never closed, unless asked."""

    def __init__(self, sock: socket.socket, window: int = MAX_WINDOW) -> None:
        self.sock = sock
        self.wire = Wire(sock)
        self._next_id = 1
        settings = frame(SETTINGS, 0, 0, struct.pack(">HI", INITIAL_WINDOW_SIZE, window))
        hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings
        if window > DEFAULT_WINDOW:
            hello += frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", window - DEFAULT_WINDOW))
        sock.sendall(hello)

    def request(self, path: str, count: int = 1) -> None:
        """Ask *count* times for *path* (GET)."""
        head = b"\x82\x86" + field(4, path.encode()) + field(1, b"localhost")
        first, self._next_id = self._next_id, self._next_id + 2 * count
        ids = range(first, self._next_id, 2)
        flags = END_STREAM | END_HEADERS
        self.sock.sendall(b"".join(frame(HEADERS, flags, stream_id, head) for stream_id in ids))

    def take_frames(self, streams: int = 1) -> tuple[int, int]:
        """Take what comes until at least *streams* have ended and no frame is left half taken.

        Gives how many ended, and the bytes of DATA.
        """
        wire, ended, total = self.wire, 0, 0
        while ended < streams or not wire.empty:
            high, low, kind, flags, _ = struct.unpack(">HBBBI", wire.take(9))
            size = high << 8 | low
            if kind == DATA:
                wire.skip(size)
                total += size
                ended += flags & END_STREAM
            elif kind == HEADERS:
                assert wire.take(size)[0] == STATUS_200
                ended += flags & END_STREAM
            elif kind == SETTINGS and not flags:
                wire.skip(size)
                self.sock.sendall(frame(SETTINGS, 1, 0, b""))
            else:
                assert kind not in (RST_STREAM, GOAWAY), f"the server gave up: frame {kind}"
                wire.skip(size)
        return ended, total


def ask_h2_hellos(sock: socket.socket, count: int, at_once: int) -> None:
    """Make *count* requests on one connection, *at_once* of them always under way."""
    client = H2Client(sock)
    client.request("/hello", at_once)
    asked, answered, size = at_once, 0, 0
    while answered < count:
        ended, data = client.take_frames()
        answered += ended
        size += data
        again = min(ended, count - asked)
        client.request("/hello", again)
        asked += again
    assert size == count * len(b"hello")


def ask_h2_stream(sock: socket.socket, count: int, size: int) -> None:
    client = H2Client(sock)
    client.request(f"/stream?count={count}&size={size}")
    assert client.take_frames() == (1, count * size)
