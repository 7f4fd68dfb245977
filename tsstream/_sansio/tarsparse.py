"""Sparse files in tar archives: where between the holes the data belong."""

from __future__ import annotations

import tarfile
from array import array
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import attrs

BLOCK = tarfile.BLOCKSIZE  # bytes
# of one file: 1.6 MB of memory. A file has so many if it is a disk image of hundreds of GiB.
MAX_SEGMENTS = 100_000
MAX_SIZE = 2**63 - 1  # bytes: of a file

_Take = Callable[[int], bytes]
NUMBER_SIZE = 12  # bytes: of one in a header of GNU tar
_ENTRY = 2 * NUMBER_SIZE


@attrs.frozen
class Sparse:
    """What the headers say of a sparse file.

    Attributes:
      size: in bytes; of the file with its holes.
      numbers: offset and size of each segment of data, one after another; ``None`` if they are in
        front of the data, for :func:`read_numbers`.
    """

    size: int
    numbers: array[int] | None


def to_sparse(size: int, numbers: Iterable[int] | None) -> Sparse:
    """Make the value, with all of the *numbers*.

    Raises:
      tarfile.ReadError: they are too many, or too large.
    """
    if size > MAX_SIZE:
        raise tarfile.ReadError("a sparse file that is too large")
    return Sparse(size, None if numbers is None else _to_array(numbers))


def to_segments(numbers: array[int], *, size: int, stored: int) -> Iterator[tuple[int, int]]:
    """Give offset and size of each segment of a file of this *size*.

    Raises:
      tarfile.ReadError: by the one that is not behind its predecessor, or ends behind the file; or
        in the end if all together have not *stored* bytes.
    """
    position = 0
    values = iter(numbers)
    for offset, length in zip(values, values, strict=False):
        if length < 0 or not position <= offset <= size - length:
            raise tarfile.ReadError("a damaged sparse file")
        position, stored = offset + length, stored - length
        if stored < 0:
            break
        yield offset, length
    if stored or len(numbers) % 2:
        raise tarfile.ReadError("a damaged sparse file")


def read_old_numbers(block: bytes, take: _Take) -> Iterator[int]:
    """Read the numbers from the header *block* of a file in GNU tar's own format, and behind it.

    Raises:
      tarfile.ReadError: they are damaged.
      whatever *take* raises, as itself.
    """
    entries, more = block[386:482], block[482]
    while True:
        for start in range(0, len(entries), _ENTRY):
            entry = entries[start : start + _ENTRY]
            if entry[NUMBER_SIZE]:
                yield to_number(entry[:NUMBER_SIZE])
                yield to_number(entry[NUMBER_SIZE:])
        if not more:
            break
        block = take(BLOCK)
        if not block[NUMBER_SIZE]:  # or blocks without numbers could go on for ever
            raise tarfile.ReadError("a damaged sparse file")
        entries, more = block[: 21 * _ENTRY], block[21 * _ENTRY]


def read_numbers(take: _Take) -> array[int]:
    """Read the numbers that are in front of the data, as PAX archives of version 1.0 have them.

    Whole blocks are taken, and no more than needed.

    Raises:
      tarfile.ReadError: they are damaged.
      whatever *take* raises, as itself.
    """
    lines = _read_lines(take)
    count = min(next(lines), MAX_SEGMENTS + 1)
    return _to_array(islice(lines, 2 * count))


def _to_array(numbers: Iterable[int]) -> array[int]:
    try:
        found = array("q", islice(numbers, 2 * MAX_SEGMENTS + 1))
    except OverflowError:
        raise tarfile.ReadError("a damaged sparse file") from None
    if len(found) > 2 * MAX_SEGMENTS:
        raise tarfile.ReadError("a sparse file with too many holes")
    return found


def _read_lines(take: _Take) -> Iterator[int]:
    rest = b""
    while len(rest) < BLOCK:
        *lines, rest = (rest + take(BLOCK)).split(b"\n")
        yield from map(to_decimal, lines)
    raise tarfile.ReadError("a damaged sparse file")


def to_number(field: bytes) -> int:
    """Convert a field of a header: octal digits, or base 256 for large numbers."""
    if field[0] & 0x80:
        return int.from_bytes(field, "big") - (0x80 << 8 * (len(field) - 1))
    digits = field.partition(b"\0")[0].strip()
    if digits.strip(b"01234567"):
        raise tarfile.ReadError("a damaged number in a header")
    return int(digits or b"0", 8)


def to_decimal(text: bytes | str) -> int:
    """Convert decimal digits."""
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise tarfile.ReadError("a damaged number in an extended header")
    return int(text)
