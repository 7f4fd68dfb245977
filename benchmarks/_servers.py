"""The two servers that are compared, each in a process of its own with the same configuration."""

from __future__ import annotations

import importlib
import ssl
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import attrs
import hypercorn.trio
import trio
import trustme
from hypercorn.config import Config

import tsstream
from benchmarks._processes import HOST, Server, end_with_standard_input, run_process

OURS, STOCK = "ours", "stock"


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


def run_server(
    which: str, certificate: Certificate | None = None, *, app: str = "benchmarks.server_apps:app"
) -> AbstractContextManager[Server]:
    """Run *app* on the server *which* for a block; it is killed afterwards."""
    arguments = ["benchmarks._servers", which, app]
    if certificate is None:
        return run_process(*arguments)
    return run_process(*arguments, certificate.file, tls=certificate.tls)


async def serve(which: str, app: str, certificate: str | None = None) -> None:
    """Be one of the servers, and say the address."""
    config = Config()
    config.bind = [f"{HOST}:0"]
    config.certfile = config.keyfile = certificate
    config.loglevel = "WARNING"
    # Stock Hypercorn would close a connection after 1,000 requests, or 5 idle seconds.
    config.keep_alive_max_requests = sys.maxsize
    config.keep_alive_timeout = 600
    module, _, name = app.partition(":")
    application = getattr(importlib.import_module(module), name)
    async with trio.open_nursery() as nursery:
        if which == OURS:
            addresses = await nursery.start(tsstream.serve, application, config)
        else:
            serve_stock = partial(hypercorn.trio.serve, mode="asgi")
            addresses = await nursery.start(serve_stock, application, config)
        print(addresses[0], flush=True)


def main(arguments: Sequence[str]) -> None:
    """Run a server for as long as the benchmark runs."""
    end_with_standard_input()
    trio.run(partial(serve, *arguments))


if __name__ == "__main__":
    main(sys.argv[1:])
