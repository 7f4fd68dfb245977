"""HTTP/2 frames by hand, right and wrong ones, and the frames that came back."""

from __future__ import annotations

import struct
from enum import IntEnum
from functools import cached_property

import attrs
import hpack

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADER_SIZE = 9  # bytes of each frame before its payload

END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
PRIORITISED = 0x20

Fields = tuple[tuple[bytes, bytes], ...]


class Type(IntEnum):
    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9
    ALTSVC = 0xA
    PRIORITY_UPDATE = 0x10
    UNKNOWN = 0xEE


class Code(IntEnum):
    """Error codes of RST_STREAM and GOAWAY (RFC 9113 7)."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11


class Setting(IntEnum):
    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6
    ENABLE_CONNECT_PROTOCOL = 8


def frame(
    kind: int, payload: bytes = b"", *, stream: int = 0, flags: int = 0, length: int | None = None
) -> bytes:
    """Build any frame; *length* may be a lie."""
    size = len(payload) if length is None else length
    return struct.pack(">I", size)[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def settings(*pairs: tuple[int, int], ack: bool = False) -> bytes:
    payload = b"".join(struct.pack(">HI", *pair) for pair in pairs)
    return frame(Type.SETTINGS, payload, flags=ACK if ack else 0)


START = PREFACE + settings()


def literal(fields: Fields) -> bytes:
    """Encode *fields* for HPACK without any table, so that each block stands alone."""
    return b"".join(
        b"\0" + _length(len(name)) + name + _length(len(value)) + value for name, value in fields
    )


def _length(size: int) -> bytes:
    """Encode an integer with a prefix of seven bits (RFC 7541 5.1)."""
    if size < 127:
        return bytes([size])
    rest, out = size - 127, bytearray([127])
    while rest >= 128:
        out.append(rest % 128 + 128)
        rest //= 128
    return bytes([*out, rest])


def pseudo(path: bytes = b"/hello", method: bytes = b"GET") -> Fields:
    """Give the four pseudo-headers of an ordinary request."""
    return (
        (b":method", method),
        (b":scheme", b"http"),
        (b":authority", b"localhost"),
        (b":path", path),
    )


def headers(stream: int, fields: Fields, *, end: bool = True, end_headers: bool = True) -> bytes:
    flags = (END_STREAM if end else 0) | (END_HEADERS if end_headers else 0)
    return frame(Type.HEADERS, literal(fields), stream=stream, flags=flags)


def get(stream: int, path: bytes = b"/hello", *extra: tuple[bytes, bytes]) -> bytes:
    return headers(stream, pseudo(path) + extra)


def post(stream: int, path: bytes = b"/echo", *extra: tuple[bytes, bytes]) -> bytes:
    """Begin a request that has a body."""
    return headers(stream, pseudo(path, b"POST") + extra, end=False)


def data(stream: int, payload: bytes = b"", *, end: bool = False) -> bytes:
    return frame(Type.DATA, payload, stream=stream, flags=END_STREAM if end else 0)


def reset(stream: int, code: int = Code.CANCEL) -> bytes:
    return frame(Type.RST_STREAM, struct.pack(">I", code), stream=stream)


def window_update(stream: int, increment: int) -> bytes:
    return frame(Type.WINDOW_UPDATE, struct.pack(">I", increment), stream=stream)


def websocket(stream: int, path: bytes = b"/ws", *extra: tuple[bytes, bytes]) -> bytes:
    """Ask for a WebSocket with an extended CONNECT (RFC 8441)."""
    protocol = ((b":protocol", b"websocket"), (b"sec-websocket-version", b"13"))
    return headers(stream, pseudo(path, b"CONNECT") + protocol + extra, end=False)


@attrs.frozen
class Frame:
    kind: int
    flags: int
    stream: int
    payload: bytes

    @property
    def code(self) -> int:
        """The error code of a RST_STREAM or GOAWAY."""
        start = 4 if self.kind == Type.GOAWAY else 0
        return int.from_bytes(self.payload[start : start + 4], "big")


def parse(data: bytes) -> tuple[list[Frame], bytes]:
    """Cut *data* into frames; give what is left over."""
    frames = []
    while len(data) >= HEADER_SIZE:
        end = HEADER_SIZE + int.from_bytes(data[:3], "big")
        if len(data) < end:
            break
        kind, flags, stream = struct.unpack(">BBI", data[3:HEADER_SIZE])
        frames.append(Frame(kind, flags, stream, data[HEADER_SIZE:end]))
        data = data[end:]
    return frames, data


@attrs.frozen
class H2Answer:
    """What a server said over HTTP/2."""

    frames: list[Frame]
    rest: bytes = b""

    @classmethod
    def of(cls, data: bytes) -> H2Answer:
        # An answer to an h2c upgrade begins with a head of HTTP/1.1.
        if data.startswith(b"HTTP/1.1 101"):
            data = data.partition(b"\r\n\r\n")[2]
        return cls(*parse(data))

    @property
    def goaway(self) -> int | None:
        """The error code of the last GOAWAY: a first one may only have announced the end."""
        codes = [frame.code for frame in self.frames if frame.kind == Type.GOAWAY]
        return codes[-1] if codes else None

    @property
    def resets(self) -> dict[int, int]:
        return {frame.stream: frame.code for frame in self.frames if frame.kind == Type.RST_STREAM}

    @property
    def ended(self) -> set[int]:
        """The streams with an END_STREAM."""
        return {
            frame.stream
            for frame in self.frames
            if frame.kind in (Type.DATA, Type.HEADERS) and frame.flags & END_STREAM
        }

    @cached_property
    def statuses(self) -> dict[int, int]:
        """Each stream's last status.

        Raises:
          hpack.HPACKError: the server's header blocks cannot be decoded.
        """
        decoder = hpack.Decoder()
        decoder.max_allowed_table_size = 2**32 - 1  # a client may have allowed as much
        found: dict[int, int] = {}
        for item in self.frames:
            if item.kind == Type.HEADERS:
                for name, value in decoder.decode(item.payload, raw=True):
                    if bytes(name) == b":status":
                        found[item.stream] = int(value)
        return found

    def body(self, stream: int) -> bytes:
        return b"".join(
            frame.payload
            for frame in self.frames
            if frame.kind == Type.DATA and frame.stream == stream
        )
