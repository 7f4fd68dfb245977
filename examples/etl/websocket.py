"""Objects over a WebSocket: a control message, the object, a reply; and the next."""

from __future__ import annotations

import json
import logging
from functools import partial

from tsstream import HTTPError, WebSocket, WebSocketClosed

from .channels import channel_of, read_whole
from .delivery import Delivered, open_delivery
from .jobs import Engine, Job, deadline

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
    fields = json.loads(control)
    if isinstance(control, str) or not isinstance(fields, dict):
        raise ValueError("a control message is a JSON object, in a binary message")
    fqn = fields.get("fqn") or ""
    data = b"" if fqn else await websocket.receive()
    if isinstance(data, str):
        raise ValueError("an object is a binary message")
    job = Job(
        path=fields.get("path") or "",
        etl_args=(fields.get("etl_args") or "").strip(),
        source=partial(channel_of, data),
        replayable=True,
    )
    return await websocket.state.complete(job, fqn=fqn, nodes=fields.get("pipeline"))


async def run_job(engine: Engine, job: Job) -> str | bytes:
    """Give the reply: the result, or, as text, the number of bytes that have been delivered."""
    with deadline(engine.settings.object_timeout):
        if not job.node_url:
            async with engine.open_content(job) as content:
                assert isinstance(content, bytes)
                return content
        async with open_delivery(engine, job) as answer:
            if isinstance(answer, Delivered):
                return answer.length
            if answer.status_code != 200:
                raise HTTPError(502, f"The next node says {answer.status_code}.")
            return await read_whole(answer.body)


def to_reason(error: Exception) -> str:
    text = error.detail if isinstance(error, HTTPError) else str(error) or type(error).__name__
    return text.encode()[:123].decode(errors="ignore")  # RFC 6455, 5.5
