"""Servers in processes of their own: where they listen, what they hold, and what they cost."""

from __future__ import annotations

import os
import re
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import attrs

HOST = "127.0.0.1"
TIMEOUT = 60.0  # seconds: a client that waits longer has found a server that hangs


@attrs.frozen
class Server:
    """A server that runs: where it listens, and its process."""

    port: int
    pid: int
    tls: ssl.SSLContext | None = None

    def connect(self) -> socket.socket:
        """Connect, with a TLS handshake if the server has a certificate."""
        client = socket.create_connection((HOST, self.port), TIMEOUT)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return client if self.tls is None else self.tls.wrap_socket(client, server_hostname=HOST)

    def memory(self, what: Literal["VmRSS", "VmHWM"] = "VmRSS") -> int:
        """Give the bytes of memory that the process holds, or has held at most (Linux)."""
        found = re.search(rf"{what}:\s*(\d+) kB", Path(f"/proc/{self.pid}/status").read_text())
        assert found is not None
        return int(found[1]) * 1024

    def cpu(self) -> float:
        """Give the seconds that the process has computed, itself and in the kernel (Linux)."""
        # The second field is the name, in parentheses; it may hold anything.
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def run_process(*arguments: str, tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    """Run ``python -m ARGUMENTS`` for the block; it is killed afterwards.

    It says where it listens by a line that ends with ``:PORT``.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stdout is not None
            port = process.stdout.readline().rpartition(":")[2]
            assert port, f"{' '.join(arguments)!r} did not start"
            yield Server(int(port), process.pid, tls)
        finally:
            process.kill()


def end_with_standard_input() -> None:
    """End this process when the one that has started it does."""

    def wait_for_end() -> None:
        sys.stdin.read()
        os._exit(1)  # whatever the server is doing

    threading.Thread(target=wait_for_end, daemon=True).start()
