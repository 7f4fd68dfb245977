"""What clients send to: an upload, a conversation in one request, and a WebSocket."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import trio

from tsstream import App, Request, Response, WebSocket, merge

app = App()
archive: list[int] = []


@app.put("/archive")
async def store(request: Request) -> Response:
    size = 0
    async for chunk in request.body:
        size += len(chunk)
    archive.append(size)
    return Response(f"{size} bytes\n")


async def shout(
    body: trio.abc.ReceiveChannel[bytes], send_channel: trio.MemorySendChannel[bytes]
) -> None:
    async for chunk in body:
        await send_channel.send(chunk.upper())


@app.post("/upper")
@asynccontextmanager
async def upper(request: Request) -> AsyncIterator[Response]:
    async with merge(partial(shout, request.body)) as chunks:
        yield Response(chunks, media_type="text/plain")


@app.websocket("/countdown")
async def countdown(websocket: WebSocket) -> None:
    websocket.check_origin()
    for number in range(int(await websocket.receive()), 0, -1):
        await websocket.send(str(number))
        await trio.sleep(1)
    await websocket.close(4000, "lift-off")
