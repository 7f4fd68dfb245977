"""A client that closes its sending side: gone, or waiting for its answer, as the server is told."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing
from guarded import DISCONNECT, Transport, answer, body, http, open_guarded_on, start
from leaks import assert_no_leaks
from probes import PROMPT, Calls, get
from wire import open_guarded, open_raw

from tsstream._asgi import Message, Receive, Send


class Duplex:
    """Sends three chunks, each when told, while it listens; notes what it hears meanwhile."""

    def __init__(self) -> None:
        self.go_on = trio.Semaphore(0)
        self.heard: list[str] = []

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._listen, receive)
            await send(start())
            for data in (b"one ", b"two ", b"three"):
                await self.go_on.acquire()
                await send(body(data))
            nursery.cancel_scope.cancel()
        await send(body(b"", more=False))

    async def _listen(self, receive: Receive) -> None:
        self.heard.append((await receive())["type"])


@pytest.mark.parametrize("transport", ["tcp", "unix"])
async def test_with_half_close_a_fin_behind_a_request_does_not_end_its_response(
    transport: Transport,
) -> None:
    app = Duplex()
    async with open_guarded_on(transport, http(app), half_close=True) as connect:
        async with assert_no_leaks(), connect() as raw:
            app.go_on.release()
            assert await get(raw) == 200
            assert await raw.read_chunk() == b"one "
            await raw.half_close()
            for data in (b"two ", b"three"):
                await trio.testing.wait_all_tasks_blocked(0.02)
                app.go_on.release()
                assert await raw.read_chunk() == data
            assert await raw.read_chunk() is None
            with trio.fail_after(PROMPT):
                assert await raw.read_until_closed() == b""
    assert app.heard == []


async def test_with_half_close_every_request_before_the_fin_is_answered() -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await answer(send, scope["path"].encode())

    async with open_guarded(http(app), half_close=True) as port, assert_no_leaks():
        async with open_raw(port) as raw:
            for path in ("/one", "/two", "/three"):
                await raw.request("GET", path)
            await raw.half_close()
            for path in ("/one", "/two", "/three"):
                assert (await raw.read_head())[0] == 200
                assert await raw.read_body() == path.encode()
            with trio.fail_after(PROMPT):
                assert await raw.read_until_closed() == b""
    assert raw.ended == "fin"


@pytest.mark.parametrize("half_close", [False, True])
async def test_a_fin_within_a_body_is_a_disconnect_with_either_policy(half_close: bool) -> None:
    heard: list[Message] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        while (message := await receive())["type"] == "http.request":
            assert message["more_body"]
        heard.append(message)

    calls = Calls(http(app))
    async with open_guarded(calls, half_close=half_close) as port, open_raw(port) as raw:
        await raw.request("POST", "/", {"content-length": "100"})
        await raw.send_all(b"x" * 50)
        await raw.half_close()
        await calls.wait_returned(within=PROMPT)
    assert heard == [DISCONNECT]


@pytest.mark.parametrize("half_close", [False, True])
async def test_a_fin_closes_an_idle_connection_with_either_policy(half_close: bool) -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await answer(send)

    async with open_guarded(http(app), half_close=half_close) as port, assert_no_leaks():
        async with open_raw(port) as raw:
            assert await get(raw) == 200
            assert await raw.read_body() == b"ok"
            await raw.half_close()
            with trio.fail_after(PROMPT):
                assert await raw.read_until_closed() == b""
    assert raw.ended == "fin"
