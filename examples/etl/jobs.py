"""One object, from its source through the blocking transform to a channel of what comes out."""

from __future__ import annotations

import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from functools import partial
from io import BufferedIOBase
from typing import IO, cast

import attrs
import httpcore2
import trio

from tsstream import HTTPError, merge, run_thread_consumer

from .channels import Chunks, Source, WatchedChannel, channel_of, open_local, read_whole
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
      limiter: the places for transforms that run.
    """

    run: Callable[[Job, BufferedIOBase], Iterator[bytes]]
    streaming: bool
    settings: Settings
    pool: httpcore2.AsyncConnectionPool
    ssl_context: ssl.SSLContext
    limiter: trio.CapacityLimiter

    async def complete(self, job: Job, *, fqn: str, nodes: str | None) -> Job:
        """Find out where the object of a job is, if it is a local one, and where its result goes.

        Raises:
          HTTPError: 400, *nodes* is no pipeline; 403, *fqn* is not where local objects are.
        """
        try:
            node_url, pipeline = parse_pipeline(nodes)
            job = attrs.evolve(job, node_url=node_url, pipeline=pipeline)
            if not fqn:
                return job
            path = await trio.to_thread.run_sync(self.settings.local_path, fqn)
        except ValueError as error:
            raise HTTPError(400, str(error)) from None
        except PermissionError as error:
            raise HTTPError(403, str(error)) from None
        if self.settings.direct_fqn and not self.streaming:
            source: Source = partial(channel_of, b"")
            return attrs.evolve(job, source=source, replayable=True, direct_path=str(path))
        return attrs.evolve(job, source=partial(open_local, path), replayable=True)

    @asynccontextmanager
    async def open_content(self, job: Job) -> AsyncIterator[bytes | Chunks]:
        """Yield the result of a job: as a channel if it is streamed, else whole."""
        async with self._open_output(job) as output:
            if self.streaming:
                yield output
                return
            data = await read_whole(output)
        yield data

    # [output]
    @asynccontextmanager
    async def _open_output(self, job: Job) -> AsyncIterator[Chunks]:
        with ExitStack() as slot:
            await self.limiter.acquire_on_behalf_of(slot)
            slot.callback(self.limiter.release_on_behalf_of, slot)
            async with job.source() as chunks:
                async with merge(partial(self._produce, job, chunks, slot)) as output:
                    yield output

    async def _produce(
        self, job: Job, chunks: Chunks, slot: ExitStack, send_channel: trio.abc.SendChannel[bytes]
    ) -> None:
        async def hand_over(chunk: bytes) -> None:
            await send_channel.send(chunk)
            if job.node_url:
                # The next stage may wait for a place of its own, even one of this server's: so
                # nobody keeps a place while he waits for what comes after him.
                slot.close()

        watched = WatchedChannel(chunks)
        with status_errors(job.path):
            await run_thread_consumer(
                run_transform,
                watched,
                partial(self.run, job),
                hand_over,
                thread_grace=THREAD_GRACE,
                max_read=self.settings.max_buffered,
            )
            if watched.error is not None:
                raise watched.error  # and the transform has made do with half of the object


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
    """Give what a transform raises the status that the caller is told."""
    try:
        yield
    except (HTTPError, trio.BrokenResourceError):
        raise  # the status of an error of the source; or the caller has gone
    except FileNotFoundError as error:
        where = os.fspath(error.filename or path)
        detail = f"Error processing object {path!r}: file not found at {where!r}."
        raise HTTPError(404, detail) from error
    except Exception as error:
        raise HTTPError(500, f"Processing error: {error}") from error


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Answer 504 for an object that takes longer."""
    try:
        with trio.fail_after(seconds):
            yield
    except trio.TooSlowError:
        raise HTTPError(504, f"The object has taken more than {seconds:g} s.") from None
