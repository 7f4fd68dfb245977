"""What tsstream costs on top of its server: its rates, as ratios to bare ASGI calls.

Both applications run on the same server, each in a process of its own, and are asked in turn.
"""

from __future__ import annotations

import argparse
import os
import re
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from benchmarks.core_apps import CHUNK, COUNT, PRODUCERS

HELLOS = 900  # requests on one connection; Hypercorn closes it after 1,000


@contextmanager
def server(name: str) -> Iterator[int]:
    """Run ``benchmarks.core_apps:NAME`` in a process of its own, and give its port."""
    command = [sys.executable, "-m", "tsstream", "run", f"benchmarks.core_apps:{name}"]
    process = subprocess.Popen(
        [*command, "--bind", "127.0.0.1:0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        assert process.stdout is not None
        found = re.search(r"127\.0\.0\.1:(\d+)", process.stdout.readline())
        assert found is not None, "the server did not say its address"
        yield int(found[1])
    finally:
        process.terminate()
        process.wait(10)


def hello_rate(port: int) -> float:
    """Give requests per second, one after another on one connection."""
    with socket.create_connection(("127.0.0.1", port), 10) as client:
        began = time.perf_counter()
        for _ in range(HELLOS):
            client.sendall(b"GET /hello HTTP/1.1\r\nhost: localhost\r\n\r\n")
            answer = b""
            while not answer.endswith(b"hello"):
                data = client.recv(65536)
                assert data, "the server closed the connection"
                answer += data
        return HELLOS / (time.perf_counter() - began)


def stream_rate(path: str) -> Callable[[int], float]:
    """Give a function that measures the chunks per second of *path*, and checks their bytes."""

    def measure(port: int) -> float:
        with socket.create_connection(("127.0.0.1", port), 30) as client:
            began = time.perf_counter()
            request = f"GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
            client.sendall(request.encode())
            answer = bytearray()
            while data := client.recv(1 << 18):
                answer += data
            seconds = time.perf_counter() - began
        assert answer.endswith(b"0\r\n\r\n"), "the stream was cut"
        assert answer.count(CHUNK[:1]) >= COUNT * len(CHUNK)
        return COUNT / seconds

    return measure


ROWS: dict[str, Callable[[int], float]] = {
    "hello, requests/s": hello_rate,
    f"one producer, {len(CHUNK)} B chunks/s": stream_rate("/stream"),
    f"{PRODUCERS} producers merged, {len(CHUNK)} B chunks/s": stream_rate("/merged"),
}


def main() -> None:
    """Print a row for each way to answer: the median rates, and the median ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with ExitStack() as stack:
        ours, bare = stack.enter_context(server("app")), stack.enter_context(server("bare"))
        for name, measure in ROWS.items():
            pairs = [(measure(ours), measure(bare)) for _ in range(rounds)]
            ratio = statistics.median(one / other for one, other in pairs)
            rates = [statistics.median(column) for column in zip(*pairs, strict=True)]
            print(f"{name:45} {rates[0]:9.0f} bare {rates[1]:9.0f} ratio {ratio:5.2f}")


if __name__ == "__main__":
    main()
