"""Memory of a server process while it sends what is large (T-MEM, Linux)."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import pytest
import trio
from processes import open_process
from wire import RawConnection, open_raw

from tsstream import App, Request, Response, serve

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="memory is read from /proc"
)

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

app = App()


@app.get("/view/{size}")
async def view(request: Request) -> Response:
    # Zeros that nobody has touched take no memory, so only what is copied of them counts.
    return Response(memoryview(bytes(int(request.path_params["size"]))))


async def main() -> None:
    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(partial(serve, app, bind=["127.0.0.1:0"]))
        sys.stdout.write(address + "\n")
        sys.stdout.flush()


async def download(raw: RawConnection, size: int) -> None:
    await raw.request("GET", f"/view/{size}")
    status, headers = await raw.read_head()
    assert (status, headers["content-length"]) == (200, str(size))
    got = 0
    while (chunk := await raw.read_chunk()) is not None:
        got += len(chunk)
    assert got == size


async def test_one_view_of_a_gibibyte_is_sent_without_being_copied() -> None:
    # AC-28: at most 1 MiB more than for a small one
    async with open_process(__file__) as server, open_raw(server.port) as raw:
        for _ in range(3):
            await download(raw, 8 * MIB)
        before = server.read_memory("VmHWM")
        await download(raw, GIB)
        assert server.read_memory("VmHWM") - before <= MIB


if __name__ == "__main__":
    trio.run(main)
