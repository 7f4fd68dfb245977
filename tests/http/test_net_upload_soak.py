"""Uploads of every kind at once: those that are whole are read whole, and nothing is left."""

from __future__ import annotations

import logging
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
from leaks import assert_no_leaks
from probes import IDLE, IN_TIME, Calls, leave, logged
from wire import RawConnection, Truncated, open_raw, open_server

from tsstream import App, BodyLimits, Request, Response, StreamPolicy, merge

COUNT = 60  # uploads at once
SEND_LIMIT = 0.5  # seconds
PATHS = ["/read", "/count", "/ignore", "/close", "/poll", "/stream", "/echo"]
SIZES = [0, 1, 10_000, 150_000, 600_000]  # bytes


def make_app() -> App[None]:
    # RQ-24: on the stock server an echo that is stuck in send() hears of nothing but this limit.
    policy = StreamPolicy(send=SEND_LIMIT)
    app: App[None] = App(body_limits=BodyLimits(timeout=None), policy=policy)

    @app.post("/read")
    async def read(request: Request) -> str:
        return str(len(await request.read()))

    @app.post("/count")
    async def count(request: Request) -> str:
        return str(sum([len(chunk) async for chunk in request.body]))

    @app.post("/poll")
    async def poll(request: Request) -> str:
        size = 0
        while True:  # noqa: ASYNC913
            with trio.move_on_after(random.choice([0, 0.001])):  # noqa: ASYNC912
                try:
                    size += len(await request.body.receive())
                except trio.EndOfChannel:
                    return str(size)

    @app.post("/ignore")
    async def ignore(request: Request) -> str:
        return "ok"

    @app.post("/close")
    async def close(request: Request) -> str:
        async for _ in request.body:
            request.body.close()
            break
        await trio.sleep(0.01)
        return "ok"

    @app.post("/stream")
    async def stream(request: Request) -> Response:
        return Response(bytes(10_000) for _ in range(50))

    @app.post("/echo")
    @asynccontextmanager
    async def echo(request: Request) -> AsyncIterator[Response]:
        async def send_back(send_channel: trio.MemorySendChannel[bytes]) -> None:
            async for chunk in request.body:
                await send_channel.send(chunk)

        async with merge(send_back) as chunks:
            yield Response(chunks)

    return app


@attrs.define(eq=False)
class Upload:
    """One client, which may leave before the end."""

    rng: random.Random
    path: str = attrs.field(init=False)
    size: int = attrs.field(init=False)
    way: str = attrs.field(init=False)  # in which it leaves
    answer: tuple[int, bytes] | None = attrs.field(init=False, default=None)

    def __attrs_post_init__(self) -> None:
        self.path, self.size = self.rng.choice(PATHS), self.rng.choice(SIZES)
        self.way = self.rng.choice(["not", "not", "close", "abort", "half_close"])

    async def run(self, port: int) -> None:
        async with open_raw(port) as raw, trio.open_nursery() as nursery:
            nursery.start_soon(self._read, raw)
            try:
                await self._send(raw)
            except trio.BrokenResourceError:
                pass  # nobody wants the rest
            if self.way != "not":
                nursery.cancel_scope.cancel()
                with trio.CancelScope(shield=True):
                    await leave(raw, self.way)

    async def _read(self, raw: RawConnection) -> None:
        try:
            status, _ = await raw.read_head()
            self.answer = status, await raw.read_body()
        except (Truncated, trio.ClosedResourceError):
            assert self.way != "not"  # we have left meanwhile

    async def _send(self, raw: RawConnection) -> None:
        chunked = self.rng.random() < 0.5
        length = {"content-length": str(self.size)}
        await raw.request(
            "POST", self.path, {"transfer-encoding": "chunked"} if chunked else length
        )
        step = self.rng.choice([1000, 20_000, 1_000_000])
        end = self.size if self.way == "not" else self.rng.randrange(self.size + 1)
        for start in range(0, end, step):
            data = bytes(min(step, end - start))
            await raw.send_all(b"%x\r\n%s\r\n" % (len(data), data) if chunked else data)
        if chunked and end == self.size:
            await raw.send_all(b"0\r\n\r\n")

    def check(self) -> None:
        """Fail if the answer is not the one to a whole upload."""
        if self.way != "not":
            return
        assert self.answer is not None
        status, body = self.answer
        assert status == 200
        if self.path in ("/read", "/count", "/poll"):
            assert int(body) == self.size
        elif self.path == "/echo":
            assert len(body) == self.size


@pytest.mark.usefixtures("each_host")
@pytest.mark.parametrize("seed", range(3))
async def test_uploads_of_every_kind_at_once(seed: int, caplog: pytest.LogCaptureFixture) -> None:
    # RQ-6, RQ-19, RQ-21, RQ-23, RQ-25, RQ-27 to RQ-29
    rng = random.Random(seed)
    uploads = [Upload(random.Random(rng.random())) for _ in range(COUNT)]
    calls = Calls(make_app())
    async with open_server(calls, keep_alive_timeout=IDLE) as port, assert_no_leaks(grace=3):
        with trio.fail_after(2 * IN_TIME):  # noqa: ASYNC912
            async with trio.open_nursery() as nursery:
                for upload in uploads:
                    nursery.start_soon(upload.run, port)
                    if rng.random() < 0.2:
                        await trio.sleep(0.002)
        await calls.wait_idle(within=3)
    for upload in uploads:
        upload.check()
    assert logged(caplog, logging.ERROR) == []
