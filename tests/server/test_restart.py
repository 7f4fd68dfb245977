"""Signals to a process, and restarts under load: no client takes a part for the whole."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from guarded import FINAL, body, http, start
from leaks import assert_no_leaks
from probes import IN_TIME, PROMPT, get
from wire import HOST, RawConnection, Truncated, open_raw

import tsstream
from tsstream import App, Request, Response, merge, sse_response
from tsstream._asgi import Receive, Send
from tsstream._server.serve import serve

LONG = 20.0  # seconds: for a process to start on a busy machine
SMALL = 4096  # bytes

PROGRAM = """
import trio

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await trio.sleep(0.01)
        print("lifespan ended", flush=True)
        await send({"type": "lifespan.shutdown.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"first ", "more_body": True})
    if scope["path"] == "/finite":
        await trio.sleep(0.3)
        await send({"type": "http.response.body", "body": b"last"})
    while scope["path"] == "/flood":
        await send({"type": "http.response.body", "body": bytes(65536), "more_body": True})
    await trio.sleep_forever()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_to_the_process_ends_it_in_the_same_way_with_exit_code_0(
    number: signal.Signals, tmp_path: Path
) -> None:
    grace = 0.8
    (tmp_path / "ending.py").write_text(PROGRAM)
    command = ["-m", "tsstream", "run", "ending:app", "--bind", "127.0.0.1:0"]
    process = await trio.lowlevel.open_process(
        [sys.executable, *command, "--graceful-timeout", str(grace)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(tsstream.__file__).parents[1])},
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    async with process.stdout:
        try:
            with trio.fail_after(LONG):
                line = await process.stdout.receive_some()
            port = int(line.split()[2].rpartition(b":")[2])
            async with open_raw(port) as idle, open_raw(port) as finite, open_raw(port) as endless:
                async with open_raw(port, receive_buffer=SMALL) as stalled:
                    await get(stalled, "/flood")
                    await trio.sleep(0.1)  # another process: no event tells when it is stuck
                    for raw, path in ((finite, "/finite"), (endless, "/endless")):
                        assert await get(raw, path) == 200
                        assert await raw.read_chunk() == b"first "
                    told = trio.current_time()
                    process.send_signal(number)
                    with trio.fail_after(IN_TIME):
                        assert await idle.read_until_closed() == b""
                        assert trio.current_time() - told < 2 * PROMPT
                        assert await finite.read_body() == b"last"
                        with pytest.raises(Truncated):
                            await endless.read_body()
                        assert await process.wait() == 0
                    assert trio.current_time() - told < grace + 1  # Python's own end takes a while
            assert await process.stdout.receive_some() == b"lifespan ended\n"
        finally:
            process.kill()


async def two_items(send_channel: trio.MemorySendChannel[str]) -> None:
    for item in ("one", "two"):
        await send_channel.send(item)
    await trio.sleep_forever()


FINITE = b"0123456789" * 500


class Load:
    """An application under load, and clients that know what is whole.

    Attributes:
      complete: finite bodies that ended cleanly, each as it came.
      cut: how many did not.
      live: how many live streams ended cleanly.
    """

    def __init__(self) -> None:
        self.complete: list[bytes] = []
        self.cut = 0
        self.live = 0
        self.app: App[Any] = App()
        self.app.get("/live")(self._live)
        self.app.mount("/raw", http(self._answer))

    async def _live(self, request: Request) -> Response:
        return sse_response(merge(two_items))

    async def _answer(self, scope: Any, receive: Receive, send: Send) -> None:
        length = str(len(FINITE))
        await send(start(content_length=length) if "length" in scope["path"] else start())
        for begin in range(0, len(FINITE), 100):
            await send(body(FINITE[begin : begin + 100]))
            await trio.sleep(0.002)
        await send(FINAL)

    async def ask(self, port: int, path: str) -> None:
        """Ask again and again, and connect again whenever the server has gone."""
        while True:
            await trio.sleep(0.002)
            try:
                async with open_raw(port) as raw:
                    await self._ask_on(raw, path)
            except (OSError, trio.BrokenResourceError):
                pass
            except Truncated as error:
                self.cut += bool(error.body)

    async def _ask_on(self, raw: RawConnection, path: str) -> None:
        while await get(raw, path) == 200:
            data = await raw.read_body()
            if path == "/live":
                self.live += 1
            else:
                self.complete.append(data)


async def test_twenty_restarts_under_load_never_end_an_incomplete_body_cleanly() -> None:
    load = Load()
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
    async with assert_no_leaks(), trio.open_nursery() as nursery:
        for path in ("/live", "/raw/chunked", "/raw/length") * 3:
            nursery.start_soon(load.ask, port, path)
        for restart in range(20):
            async with trio.open_nursery() as server:
                stop = trio.Event()
                await server.start(
                    partial(
                        serve,
                        load.app,
                        bind=[f"{HOST}:{port}"],
                        graceful_timeout=0.03,
                        shutdown_trigger=stop.wait,
                    )
                )
                await trio.sleep(0.08 + 0.01 * (restart % 5))
                if restart % 4 == 3:
                    server.cancel_scope.cancel()
                else:
                    stop.set()
        nursery.cancel_scope.cancel()
    assert set(load.complete) == {FINITE}
    assert load.cut > 20
    assert load.live > 20
