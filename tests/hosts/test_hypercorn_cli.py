"""An App by Hypercorn's own command, and as a task among others; one App, several servers."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from hosted import IN_TIME, Hosted, check_disconnect, check_streaming, get
from hypercorn.utils import LifespanFailureError
from leaks import assert_no_leaks
from wire import RawConnection, Truncated, open_h2, open_raw, open_server

import tsstream
from tsstream import App, serve
from tsstream._asgi import Receive, Send

LIMIT = 20.0  # seconds: for a process on a busy machine, not a wait
ROOT = Path(tsstream.__file__).parents[1]

APPLICATION = """
import sys
from contextlib import asynccontextmanager

import trio

from tsstream import App, Response, json_response, merge


def say(word):
    print(word, file=sys.stderr, flush=True)


@asynccontextmanager
async def lifespan(app):
    say("startup")
    yield {"answer": 42}
    say("shutdown")


app = App(lifespan=lifespan)


@app.get("/state")
async def state(request):
    return json_response(request.state)


@app.get("/where")
async def where(request):
    return json_response([request.root_path, request.path, request.http_version])


@app.get("/endless")
async def endless(request):
    return Response(merge(produce), media_type="text/plain", live=True)


@app.get("/cut")
async def cut(request):
    return Response(merge(fail), media_type="text/plain")


@app.post("/size")
async def size(request):
    return str(len(await request.read()))


async def produce(send_channel):
    say("in")
    try:
        while True:
            await send_channel.send("tick ")
            await trio.sleep(0.02)
    finally:
        say("out")


async def fail(send_channel):
    await send_channel.send("first ")
    raise OSError("the source broke")
"""


class Command:
    """A ``hypercorn`` process; its standard error is read as it comes."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self.said = ""
        self.port = 0
        self._more = trio.Condition()

    async def run_reader(self) -> None:
        assert self.process.stderr is not None
        async for data in self.process.stderr:
            async with self._more:
                self.said += data.decode()
                self._more.notify_all()

    async def wait_said(self, pattern: str) -> re.Match[str]:
        """Wait until it has written what matches *pattern*."""
        with trio.fail_after(LIMIT):
            async with self._more:
                while (found := re.search(pattern, self.said)) is None:
                    await self._more.wait()
        return found

    async def wait_exit(self) -> int:
        with trio.fail_after(LIMIT):
            return await self.process.wait()


@asynccontextmanager
async def open_command(directory: Path, *args: str) -> AsyncIterator[Command]:
    """Run ``hypercorn -k trio`` on a free port until the block is left."""
    (directory / "hosted_cli.py").write_text(APPLICATION)
    process = await trio.lowlevel.open_process(
        [
            *(sys.executable, "-m", "hypercorn", "-k", "trio", "--bind", "127.0.0.1:0"),
            *(*args, "hosted_cli:app"),
        ],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # so that its workers can be killed with it
    )
    try:
        async with trio.open_nursery() as nursery:
            command = Command(process)
            nursery.start_soon(command.run_reader)
            command.port = int((await command.wait_said(r"Running on \S+:(\d+)"))[1])
            yield command
            nursery.cancel_scope.cancel()
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        with trio.CancelScope(shield=True):
            await process.wait()
            assert process.stderr is not None
            await process.stderr.aclose()


async def read_tick(raw: RawConnection) -> None:
    with trio.fail_after(LIMIT):
        await raw.request("GET", "/endless")
        assert (await raw.read_head())[0] == 200
        assert await raw.read_chunk()


# hypercorn -k trio module:app


async def test_the_command_serves_http11_and_http2_with_the_lifespan_state(tmp_path: Path) -> None:
    async with open_command(tmp_path) as command:
        assert json.loads((await get(command.port, "/state"))[2]) == {"answer": 42}
        async with open_h2(command.port) as connection:
            for path, body in (("/state", {"answer": 42}), ("/where", ["", "/where", "2"])):
                stream_id = await connection.request("GET", path)
                assert (await connection.read_head(stream_id))[0] == 200
                assert json.loads(await connection.read_body(stream_id)) == body
            stream_id = await connection.request("POST", "/size", body=b"x" * 100_000)
            assert (await connection.read_head(stream_id))[0] == 200
            assert await connection.read_body(stream_id) == b"100000"


async def test_the_command_cancels_producers_when_the_client_leaves(tmp_path: Path) -> None:
    """AC-50, on HTTP/1.1 and HTTP/2."""
    async with open_command(tmp_path) as command:
        async with open_raw(command.port) as raw:
            await read_tick(raw)
        await command.wait_said("in\nout\n")
        async with open_h2(command.port) as connection:
            stream_id = await connection.request("GET", "/endless")
            await connection.read_head(stream_id)
            await connection.read_chunk(stream_id)
            await connection.reset(stream_id)
            await command.wait_said("in\nout\nin\nout\n")


async def test_the_command_cuts_a_failed_body_and_says_why(tmp_path: Path) -> None:
    """D10."""
    async with open_command(tmp_path) as command:
        with pytest.raises(Truncated) as raised:
            await get(command.port, "/cut")
        assert raised.value.body == b"first "
        await command.wait_said("GET /cut: stream failed after 6 bytes\nTraceback")
        await command.wait_said("OSError: the source broke")


async def test_the_command_takes_a_root_path(tmp_path: Path) -> None:
    async with open_command(tmp_path, "--root-path", "/proxy") as command:
        for path in ("/proxy/where", "/where"):
            _, _, body = await get(command.port, path)
            assert json.loads(body) == ["/proxy", "/where", "1.1"]


async def test_sigterm_cuts_streams_ends_the_lifespan_and_exits(tmp_path: Path) -> None:
    """D23: a stock Hypercorn tells nobody; what is alive after the grace is cancelled.

    With one worker, its default. With ``--workers 0`` SIGTERM kills Hypercorn 0.18 at once, and
    of several workers the first that has ended takes the others with it.
    """
    args = ("--graceful-timeout", "0")
    async with open_command(tmp_path, *args) as command, open_raw(command.port) as raw:
        await read_tick(raw)
        command.process.send_signal(signal.SIGTERM)
        with trio.fail_after(LIMIT), pytest.raises(Truncated):
            await raw.read_body()
        assert await command.wait_exit() == 0
        await command.wait_said("(?s)startup.*in\n.*out\n")
        await command.wait_said("shutdown\n")
        assert "Traceback" not in command.said


async def test_hypercorns_default_worker_is_refused_with_the_remedy(tmp_path: Path) -> None:
    """Forgetting ``-k trio`` is the first mistake that everybody makes."""
    (tmp_path / "hosted_cli.py").write_text(APPLICATION)
    done = await run_default_worker(tmp_path)
    assert "-k trio" in done


async def run_default_worker(directory: Path) -> str:
    """Run it for as long as it lives, 3 seconds at most; give its standard error."""
    process = await trio.lowlevel.open_process(
        [
            *(sys.executable, "-m", "hypercorn", "--workers", "0"),
            *("--bind", "127.0.0.1:0", "hosted_cli:app"),
        ],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    said = b""
    with trio.move_on_after(3):
        async for data in process.stderr:
            said += data
    process.kill()
    await process.wait()
    await process.stderr.aclose()
    return said.decode()


# nursery.start(serve, app)


async def test_serve_runs_beside_other_tasks_and_ends_with_them() -> None:
    hosted, ticks = Hosted(), trio.Event()

    async def other() -> None:
        ticks.set()
        await trio.sleep_forever()

    async with assert_no_leaks():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(other)
            serving = partial(serve, hosted.app, bind=["127.0.0.1:0"])
            [address] = await nursery.start(serving)
            port = int(address.rpartition(":")[2])
            assert (await get(port, "/state"))[2] == b"state"
            await ticks.wait()
            await check_streaming(hosted, port, "/two")
            await check_disconnect(hosted, port, "/endless")
            nursery.cancel_scope.cancel()


async def test_a_neighbour_that_fails_takes_the_server_down_cleanly(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its error is not one of the streams that are cancelled for it, and not in their log."""
    hosted, failing = Hosted(), trio.Event()

    async def other() -> None:
        await failing.wait()
        raise ValueError("the neighbour")

    async with assert_no_leaks():
        with pytest.RaisesGroup(pytest.RaisesExc(ValueError, match="the neighbour")):
            async with trio.open_nursery() as nursery:
                [address] = await nursery.start(partial(serve, hosted.app, bind=["127.0.0.1:0"]))
                nursery.start_soon(other)
                async with open_raw(int(address.rpartition(":")[2])) as raw:
                    await raw.request("GET", "/endless")
                    await raw.read_head()
                    assert await raw.read_chunk() == b"first "
                    failing.set()
                    await trio.sleep_forever()
    assert hosted.events == ["startup", "in", "out", "shutdown"]
    assert "the neighbour" not in caplog.text


async def test_the_app_sees_its_lifespan_end_when_the_trigger_comes() -> None:
    hosted, trigger = Hosted(), trio.Event()
    async with trio.open_nursery() as nursery:
        await nursery.start(
            partial(serve, hosted.app, bind=["127.0.0.1:0"], shutdown_trigger=trigger.wait)
        )
        trigger.set()
    assert hosted.events == ["startup", "shutdown"]


# One App and several servers.


async def test_one_app_may_be_served_again() -> None:
    hosted = Hosted()
    for _ in range(2):
        async with open_server(hosted.app) as port:
            assert (await get(port, "/state"))[2] == b"state"
    assert hosted.events == ["startup", "shutdown"] * 2


def test_one_app_may_be_served_in_two_runs() -> None:
    hosted = Hosted()

    async def main() -> None:
        async with open_server(hosted.app) as port:
            assert (await get(port, "/state"))[2] == b"state"

    trio.run(main)
    trio.run(main)
    assert hosted.events == ["startup", "shutdown"] * 2


async def test_a_second_server_at_the_same_time_is_refused_and_the_first_goes_on() -> None:
    hosted = Hosted()
    async with open_server(hosted.app) as port:
        with pytest.raises(LifespanFailureError, match="is running already"):
            async with open_server(hosted.app):
                pass
        assert (await get(port, "/state"))[2] == b"state"
    assert hosted.events == ["startup", "shutdown"]


async def test_open_lifespan_under_a_server_is_refused_and_the_server_goes_on() -> None:
    hosted = Hosted()
    async with open_server(hosted.app) as port:
        with pytest.raises(RuntimeError, match="is running already"):
            async with hosted.app.open_lifespan():
                pass
        assert (await get(port, "/state"))[2] == b"state"


async def test_a_lifespan_that_fails_while_serving_says_when_it_failed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It started well, so that it failed "at its startup" would send one looking there."""
    fail = trio.Event()

    @asynccontextmanager
    async def lifespan(app: App[None]) -> AsyncIterator[None]:
        async def work() -> None:
            await fail.wait()
            raise OSError("the database left")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(work)
            yield
            nursery.cancel_scope.cancel()

    app = App(lifespan=lifespan)
    with pytest.raises(LifespanFailureError):
        async with open_server(app) as port:
            assert (await get(port, "/"))[0] == 404
            fail.set()
            await trio.sleep_forever()  # until the server gives up
    assert "the database left" in caplog.text
    assert "at its startup" not in caplog.text


# What is in the log of a user who did nothing wrong.


@pytest.mark.parametrize("rest", [b"ab", b""])
async def test_a_client_that_leaves_while_it_is_refused_is_no_error(
    caplog: pytest.LogCaptureFixture, rest: bytes
) -> None:
    """A disconnect is DEBUG, and a status below 500 is none of the log's business (D2, D15)."""
    hosted, returned = Hosted(), trio.Event()

    async def watched(scope: Any, receive: Receive, send: Send) -> None:
        try:
            await hosted.app(scope, receive, send)
        finally:
            returned.set()

    async with open_server(watched) as port:
        async with open_raw(port) as raw:
            head = b"POST /where HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\n"
            await raw.send_all(head + rest)
            assert (await raw.read_head(method="POST"))[0] == 405
        with trio.fail_after(IN_TIME):
            await returned.wait()
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING] == []
