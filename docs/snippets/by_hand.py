"""Two WebSocket feeds, merged without merge()."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import trio

from tsstream import App, Request, websocket_feed

NEWS = "ws://127.0.0.1:9001"
WEATHER = "ws://127.0.0.1:9002"

Message = str | bytes

app = App()


# [producer]
async def copy_feed(url: str, send_channel: trio.MemorySendChannel[Message]) -> None:
    with send_channel:
        await websocket_feed(url)(send_channel)


# [body]
@asynccontextmanager
async def open_feeds(*urls: str) -> AsyncIterator[trio.MemoryReceiveChannel[Message]]:
    send_channel, receive_channel = trio.open_memory_channel[Message](0)
    async with trio.open_nursery() as nursery:
        with send_channel:
            for url in urls:
                nursery.start_soon(copy_feed, url, send_channel.clone())
        with receive_channel:
            yield receive_channel
            nursery.cancel_scope.cancel()


# [handler]
@app.get("/both")
async def both(request: Request) -> AbstractAsyncContextManager[object]:
    return open_feeds(NEWS, WEATHER)
