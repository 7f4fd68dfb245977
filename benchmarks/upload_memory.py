"""What the server holds of an upload, and how far it lets a client get ahead of its reader.

Each server is a process of its own, whose resident memory is read from /proc (Linux). How far a
client gets ahead includes what the kernels hold of both sides.
"""

from __future__ import annotations

import argparse
import select
import socket
import sys
import time
from collections.abc import Callable
from contextlib import closing

import attrs

from benchmarks import _uploads as uploads
from benchmarks._clients import BLOCK, ask_number, open_websocket, request
from benchmarks._processes import Server
from benchmarks._servers import OURS, STOCK, run_server

KIB, MIB = 1024, 1024 * 1024  # bytes
GROWTH_BAR = 8 * MIB  # bytes
AHEAD_BAR = 16 * MIB  # bytes: sent, and not taken by the reader
STALL_TIME = 1.0  # seconds: until the client stands still, or goes as slowly as the reader
SLOW_TIME = 5.0  # seconds: until that is looked at again
MOVED_BAR = 2 * MIB  # bytes: by which the distance may have grown then, as kernels round
SETTLING_TIME = 0.5  # seconds: until what is no longer needed has been given back

COUNTED = {
    "length": (uploads.upload_with_length, "/count"),
    "chunked": (uploads.upload_chunked(64 * KIB), "/count"),
    "h2": (uploads.upload_h2, "/count"),
    "parts": (uploads.upload_form, "/parts"),
    "thread": (uploads.upload_with_length, "/thread?read=65536"),
}


def begin_body(
    path: str, content_type: str, start: bytes = b""
) -> Callable[[socket.socket], bytes]:
    """Give a function that begins a body without an end, and gives what it goes on with."""

    def begin(sock: socket.socket) -> bytes:
        lines = f"content-type: {content_type}", f"content-length: {1 << 40}"
        sock.sendall(request(path, *lines, method="POST") + start)
        return BLOCK

    return begin


def begin_messages(sock: socket.socket) -> bytes:
    """Open a WebSocket, and give a message of 1 MiB."""
    open_websocket(sock, "/unread")
    return b"\x82\xff" + MIB.to_bytes(8, "big") + bytes(4) + bytes(MIB)


BYTES = "application/octet-stream"
SLOW = {
    "body": begin_body("/slow", BYTES),
    "parts": begin_body("/slow-parts", uploads.FORM_TYPE, uploads.PART_HEAD),
    "thread": begin_body("/slow-thread", BYTES),
    "websocket": begin_messages,
}


def main() -> int:
    """Print a line for each row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=1024, help="of a whole upload, in MiB")
    parser.add_argument("--server", choices=(OURS, STOCK), default=OURS)
    parser.add_argument("--check", action="store_true", help="exit with 1 if a bar is missed")
    options = parser.parse_args()
    reached = [count(name, options.server, options.size * MIB) for name in COUNTED]
    reached += [slow_down(name, options.server) for name in SLOW]
    return int(options.check and not all(reached))


def count(name: str, which: str, size: int) -> bool:
    """Let the app count a whole upload."""
    upload, path = COUNTED[name]
    with run_server(which, app="benchmarks.upload_apps:app") as server:
        before = warm_up(server)
        with closing(server.connect()) as sock:
            upload(sock, path, size)
        grown = server.memory("VmHWM") - before
    print(
        f"counted, {name:10} {size // MIB} MiB  grown {grown / MIB:5.1f} MiB"
        f" bar {GROWTH_BAR // MIB} MiB",
        flush=True,
    )
    return grown <= GROWTH_BAR


@attrs.frozen
class Flood:
    """What a client did that sends as much as it can.

    Attributes:
      ahead: the bytes by which it was ahead of the reader, after each of the times.
      grown: the bytes by which the server has grown.
    """

    ahead: list[int]
    grown: int


def slow_down(name: str, which: str) -> bool:
    """Let a client send to a reader that takes a chunk each second, or nothing."""
    with run_server(which, app="benchmarks.upload_apps:app") as server:
        flood = run_flood(server, SLOW[name])
    early, late = flood.ahead
    print(
        f"slow, {name:13} ahead {early / MIB:5.1f} MiB after {STALL_TIME:g} s,"
        f" {late / MIB:5.1f} MiB after {SLOW_TIME:g} s bar {AHEAD_BAR // MIB} MiB"
        f"  grown {flood.grown / MIB:5.1f} MiB bar {GROWTH_BAR // MIB} MiB",
        flush=True,
    )
    stopped = max(flood.ahead) <= AHEAD_BAR and late - early <= MOVED_BAR
    return stopped and flood.grown <= GROWTH_BAR


def run_flood(server: Server, begin: Callable[[socket.socket], bytes]) -> Flood:
    before = warm_up(server)
    with closing(server.connect()) as sock, closing(server.connect()) as asking:
        block, began, sent = begin(sock), time.perf_counter(), 0
        sock.setblocking(False)
        ahead = []
        for seconds in (STALL_TIME, SLOW_TIME):
            sent = send_until(began + seconds, sock, block, sent)
            ahead.append(sent - ask_number(asking, "/taken"))
        return Flood(ahead, server.memory("VmHWM") - before)


def send_until(end: float, sock: socket.socket, block: bytes, sent: int) -> int:
    """Go on to send *block* again and again; give how many bytes were sent, with *sent*."""
    poller = select.poll()
    poller.register(sock, select.POLLOUT)
    view = memoryview(block)
    while (left := end - time.perf_counter()) > 0:
        if poller.poll(left * 1000):
            sent += sock.send(view[sent % len(block) :])
    return sent


def warm_up(server: Server) -> int:
    """Let the server allocate what it does for anybody; give its memory then."""
    with closing(server.connect()) as sock:
        for _ in range(10):
            ask_number(sock, "/taken")
    time.sleep(SETTLING_TIME)
    return server.memory()


if __name__ == "__main__":
    sys.exit(main())
