"""What is measured in upload.py and upload_memory.py: readers of uploads, and a bare one."""

from __future__ import annotations

import time
from typing import IO, Any

import trio

from benchmarks._counting import count
from benchmarks.server_apps import CHUNK_SIZE, upload
from tsstream import App, Request, WebSocket, run_thread_consumer
from tsstream._asgi import Receive, Send

framework = App()


@framework.post("/count")
async def count_chunks(request: Request) -> bytes:
    size = 0
    async for chunk in request.body:
        size += len(chunk)
    return b"%d" % size


@framework.post("/parts")
async def count_parts(request: Request) -> bytes:
    size = 0
    async for part in request.parts():
        async for chunk in part.body:
            size += len(chunk)
    return b"%d" % size


@framework.post("/thread")
async def count_in_thread(request: Request) -> bytes:
    size = int(request.query_params["read"])
    return await run_thread_consumer(count, request.body, size)


PAUSE = 1.0  # seconds: of the slow readers, after each chunk
taken: list[int] = []  # bytes of each chunk that a slow reader was given, since the start


@framework.get("/taken")
async def tell_taken(request: Request) -> bytes:
    return b"%d" % sum(taken)


async def take_slowly(channel: trio.abc.ReceiveChannel[bytes]) -> None:
    async for chunk in channel:
        taken.append(len(chunk))
        await trio.sleep(PAUSE)


@framework.post("/slow")
async def take_chunks_slowly(request: Request) -> bytes:
    await take_slowly(request.body)
    return b"ok"


@framework.post("/slow-parts")
async def take_parts_slowly(request: Request) -> bytes:
    async for part in request.parts():
        await take_slowly(part.body)
    return b"ok"


def read_slowly(file: IO[bytes]) -> bytes:
    while data := file.read(CHUNK_SIZE):
        taken.append(len(data))
        time.sleep(PAUSE)
    return b"ok"


@framework.post("/slow-thread")
async def read_slowly_in_thread(request: Request) -> bytes:
    return await run_thread_consumer(read_slowly, request.body)


@framework.websocket("/unread")
async def never_receive(websocket: WebSocket) -> None:
    await websocket.accept()
    await trio.sleep_forever()


async def app(scope: Any, receive: Receive, send: Send) -> None:
    """Answer ``/raw`` without a framework, and without any of its promises."""
    if scope["type"] == "http" and scope["path"] == "/raw":
        await upload(receive, send)
    else:
        await framework(scope, receive, send)
