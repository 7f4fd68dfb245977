"""What is measured in archives.py beside tsstream: a download made as Anthias makes it.

A thread writes the archive to a pipe, from which an executor reads for the event loop. It runs on
uvicorn, with uvloop and httptools where they are installed.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import socket
import threading
from collections.abc import AsyncIterator
from functools import partial

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from benchmarks._archiving import write_gzip
from benchmarks._processes import HOST, end_with_standard_input

READ_SIZE = 64 * 1024  # bytes


async def stream_archive(path: str) -> AsyncIterator[bytes]:  # noqa: ASYNC900 (it is asyncio)
    reading, writing = os.pipe()

    def write() -> None:
        with open(writing, "wb") as file:
            write_gzip(file, path)

    thread = threading.Thread(target=write)
    thread.start()
    loop = asyncio.get_running_loop()
    with open(reading, "rb") as file:  # noqa: ASYNC230
        while data := await loop.run_in_executor(None, partial(file.read, READ_SIZE)):
            yield data  # noqa: ASYNC119
    await loop.run_in_executor(None, thread.join)


async def archive(request: Request) -> StreamingResponse:
    return StreamingResponse(stream_archive(request.query_params["path"]))


app = Starlette(routes=[Route("/tar", archive)])


def main() -> None:
    """Be a server for as long as the benchmark runs, and say the address."""
    # Not imported, as nothing but this file needs it.
    uvicorn = importlib.import_module("uvicorn")
    end_with_standard_input()
    with socket.create_server((HOST, 0)) as sock:
        print(f"{HOST}:{sock.getsockname()[1]}", flush=True)
        config = uvicorn.Config(app, log_level="warning")
        uvicorn.Server(config).run(sockets=[sock])


if __name__ == "__main__":
    main()
