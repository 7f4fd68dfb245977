"""WebSocket handshakes and frames by hand, right and wrong ones, and what came back."""

from __future__ import annotations

import struct
from enum import IntEnum

import attrs

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
MASK = b"\x12\x34\x56\x78"


class Op(IntEnum):
    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10


def upgrade(
    path: bytes = b"/ws",
    *extra: bytes,
    method: bytes = b"GET",
    version: bytes = b"1.1",
    leave_out: tuple[bytes, ...] = (),
) -> bytes:
    """Build a handshake: each of *extra* is a header line, each of *leave_out* a name."""
    lines = [
        b"Host: localhost",
        b"Connection: Upgrade",
        b"Upgrade: websocket",
        b"Sec-WebSocket-Version: 13",
        b"Sec-WebSocket-Key: " + KEY,
    ]
    left = [line for line in lines if line.split(b":")[0].lower() not in leave_out]
    request_line = b"%s %s HTTP/%s" % (method, path, version)
    return b"\r\n".join([request_line, *left, *extra, b"", b""])


def ws_frame(
    op: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    masked: bool = True,
    length: int | None = None,
    width: int | None = None,
) -> bytes:
    """Build any frame as a client sends it.

    Args:
      op: the opcode, 4 bits.
      payload: before masking.
      fin: the last frame of its message.
      rsv: the three reserved bits.
      masked: a client's frames must be.
      length: what is said of the payload's size, which may be a lie.
      width: bytes of the extended length, 0, 2 or 8, if not the fewest that are enough.
    """
    size = len(payload) if length is None else length
    if width is None:
        width = 0 if size < 126 else 2 if size < 2**16 else 8
    first = (0x80 if fin else 0) | rsv << 4 | op
    short = {0: size, 2: 126, 8: 127}[width]
    head = struct.pack(">BB", first, short | (0x80 if masked else 0))
    extended = size.to_bytes(width, "big") if width else b""
    if not masked:
        return head + extended + payload
    mixed = bytes(byte ^ MASK[i % 4] for i, byte in enumerate(payload))
    return head + extended + MASK + mixed


def close(code: int | None = 1000, reason: bytes = b"") -> bytes:
    payload = b"" if code is None else struct.pack(">H", code) + reason
    return ws_frame(Op.CLOSE, payload)


@attrs.frozen
class WSAnswer:
    """The frames of a server, after the head of its handshake.

    Attributes:
      frames: (opcode, payload) of each.
      rest: an incomplete frame at the end.
      faults: what a server may not send.
    """

    frames: list[tuple[int, bytes]]
    rest: bytes
    faults: list[str]

    @classmethod
    def of(cls, data: bytes) -> WSAnswer:
        """Parse the frames that follow a 101 in *data*, or all of it if there is no head."""
        if data.startswith(b"HTTP/1.1"):
            data = data.partition(b"\r\n\r\n")[2] if data.startswith(b"HTTP/1.1 101") else b""
        frames: list[tuple[int, bytes]] = []
        faults: list[str] = []
        while len(data) >= 2:
            short = data[1] & 0x7F
            start = 2 + {126: 2, 127: 8}.get(short, 0)
            if len(data) < start:
                break
            size = short if start == 2 else int.from_bytes(data[2:start], "big")
            if len(data) < start + size:
                break
            if data[1] & 0x80:
                faults.append("a masked frame")
            if any(op == Op.CLOSE for op, _ in frames):
                faults.append("a frame after the Close")
            frames.append((data[0] & 0x0F, data[start : start + size]))
            data = data[start + size :]
        return cls(frames, data, faults)

    @property
    def code(self) -> int | None:
        """The code of the Close frame; 1005 if it has none, None if there is no such frame."""
        for op, payload in self.frames:
            if op == Op.CLOSE:
                return int.from_bytes(payload[:2], "big") if payload else 1005
        return None

    def payloads(self, op: int) -> list[bytes]:
        return [payload for found, payload in self.frames if found == op]
