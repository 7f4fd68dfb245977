"""Clients that download archives: how long that takes, and how long others wait meanwhile."""

from __future__ import annotations

import re
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from urllib.parse import urlencode

import attrs

from benchmarks._clients import Wire, count_chunked, request, take_head, take_hello
from benchmarks._processes import Server

ASKING_INTERVAL = 0.005  # seconds: between the requests of others


@attrs.frozen
class Download:
    """What came: bytes, and the seconds until the first of them and until the last.

    Attributes:
      waits: the seconds that each other request took meanwhile.
    """

    size: int
    first: float
    clock: float
    waits: list[float]

    @property
    def p99(self) -> float:
        return statistics.quantiles(self.waits, n=100)[-1]


def archive_path(tree: str, compression: str | None = None, level: int | None = None) -> str:
    query = {"path": tree, "compression": compression, "level": level}
    return "/tar?" + urlencode({key: value for key, value in query.items() if value is not None})


def download(server: Server, path: str, *, others: bool = False) -> Download:
    """Download once, on a connection of its own; *others* ask for something small meanwhile."""
    waits: list[float] = []
    with closing(server.connect()) as sock, asking(server, waits if others else None):
        began = time.perf_counter()
        sock.sendall(request(path))
        wire = Wire(sock)
        head = take_head(wire)
        if wire.empty:
            wire.fill()
        first = time.perf_counter() - began
        size = take_body(wire, head)
        return Download(size, first, time.perf_counter() - began, waits)


def take_body(wire: Wire, head: bytes) -> int:
    if (length := re.search(rb"content-length: (\d+)", head)) is None:
        return count_chunked(wire)
    wire.skip(int(length[1]))
    return int(length[1])


@contextmanager
def asking(server: Server, waits: list[float] | None) -> Iterator[None]:
    """Ask for something small again and again, in a thread, and note how long it takes."""
    if waits is None:
        yield
        return
    enough = threading.Event()
    thread = threading.Thread(target=ask_on, args=(server, waits, enough))
    thread.start()
    try:
        yield
    finally:
        enough.set()
        thread.join()


def ask_on(server: Server, waits: list[float], enough: threading.Event) -> None:
    with closing(server.connect()) as sock:
        wire = Wire(sock)
        while not enough.wait(ASKING_INTERVAL):
            began = time.perf_counter()
            sock.sendall(request("/hello"))
            take_hello(wire)
            waits.append(time.perf_counter() - began)
