"""How fast uploads are: rates of tsstream, as ratios to those of other ways to take them.

Each server is a process of its own (Linux), and the two of a row are asked in turn. ``raw`` is an
application of bare ASGI calls on the same server. ``uvicorn`` is one on Starlette whose blocking
code gets each chunk by a hop to the event loop; it needs ``pip install starlette uvicorn``, and
``fast-uvicorn``, which has the bar, ``uvloop httptools`` besides.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, closing

import attrs

from benchmarks import _uploads as uploads
from benchmarks._processes import Server, run_process
from benchmarks._servers import OURS, STOCK, run_server

KIB, MIB = 1024, 1024 * 1024  # bytes
WARM_UP = 16 * MIB  # bytes: of the first upload, which is not counted
UVICORN, FAST_UVICORN = "uvicorn", "fast-uvicorn"
PEERS = {UVICORN: ("asyncio", "h11"), FAST_UVICORN: ("uvloop", "httptools")}
NEEDED = {UVICORN: ("uvicorn",), FAST_UVICORN: ("uvicorn", "uvloop", "httptools")}  # modules


@attrs.frozen
class Side:
    """A server, and the path that takes the upload there."""

    server: str
    path: str


@attrs.frozen
class Cost:
    """What one upload took, in seconds: of the clock, and of the server's processor."""

    clock: float
    cpu: float


@attrs.frozen
class Row:
    """One thing that is measured.

    Attributes:
      upload: sends it.
      bar: what the ratio must reach; None if the row is for information.
      share: of the size that was asked for, so that slow rows take no longer than others.
    """

    upload: uploads.Upload
    ours: Side
    other: Side
    bar: float | None = None
    share: float = 1

    def measure(self, server: Server, path: str, size: int) -> Cost:
        """Upload once, on a connection of its own."""
        with closing(server.connect()) as client:
            cpu, clock = server.cpu(), time.perf_counter()
            self.upload(client, path, size)
            return Cost(time.perf_counter() - clock, server.cpu() - cpu)


def beside_raw(
    upload: uploads.Upload,
    path: str = "/count",
    *,
    server: str = OURS,
    bar: float | None = None,
    share: float = 1,
) -> Row:
    return Row(upload, Side(server, path), Side(server, "/raw"), bar, share)


def beside_uvicorn(
    peer: str,
    read_size: int,
    upload: uploads.Upload = uploads.upload_with_length,
    *,
    bar: float | None = None,
    share: float = 1,
) -> Row:
    path = f"/thread?read={read_size}"
    return Row(upload, Side(OURS, path), Side(peer, path), bar, share)


LARGE_CHUNKS, SMALL_CHUNKS = (uploads.upload_chunked(size) for size in (64 * KIB, KIB))

ROWS = {
    "length": beside_raw(uploads.upload_with_length, bar=0.9),
    "chunked-64k": beside_raw(LARGE_CHUNKS, bar=0.9),
    "chunked-1k": beside_raw(SMALL_CHUNKS, share=1 / 16),
    "h2": beside_raw(uploads.upload_h2, share=1 / 4),
    "parts": beside_raw(uploads.upload_form, "/parts"),
    "stock-length": beside_raw(uploads.upload_with_length, server=STOCK),
    "stock-chunked-1k": beside_raw(SMALL_CHUNKS, server=STOCK, share=1 / 16),
    "stock-h2": beside_raw(uploads.upload_h2, server=STOCK, share=1 / 4),
    "thread-4k": beside_uvicorn(FAST_UVICORN, 4 * KIB),
    "thread-64k": beside_uvicorn(FAST_UVICORN, 64 * KIB, bar=2.0),
    "thread-1m": beside_uvicorn(FAST_UVICORN, MIB),
    "thread-chunked-1k": beside_uvicorn(FAST_UVICORN, 64 * KIB, SMALL_CHUNKS, share=1 / 16),
    "thread-4k-plain": beside_uvicorn(UVICORN, 4 * KIB),
    "thread-64k-plain": beside_uvicorn(UVICORN, 64 * KIB),
    "thread-1m-plain": beside_uvicorn(UVICORN, MIB),
}


def main() -> int:
    """Print a line for each row: median rates and processor times, their ratios, and its bar."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=1024, help="of an upload, in MiB")
    parser.add_argument(
        "--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW", help=", ".join(ROWS)
    )
    parser.add_argument("--check", action="store_true", help="exit with 1 if a bar is missed")
    options = parser.parse_args()
    missed = [name for name in options.rows if not run(name, options.rounds, options.size * MIB)]
    if missed:
        print("below the bar:", *missed)
    return int(options.check and bool(missed))


def run(name: str, rounds: int, size: int) -> bool:
    """Measure a row and print its line; give whether it reaches its bar."""
    row = ROWS[name]
    if lacking := [m for m in NEEDED.get(row.other.server, ()) if not importlib.util.find_spec(m)]:
        print(f"{name:18}left out, as there is no {' and no '.join(lacking)}")
        return True
    size = int(size * row.share)
    with ExitStack() as stack:
        names = sorted({row.ours.server, row.other.server})
        servers = {server: stack.enter_context(start(server)) for server in names}

        def measure(side: Side, size: int) -> Cost:
            return row.measure(servers[side.server], side.path, size)

        for side in (row.ours, row.other):
            measure(side, WARM_UP)
        pairs = [(measure(row.ours, size), measure(row.other, size)) for _ in range(rounds)]
    return report(name, row, size, pairs)


def start(server: str) -> AbstractContextManager[Server]:
    if server in PEERS:
        return run_process("benchmarks.upload_peer", *PEERS[server])
    return run_server(server, app="benchmarks.upload_apps:app")


def report(name: str, row: Row, size: int, pairs: Sequence[tuple[Cost, Cost]]) -> bool:
    ratio = statistics.median(other.clock / ours.clock for ours, other in pairs)
    cpu_ratio = statistics.median(other.cpu / ours.cpu for ours, other in pairs)
    other_name = row.other.path[1:] if row.other.path == "/raw" else row.other.server
    columns = [
        f"{size / MIB / statistics.median(cost.clock for cost in costs):6.0f} MiB/s"
        f" {statistics.median(cost.cpu for cost in costs) / size * MIB * 1e6:6.0f} us/MiB"
        for costs in zip(*pairs, strict=True)
    ]
    bar = "" if row.bar is None else f"bar {row.bar:.1f}"
    print(
        f"{name:18}{columns[0]} {other_name:>13}{columns[1]}"
        f" ratio {ratio:5.2f} of cpu {cpu_ratio:5.2f} {bar}".rstrip(),
        flush=True,
    )
    return row.bar is None or ratio >= row.bar


if __name__ == "__main__":
    sys.exit(main())
