"""One handler for each kind of body."""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import IO

import trio

from tsstream import (
    App,
    Encoder,
    Request,
    Response,
    json_response,
    merge,
    ndjson_response,
    text_response,
)

README = Path(__file__).parents[2] / "README.md"

app = App()


# [whole]
@app.get("/text")
async def text(request: Request) -> str:
    return "café\n"


@app.get("/bytes")
async def octets(request: Request) -> bytes:
    return b"caf\xc3\xa9\n"


@app.post("/made")
async def made(request: Request) -> Response:
    return text_response("made\n", 201)


@app.get("/data")
async def data(request: Request) -> Response:
    return json_response({"path": request.path, "query": dict(request.query_params)})


# [context-manager]
@asynccontextmanager
async def open_squares(limit: int) -> AsyncIterator[trio.MemoryReceiveChannel[str]]:
    async def produce(send_channel: trio.MemorySendChannel[str]) -> None:
        with send_channel:
            for number in range(limit):
                await send_channel.send(f"{number * number}\n")

    send_channel, receive_channel = trio.open_memory_channel[str](0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(produce, send_channel)
        with receive_channel:
            yield receive_channel
            nursery.cancel_scope.cancel()


Body = AbstractAsyncContextManager[trio.MemoryReceiveChannel[str]]


@app.get("/squares")
async def squares(request: Request) -> Body:
    return open_squares(limit=4)


# [merge]
async def count(send_channel: trio.MemorySendChannel[str]) -> None:
    for number in range(4):
        await send_channel.send(f"{number}\n")


@app.get("/count")
async def counted(request: Request) -> Body:
    return merge(count)


# [async-generator]
@app.get("/generated")
async def generated(request: Request) -> AsyncIterator[bytes]:
    async def generate() -> AsyncIterator[bytes]:
        for number in range(4):
            yield b"%d\n" % number
            await trio.lowlevel.checkpoint()

    return generate()


# [blocking]
def rows() -> Iterator[dict[str, int]]:
    for number in range(4):
        yield {"row": number}


@app.get("/rows")
async def all_rows(request: Request) -> Response:
    return ndjson_response(rows())


@app.get("/readme")
async def readme(request: Request) -> IO[bytes]:
    return README.open("rb")


# [encoder]
LINES = Encoder(lambda item: f"{item}\n".encode(), media_type="text/plain; charset=utf-8")


@app.get("/numbers")
async def numbers(request: Request) -> Response:
    return Response(range(4), encoder=LINES)


# [duplex]
async def shout(
    body: trio.abc.ReceiveChannel[bytes], send_channel: trio.MemorySendChannel[bytes]
) -> None:
    async for chunk in body:
        await send_channel.send(chunk.upper())


@app.post("/upper")
@asynccontextmanager
async def upper(request: Request) -> AsyncIterator[Response]:
    async with merge(partial(shout, request.body)) as chunks:
        yield Response(chunks)


# [upload]
@app.post("/sum")
async def total(request: Request) -> str:
    numbers = json.loads(await request.read())
    return f"{sum(numbers)}\n"
