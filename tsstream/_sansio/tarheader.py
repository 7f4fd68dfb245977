"""The headers of tar archives, read: what a member is, and where its data end."""

from __future__ import annotations

import stat
import tarfile
from collections.abc import Callable, Iterator

import attrs

from .tarsparse import (
    BLOCK,
    NUMBER_SIZE,
    Sparse,
    read_old_numbers,
    to_decimal,
    to_number,
    to_sparse,
)

ZEROS = bytes(BLOCK)
# bytes: of one extended header. It is held in memory, and carries a name and a few numbers; who
# has a longer one has extended attributes, up to 64 KiB each.
MAX_EXTENSION = 1024 * 1024
MAX_EXTENSIONS = 16  # in front of one member, which needs three at most
# in one extended header: some take long to read, and little room when compressed. A sparse file in
# the oldest way has two for each segment.
MAX_RECORDS = 10_000

# seconds since the epoch: what every file system in use can keep
OLDEST, NEWEST = -(2**31), 2**34 - 1

NANOSECONDS = 1_000_000_000
_EXTENSIONS = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, b"x", b"X", b"g")
_KINDS = {
    tarfile.REGTYPE: stat.S_IFREG,
    tarfile.AREGTYPE: stat.S_IFREG,
    tarfile.CONTTYPE: stat.S_IFREG,
    tarfile.GNUTYPE_SPARSE: stat.S_IFREG,
    tarfile.DIRTYPE: stat.S_IFDIR,
    b"D": stat.S_IFDIR,  # with a list of what is in it, by tar --listed-incremental
    tarfile.SYMTYPE: stat.S_IFLNK,
    tarfile.FIFOTYPE: stat.S_IFIFO,
    tarfile.CHRTYPE: stat.S_IFCHR,
    tarfile.BLKTYPE: stat.S_IFBLK,
}
_MAP = "GNU.sparse.map"
_LASTING = frozenset({"path", "size", "mtime"})
_RECORDS = _LASTING | {
    _MAP,
    *(f"GNU.sparse.{key}" for key in ("major", "minor", "name", "realsize", "size")),
}
_STRANGE = "it is a sparse file of an unknown kind"
# Those that have no data, whatever their size says, as tarfile and GNU tar have it.
_EMPTY = (b"1", tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.DIRTYPE, b"6")


@attrs.frozen
class Member:
    """What the headers say of a member.

    Attributes:
      name: as it was written, but for the slash at the end of a directory's.
      mode: with the kind of file, as in ``st_mode``; without one if it is of no such kind.
      size: in bytes; of the data that follow in the archive.
      mtime: in nanoseconds since the epoch.
      odd: why no reader of ours takes it, if *mode* does not say so.
      sparse: of a file with holes, which are not in the archive.
      extra: in bytes; of the extended headers.
    """

    name: str
    mode: int
    size: int
    mtime: int
    odd: str | None = None
    sparse: Sparse | None = None
    extra: int = 0

    @property
    def unpacked(self) -> int:
        """Give the size of the file, with its holes."""
        return self.size if self.sparse is None else max(self.size, self.sparse.size)


def read_member(take: Callable[[int], bytes], lasting: dict[str, str]) -> Member | None:
    """Read the headers of one member; None is the end of the archive.

    Args:
      take: gives this number of bytes of the archive, or raises.
      lasting: the records of global headers, empty at first, kept from call to call.

    Raises:
      tarfile.ReadError: this is no tar archive, or a damaged one.
    """
    name = None
    records: dict[str, str] = {}
    extra = 0
    for _ in range(MAX_EXTENSIONS):
        block = take(BLOCK)
        if block == ZEROS:
            _check_end(take(BLOCK), last=name is None and not records)
            return None
        info = _parse(block)
        if info.type not in _EXTENSIONS:
            member = _to_member(info, name, {**lasting, **records}, extra)
            return _with_holes(member, info.type, records, block, take)
        data = _read_extension(take, info.size)
        extra += len(data)
        if info.type == tarfile.GNUTYPE_LONGNAME:
            name = _decode(data.partition(b"\0")[0])
        elif info.type == b"g":
            lasting.update(_known(data, _LASTING))
        elif info.type != tarfile.GNUTYPE_LONGLINK:
            records.update(_known(data, _RECORDS))
    raise tarfile.ReadError("too many extended headers")


def padding(size: int) -> int:
    """Give the number of bytes between the end of *size* bytes of data and the next header."""
    return -size % BLOCK


def parse_records(data: bytes) -> Iterator[tuple[str, str]]:
    """Give key and value of each record of a PAX header: a length, ``path=name``, a newline.

    Raises:
      tarfile.ReadError: they are damaged.
    """
    start = 0
    while start < len(data) and data[start]:  # some writers pad with NULs
        digits = data[start : start + 20].partition(b" ")[0]
        end = start + (int(digits) if digits.isdigit() else 0)
        key, equals, value = data[start + len(digits) + 1 : end - 1].partition(b"=")
        if not key or not equals or end > len(data) or data[end - 1 : end] != b"\n":
            raise tarfile.ReadError("a damaged extended header")
        yield _decode(key), _decode(value)
        start = end


def _parse(block: bytes) -> tarfile.TarInfo:
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise tarfile.ReadError(str(error)) from None
    if block[257:263] != b"ustar\0":
        # tarfile takes for the beginning of the name what only POSIX has there; that of GNU tar
        # has times, if it is a backup of what has changed.
        info.name = _decode(block[:100].partition(b"\0")[0])
    return info


def _check_end(block: bytes, *, last: bool) -> None:
    # One block of zeros is what is left of a cut archive.
    if block != ZEROS or not last:
        raise tarfile.ReadError("a damaged end")


def _read_extension(take: Callable[[int], bytes], size: int) -> bytes:
    if not 0 <= size <= MAX_EXTENSION:
        raise tarfile.ReadError("an extended header that is too long")
    return take(size + padding(size))[:size]


def _known(data: bytes, keys: frozenset[str]) -> Iterator[tuple[str, str]]:
    numbers = []
    for count, (key, value) in enumerate(parse_records(data)):
        if count >= MAX_RECORDS:
            raise tarfile.ReadError("too many records in an extended header")
        if key in keys:
            yield key, value
        elif key in ("GNU.sparse.offset", "GNU.sparse.numbytes"):
            numbers.append(value)
    if numbers and _MAP in keys:
        yield _MAP, ",".join(numbers)


def _to_member(
    info: tarfile.TarInfo, name: str | None, records: dict[str, str], extra: int
) -> Member:
    name = records.get("GNU.sparse.name") or records.get("path") or (name or info.name)
    kind = _KINDS.get(info.type, 0)
    if stat.S_ISREG(kind) and name.endswith("/"):
        kind = stat.S_IFDIR  # as it was before POSIX
    size = to_decimal(records["size"]) if records.get("size") else info.size
    if size < 0:
        raise tarfile.ReadError("a member of negative size")
    return Member(
        name.rstrip("/") or "/" * bool(name) if stat.S_ISDIR(kind) else name,
        kind | info.mode & 0o7777,
        0 if info.type in _EMPTY else size,
        _to_mtime(records.get("mtime") or str(info.mtime)),
        "it is a hard link" if info.type == tarfile.LNKTYPE else None,
        extra=extra,
    )


def _with_holes(
    member: Member,
    kind: bytes,
    records: dict[str, str],
    block: bytes,
    take: Callable[[int], bytes],
) -> Member:
    """Say of a sparse file where its holes are; *block* is its header."""
    size = records.get("GNU.sparse.realsize") or records.get("GNU.sparse.size")
    if kind == tarfile.GNUTYPE_SPARSE:
        if block[257:265] != tarfile.GNU_MAGIC:
            return attrs.evolve(member, odd=_STRANGE)
        sparse = to_sparse(to_number(block[483:495]), read_old_numbers(block, take))
    elif _MAP in records and size:
        numbers = map(to_decimal, records[_MAP].split(","))
        sparse = to_sparse(to_decimal(size), numbers if records[_MAP] else ())
    elif not records.get("GNU.sparse.major"):
        return member
    elif size and (records["GNU.sparse.major"], records.get("GNU.sparse.minor")) == ("1", "0"):
        sparse = to_sparse(to_decimal(size), None)
    else:
        return attrs.evolve(member, odd=_STRANGE)
    extra = member.extra + NUMBER_SIZE * len(sparse.numbers or ())
    return attrs.evolve(member, sparse=sparse, extra=extra)


def _to_mtime(text: str) -> int:
    """Convert seconds, with a fraction perhaps, to nanoseconds."""
    whole, _, fraction = text.removeprefix("-").partition(".")
    seconds = to_decimal(whole)
    nanoseconds = to_decimal(fraction[:9].ljust(9, "0"))
    if text.startswith("-"):
        return max(-seconds * NANOSECONDS - nanoseconds, OLDEST * NANOSECONDS)
    return min(seconds * NANOSECONDS + nanoseconds, NEWEST * NANOSECONDS)


def _decode(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
