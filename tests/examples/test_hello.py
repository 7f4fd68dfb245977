"""examples/hello.py, over a socket."""

from __future__ import annotations

from functools import partial

import trio
from wire import open_raw

from examples.hello import app
from tsstream import serve


async def test_hello_world() -> None:
    async with trio.open_nursery() as nursery:
        addresses = await nursery.start(partial(serve, app, bind=["127.0.0.1:0"]))
        async with open_raw(int(addresses[0].rpartition(":")[2])) as raw:
            await raw.request("GET", "/")
            status, headers = await raw.read_head()
            assert (status, headers["content-type"]) == (200, "text/plain; charset=utf-8")
            assert await raw.read_body() == b"Hello, world!\n"
        nursery.cancel_scope.cancel()
