"""Archives made by the standard library and by GNU tar, for comparison; nobody is sent them.

``python -m benchmarks._archiving KIND PATH`` makes one, and says its size and the seconds it took.
"""

from __future__ import annotations

import gzip
import io
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from typing import IO, Any, cast

import attrs

READ_SIZE = 1024 * 1024  # bytes


@attrs.frozen
class Archive:
    """An archive that was made: its size in bytes, and the seconds that it took."""

    size: int
    clock: float


class Null(io.RawIOBase):
    """A file that takes everything, and knows how much."""

    def __init__(self) -> None:
        self.size = 0

    def writable(self) -> bool:
        """Say yes."""
        return True

    def write(self, data: Any, /) -> int:
        """Count."""
        self.size += len(data)
        return len(data)


def write_plain(file: IO[bytes], path: str) -> None:
    with tarfile.open(fileobj=file, mode="w|") as archive:
        archive.add(path, "tree")


def write_gzip(file: IO[bytes], path: str) -> None:
    """Write as tarfile's ``w|gz`` with level 1, which Python before 3.12 has no option for."""
    with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=1, mtime=0) as packed:
        write_plain(cast("IO[bytes]", packed), path)


def write_tarfile_gzip(file: IO[bytes], path: str) -> None:
    """Write with tarfile's own ``w|gz``, level 1."""
    options: Any = {"compresslevel": 1}
    with tarfile.open(fileobj=file, mode="w|gz", **options) as archive:
        archive.add(path, "tree")


PLAIN, GZIP, GNU = "plain", "gzip", "gnu"
MAKERS: dict[str, Callable[[IO[bytes], str], None]] = {
    PLAIN: write_plain,
    GZIP: write_gzip if sys.version_info < (3, 12) else write_tarfile_gzip,
}


def make(kind: str, path: str) -> Archive:
    """Make an archive in a process of its own."""
    if kind == GNU:
        return _run_gnu_tar(path)
    command = [sys.executable, "-m", "benchmarks._archiving", kind, path]
    size, clock = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.split()
    return Archive(int(size), float(clock))


def _run_gnu_tar(path: str) -> Archive:
    # Through a pipe: to /dev/null, GNU tar does not even read the files.
    began, size = time.perf_counter(), 0
    command = ["tar", "-czC", path, "."]  # gzip's level is 6
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        while data := process.stdout.read(READ_SIZE):
            size += len(data)
    assert process.returncode == 0
    return Archive(size, time.perf_counter() - began)


def main(kind: str, path: str) -> None:
    """Make one, and say its size and the seconds that it took."""
    began, file = time.perf_counter(), Null()
    MAKERS[kind](cast("IO[bytes]", file), path)
    print(file.size, time.perf_counter() - began)


if __name__ == "__main__":
    main(*sys.argv[1:])
