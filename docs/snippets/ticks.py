"""A response that streams, with nothing in the body but plain Trio."""

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from tsstream import App, Request, Response

app = App()


async def tick(send_channel: trio.MemorySendChannel[str]) -> None:
    with send_channel:
        print("the clock starts")
        try:
            for number in itertools.count(1):
                await send_channel.send(f"tick {number}\n")
                await trio.sleep(1)
        finally:
            print("the clock stops")


@asynccontextmanager
async def open_ticks() -> AsyncIterator[trio.MemoryReceiveChannel[str]]:
    send_channel, receive_channel = trio.open_memory_channel[str](0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(tick, send_channel)
        with receive_channel:
            yield receive_channel
            nursery.cancel_scope.cancel()


@app.get("/ticks")
async def ticks(request: Request) -> Response:
    return Response(open_ticks(), media_type="text/plain")
