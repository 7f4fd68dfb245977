"""A gzip member whose incompressible stretches are stored, which takes hardly any time."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Protocol

from .extras import isal_zlib

# bytes: what is looked at by itself, and compressed or stored; no reader waits for it, as the
# thread that writes an archive is asked to flush where that matters
STRETCH = 64 * 1024
WINDOW = 32 * 1024  # bytes: how far back Deflate can refer (RFC 1951 2)
SAMPLES, SAMPLE_SIZE = 4, 1024  # of a stretch; bytes
# A look at one byte in so many, before the samples: text has less than a hundred different ones,
# and random bytes have 220 +- 5 of all 256 among the 517 that this gives. Odd, against columns.
LOOK_STEP, LOOK_BAR = 127, 190
# Stretches that are stored because their samples say so, before one is compressed to see whether
# that is still true. A sample does not see what repeats itself farther away.
TRUSTED = 15
GAIN = 0.98  # of its size: what is not smaller than this when compressed is stored

FAST_LEVEL = 1  # of zlib
# Of ISA-L, the one that compresses best: on text it is two to three times as fast as zlib's level
# 1, and its results are smaller. The next one saves a fifth of the time, but does not see what
# repeats itself some KiB away.
ISAL_LEVEL = 3

STORED_MAX = 0xFFFF  # bytes: of a stored block (RFC 1951 3.2.4)
LAST_BLOCK = b"\x01\x00\x00\xff\xff"  # a stored block of nothing, marked as the last
# RFC 1952 2.3.1: Deflate, no name, no time, "fastest algorithm" or not said, an unknown system.
HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00%c\xff"
FASTEST, SLOWEST, UNSAID = 4, 2, 0


class Engine(Protocol):
    """What zlib.compressobj() gives, for Deflate without a frame."""

    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self, mode: int = zlib.Z_FINISH, /) -> bytes: ...


def engine_maker(
    level: int | None,
) -> tuple[Callable[[bytes], Engine], Callable[[bytes, int], int]]:
    """Choose what compresses after a dictionary, and what computes the CRC.

    An explicit level is zlib's, so that it means the same everywhere.
    """
    if level is None and isal_zlib is not None:
        isal = isal_zlib
        return lambda window: isal.compressobj(ISAL_LEVEL, wbits=-15, zdict=window), isal.crc32
    chosen = FAST_LEVEL if level is None else level
    return lambda window: zlib.compressobj(chosen, wbits=-15, zdict=window), zlib.crc32


class GzipCompressor:
    """One member, whatever is in it: tarfile's ``r|gz`` reads no further than the first.

    Video, pictures and what is compressed already do not get smaller, and zlib tries hard. So each
    stretch whose samples do not get smaller is compressed to see, and stored if it did not, and so
    are those that follow, until a sample gets smaller, or it is time to see again.
    """

    def __init__(self, level: int | None = None) -> None:
        self._make_engine, self._update_crc = engine_maker(level)
        self._engine: Engine | None = None  # None while stretches are stored
        self._trusted = 0  # how many more are stored if their samples say so
        self._window = b""  # the end of what was stored
        self._waiting: list[bytes] = []  # less than a stretch in all
        self._waiting_size = 0
        extra = {None: FASTEST, 1: FASTEST, 9: SLOWEST}.get(level, UNSAID)
        self._ready: list[bytes] = [HEADER % extra]
        self._crc = self._size = 0

    def compress(self, data: bytes) -> bytes:
        """Take *data*, and give what is ready of the member."""
        self._crc = self._update_crc(data, self._crc)
        self._size += len(data)
        self._waiting.append(data)
        self._waiting_size += len(data)
        if self._waiting_size >= STRETCH:
            self._add_stretches()
        return self._take_ready()

    def flush(self) -> bytes:
        """Give the rest of what has been taken."""
        self._add_rest()
        if self._engine is not None:
            self._ready.append(self._engine.flush(zlib.Z_SYNC_FLUSH))
        return self._take_ready()

    def finish(self) -> bytes:
        """Give the end of the member, with the CRC and the size."""
        self._add_rest()
        self._ready.append(LAST_BLOCK if self._engine is None else self._engine.flush())
        self._ready.append(self._crc.to_bytes(4, "little"))
        self._ready.append((self._size & 0xFFFFFFFF).to_bytes(4, "little"))
        return self._take_ready()

    def _take_ready(self) -> bytes:
        ready = b"".join(self._ready)
        self._ready.clear()
        return ready

    def _add_stretches(self) -> None:
        data = self._take_waiting()
        end = len(data) // STRETCH * STRETCH
        for start in range(0, end, STRETCH):
            self._add(data[start : start + STRETCH])
        self._waiting.append(data[end:])
        self._waiting_size = len(data) - end

    def _take_waiting(self) -> bytes:
        data = b"".join(self._waiting)
        self._waiting.clear()
        self._waiting_size = 0
        return data

    def _add_rest(self) -> None:
        if self._waiting_size:
            self._compress(self._take_waiting())

    def _add(self, stretch: bytes) -> None:
        if not self._incompressible(stretch):
            self._compress(stretch)
        elif self._trusted:
            self._trusted -= 1
            self._store(stretch)
        else:
            self._try(stretch)

    def _incompressible(self, stretch: bytes) -> bool:
        if len(set(stretch[::LOOK_STEP])) < LOOK_BAR:
            return False
        step = len(stretch) // SAMPLES
        sample = b"".join(
            stretch[start : start + SAMPLE_SIZE] for start in range(0, len(stretch), step)
        )
        engine = self._make_engine(b"")
        return len(engine.compress(sample) + engine.flush()) >= GAIN * len(sample)

    def _compress(self, stretch: bytes) -> None:
        self._trusted = 0
        self._ready.append(self._running_engine().compress(stretch))

    def _running_engine(self) -> Engine:
        if self._engine is None:
            self._engine = self._make_engine(self._window)
        return self._engine

    def _try(self, stretch: bytes) -> None:
        engine = self._running_engine()
        # Flushed at both ends, so that what is between them is whole bytes and can be left out.
        self._ready.append(engine.flush(zlib.Z_SYNC_FLUSH))
        compressed = engine.compress(stretch) + engine.flush(zlib.Z_SYNC_FLUSH)
        if len(compressed) < GAIN * len(stretch):
            self._ready.append(compressed)
        else:
            self._engine, self._trusted = None, TRUSTED
            self._store(stretch)

    def _store(self, stretch: bytes) -> None:
        for start in range(0, len(stretch), STORED_MAX):
            block = stretch[start : start + STORED_MAX]
            size = len(block)
            self._ready.append(struct.pack("<BHH", 0, size, size ^ 0xFFFF))
            self._ready.append(block)
        self._window = stretch[-WINDOW:]
