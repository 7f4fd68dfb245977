"""What is measured in core.py: the same answers by tsstream and by bare ASGI calls."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from tsstream import App, Request, Response, merge

CHUNK = b"x" * int(os.environ.get("CHUNK", "100"))
COUNT = int(os.environ.get("COUNT", "20000"))
PRODUCERS = 8

app = App()


@app.get("/hello")
async def hello(request: Request) -> bytes:
    return b"hello"


async def produce(send_channel: trio.abc.SendChannel[bytes], count: int = COUNT) -> None:
    for _ in range(count):
        await send_channel.send(CHUNK)


async def produce_share(send_channel: trio.abc.SendChannel[bytes]) -> None:
    await produce(send_channel, COUNT // PRODUCERS)


@app.get("/stream")
async def stream(request: Request) -> Response:
    return Response(merge(produce))


@app.get("/merged")
async def merged(request: Request) -> Response:
    return Response(merge(*[produce_share] * PRODUCERS))


Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


async def bare(scope: Any, receive: Receive, send: Send) -> None:
    """Send what the routes above send, without a framework and without any of its promises."""
    if scope["type"] != "http":
        raise RuntimeError("no lifespan here")
    headers = [(b"content-type", b"application/octet-stream")]
    if scope["path"] == "/hello":
        headers.append((b"content-length", b"5"))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"hello"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for _ in range(COUNT):
        await send({"type": "http.response.body", "body": CHUNK, "more_body": True})
    await send({"type": "http.response.body", "body": b""})
