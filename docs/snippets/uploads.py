"""Uploads: whole, in chunks, as forms, for blocking code, and on to somebody else."""

import csv
import hashlib
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from tempfile import gettempdir
from typing import IO
from uuid import uuid4

import attrs
import httpx2
import trio

from tsstream import (
    App,
    BodyLimits,
    HTTPError,
    Request,
    Response,
    json_response,
    merge,
    run_thread_consumer,
)

FOLDER = Path(gettempdir())
UPSTREAM = "http://127.0.0.1:9003/objects"

app = App(body_limits=BodyLimits(max_body=1024 * 1024, timeout=20.0))


# [whole]
@app.post("/orders")
async def order(request: Request) -> Response:
    items = (await request.json())["items"]
    return json_response({"ordered": len(items)}, 201)


# [stream]
@app.post("/checksum")
async def checksum(request: Request) -> str:
    digest = hashlib.sha256()
    async for chunk in request.body:
        digest.update(chunk)
    return f"{digest.hexdigest()}\n"


# [limits]
@app.put("/backup")
async def backup(request: Request) -> str:
    request.body_limits = attrs.evolve(request.body_limits, max_stream=20 * 2**30, timeout=300.0)
    return await checksum(request)


# [refuse]
@app.put("/private")
async def private(request: Request) -> str:
    if request.headers.get("authorization") != "Bearer sesame":
        raise HTTPError(401, headers={"www-authenticate": "Bearer"})
    return await checksum(request)


# [form]
@app.post("/contact")
async def contact(request: Request) -> str:
    form = await request.form()
    return f"{form['name']} asks about {', '.join(map(str, form.getlist('topic')))}\n"


# [parts]
@app.post("/photos")
async def photos(request: Request) -> Response:
    saved = {}
    async for part in request.parts():
        if part.filename:
            path = FOLDER / f"{uuid4()}.photo"
            saved[part.filename] = {"path": str(path), "size": await part.save(path)}
    return json_response(saved)


# [thread]
def sum_column(file: IO[bytes], name: str) -> float:
    rows = csv.DictReader(io.TextIOWrapper(file, encoding="utf-8", newline=""))
    return sum(float(row[name]) for row in rows)


@app.post("/sum/{column}")
async def sum_of_column(request: Request) -> str:
    column = request.path_params["column"]
    return f"{await run_thread_consumer(sum_column, request.body, column):g}\n"


# [duplex]
async def number_lines(
    body: trio.abc.ReceiveChannel[bytes], send_channel: trio.MemorySendChannel[bytes]
) -> None:
    number, rest = 0, b""
    async for chunk in body:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            number += 1
            await send_channel.send(b"%d %s\n" % (number, line))


@app.post("/numbered")
@asynccontextmanager
async def numbered(request: Request) -> AsyncIterator[Response]:
    request.body_limits = attrs.evolve(request.body_limits, timeout=None)
    async with merge(partial(number_lines, request.body)) as lines:
        yield Response(lines, media_type="text/plain")


# [proxy]
@app.post("/forward")
@asynccontextmanager
async def forward(request: Request) -> AsyncIterator[Response]:
    async with (
        httpx2.AsyncClient(timeout=None) as client,
        client.stream("POST", UPSTREAM, content=request.body) as answer,
    ):
        yield Response(answer.aiter_raw(), answer.status_code)
