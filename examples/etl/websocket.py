"""Objects over a WebSocket: a control message, the object, a reply; and the next."""

from __future__ import annotations

import json
import logging
from functools import partial

from tsstream import HTTPError, WebSocket, WebSocketClosed

from .channels import channel_of
from .contract import PUT_LENGTH
from .delivery import open_answer
from .jobs import Engine, Job

logger = logging.getLogger("examples.etl")


# [pairs]
async def serve_objects(websocket: WebSocket[Engine]) -> None:
    """Answer each object before the next is read.

    An error closes the connection, behind the replies that are owed. Never is it a message: the
    target takes any text for "delivered".
    """
    engine = websocket.state
    if engine.streaming:
        raise HTTPError(501, "This server streams; a WebSocket is for whole objects.")
    async for control in websocket:
        try:
            job = await read_job(websocket, control)
            try:
                reply = await run_job(engine, job)
            except HTTPError as error:
                if not engine.settings.legacy_text_errors:
                    raise
                reply = f"Transform error: {error.detail}"
            await websocket.send(reply)
        except WebSocketClosed:
            raise
        except Exception as error:
            logger.exception("the WebSocket of %s fails", websocket.client)
            await websocket.close(1011, to_reason(error))
            return


# [job]
async def read_job(websocket: WebSocket[Engine], control: str | bytes) -> Job:
    path, etl_args, fqn, nodes = parse_control(control)
    data = b"" if fqn else await websocket.receive()
    if isinstance(data, str):
        raise ValueError("an object is a binary message")
    job = Job(
        path=path,
        etl_args=etl_args.strip(),
        source=partial(channel_of, data),
        replayable=True,
    )
    return await websocket.state.complete(job, fqn=fqn, nodes=nodes)


def parse_control(control: str | bytes) -> list[str]:
    fields = json.loads(control)
    if isinstance(control, bytes) and isinstance(fields, dict):
        values = [fields.get(name) or "" for name in ("path", "etl_args", "fqn", "pipeline")]
        if all(isinstance(value, str) for value in values):
            return values
    raise ValueError("a control message is a JSON object of texts, in a binary message")


async def run_job(engine: Engine, job: Job) -> str | bytes:
    """Give the reply: the result, or, as text, the number of bytes that have been delivered."""
    async with open_answer(engine, job) as response:
        if response.status_code == 204:
            return response.headers[PUT_LENGTH]
        if response.status_code != 200:
            raise HTTPError(502, f"The next node says {response.status_code}.")
        async with response as chunks:
            return b"".join([chunk async for chunk in chunks])


def to_reason(error: Exception) -> str:
    text = error.detail if isinstance(error, HTTPError) else str(error) or type(error).__name__
    return text.encode()[:123].decode(errors="ignore")  # RFC 6455, 5.5
