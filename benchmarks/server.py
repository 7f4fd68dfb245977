"""How fast the guarded server is: its rates, as ratios to those of stock Hypercorn's trio worker.

Both servers run the same ASGI application, each in a process of its own, and are asked in turn.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial

import attrs

from benchmarks import _clients as clients
from benchmarks._processes import Server
from benchmarks._servers import OURS, STOCK, Certificate, run_server

SMALL = 100  # bytes
LARGE = 64 * 1024  # bytes
MIB = 1024 * 1024  # bytes


@attrs.frozen
class Row:
    """One thing that is measured; one call of *measure* does it *count* times.

    Attributes:
      bar: what the ratio must reach; None if the row is for information.
    """

    unit: str
    count: int
    measure: Callable[[Server], None]
    bar: float | None = None
    tls: bool = False

    def rate(self, server: Server) -> float:
        """Measure once, and give how many times per second it was done."""
        began = time.perf_counter()
        self.measure(server)
        return self.count / (time.perf_counter() - began)


def on_one(ask: Callable[..., None], *args: int) -> Callable[[Server], None]:
    """Give a function that calls *ask* with a new connection and *args*."""

    def measure(server: Server) -> None:
        with closing(server.connect()) as client:
            ask(client, *args)

    return measure


def hellos(connections: int, count: int, server: Server) -> None:
    with ExitStack() as stack:
        socks = [stack.enter_context(closing(server.connect())) for _ in range(connections)]
        clients.ask_hellos(socks, count)


def stream_row(ask: Callable[..., None], size: int, count: int, bar: float | None) -> Row:
    measure = on_one(ask, count, size)
    if size == SMALL:
        return Row("100 B chunks/s", count, measure, bar)
    return Row("MiB/s in 64 KiB", count * size // MIB, measure, bar)


H1_SMALL = stream_row(clients.ask_stream, SMALL, 100_000, 2.5)
H1_LARGE = stream_row(clients.ask_stream, LARGE, 8192, 1.3)
H1_HELLO = Row("requests/s", 4000, partial(hellos, 1, 4000), 1.8)
H1_HELLO_16 = Row("requests/s", 8000, partial(hellos, 16, 8000), 1.8)


def over_tls(row: Row) -> Row:
    return attrs.evolve(row, tls=True, bar=None)


ROWS = {
    "h1-small": H1_SMALL,
    "h1-large": H1_LARGE,
    "h1-hello": H1_HELLO,
    "h1-hello-16": H1_HELLO_16,
    "h1-upload": Row("MiB/s", 256, on_one(clients.upload, 256 * MIB), 0.9),
    "tls-small": over_tls(stream_row(clients.ask_stream, SMALL, 50_000, None)),
    "tls-large": over_tls(stream_row(clients.ask_stream, LARGE, 4096, None)),
    "tls-hello": over_tls(H1_HELLO),
    "tls-hello-16": over_tls(H1_HELLO_16),
    "h2-hello-16": Row("requests/s", 2000, on_one(clients.ask_h2_hellos, 2000, 16), 1.0),
    "h2-small": stream_row(clients.ask_h2_stream, SMALL, 300_000, 1.0),
    "h2-large": stream_row(clients.ask_h2_stream, LARGE, 4096, 1.0),
    "ws-echo": Row("messages/s", 20_000, on_one(clients.echo, 20_000, 1)),
    "ws-echo-16": Row("messages/s", 32_000, on_one(clients.echo, 32_000, 16)),
}


def main() -> int:
    """Print a line for each row: the median rates, the median ratio, and its bar."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW", help=", ".join(ROWS)
    )
    parser.add_argument("--check", action="store_true", help="exit with 1 if a bar is missed")
    options = parser.parse_args()
    missed = [name for name in options.rows if not run(name, options.rounds)]
    if missed:
        print("below the bar:", *missed)
    return int(options.check and bool(missed))


def run(name: str, rounds: int) -> bool:
    """Measure a row and print its line; give whether it reaches its bar."""
    row = ROWS[name]
    with ExitStack() as stack:
        certificate = None
        if row.tls:
            certificate = Certificate.make(stack.enter_context(tempfile.TemporaryDirectory()))
        ours = stack.enter_context(run_server(OURS, certificate))
        stock = stack.enter_context(run_server(STOCK, certificate))
        pairs = [(row.rate(ours), row.rate(stock)) for _ in range(rounds)]
    ratio = statistics.median(one / other for one, other in pairs)
    rates = [statistics.median(column) for column in zip(*pairs, strict=True)]
    bar = "" if row.bar is None else f"bar {row.bar:.1f}"
    line = f"{name:13}{row.unit:16}{rates[0]:9.0f} stock {rates[1]:9.0f} ratio {ratio:5.2f} {bar}"
    print(line.rstrip(), flush=True)
    return row.bar is None or ratio >= row.bar


if __name__ == "__main__":
    sys.exit(main())
