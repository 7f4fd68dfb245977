"""What tsstream's own responses do at shutdown: live ones say farewell, finite ones run on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import trio
import trio.testing
from guarded import open_ending
from probes import PROMPT, Endings, get
from wire import open_raw

from tsstream import App, Request, Response, merge, sse_response

LONG = 20.0  # seconds: far longer than these tests take


async def two_items(send_channel: trio.MemorySendChannel[str]) -> None:
    for item in ("one", "two"):
        await send_channel.send(item)
    await trio.sleep_forever()


def live_app(endings: Endings) -> App[Any]:
    app: App[Any] = App(on_end=endings)

    @app.get("/")
    async def handler(request: Request) -> Response:
        return sse_response(merge(two_items))

    return app


async def test_a_live_tsstream_response_ends_cleanly_and_at_once() -> None:
    endings = Endings()
    server = open_ending(live_app(endings), graceful_timeout=LONG)
    async with server as (port, end, ends), open_raw(port) as raw:
        assert await get(raw) == 200
        received = b""
        while not received.endswith(b"data: two\n\n"):
            received += await raw.read_chunk() or b""
        end()
        with trio.fail_after(PROMPT):
            await raw.read_body()
            assert await raw.read_until_closed() == b""
    assert ends.took < PROMPT
    assert len(endings.seen) == 1


async def test_live_tsstream_responses_end_spread_over_the_farewell_spread() -> None:
    spread = 0.5
    ended: list[float] = []
    server = open_ending(live_app(Endings()), graceful_timeout=LONG, farewell_spread=spread)
    async with server as (port, end, ends), trio.open_nursery() as nursery:

        async def follow(*, task_status: trio.TaskStatus[None]) -> None:
            async with open_raw(port) as raw:
                assert await get(raw) == 200
                await raw.read_chunk()
                task_status.started()
                await raw.read_body()
                ended.append(trio.current_time() - ends.told)

        for _ in range(30):
            await nursery.start(follow)
        end()
    assert len(ended) == 30
    assert max(ended) < spread + PROMPT
    assert max(ended) - min(ended) > spread / 3  # by chance not once in a billion runs


async def test_a_finite_tsstream_response_runs_on_to_its_end() -> None:
    app: App[Any] = App()
    go_on = trio.Event()

    @app.get("/")
    async def handler(request: Request) -> AsyncIterator[bytes]:
        async def finite() -> AsyncIterator[bytes]:
            yield b"first "
            await go_on.wait()
            yield b"last"

        return finite()

    async with open_ending(app, graceful_timeout=LONG) as (port, end, _), open_raw(port) as raw:
        assert await get(raw) == 200
        assert await raw.read_chunk() == b"first "
        end()
        await trio.testing.wait_all_tasks_blocked(0.02)
        go_on.set()
        assert await raw.read_body() == b"last"
