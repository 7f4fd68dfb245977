"""What is measured in upload.py beside tsstream: a Starlette app whose blocking code reads.

It runs on uvicorn: ``python -m benchmarks.upload_peer LOOP HTTP``, like ``uvloop httptools``.
"""

from __future__ import annotations

import importlib
import io
import socket
import sys
from functools import partial
from typing import IO, cast

import anyio.from_thread
import anyio.to_thread
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from benchmarks._counting import count
from benchmarks._processes import HOST, end_with_standard_input


class RequestReader(io.RawIOBase):
    """A file for a worker thread, as aistore's ETL server makes it: a hop for each chunk."""

    def __init__(self, request: Request) -> None:
        self._next = request.stream().__anext__
        self._buffer = bytearray()
        self._ended = False

    def readable(self) -> bool:
        """Say yes."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Read *size* bytes, fewer only at the end."""
        while len(self._buffer) < size and not self._ended:
            try:
                self._buffer += anyio.from_thread.run(self._next)
            except StopAsyncIteration:
                self._ended = True
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data


async def thread(request: Request) -> Response:
    reader = cast("IO[bytes]", RequestReader(request))
    read = partial(count, reader, int(request.query_params["read"]))
    return Response(await anyio.to_thread.run_sync(read))


app = Starlette(routes=[Route("/thread", thread, methods=["POST"])])


def main(loop: str, http: str) -> None:
    """Be a server for as long as the benchmark runs, and say the address."""
    # Not imported, as nothing but this file needs it.
    uvicorn = importlib.import_module("uvicorn")
    end_with_standard_input()
    with socket.create_server((HOST, 0)) as sock:
        print(f"{HOST}:{sock.getsockname()[1]}", flush=True)
        config = uvicorn.Config(app, loop=loop, http=http, log_level="warning")
        uvicorn.Server(config).run(sockets=[sock])


if __name__ == "__main__":
    main(*sys.argv[1:])
