"""Bytes that come in pieces, to be one."""

from __future__ import annotations

MANY = 256  # pieces, that are worth one copy


class Pieces:
    """Joins pieces, and copies large ones once; of many small ones it keeps the bytes alone.

    A client may send a body byte by byte, and a list of such pieces takes thirty times their size.
    """

    def __init__(self) -> None:
        self.size = 0  # bytes
        self._joined = bytearray()
        self._pieces: list[bytes | memoryview] = []

    def add(self, piece: bytes | memoryview) -> None:
        """Add a piece at the end."""
        self.size += len(piece)
        self._pieces.append(piece)
        if len(self._pieces) >= MANY:
            self._joined += b"".join(self._pieces)
            self._pieces.clear()

    def join(self) -> bytes:
        """Give all of them as one."""
        if not self._joined:
            return b"".join(self._pieces)  # which is the piece itself, if it is one of bytes
        return bytes(self._joined) + b"".join(self._pieces)
