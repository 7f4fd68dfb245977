"""examples/upload.py: its WebSockets, frame by frame."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from frames_ws import Op, ws_frame
from leaks import assert_no_leaks
from probes import IDLE, IN_TIME, PROMPT, WAYS_TO_LEAVE, leave
from uploading import Pump, read_stats, wait_streams
from wire import open_raw, open_server
from ws_kit import Frames

from examples.upload import app

pytestmark = pytest.mark.usefixtures("each_host")


@pytest.fixture
async def port(each_host: None) -> AsyncIterator[int]:
    async with open_server(app, keep_alive_timeout=IDLE) as port:
        yield port


@asynccontextmanager
async def open_frames(port: int, path: bytes) -> AsyncIterator[Frames]:
    async with open_raw(port) as raw:
        frames = Frames(raw)
        assert await frames.shake_hands(path=path) == 101
        yield frames


async def test_echo_gives_back_text_as_text_and_bytes_as_bytes(port: int) -> None:
    # RQ-35, RQ-36: empty messages are messages too.
    messages = [
        (Op.TEXT, "två".encode()),
        (Op.BINARY, b"\0\xff"),
        (Op.TEXT, b""),
        (Op.BINARY, b""),
    ]
    async with assert_no_leaks(), open_frames(port, b"/ws/echo") as frames:
        for op, payload in messages:
            await frames.send(op, payload)
            assert await frames.next() == (op, payload)
        await frames.send_close(1000)
        assert (await frames.next_close())[0] == 1000
        await wait_streams(port, 0)


async def test_slow_takes_so_many_messages_a_second(port: int) -> None:
    async with open_frames(port, b"/ws/slow?rate=50") as frames:
        start = trio.current_time()
        for _ in range(3):
            await frames.send(Op.BINARY, bytes(1000))
        for count in (1, 2, 3):
            assert json.loads(await frames.next_text()) == {
                "bytes": 1000 * count,
                "messages": count,
            }
        assert trio.current_time() - start >= 3 / 50


async def test_slow_refuses_a_rate_that_is_none(port: int) -> None:
    # RQ-38
    async with open_raw(port) as raw:
        assert await Frames(raw).shake_hands(path=b"/ws/slow?rate=0") == 400


async def test_slow_stops_its_client(port: int) -> None:
    async with open_frames(port, b"/ws/slow?rate=1") as frames:
        async with trio.open_nursery() as nursery:
            pump = Pump(frames.raw)
            frame = ws_frame(Op.BINARY, bytes(64 * 1024))
            nursery.start_soon(pump.run, 1024 * len(frame), frame)
            await pump.wait_stuck()
            assert 0 < pump.sent <= 16 * 1024 * 1024
            assert (await read_stats(port))["bytes_taken"] <= 2 * 64 * 1024
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("way", [*WAYS_TO_LEAVE, "send_close"])
async def test_sendonly_ends_when_its_client_leaves(port: int, way: str) -> None:
    # RQ-40
    async with assert_no_leaks():
        async with open_frames(port, b"/ws/sendonly") as frames:
            assert await frames.next_text() == "tick\n"
            assert await frames.next_text() == "tick\n"
            await frames.send_text("not wanted")
            assert (await read_stats(port))["streams"] == 1
            if way == "send_close":
                await frames.send_close()
            else:
                await leave(frames.raw, way)
            await wait_streams(port, 0, within=PROMPT)


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (b"Origin: http://localhost", 101),
        (b"Origin: https://elsewhere.example", 403),
        (b"Origin: null", 403),
    ],
)
async def test_sendonly_is_for_its_own_pages(port: int, origin: bytes, status: int) -> None:
    async with open_raw(port) as raw:
        with trio.fail_after(IN_TIME):
            assert await Frames(raw).shake_hands(origin, path=b"/ws/sendonly") == status
