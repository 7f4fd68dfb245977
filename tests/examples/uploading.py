"""Clients of examples/upload.py, and what it says of itself meanwhile."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import attrs
import trio
from probes import IN_TIME
from wire import RawConnection, open_raw

KIB = 1024
MIB = 1024 * KIB


async def read_stats(port: int) -> dict[str, int]:
    async with open_raw(port) as raw:
        await raw.request("GET", "/stats")
        assert (await raw.read_head())[0] == 200
        stats: dict[str, int] = json.loads(await raw.read_body())
        return stats


async def wait_streams(port: int, count: int, *, within: float = IN_TIME) -> None:
    """Wait until ``/stats`` says that so many streams are open."""
    with trio.fail_after(within):
        while (await read_stats(port))["streams"] != count:
            pass


async def post(
    port: int, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
) -> tuple[int, bytes]:
    """Send a whole upload, and read the answer meanwhile; give its status and body."""
    async with open_raw(port) as raw, trio.open_nursery() as nursery:
        with trio.fail_after(IN_TIME):
            await raw.request("POST", path, {"content-length": str(len(body)), **(headers or {})})
            nursery.start_soon(send_what_is_taken, raw, body)
            status, _ = await raw.read_head()
            while status == 100:
                status, _ = await raw.read_head()
            answer = await raw.read_body()
        nursery.cancel_scope.cancel()
    return status, answer


async def post_json(port: int, path: str, body: bytes = b"", **headers: str) -> Any:
    status, answer = await post(port, path, body, headers)
    assert status == 200, answer
    return json.loads(answer)


async def send_what_is_taken(raw: RawConnection, data: bytes) -> None:
    """Send *data*, or as much of it as the server lives to take."""
    try:
        await raw.send_all(data)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass


@attrs.define(eq=False)
class Pump:
    """A client that sends a body as fast as it can, and knows how much of it has gone."""

    raw: RawConnection
    sent: int = 0  # bytes

    async def run(self, size: int, piece: bytes = bytes(64 * KIB)) -> None:
        """Send *size* bytes, as long as the connection lives."""
        stream = self.raw.stream
        try:
            while self.sent < size:
                view = memoryview(piece)[: size - self.sent]
                while view:
                    # Not send_all(): only this says how much of a piece has gone.
                    count = await stream.socket.send(view)
                    self.sent += count
                    view = view[count:]
        except (OSError, trio.ClosedResourceError):
            pass

    async def wait_stuck(self) -> None:
        """Wait until nothing has gone for a fifth of a second."""
        with trio.fail_after(IN_TIME):  # noqa: ASYNC912
            sent = -1
            while self.sent > sent:  # noqa: ASYNC110 (that nothing happens is no event)
                sent = self.sent
                await trio.sleep(0.2)


def chunk(data: bytes) -> bytes:
    """Frame *data* as one chunk of HTTP/1.1."""
    return b"%x\r\n%s\r\n" % (len(data), data)


LAST_CHUNK = b"0\r\n\r\n"
CHUNKED = {"transfer-encoding": "chunked"}
