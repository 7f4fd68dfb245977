"""The two servers that are compared, each in a process of its own with the same configuration."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import attrs
import hypercorn.trio
import trio
import trustme
from hypercorn.config import Config

import tsstream
from benchmarks.server_apps import app

OURS, STOCK = "ours", "stock"
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

    def memory(self) -> int:
        """Give the bytes of memory that the process holds (Linux)."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGESIZE")


@attrs.frozen
class Certificate:
    """A certificate for the servers, and the clients' trust in it."""

    file: str
    tls: ssl.SSLContext

    @classmethod
    def make(cls, directory: str) -> Certificate:
        """Make one, and write it with its key to *directory*."""
        authority = trustme.CA()
        file = str(Path(directory, "server.pem"))
        authority.issue_cert(HOST).private_key_and_cert_chain_pem.write_to_path(file)
        tls = ssl.create_default_context()
        authority.configure_trust(tls)
        return cls(file, tls)


@contextmanager
def run_server(which: str, certificate: Certificate | None = None) -> Iterator[Server]:
    """Run the server *which* for the block; it is killed afterwards."""
    command = [sys.executable, "-m", "benchmarks._servers", which]
    process = subprocess.Popen(
        [*command, certificate.file] if certificate else command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stdout is not None
            port = process.stdout.readline().rpartition(":")[2]
            assert port, f"the server {which!r} did not start"
            yield Server(int(port), process.pid, certificate.tls if certificate else None)
        finally:
            process.kill()


async def serve(which: str, certificate: str | None = None) -> None:
    """Be one of the servers, and say the address."""
    config = Config()
    config.bind = [f"{HOST}:0"]
    config.certfile = config.keyfile = certificate
    config.loglevel = "WARNING"
    # Stock Hypercorn would close a connection after 1,000 requests, or 5 idle seconds.
    config.keep_alive_max_requests = sys.maxsize
    config.keep_alive_timeout = 600
    async with trio.open_nursery() as nursery:
        if which == OURS:
            addresses = await nursery.start(tsstream.serve, app, config)
        else:
            addresses = await nursery.start(partial(hypercorn.trio.serve, mode="asgi"), app, config)
        print(addresses[0], flush=True)


def main(arguments: Sequence[str]) -> None:
    """Run a server until standard input ends: it does not outlive the benchmark."""

    def wait_for_end() -> None:
        sys.stdin.read()
        os._exit(1)  # whatever the server is doing

    threading.Thread(target=wait_for_end, daemon=True).start()
    trio.run(partial(serve, *arguments))


if __name__ == "__main__":
    main(sys.argv[1:])
