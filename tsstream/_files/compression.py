"""The codings of archives: gzip and Zstandard, each by the fastest engine that is installed."""

from __future__ import annotations

from typing import Literal, Protocol

from .extras import zstd
from .gzip import GzipCompressor

Coding = Literal["gzip", "zstd"]

GZIP_LEVELS = range(1, 10)
# Zstandard's own default, three to six times as fast as "gzip -6". Source code gets as small, most
# else smaller, and lines of JSON up to 7 % larger. Level 5 makes all but JSON smaller, and takes up
# to twice the time.
ZSTD_LEVEL = 3


class Compressor(Protocol):
    """What makes a compressed stream, piece by piece; for one thread at a time."""

    def compress(self, data: bytes) -> bytes:
        """Take *data*, and give what is ready of the stream, which is often nothing."""

    def flush(self) -> bytes:
        """Give the rest of what has been taken, so that the reader can have all of it."""

    def finish(self) -> bytes:
        """Give the end of the stream, without which no reader takes it for whole."""


def open_compressor(coding: Coding, *, level: int | None = None) -> Compressor:
    """Begin a stream: one gzip member, or one frame of Zstandard with a checksum.

    Args:
      coding: which.
      level: None is a fast one: for gzip ISA-L's if it is installed (the extra ``fast``), else
        zlib's level 1; for Zstandard one with which archives are no larger than ``gzip -6`` makes
        them. Otherwise 1-9 of zlib, or what Zstandard has (1-22, and negative ones).

    Raises:
      ValueError: there is no such coding or level.
      RuntimeError: Zstandard is not installed (the extra ``zstd``; Python 3.14 has it).
    """
    check_compression(coding, level)
    if coding == "gzip":
        return GzipCompressor(level)
    return ZstdCompressor(level)


def check_compression(coding: Coding, level: int | None) -> None:
    """Raise what :func:`open_compressor` would, before anything has begun."""
    if coding == "gzip":
        least, most = GZIP_LEVELS[0], GZIP_LEVELS[-1]
    elif coding == "zstd":
        if zstd is None:
            raise RuntimeError(
                "compression='zstd' needs Python 3.14 or the package backports.zstd; "
                "install tsstream[zstd]"
            )
        least, most = zstd.CompressionParameter.compression_level.bounds()
    else:
        raise ValueError(f"compression must be 'gzip', 'zstd' or None, not {coding!r}")
    if level is not None and not least <= level <= most:
        raise ValueError(f"a level of {coding} is {least} to {most}, not {level}")


class ZstdCompressor:
    """A frame of Zstandard."""

    def __init__(self, level: int | None = None) -> None:
        parameter = zstd.CompressionParameter
        self._engine = zstd.ZstdCompressor(
            options={
                parameter.compression_level: ZSTD_LEVEL if level is None else level,
                parameter.checksum_flag: 1,
            }
        )

    def compress(self, data: bytes) -> bytes:
        """Take *data*, and give what is ready of the stream."""
        return self._engine.compress(data)

    def flush(self) -> bytes:
        """Give the rest of what has been taken."""
        return self._engine.flush(zstd.ZstdCompressor.FLUSH_BLOCK)

    def finish(self) -> bytes:
        """Give the end of the frame."""
        return self._engine.flush(zstd.ZstdCompressor.FLUSH_FRAME)
