"""Responses without a body: to HEAD, and of some statuses, whatever the application sends."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from guarded import body, http, start
from probes import PROMPT
from wire import open_guarded, open_raw

from tsstream._asgi import Receive, Send

BODILESS = [("HEAD", 200), ("GET", 204), ("GET", 304)]


@pytest.mark.parametrize(("method", "status"), BODILESS)
async def test_a_loop_of_sends_can_be_cancelled(method: str, status: int) -> None:
    # "curl -I" of an endless stream must not hold the event loop.
    ended: list[bool] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await send(start(status))
        with trio.move_on_after(0.01) as patience:
            for _ in range(20_000):
                await send(body(b"x" * 100))
        ended.append(patience.cancelled_caught)

    async with open_guarded(http(app)) as port, open_raw(port) as raw:
        await raw.request(method, "/")
        assert (await raw.read_head())[0] == status
        await raw.read_until_closed()
    assert ended == [True]


@pytest.mark.parametrize(("method", "status"), BODILESS)
@pytest.mark.parametrize("data", [b"", b"first", b"x" * 100_000])
async def test_the_head_leaves_with_the_first_body_message(
    method: str, status: int, data: bytes
) -> None:
    # The end of a live stream may never come.
    finish = trio.Event()

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await send(start(status))
        await send(body(data))
        await finish.wait()
        await send(body(b"last", more=False))

    async with open_guarded(http(app)) as port, open_raw(port) as raw:
        for _ in range(2):
            await raw.request(method, "/")
            with trio.fail_after(PROMPT):
                assert (await raw.read_head())[0] == status
            finish.set()  # and nothing of the body comes before the next head
