"""What examples/upload.py shows at ``/stats``: how much was taken, and how much was held of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import attrs
import trio


@attrs.define
class Meter:
    """Counts what a program has taken of its clients.

    Attributes:
      streams: requests and WebSockets whose handler or response is at work now.
      bytes_taken: of all uploads and all WebSocket messages, since the start.
      peak_buffered: the most bytes of one upload that the program has held at a time. It holds a
        chunk until it asks for the next one, and the fields of a form until it answers.
    """

    streams: int = 0
    bytes_taken: int = 0
    peak_buffered: int = 0

    @contextmanager
    def stream(self) -> Iterator[None]:
        """Count the block as a stream."""
        self.streams += 1
        try:
            yield
        finally:
            self.streams -= 1

    @contextmanager
    def upload(self, body: trio.abc.ReceiveChannel[bytes]) -> Iterator[Upload]:
        """Count the block as a stream, and give its *body*, metered."""
        with self.stream():
            yield Upload(self, body)

    def take(self, data: str | bytes, *, kept: int = 0) -> int:
        """Count *data*, held besides *kept* bytes of the same upload; give its size in bytes."""
        size = len(data.encode() if isinstance(data, str) else data)
        self.bytes_taken += size
        self.peak_buffered = max(self.peak_buffered, kept + size)
        return size


@attrs.define(eq=False)
class Upload(trio.abc.ReceiveChannel[bytes]):
    """The chunks of a body, or of a part of one, and their sizes."""

    meter: Meter
    source: trio.abc.ReceiveChannel[bytes]
    kept: int = 0  # bytes of the same upload that are held besides
    size: int = 0
    chunks: int = 0

    async def receive(self) -> bytes:
        """Give the next chunk."""
        chunk = await self.source.receive()
        self.size += self.meter.take(chunk, kept=self.kept)
        self.chunks += 1
        return chunk

    async def aclose(self) -> None:
        """Close the body."""
        await self.source.aclose()
