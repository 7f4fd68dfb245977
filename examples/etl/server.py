"""The ETL server: subclass it, write one blocking method, and serve its ``app``."""

from __future__ import annotations

import resource
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from io import BufferedIOBase

import httpcore2
import trio

from tsstream import App, HTTPError, Request, Response

from .channels import Source, open_upstream
from .contract import NODE_URL, source_url
from .delivery import open_answer
from .jobs import Engine, Job
from .settings import Settings
from .websocket import serve_objects


class ETLServer:
    """A server that transforms the objects of AIStore.

    A subclass writes one of the two methods, as blocking code. With both, ``transform`` is used.

    Attributes:
      app: the ASGI application.
      settings: what the environment said when this was made.

    Raises:
      TypeError: neither method is written.
      OSError: ``AIS_TARGET_URL`` is not set.
    """

    def __init__(self) -> None:
        kind = type(self)
        self._streaming = kind.transform is ETLServer.transform
        if self._streaming and kind.transform_stream is ETLServer.transform_stream:
            raise TypeError(f"{kind.__name__} has neither transform() nor transform_stream()")
        self.settings = Settings.from_env()
        self.app: App[Engine] = App(lifespan=self._lifespan)
        self.app.route("/health", methods=["DELETE", "GET", "PATCH", "POST", "PUT"])(health)
        self.app.websocket("/ws")(serve_objects)
        for path in ("/", "/{path:path}"):
            self.app.route(path, methods=["GET", "PUT"])(self._answer)
        hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))

    def transform(self, data: bytes | str, path: str, etl_args: str) -> bytes:
        """Give the result of a whole object: its bytes or, with ``ETL_DIRECT_FQN``, its path."""
        raise NotImplementedError

    def transform_stream(self, reader: BufferedIOBase, path: str, etl_args: str) -> Iterator[bytes]:
        """Give the result piece by piece; read as much of the object as that takes."""
        raise NotImplementedError

    def get_mime_type(self) -> str:
        """Give the Content-Type of the results."""
        return "application/octet-stream"

    # [lifespan]
    @asynccontextmanager
    async def _lifespan(self, app: App[Engine]) -> AsyncIterator[Engine]:
        settings, ssl_context = self.settings, self.settings.ssl_context()
        async with httpcore2.AsyncConnectionPool(
            ssl_context=ssl_context,
            max_connections=settings.max_connections,
            max_keepalive_connections=settings.max_idle,
            keepalive_expiry=settings.idle_timeout,
        ) as pool:
            yield Engine(
                run=self._run,
                streaming=self._streaming,
                media_type=self.get_mime_type(),
                settings=settings,
                pool=pool,
                ssl_context=ssl_context,
                limiter=trio.CapacityLimiter(settings.max_transforms),
            )

    def _run(self, job: Job, reader: BufferedIOBase) -> Iterator[bytes]:
        if self._streaming:
            return self.transform_stream(reader, job.path, job.etl_args)
        data = job.direct_path or reader.read()
        return iter([self.transform(data, job.path, job.etl_args)])

    # [handler]
    @asynccontextmanager
    async def _answer(self, request: Request[Engine]) -> AsyncIterator[Response]:
        engine = request.state
        job = await self._job(request)
        if request.method == "HEAD":
            yield Response([], media_type=engine.media_type)
        else:
            async with open_answer(engine, job) as response:
                yield response

    # [job]
    async def _job(self, request: Request[Engine]) -> Job:
        query = request.query_params
        if request.method == "PUT":
            source: Source = partial(getattr, request, "body")
        else:
            url = source_url(self.settings.target_url, request.scope["raw_path"])
            source = partial(open_upstream, request.state.pool, url, self.settings.auth_headers)
        job = Job(
            path=request.path[1:],
            etl_args=query.get("etl_args", "").strip(),
            source=source,
            replayable=request.method != "PUT",
        )
        fqn = query.get("etl_fqn", "").strip()
        return await request.state.complete(job, fqn=fqn, nodes=request.headers.get(NODE_URL))


async def health(request: Request) -> bytes:
    if request.method not in ("GET", "HEAD"):
        raise HTTPError(405, headers={"allow": "GET, HEAD"})
    return b"Running"
