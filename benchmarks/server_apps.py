"""What is measured in server.py and server_memory.py: one ASGI application, the same on both."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qsl

import trio

from tsstream._asgi import Receive, Send

HEADERS = [(b"content-type", b"application/octet-stream")]
CHUNK_SIZE = 64 * 1024  # bytes: of one send() in a flood


async def app(scope: Any, receive: Receive, send: Send) -> None:
    """Answer without a framework: what a row costs is the server's."""
    if scope["type"] == "lifespan":
        await live(receive, send)
    elif scope["type"] == "websocket":
        await echo(receive, send)
    else:
        options = {name: int(n) for name, n in parse_qsl(scope["query_string"].decode())}
        await PATHS[scope["path"]](receive, send, **options)


async def live(receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


async def hello(receive: Receive, send: Send) -> None:
    await answer(send, b"hello")


async def answer(send: Send, body: bytes) -> None:
    headers = [*HEADERS, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def stream(receive: Receive, send: Send, *, count: int, size: int) -> None:
    chunk = b"x" * size
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    for _ in range(count):
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def upload(receive: Receive, send: Send) -> None:
    size, more_body = 0, True
    while more_body:
        message = await receive()
        size += len(message["body"])
        more_body = message["more_body"]
    await answer(send, b"%d" % size)


async def echo(receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "bytes": message["bytes"]})


accepted: list[int] = []  # bytes that send() took of each flood, since the start


async def flood(receive: Receive, send: Send, *, seconds: int, limit: int) -> None:
    """Send all that the server takes, but no more than *limit* bytes in all floods together."""
    number = len(accepted)
    accepted.append(0)
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    with trio.move_on_after(seconds) as scope:
        while True:
            # Each chunk is memory of its own, as it would be in a real program.
            chunk = bytes([accepted[number] // CHUNK_SIZE % 256]) * CHUNK_SIZE
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
            accepted[number] += CHUNK_SIZE
            # A server whose send() has no checkpoint would never let the scope end it.
            if trio.current_time() >= scope.deadline or sum(accepted) >= limit:
                break


async def floods(receive: Receive, send: Send) -> None:
    await answer(send, b"%d" % len(accepted))


async def most_accepted(receive: Receive, send: Send) -> None:
    await answer(send, b"%d" % max(accepted))


PATHS: dict[str, Callable[..., Awaitable[None]]] = {
    "/hello": hello,
    "/stream": stream,
    "/upload": upload,
    "/flood": flood,
    "/floods": floods,
    "/accepted": most_accepted,
}
