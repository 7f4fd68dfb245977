"""What the caller is answered: the result or, after a direct put, what the next node says."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count

import trio

from tsstream import HTTPError, Response

from .contract import (
    NODE_URL,
    PUT_LENGTH,
    PUT_TRANSIENT,
    RETRY_REASON,
    put_url,
    retry_delay,
    says_delivered,
)
from .jobs import Engine, Job
from .put import RefusedError, TransientError, open_put

logger = logging.getLogger("examples.etl")


@asynccontextmanager
async def open_answer(engine: Engine, job: Job) -> AsyncIterator[Response]:
    """Run the transform for *job*, and yield the answer; its body may still be coming.

    Raises:
      HTTPError: 504, it takes too long; or that of the transform, its source or the next node.
    """
    seconds = engine.settings.object_timeout
    try:
        with trio.fail_after(seconds):
            if job.node_url:
                async with open_delivery(engine, job) as response:
                    yield response
            else:
                async with engine.open_content(job) as content:
                    yield Response(content, media_type=engine.media_type)
    except trio.TooSlowError:
        raise HTTPError(504, f"The object has taken more than {seconds:g} s.") from None


# [retry]
@asynccontextmanager
async def open_delivery(engine: Engine, job: Job) -> AsyncIterator[Response]:
    """Put the result of *job* until that has an answer, and yield it.

    Raises:
      HTTPError: 502, the node cannot be reached; 503, the caller may send the object again.
    """
    retries = engine.settings.put_retries if job.replayable else 0
    try:
        async with AsyncExitStack() as attempt:
            for failures in count(1):
                try:
                    response = await attempt.enter_async_context(open_attempt(engine, job))
                    break
                except TransientError as error:
                    if failures > retries:
                        raise
                    logger.warning("direct put of %r: %s", job.path, error)
                # The attempt has been left: nothing is open while we wait.
                await trio.sleep(retry_delay(failures))
            yield response
    except RefusedError as error:
        raise HTTPError(502, f"Direct put failed: {error}") from error
    except TransientError as error:
        detail = f"Direct put failed: {error}"
        if job.replayable:
            raise HTTPError(502, detail) from error
        raise HTTPError(503, detail, {RETRY_REASON: PUT_TRANSIENT}) from error


# [attempt]
@asynccontextmanager
async def open_attempt(engine: Engine, job: Job) -> AsyncIterator[Response]:
    """Put the result of *job* once; a reply that says "delivered" counts when all has been sent."""
    settings = engine.settings
    url = put_url(job.node_url, settings.target_url, job.path, job.etl_args)
    headers = settings.auth_headers
    if job.pipeline:
        headers[NODE_URL] = job.pipeline
    async with (
        engine.open_content(job) as content,
        open_put(url, headers, content, engine.ssl_context) as reply,
    ):
        status_code = reply.status_code
        if RETRY_REASON in reply.headers:
            raise TransientError("the next stage could not pass it on")
        if status_code in (205, 304) or status_code > 599:  # no answers to a PUT
            raise HTTPError(502, f"The next node answered {status_code}")
        if says_delivered(status_code, reply.headers):
            try:
                sent = await reply.uploaded.receive()
            except trio.EndOfChannel:
                raise TransientError("the next node has not taken all of it") from None
            yield Response(b"", 204, {PUT_LENGTH: reply.headers.get(PUT_LENGTH, str(sent))})
        else:
            names = sorted({"content-length", "content-type"} & reply.headers.keys())
            yield Response(reply.body, status_code, {name: reply.headers[name] for name in names})
