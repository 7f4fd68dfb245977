"""examples/upload.py: who is slower sets the pace, and memory does not grow (RQ-3, RQ-5)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import attrs
import pytest
import trio
from probes import PROMPT
from processes import Server, open_process
from uploading import KIB, MIB, Pump, post_json, read_stats, wait_streams
from wire import HOST, open_raw

from examples.upload import main

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="memory is read from /proc"
)

AHEAD = 16 * MIB  # bytes that a client may be ahead of a handler, those in the kernels included
GROWTH = 8 * MIB  # bytes of memory


@asynccontextmanager
async def open_upload_process() -> AsyncIterator[Server]:
    """Run the program in a process of its own, which has seen a large upload before."""
    async with open_process(__file__) as server:
        await post_json(server.port, "/count", bytes(16 * MIB))
        yield server


async def test_a_slow_handler_stops_its_client_and_memory_stays_flat() -> None:
    # RQ-3
    async with open_upload_process() as server:
        taken, memory = (await read_stats(server.port))["bytes_taken"], server.read_memory("VmHWM")
        async with open_raw(server.port) as raw, trio.open_nursery() as nursery:
            pump = Pump(raw)
            await raw.request("POST", "/slow?rate=1", {"content-length": str(1024 * MIB)})
            nursery.start_soon(pump.run, 1024 * MIB)
            await pump.wait_stuck()
            stats = await read_stats(server.port)
            assert 0 < pump.sent - (stats["bytes_taken"] - taken) <= AHEAD
            assert stats["peak_buffered"] <= 512 * KIB
            assert server.read_memory("VmHWM") - memory <= GROWTH
            raw.abort()
        await wait_streams(server.port, 0, within=PROMPT)


@attrs.define(eq=False)
class SlowUpstream:
    """Takes a PUT of a known size, a piece at a time, and answers with how long it took.

    Attributes:
      took: seconds from the first to the last byte.
    """

    size: int
    pause: float
    took: float = 0.0

    async def handle(self, stream: trio.SocketStream) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += await stream.receive_some(1)
        start = trio.current_time()
        left = self.size
        while left:
            left -= len(await stream.receive_some(min(left, 64 * KIB)))
            await trio.sleep(self.pause)
        self.took = trio.current_time() - start
        await stream.send_all(b"HTTP/1.1 201 \r\ncontent-length: 2\r\n\r\nok")


async def test_a_proxied_upload_goes_at_the_pace_of_the_upstream_and_memory_stays_flat() -> None:
    # RQ-5
    upstream = SlowUpstream(size=64 * MIB, pause=0.001)
    async with open_upload_process() as server, trio.open_nursery() as nursery:
        memory = server.read_memory("VmHWM")
        [listener] = await nursery.start(partial(trio.serve_tcp, host=HOST), upstream.handle, 0)
        port = listener.socket.getsockname()[1]
        async with open_raw(server.port) as raw:
            await raw.request(
                "POST",
                f"/proxy?to=http://{HOST}:{port}/",
                {"content-length": str(upstream.size)},
            )
            pump = Pump(raw)
            start = trio.current_time()
            await pump.run(upstream.size)
            took = trio.current_time() - start
            assert (await raw.read_head())[0] == 201
            assert await raw.read_body() == b"ok"
        assert took >= 0.8 * upstream.took
        assert server.read_memory("VmHWM") - memory <= GROWTH
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, "127.0.0.1:0")
