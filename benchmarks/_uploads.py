"""Raw clients that send a large body, and check that the server has counted it."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from typing import TypeAlias

from benchmarks._clients import (
    BLOCK,
    DATA,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    H2Client,
    field,
    frame,
    request,
    take_number,
)

Upload: TypeAlias = Callable[[socket.socket, str, int], None]  # to a path, so many bytes
FRAME_SIZE = 16 * 1024  # bytes: the protocol's default
WINDOWS = (0, 1)  # of the connection, and of the first stream
BOUNDARY = "benchmark"
FORM_TYPE = f"multipart/form-data; boundary={BOUNDARY}"
PART_HEAD = (
    f'--{BOUNDARY}\r\ncontent-disposition: form-data; name="file"; filename="file"\r\n'
    "content-type: application/octet-stream\r\n\r\n"
).encode()
FORM_END = f"\r\n--{BOUNDARY}--\r\n".encode()


def upload_with_length(sock: socket.socket, path: str, size: int) -> None:
    sock.sendall(request(path, f"content-length: {size}", method="POST"))
    send_blocks(sock, BLOCK, size // len(BLOCK))
    assert take_number(sock) == size


def upload_chunked(chunk_size: int) -> Upload:
    """Give a function that uploads in chunks of that many bytes (RFC 9112, 7.1)."""
    chunk = b"%x\r\n%b\r\n" % (chunk_size, b"x" * chunk_size)
    at_once = len(BLOCK) // chunk_size

    def upload(sock: socket.socket, path: str, size: int) -> None:
        sock.sendall(request(path, "transfer-encoding: chunked", method="POST"))
        send_blocks(sock, chunk * at_once, size // len(BLOCK))
        sock.sendall(b"0\r\n\r\n")
        assert take_number(sock) == size

    return upload


def upload_form(sock: socket.socket, path: str, size: int) -> None:
    """Upload a form with one file; what counts the whole body finds more than its size."""
    whole = len(PART_HEAD) + size + len(FORM_END)
    lines = f"content-type: {FORM_TYPE}", f"content-length: {whole}"
    sock.sendall(request(path, *lines, method="POST") + PART_HEAD)
    send_blocks(sock, BLOCK, size // len(BLOCK))
    sock.sendall(FORM_END)
    assert take_number(sock) in (size, whole)


def send_blocks(sock: socket.socket, block: bytes, count: int) -> None:
    for _ in range(count):
        sock.sendall(block)


def upload_h2(sock: socket.socket, path: str, size: int) -> None:
    """Upload on the first stream of a connection, as fast as the server's windows allow."""
    upload = H2Upload(sock)
    upload.begin(path)
    upload.send(size)
    assert upload.take_number() == size


class H2Upload(H2Client):
    """One upload on one HTTP/2 connection (prior knowledge)."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self._credit = dict.fromkeys(WINDOWS, DEFAULT_WINDOW)
        self._initial = DEFAULT_WINDOW
        self._answer = b""
        self._ended = False

    def begin(self, path: str) -> None:
        head = b"\x83\x86" + field(4, path.encode()) + field(1, b"localhost")
        self.sock.sendall(frame(HEADERS, END_HEADERS, 1, head))

    def send(self, size: int) -> None:
        full = frame(DATA, 0, 1, bytes(FRAME_SIZE))
        while size:
            granted = min(size, *self._credit.values())
            if granted <= 0:
                self._take_frame()
                continue
            count, rest = divmod(granted, FRAME_SIZE)
            self.sock.sendall(full * count + (frame(DATA, 0, 1, bytes(rest)) if rest else b""))
            size -= granted
            for window in WINDOWS:
                self._credit[window] -= granted
        self.sock.sendall(frame(DATA, END_STREAM, 1, b""))

    def take_number(self) -> int:
        while not self._ended:
            self._take_frame()
        return int(self._answer)

    def _take_frame(self) -> None:
        high, low, kind, flags, stream_id = struct.unpack(">HBBBI", self.wire.take(9))
        payload = self.wire.take(high << 8 | low)
        self._ended |= kind in (DATA, HEADERS) and bool(flags & END_STREAM)
        if kind == WINDOW_UPDATE:
            self._credit[stream_id] += int.from_bytes(payload, "big")
        elif kind == DATA:
            self._answer += payload
        elif kind == SETTINGS and not flags:
            self._adopt(payload)
            self.sock.sendall(frame(SETTINGS, 1, 0, b""))
        else:
            assert kind not in (RST_STREAM, GOAWAY), f"the server gave up: frame {kind}"

    def _adopt(self, settings: bytes) -> None:
        for name, value in struct.iter_unpack(">HI", settings):
            if name == INITIAL_WINDOW_SIZE:
                self._credit[1] += value - self._initial
                self._initial = value
