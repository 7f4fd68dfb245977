"""One object, from its source through the blocking transform to a channel of what comes out."""

from __future__ import annotations

import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from functools import partial
from io import BufferedIOBase
from typing import IO, cast

import attrs
import httpcore2
import trio

from tsstream import HTTPError, merge, run_thread_consumer

from .channels import NETWORK_ERRORS, Chunks, PulledChannel, Source, find_local, open_local
from .contract import parse_pipeline
from .settings import Settings

THREAD_GRACE = 1.0  # seconds: for a transform to notice that nobody wants its result any more


@attrs.frozen(kw_only=True)
class Job:
    """One object to transform.

    Attributes:
      path: the object's, as bucket/name.
      etl_args: what the caller says to the transform.
      source: opens the object.
      replayable: the source can be opened again.
      direct_path: what a buffered transform is given instead of the object's bytes.
      node_url: where the result goes, unless back to the caller.
      pipeline: where it goes from there.
    """

    path: str
    etl_args: str
    source: Source
    replayable: bool
    direct_path: str = ""
    node_url: str = ""
    pipeline: str = ""


@attrs.frozen(kw_only=True)
class Engine:
    """Runs the transform of one server.

    Attributes:
      run: gives the result of a job; called in a worker thread, with the object as a file.
      streaming: it gives many pieces, of which each is sent when it is made.
      media_type: of what it gives.
      limiter: the places for transforms that run.
    """

    run: Callable[[Job, BufferedIOBase], Iterator[bytes]]
    streaming: bool
    media_type: str
    settings: Settings
    pool: httpcore2.AsyncConnectionPool
    ssl_context: ssl.SSLContext
    limiter: trio.CapacityLimiter

    async def complete(self, job: Job, *, fqn: str, nodes: str | None) -> Job:
        """Find out where the object of a job is, if it is a local one, and where its result goes.

        Raises:
          HTTPError: 400, *nodes* is no pipeline; 403, *fqn* is not where local objects are; 404,
            it is no file.
        """
        node_url, pipeline = parse_pipeline(nodes)
        job = attrs.evolve(job, node_url=node_url, pipeline=pipeline)
        if not fqn:
            return job
        with status_errors(job.path):
            path = await trio.to_thread.run_sync(find_local, fqn, self.settings.fqn_roots)
        direct_path = str(path) if self.settings.direct_fqn and not self.streaming else ""
        source = partial(open_local, path)
        return attrs.evolve(job, source=source, replayable=True, direct_path=direct_path)

    # [output]
    @asynccontextmanager
    async def open_content(self, job: Job) -> AsyncIterator[bytes | Chunks]:
        """Yield the result of a job: as a channel if it is streamed, else whole."""
        async with AsyncExitStack() as stack:
            place = stack.enter_context(ExitStack())
            await self.limiter.acquire_on_behalf_of(place)
            place.callback(self.limiter.release_on_behalf_of, place)
            with status_errors(job.path):
                chunks = await stack.enter_async_context(job.source())
            transform = partial(self._transform, job, PulledChannel(chunks.receive), place)
            output = await stack.enter_async_context(merge(transform))
            if self.streaming:
                yield output
                return
            data = b"".join([chunk async for chunk in output])
        yield data

    async def _transform(
        self,
        job: Job,
        chunks: PulledChannel,
        place: ExitStack,
        send_channel: trio.abc.SendChannel[bytes],
    ) -> None:
        async def hand_over(chunk: bytes) -> None:
            await send_channel.send(chunk)
            if job.node_url:
                # The next stage may wait for a place of its own, even one of this server's: so
                # nobody keeps a place while he waits for what comes after him.
                place.close()

        with status_errors(job.path):
            await run_thread_consumer(
                run_transform,
                chunks,
                partial(self.run, job),
                hand_over,
                thread_grace=THREAD_GRACE,
                max_read=self.settings.max_buffered,
            )
            if chunks.error is not None:
                raise chunks.error  # and the transform has made do with half of the object


# [thread]
def run_transform(
    file: IO[bytes],
    transform: Callable[[BufferedIOBase], Iterator[bytes]],
    hand_over: Callable[[bytes], Awaitable[None]],
) -> None:
    """Run a transform from its first line to its last ``finally``, all of it in this thread."""
    chunks = iter(transform(cast("BufferedIOBase", file)))
    try:
        for chunk in filter(None, chunks):
            try:
                trio.from_thread.run(hand_over, bytes(chunk))
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return  # nobody reads on, or waits for this thread any more
    finally:
        if hasattr(chunks, "close"):
            chunks.close()


# [errors]
@contextmanager
def status_errors(path: str) -> Iterator[None]:
    """Give what a transform or its source raises the status that the caller is told."""
    try:
        yield
    except (HTTPError, trio.BrokenResourceError):
        raise  # it has a status; or the caller has gone
    except NETWORK_ERRORS as error:
        raise HTTPError(502, f"Network error: {str(error) or type(error).__name__}") from error
    except FileNotFoundError as error:
        where = os.fspath(error.filename or path)
        detail = f"Error processing object {path!r}: file not found at {where!r}."
        raise HTTPError(404, detail) from error
    except Exception as error:
        raise HTTPError(500, f"Processing error: {error}") from error
