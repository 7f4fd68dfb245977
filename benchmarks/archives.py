"""How fast archives are downloaded while they are made, and how large they are.

Each server is a process of its own (Linux), and the two of a row are asked in turn. ``plain`` and
``gzip`` are the standard library's tarfile, without a server, to nowhere; the latter at level 1.
``gnu`` is ``tar cz``, at gzip's level 6, to a pipe. ``anthias`` is a server that makes archives as
that program does, in a thread with a pipe; it needs ``pip install starlette uvicorn``. ``fast``
needs ``pip install tsstream[fast]``, and ``zstd`` ``tsstream[zstd]``.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import attrs

from benchmarks import _archiving as archiving
from benchmarks._downloads import Download, archive_path, download
from benchmarks._processes import Server, run_process
from benchmarks._servers import OURS, run_server
from benchmarks._trees import add_shape, make_tree, read_tree, to_shape

MIB = 1024 * 1024  # bytes
ANTHIAS = "anthias"
FIRST_BAR = 0.050  # seconds: until the first byte
P99_BAR = 0.100  # seconds: that other requests wait


@attrs.frozen
class Row:
    """One thing that is measured.

    Attributes:
      other: what it is compared with.
      bar: what the ratio of the times must reach.
      size_bar: what the ratio of the sizes must not exceed; None where they are equal.
      needed: modules without which the row is left out.
    """

    compression: str | None
    level: int | None
    other: str
    bar: float
    size_bar: float | None = None
    needed: tuple[str, ...] = ()


ROWS = {
    "tar": Row(None, None, archiving.PLAIN, bar=0.8),
    "gzip-1": Row("gzip", 1, archiving.GZIP, bar=0.85),
    "gzip-1-anthias": Row("gzip", 1, ANTHIAS, bar=1.0, needed=("uvicorn", "starlette")),
    "fast": Row("gzip", None, archiving.GNU, bar=5.0, size_bar=1.05, needed=("isal",)),
    "zstd": Row(
        *("zstd", None, archiving.GNU),
        bar=4.0,
        size_bar=1.0,
        needed=("compression.zstd",) if sys.version_info >= (3, 14) else ("backports.zstd",),
    ),
}


def main() -> int:
    """Print two lines for each row: times and sizes, with their ratios; then who waited."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tree", help="a directory to archive, instead of one that is made")
    add_shape(parser)
    parser.add_argument(
        "--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW", help=", ".join(ROWS)
    )
    parser.add_argument("--check", action="store_true", help="exit with 1 if a bar is missed")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        tree = options.tree or str(Path(directory, "tree"))
        if options.tree is None:
            make_tree(Path(tree), to_shape(options))
        size = read_tree(Path(tree))
        print(f"{size / MIB:.0f} MiB of files", flush=True)
        missed = [name for name in options.rows if not run(name, tree, size, options.rounds)]
    if missed:
        print("below the bar:", *missed)
    return int(options.check and bool(missed))


def run(name: str, tree: str, size: int, rounds: int) -> bool:
    """Measure a row and print its lines; give whether it reaches its bars."""
    row = ROWS[name]
    if lacking := [module for module in row.needed if not is_there(module)]:
        print(f"{name:15}left out, as there is no {' and no '.join(lacking)}")
        return True
    with ExitStack() as stack:
        server = stack.enter_context(run_server(OURS, app="benchmarks.archive_apps:app"))
        path = archive_path(tree, row.compression, row.level)
        make_other = start_other(stack, row.other, tree)
        download(server, path)
        pairs = [(download(server, path), make_other()) for _ in range(rounds)]
        disturbed = download(server, path, others=True)
    reached = report(name, row, size, pairs)
    first = statistics.median(ours.first for ours, _ in pairs)
    print(
        f"{'':15}first byte {first * 1000:.0f} ms bar {FIRST_BAR * 1000:.0f} ms,"
        f" others' p99 {disturbed.p99 * 1000:.0f} ms bar {P99_BAR * 1000:.0f} ms"
        f" (of {len(disturbed.waits)} requests)",
        flush=True,
    )
    return reached and first < FIRST_BAR and disturbed.p99 < P99_BAR


def is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # its package is missing
        return False


def start_other(stack: ExitStack, other: str, tree: str) -> Callable[[], archiving.Archive]:
    """Start what is needed; give a function that makes an archive the other way."""
    if other != ANTHIAS:
        return lambda: archiving.make(other, tree)
    peer = run_process("benchmarks.archive_peer")
    server: Server = stack.enter_context(peer)

    def ask() -> archiving.Archive:
        had = download(server, archive_path(tree))
        return archiving.Archive(had.size, had.clock)

    return ask


def report(
    name: str, row: Row, size: int, pairs: Sequence[tuple[Download, archiving.Archive]]
) -> bool:
    ratio = statistics.median(other.clock / ours.clock for ours, other in pairs)
    size_ratio = pairs[-1][0].size / pairs[-1][1].size
    columns = [
        f"{size / MIB / statistics.median(made.clock for made in mades):6.0f} MiB/s"
        f" {mades[-1].size / size:6.4f}"
        for mades in zip(*pairs, strict=True)
    ]
    size_bar = "" if row.size_bar is None else f" bar {row.size_bar}"
    print(
        f"{name:15}{columns[0]} {row.other:>8}{columns[1]}"
        f" ratio {ratio:5.2f} bar {row.bar} of sizes {size_ratio:6.4f}{size_bar}",
        flush=True,
    )
    return ratio >= row.bar and (row.size_bar is None or size_ratio <= row.size_bar)


if __name__ == "__main__":
    sys.exit(main())
