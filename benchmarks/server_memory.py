"""What the two servers hold for clients that take nothing, and for clients that do nothing.

Each server runs in a process of its own, whose resident memory is read from /proc (Linux).
"""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import ExitStack, closing

from benchmarks._clients import DEFAULT_WINDOW, H2Client, ask_hellos, ask_number
from benchmarks._processes import Server
from benchmarks._servers import OURS, STOCK, run_server

KIB, MIB = 1024, 1024 * 1024  # bytes
FLOOD_TIME = {OURS: 3, STOCK: 1}  # seconds
FLOOD_LIMIT = 1024 * MIB  # bytes: a server without backpressure shall not take the whole machine
FLOOD_BARS = {1: 8 * MIB, 100: 64 * MIB}  # connections → bytes that ours must stay below
ACCEPTED_BAR = 256 * KIB  # bytes: of one stream
IDLE = 1000  # connections
SETTLING_TIME = 0.5  # seconds: until what is no longer needed has been given back
SAMPLING_INTERVAL = 0.01  # seconds


def main() -> int:
    """Print a line for each row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit with 1 if a bar is missed")
    options = parser.parse_args()
    reached = [compare_floods(connections) for connections in FLOOD_BARS]
    compare_idle()
    return int(options.check and not all(reached))


def compare_floods(connections: int) -> bool:
    grown, accepted = {}, {}
    for which, seconds in FLOOD_TIME.items():
        with run_server(which) as server:
            grown[which], accepted[which] = flood(server, connections, seconds)
    bar = FLOOD_BARS[connections]
    print(
        f"flood, {connections:3} connections   "
        + " ".join(
            f"{which} {grown[which] / MIB:7.1f} MiB in {seconds} s "
            f"(of one stream {accepted[which] // KIB} KiB)"
            for which, seconds in FLOOD_TIME.items()
        )
        + f" bar {bar // MIB} MiB, {ACCEPTED_BAR // KIB} KiB",
        flush=True,
    )
    return grown[OURS] < bar and accepted[OURS] <= ACCEPTED_BAR


def flood(server: Server, connections: int, seconds: int) -> tuple[int, int]:
    """Let the app flood clients whose windows are exhausted.

    Gives the bytes by which the server has grown, and those it accepted of the largest response.
    """
    peak = before = warm_up(server)
    with ExitStack() as stack:
        for _ in range(connections):
            sock = stack.enter_context(closing(server.connect()))
            client = H2Client(sock, DEFAULT_WINDOW)
            client.request(f"/flood?seconds={seconds}&limit={FLOOD_LIMIT}")
        end = time.perf_counter() + seconds + SETTLING_TIME
        while time.perf_counter() < end:
            peak = max(peak, server.memory())
            time.sleep(SAMPLING_INTERVAL)
        asking = stack.enter_context(closing(server.connect()))
        floods, accepted = ask_number(asking, "/floods"), ask_number(asking, "/accepted")
    assert floods == connections, f"only {floods} of {connections} floods have started"
    return peak - before, accepted


def compare_idle() -> None:
    held = {}
    for which in (OURS, STOCK):
        with run_server(which) as server:
            held[which] = idle(server) / IDLE / KIB
    print(
        f"idle, {IDLE} connections  ours {held[OURS]:7.1f} KiB each "
        f"stock {held[STOCK]:7.1f} KiB each ratio {held[OURS] / held[STOCK]:.2f}"
    )


def idle(server: Server) -> int:
    """Give the bytes by which the server has grown for connections after one request each."""
    before = warm_up(server)
    with ExitStack() as stack:
        for _ in range(IDLE):
            sock = stack.enter_context(closing(server.connect()))
            ask_hellos([sock], 1)
        time.sleep(SETTLING_TIME)
        return server.memory() - before


def warm_up(server: Server) -> int:
    """Let the server import and allocate what it does for anybody; give its memory then."""
    with closing(server.connect()) as sock:
        ask_hellos([sock], 10)
    with closing(server.connect()) as sock:
        client = H2Client(sock)
        client.request("/hello")
        client.take_frames()
    time.sleep(SETTLING_TIME)
    return server.memory()


if __name__ == "__main__":
    sys.exit(main())
