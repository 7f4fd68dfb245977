"""Archives to unpack, made by hand, and what has become of them."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import stat
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any, cast

from tsstream._files.compression import open_compressor

Member = tuple[tarfile.TarInfo, bytes]
Tree = dict[str, tuple[int, bytes | None]]  # path -> permissions, and contents of a file


def member(name: str, data: bytes = b"", **fields: Any) -> Member:
    """Give a regular file, or what *fields* make of it."""
    info = tarfile.TarInfo(name)
    info.size, info.mtime = len(data), 1_600_000_000
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def directory(name: str, **fields: Any) -> Member:
    """Give a directory."""
    return member(name, type=tarfile.DIRTYPE, **{"mode": 0o755, **fields})


def make_tar(*members: Member, tar_format: int = tarfile.PAX_FORMAT) -> bytes:
    """Give an archive of these members."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tar_format) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data) if data else None)
    return file.getvalue()


def zstd_compress(data: bytes) -> bytes:
    """Give one frame, with a checksum."""
    compressor = open_compressor("zstd")
    return compressor.compress(data) + compressor.finish()


CODINGS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "zstd": zstd_compress,
    "xz": lzma.compress,
    "bzip2": bz2.compress,
}


def read_tree(root: Path) -> Tree:
    """Give what is below *root*; links are not followed."""
    tree: Tree = {}
    for path in sorted(root.rglob("*")):
        found = path.lstat()
        data = path.read_bytes() if stat.S_ISREG(found.st_mode) else None
        tree[os.fspath(path.relative_to(root))] = (stat.S_IMODE(found.st_mode), data)
    return tree


def files_of(root: Path) -> dict[str, bytes]:
    """Give the contents of the files below *root*."""
    return {name: data for name, (_, data) in read_tree(root).items() if data is not None}


def nothing() -> None:
    """Take the place of os.sync(), which waits for everybody's disks."""


def dribble(pieces: Iterable[bytes | BaseException]) -> IO[bytes]:
    """Give a file whose pieces are as they are given; an exception among them is raised."""
    return cast("IO[bytes]", _Dribble(pieces))


class _Dribble(io.RawIOBase):
    def __init__(self, pieces: Iterable[bytes | BaseException]) -> None:
        self._pieces = iter(pieces)

    def read(self, size: int = -1, /) -> bytes:
        piece = next(self._pieces, b"")
        if isinstance(piece, BaseException):
            raise piece
        return piece

    def readable(self) -> bool:
        return True
