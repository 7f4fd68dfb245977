"""Items in, batches of bytes out: encode, gather, cut to size, count."""

from __future__ import annotations

from collections import deque

from .encoders import Encoder

BATCH_SIZE = 64 * 1024  # bytes: one send; larger ones only delay the look at a disconnect (D34)


class LengthMismatch(RuntimeError):
    """The body is not as long as its Content-Length says (D37, D38)."""


class Outbox:
    """What a response has still to send.

    The writer puts in whatever is ready and takes out one batch per send. Empty chunks vanish
    (AC-27), a huge chunk leaves in batches of :data:`BATCH_SIZE` without being copied as a whole
    (AC-28).

    Args:
      encoder: turns an item into bytes.
      declared: the Content-Length in bytes, or ``None`` if there is none.
    """

    def __init__(self, encoder: Encoder, *, declared: int | None = None) -> None:
        self._encode = encoder.encode
        self._declared = declared
        self._pieces: deque[bytes | memoryview] = deque()
        self._put = 0  # bytes, ever
        self.size = 0  # bytes waiting

    @property
    def full(self) -> bool:
        """A whole batch is waiting: gathering more would only hold memory."""
        return self.size >= BATCH_SIZE

    def put(self, item: object) -> None:
        """Encode *item* and keep its bytes.

        Raises:
          LengthMismatch: the body would become longer than declared; *item* is not kept.
          TypeError: the encoder takes no items of this type.
        """
        piece = self._encode(item)
        size = len(piece)
        if not size:
            return
        if self._declared is not None and self._put + size > self._declared:
            raise LengthMismatch(
                f"the response declared a Content-Length of {self._declared} bytes, "
                f"and its body gives more (at least {self._put + size})"
            )
        self._pieces.append(piece)
        self._put += size
        self.size += size

    def take(self) -> bytes:
        """Give the next batch: all that waits, :data:`BATCH_SIZE` at most, ``b""`` if nothing."""
        room = BATCH_SIZE
        batch: list[bytes | memoryview] = []
        while self._pieces and room:
            piece = self._pieces.popleft()
            if len(piece) > room:
                view = memoryview(piece)
                self._pieces.appendleft(view[room:])
                piece = view[:room]
            batch.append(piece)
            room -= len(piece)
        self.size -= BATCH_SIZE - room
        return b"".join(batch)

    def check_complete(self) -> None:
        """Raise :class:`LengthMismatch` if the body ended before its Content-Length."""
        if self._declared is not None and self._put != self._declared:
            raise LengthMismatch(
                f"the response declared a Content-Length of {self._declared} bytes, "
                f"and its body ended after {self._put}"
            )
