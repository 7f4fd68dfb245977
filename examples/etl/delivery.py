"""Direct put: the result goes to the next node, and what that says to the caller."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import attrs
import trio

from tsstream import HTTPError

from .contract import (
    NODE_URL,
    PUT_TRANSIENT,
    RETRY_REASON,
    delivered_length,
    put_url,
    retry_delay,
)
from .jobs import Engine, Job
from .put import RefusedError, Reply, TransientError, open_put

logger = logging.getLogger("examples.etl")


@attrs.frozen
class Delivered:
    """The next node has it all: that many bytes."""

    length: str


# [retry]
@asynccontextmanager
async def open_delivery(engine: Engine, job: Job) -> AsyncIterator[Delivered | Reply]:
    """Put the result of *job*, and give the answer; the body of a reply may still be coming.

    Raises:
      HTTPError: 502, the node cannot be reached; 503, the caller may send the object again.
    """
    try:
        async with AsyncExitStack() as attempt:
            yield await enter_attempt(engine, job, attempt)
    except RefusedError as error:
        raise HTTPError(502, f"Direct put failed: {error}") from error
    except TransientError as error:
        detail = f"Direct put failed: {error}"
        if job.replayable:
            raise HTTPError(502, detail) from error
        raise HTTPError(503, detail, {RETRY_REASON: PUT_TRANSIENT}) from error


async def enter_attempt(engine: Engine, job: Job, stack: AsyncExitStack) -> Delivered | Reply:
    """Try until an attempt has an answer, and leave it open on *stack*."""
    retries = engine.settings.put_retries if job.replayable else 0
    for failures in range(1, retries + 1):
        try:
            return await stack.enter_async_context(open_attempt(engine, job))
        except TransientError as error:
            logger.warning("direct put of %r: %s", job.path, error)
        # The attempt has been left: nothing is open while we wait.
        await trio.sleep(retry_delay(failures))
    return await stack.enter_async_context(open_attempt(engine, job))


# [attempt]
@asynccontextmanager
async def open_attempt(engine: Engine, job: Job) -> AsyncIterator[Delivered | Reply]:
    """Put the result of *job* once."""
    settings = engine.settings
    url = put_url(job.node_url, settings.target_url, job.path, job.etl_args)
    headers = settings.auth_headers
    if job.pipeline:
        headers[NODE_URL] = job.pipeline
    async with engine.open_content(job) as content:
        async with open_put(url, headers, content, engine.ssl_context) as reply:
            if RETRY_REASON in reply.headers:
                raise TransientError("the next stage could not pass it on")
            yield await find_answer(reply)


async def find_answer(reply: Reply) -> Delivered | Reply:
    """Take a reply for what it says; one that says "delivered" counts when all has been sent."""
    if delivered_length(reply.status_code, reply.headers, 0) is None:
        return reply
    try:
        sent = await reply.uploaded.receive()
    except trio.EndOfChannel:
        raise TransientError("the next node has not taken all of it") from None
    return Delivered(delivered_length(reply.status_code, reply.headers, sent) or "")
