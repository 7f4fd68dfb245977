"""Uploads, each taken as fast as it is used and no faster: that is backpressure.

``python -m examples.upload`` or ``tsstream run examples.upload:app``.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial

import attrs
import httpx2
import trio

from examples.metering import Meter, Upload
from tsstream import (
    App,
    BodyLimits,
    HTTPError,
    Request,
    Response,
    WebSocket,
    json_response,
    merge,
    serve,
    text_response,
)

BODILESS = (204, 205, 304)  # statuses (RFC 9110, section 15)


@attrs.frozen
class State:
    """What the requests share."""

    meter: Meter
    client: httpx2.AsyncClient


@asynccontextmanager
async def lifespan(app: App[State]) -> AsyncIterator[State]:
    async with httpx2.AsyncClient(
        headers={"accept-encoding": "identity"},  # as not every client understands another
        timeout=httpx2.Timeout(None, connect=5),  # the pace is the upstream's
        # For each upload a connection of its own, not one that was idle and may just be closing.
        limits=httpx2.Limits(max_keepalive_connections=0),
        trust_env=False,  # where an upload goes is up to the query alone
    ) as client:
        yield State(Meter(), client)


app = App(
    lifespan=lifespan,
    body_limits=BodyLimits(max_parts=100, max_field=16 * 1024),  # 1.6 MB of fields at most
    errors={httpx2.InvalidURL: 400, httpx2.UnsupportedProtocol: 400, httpx2.TransportError: 502},
)


def number(query: Mapping[str, str], name: str, default: float, *, least: float = 0.0) -> float:
    text = query.get(name, default)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not least <= value < math.inf:
        raise HTTPError(400, f"{name} is a number of at least {least:g}, not {text!r}\n")
    return value


def content_headers(headers: Mapping[str, str]) -> dict[str, str]:
    names = ("content-encoding", "content-length", "content-type")
    return {name: headers[name] for name in names if name in headers}


async def take(request: Request[State], *, pause: float = 0.0) -> Response:
    with request.state.meter.upload(request.body) as upload:
        async for _ in upload:
            await trio.sleep(pause)
    return json_response({"bytes": upload.size, "chunks": upload.chunks})


@app.post("/count")
async def count(request: Request[State]) -> Response:
    return await take(request)


@app.post("/slow")
async def slow(request: Request[State]) -> Response:
    return await take(request, pause=1 / number(request.query_params, "rate", 1, least=0.001))


@app.post("/echo")
@asynccontextmanager
async def echo(request: Request[State]) -> AsyncIterator[Response]:
    # A conversation may pause as long as it likes.
    request.body_limits = attrs.evolve(request.body_limits, timeout=None)
    with request.state.meter.upload(request.body) as upload:
        yield Response(upload, headers=content_headers(request.headers))


@app.post("/ignore")
async def ignore(request: Request[State]) -> str:
    with request.state.meter.stream():
        await trio.sleep(number(request.query_params, "sleep", 0))
    return "ok"


async def tick(send_channel: trio.MemorySendChannel[str]) -> None:
    while True:
        await send_channel.send("tick\n")
        await trio.sleep(0.1)


@app.post("/ignore-stream")
@asynccontextmanager
async def ignore_stream(request: Request[State]) -> AsyncIterator[Response]:
    with request.state.meter.stream():
        yield text_response(merge(tick), live=True)


async def fingerprint(upload: Upload) -> tuple[int, str]:
    digest = hashlib.sha256()
    async for chunk in upload:
        digest.update(chunk)
    return upload.size, digest.hexdigest()


@app.post("/form")
async def form(request: Request[State]) -> Response:
    meter = request.state.meter
    fields: dict[str, str] = {}
    files: list[dict[str, str | int]] = []
    kept = 0
    with meter.stream():
        async for part in request.parts():
            if part.filename is None:
                fields[part.name] = text = await part.text()
                kept += meter.take(text, kept=kept)
            else:
                size, digest = await fingerprint(Upload(meter, part.body, kept))
                files.append({"name": part.filename, "size": size, "sha256": digest})
    return json_response({"fields": fields, "files": files})


@app.post("/proxy")
@asynccontextmanager
async def proxy(request: Request[State]) -> AsyncIterator[Response]:
    url = request.query_params.get("to", "")  # a proxy for strangers would choose by itself
    with request.state.meter.upload(request.body) as upload:
        headers = content_headers(request.headers)
        async with request.state.client.stream(
            "POST", url, headers=headers, content=upload
        ) as answer:
            body = b"" if answer.status_code in BODILESS else answer.aiter_raw()
            yield Response(body, answer.status_code, content_headers(answer.headers))


@app.websocket("/ws/echo")
async def ws_echo(websocket: WebSocket[State]) -> None:
    with websocket.state.meter.stream():
        async for message in websocket:
            websocket.state.meter.take(message)
            await websocket.send(message)


@app.websocket("/ws/slow")
async def ws_slow(websocket: WebSocket[State]) -> None:
    pause = 1 / number(websocket.query_params, "rate", 1, least=0.001)
    size = messages = 0
    with websocket.state.meter.stream():
        async for message in websocket:
            size += websocket.state.meter.take(message)
            messages += 1
            await trio.sleep(pause)
            await websocket.send(json.dumps({"bytes": size, "messages": messages}))


@app.websocket("/ws/sendonly")
async def ws_sendonly(websocket: WebSocket[State]) -> None:
    websocket.check_origin()
    websocket.send_only()
    with websocket.state.meter.stream():
        await websocket.stream(merge(tick))


@app.get("/stats")
async def stats(request: Request[State]) -> Response:
    tasks = trio.lowlevel.current_statistics().tasks_living  # of all Trio: the server's too
    return json_response({"tasks": tasks, **attrs.asdict(request.state.meter)})


async def main(*binds: str) -> None:
    async with trio.open_nursery() as nursery:
        [address] = await nursery.start(partial(serve, app, bind=binds or None))
        print(f"Waiting for uploads at {address}", flush=True)


if __name__ == "__main__":
    try:
        trio.run(main, *sys.argv[1:])
    except* KeyboardInterrupt:
        pass
