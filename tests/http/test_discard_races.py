"""A body that is closed while somebody receives from it: that task always hears of it."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing
from asgi import chunk, make_app
from inboxed import Inboxed

from tsstream import Request, Response


@pytest.mark.parametrize("ready", [False, True])
async def test_a_reader_hears_that_another_task_has_closed_the_body(ready: bool) -> None:
    # Whether it is parked, has just been woken, or is at the checkpoint before a message.
    async def handler(request: Request[Any]) -> Response:
        async def read() -> None:
            with pytest.raises(trio.ClosedResourceError):
                while True:
                    await request.body.receive()

        with trio.fail_after(1):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read)
                if not ready:
                    await trio.testing.wait_all_tasks_blocked()
                    server.put(chunk(b"b"))
                await trio.lowlevel.checkpoint()
                request.body.close()
        return Response(b"ok")

    for _ in range(30):  # the order within a batch of the scheduler is random
        server = Inboxed(chunk(b"a")) if ready else Inboxed(chunk(b""))
        await server.call(make_app(handler), "POST")
        assert server.ok, server.error
