"""The headers of tar archives, read: what a member is, and where its data end."""

from __future__ import annotations

import stat
import tarfile
from collections.abc import Callable, Iterator

import attrs

BLOCK = tarfile.BLOCKSIZE  # bytes
ZEROS = bytes(BLOCK)
# bytes: of one extended header. It is held in memory, and carries a name and a few numbers; who
# has a longer one has extended attributes, up to 64 KiB each.
MAX_EXTENSION = 1024 * 1024
MAX_EXTENSIONS = 16  # in front of one member, which needs three at most

# seconds since the epoch: what every file system in use can keep
OLDEST, NEWEST = -(2**31), 2**34 - 1

NANOSECONDS = 1_000_000_000
_EXTENSIONS = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, b"x", b"X", b"g")
_KINDS = {
    tarfile.REGTYPE: stat.S_IFREG,
    tarfile.AREGTYPE: stat.S_IFREG,
    tarfile.CONTTYPE: stat.S_IFREG,
    tarfile.DIRTYPE: stat.S_IFDIR,
    tarfile.SYMTYPE: stat.S_IFLNK,
    tarfile.FIFOTYPE: stat.S_IFIFO,
    tarfile.CHRTYPE: stat.S_IFCHR,
    tarfile.BLKTYPE: stat.S_IFBLK,
}
# Those that have no data, whatever their size says, as tarfile and GNU tar have it.
_EMPTY = (b"1", tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.DIRTYPE, b"6")
_ODD = {tarfile.LNKTYPE: "it is a hard link", tarfile.GNUTYPE_SPARSE: "it is a sparse file"}


@attrs.frozen
class Member:
    """What the headers say of a member.

    Attributes:
      name: as it was written, but for the slash at the end of a directory's.
      mode: with the kind of file, as in ``st_mode``; without one if it is of no such kind.
      size: in bytes; of the data that follow in the archive.
      mtime: in nanoseconds since the epoch.
      odd: why no reader of ours takes it, if *mode* does not say so.
    """

    name: str
    mode: int
    size: int
    mtime: int
    odd: str | None = None


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
    for _ in range(MAX_EXTENSIONS):
        block = take(BLOCK)
        if block == ZEROS:
            _check_end(take(BLOCK), last=name is None and not records)
            return None
        info = _parse(block)
        if info.type not in _EXTENSIONS:
            if info.type == tarfile.GNUTYPE_SPARSE:
                _skip_sparse_map(block, take)
            return _to_member(info, name, {**lasting, **records})
        data = _read_extension(take, info.size)
        if info.type == tarfile.GNUTYPE_LONGNAME:
            name = _decode(data.partition(b"\0")[0])
        elif info.type == b"g":
            lasting.update(_known(parse_records(data)))
        elif info.type != tarfile.GNUTYPE_LONGLINK:
            records.update(_known(parse_records(data)))
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
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise tarfile.ReadError(str(error)) from None


def _check_end(block: bytes, *, last: bool) -> None:
    # One block of zeros is what is left of a cut archive.
    if block != ZEROS or not last:
        raise tarfile.ReadError("a damaged end")


def _read_extension(take: Callable[[int], bytes], size: int) -> bytes:
    if not 0 <= size <= MAX_EXTENSION:
        raise tarfile.ReadError("an extended header that is too long")
    return take(size + padding(size))[:size]


def _known(records: Iterator[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    for key, value in records:
        if key in ("path", "size", "mtime"):
            yield key, value
        elif key.startswith("GNU.sparse."):
            yield "sparse", value


def _to_member(info: tarfile.TarInfo, name: str | None, records: dict[str, str]) -> Member:
    name = records.get("path") or (info.name if name is None else name)
    kind = _KINDS.get(info.type, 0)
    if info.type == tarfile.AREGTYPE and name.endswith("/"):
        kind = stat.S_IFDIR  # as it was before POSIX
    size = _to_int(records["size"]) if records.get("size") else info.size
    if size < 0:
        raise tarfile.ReadError("a member of negative size")
    sparse = tarfile.GNUTYPE_SPARSE if records.get("sparse") else info.type
    return Member(
        name.rstrip("/") or "/" * bool(name) if stat.S_ISDIR(kind) else name,
        kind | stat.S_IMODE(info.mode),
        0 if info.type in _EMPTY or stat.S_ISDIR(kind) else size,
        _to_mtime(records.get("mtime") or str(info.mtime)),
        _ODD.get(sparse),
    )


def _skip_sparse_map(block: bytes, take: Callable[[int], bytes]) -> None:
    more = block[482]
    while more:
        more = take(BLOCK)[504]


def _to_int(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise tarfile.ReadError("a damaged number in an extended header")
    return int(text)


def _to_mtime(text: str) -> int:
    """Convert seconds, with a fraction perhaps, to nanoseconds."""
    whole, _, fraction = text.removeprefix("-").partition(".")
    seconds = _to_int(whole)
    nanoseconds = _to_int(fraction[:9].ljust(9, "0"))
    if text.startswith("-"):
        return max(-seconds * NANOSECONDS - nanoseconds, OLDEST * NANOSECONDS)
    return min(seconds * NANOSECONDS + nanoseconds, NEWEST * NANOSECONDS)


def _decode(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
