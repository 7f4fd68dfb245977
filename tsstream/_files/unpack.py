"""What is compressed in a file that is read once and in order: the whole of it, or an error."""

from __future__ import annotations

import bz2
import logging
import lzma
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator
from itertools import chain
from typing import IO, Any, Protocol, TypeAlias, cast

from .extras import isal_zlib, zstd

READ_SIZE = 256 * 1024  # bytes: what is asked for at once; less is taken as it comes
PIECE_SIZE = 256 * 1024  # bytes: what is unpacked at once, however small it was packed
# bytes: what a stream may ask for to be unpacked; "xz -9" asks for 65 MiB. That of zstd has a
# limit of its own, 128 MiB, unless somebody has asked for more.
XZ_MEMORY = 128 * 1024 * 1024

GZIP, XZ, ZSTD = b"\x1f\x8b\x08", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd"
# With the beginning of a block, or of the end: an archive may begin with a name like "BZhang".
BZIP2 = re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)")
MAGIC_SIZE = 10  # bytes: of the longest

_NewStream: TypeAlias = Callable[[], Any]
_Feed: TypeAlias = Callable[[Any, bytes], Iterator[bytes]]

INFLATE: Callable[[int], Any] = zlib.decompressobj if isal_zlib is None else isal_zlib.decompressobj
_ERRORS: tuple[type[Exception], ...] = (
    *(zlib.error, lzma.LZMAError, OSError, EOFError, ValueError),
    # Its stub says that it is an instance.
    *(() if isal_zlib is None else (cast("type[Exception]", isal_zlib.error),)),
    *(() if zstd is None else (zstd.ZstdError,)),
)

logger = logging.getLogger("tsstream")


def unpack(file: IO[bytes], *, inflate: Callable[[int], Any] = INFLATE) -> Iterator[bytes]:
    """Give, piece by piece, what *file* holds, unpacked if it is gzip, bzip2, xz or zstd.

    The file is read to its end. Checksums are compared, and a stream that has begun must end.
    Another may follow it, and zeros, as on tapes.

    Args:
      file: open for reading.
      inflate: as :func:`zlib.decompressobj`.

    Raises:
      tarfile.ReadError: the compressed data are damaged or cut, or something else follows them.
      whatever reading *file* raises, as itself.
    """
    chunks = _read_chunks(file)
    head = b""
    while len(head) < MAGIC_SIZE and (chunk := next(chunks, b"")):
        head += chunk
    coding = _to_coding(head, inflate)
    packed = chain([head], chunks)
    return packed if coding is None else _unpack(packed, *coding)


def _read_chunks(file: IO[bytes]) -> Iterator[bytes]:
    # read() of a file that is still arriving would wait until all of this has come.
    read = getattr(file, "read1", file.read)
    while chunk := read(READ_SIZE):
        yield chunk


class _Stream(Protocol):
    """What zlib, bz2, lzma and zstd have in common."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...


def _to_coding(head: bytes, inflate: Callable[[int], Any]) -> tuple[_NewStream, _Feed] | None:
    if head.startswith(GZIP):
        return lambda: inflate(31), _feed_zlib
    if BZIP2.match(head):
        return bz2.BZ2Decompressor, _feed
    if head.startswith(XZ):
        return lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY), _feed
    if head.startswith(ZSTD):
        if zstd is None:
            logger.warning("an archive is compressed with zstd; to read such, tsstream[zstd]")
            raise tarfile.ReadError("zstd is not supported here")
        return zstd.ZstdDecompressor, _feed
    return None


def _unpack(chunks: Iterator[bytes], new: _NewStream, feed: _Feed) -> Iterator[bytes]:
    stream: _Stream | None = None
    for chunk in chunks:
        rest = chunk
        while rest := rest if stream else rest.lstrip(b"\0"):
            stream = stream or new()
            yield from _translated(feed(stream, rest))
            rest, stream = (stream.unused_data, None) if stream.eof else (b"", stream)
    if stream is not None:
        raise tarfile.ReadError("its compressed data are cut")


def _feed_zlib(stream: Any, data: bytes) -> Iterator[bytes]:
    while data and not stream.eof:
        yield stream.decompress(data, PIECE_SIZE)
        data = stream.unconsumed_tail


def _feed(stream: Any, data: bytes) -> Iterator[bytes]:
    yield stream.decompress(data, PIECE_SIZE)
    while not (stream.needs_input or stream.eof):
        yield stream.decompress(b"", PIECE_SIZE)


def _translated(pieces: Iterator[bytes]) -> Iterator[bytes]:
    try:
        yield from pieces
    except _ERRORS as error:
        raise tarfile.ReadError("its compressed data are damaged") from error
