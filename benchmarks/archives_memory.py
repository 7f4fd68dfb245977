"""What the server holds of an archive that is downloaded while it is made.

It needs what ``tsstream[fast,zstd]`` installs. The server is a process of its own, whose resident
memory is read from /proc (Linux). The sizes are of the large files, most of which are holes, which
take no room on the disk; there are 20,000 small ones besides.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

from benchmarks._clients import ask_hellos
from benchmarks._downloads import archive_path, download
from benchmarks._processes import Server
from benchmarks._servers import OURS, run_server
from benchmarks._trees import Shape, make_tree

MIB = 1024 * 1024  # bytes
SIZES = (512, 4096)  # MiB
FILE_SIZE = 64  # MiB
REAL = 256  # MiB: of the large files are random bytes, or text
SMALL = 20_000  # files of 1 to 20 KiB besides
GROWTH_BAR = 16 * MIB  # bytes
SETTLING_TIME = 0.5  # seconds: until what is no longer needed has been given back
COMPRESSIONS: dict[str, tuple[str | None, int | None]] = {
    "tar": (None, None),
    "gzip-1": ("gzip", 1),
    "fast": ("gzip", None),
    "zstd": ("zstd", None),
}


def main() -> int:
    """Print a line for each size and way to compress."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="in MiB")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a bar is missed")
    options = parser.parse_args()
    reached = [reached for size in options.sizes for reached in measure_all(size)]
    return int(options.check and not all(reached))


def measure_all(size: int) -> list[bool]:
    with tempfile.TemporaryDirectory() as directory:
        make_large_tree(Path(directory), size)
        return [measure(directory, size, name) for name in COMPRESSIONS]


def measure(directory: str, size: int, name: str) -> bool:
    """Download once, from a server that has done nothing but answer small requests."""
    compression, level = COMPRESSIONS[name]
    with run_server(OURS, app="benchmarks.archive_apps:app") as server:
        before = warm_up(server)
        got = download(server, archive_path(directory, compression, level))
        grown = server.memory("VmHWM") - before
    print(
        f"{name:8}{size:5} MiB, {got.size / MIB:5.0f} MiB sent in {got.clock:5.1f} s"
        f"  grown {grown / MIB:5.1f} MiB bar {GROWTH_BAR // MIB} MiB",
        flush=True,
    )
    return grown <= GROWTH_BAR


def make_large_tree(directory: Path, size: int) -> None:
    """Make *size* MiB of files, and some small ones."""
    real = REAL // FILE_SIZE
    make_tree(directory / "real", Shape(small=SMALL, large=real, size=FILE_SIZE * MIB))
    holes = Shape(small=0, large=size // FILE_SIZE - real, size=FILE_SIZE * MIB, sparse=True)
    make_tree(directory / "holes", holes)


def warm_up(server: Server) -> int:
    """Let the server allocate what it does for anybody; give its memory then."""
    with closing(server.connect()) as sock:
        ask_hellos([sock], 10)
    time.sleep(SETTLING_TIME)
    return server.memory()


if __name__ == "__main__":
    sys.exit(main())
