"""Pings: when they go out, what counts as an answer, and what silence leads to."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing
from frames_ws import Op, close, ws_frame
from ws_fake import INTERVAL, LIMIT, exchanges, seconds_until_now
from ws_kit import ACCEPT, Talk, echo, listen

from tsstream._asgi import Receive, Send


async def test_pings_go_out_and_any_sign_of_life_will_do(autojump_clock: object) -> None:
    async with exchanges() as begin:
        exchange = await begin(echo, websocket_ping_interval=INTERVAL)
        for i in range(1, 6):
            await trio.sleep(INTERVAL)
            await trio.testing.wait_all_tasks_blocked()
            assert exchange.answer.payloads(Op.PING) == [b""] * i
            if i % 2:
                await exchange.exchange.receive_data(ws_frame(Op.TEXT, b"alive")[:1])
            else:
                await exchange.exchange.receive_data(ws_frame(Op.TEXT, b"alive")[1:])
        assert not exchange.cut
        exchange.exchange.disconnect()


async def test_client_of_which_nothing_is_heard_is_lost(autojump_clock: object) -> None:
    took = seconds_until_now()
    app = Talk(listen)
    async with exchanges() as begin:
        exchange = await begin(app, websocket_ping_interval=INTERVAL)
    assert took() == INTERVAL + LIMIT
    assert [message["code"] for message in app.heard] == [1006]
    assert exchange.cut
    assert len(exchange.connection.failures) == 1


async def test_silence_does_not_count_while_nobody_listens(autojump_clock: object) -> None:
    proceed = trio.Event()

    async def talk(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        await proceed.wait()
        while (await receive())["type"] != "websocket.disconnect":
            pass

    async with exchanges() as begin:
        app = Talk(talk)
        exchange = await begin(app, websocket_ping_interval=INTERVAL)
        await exchange.exchange.inbox.wait_room()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(exchange.exchange.receive_data, 2 * ws_frame(Op.TEXT, b"one"))
            await trio.sleep(10 * LIMIT)
            assert not exchange.cut
            proceed.set()
        await trio.sleep(LIMIT / 2)
        assert not exchange.cut
        await trio.sleep(INTERVAL + LIMIT)
        assert exchange.cut


async def test_ping_that_nobody_listened_after_does_not_count(autojump_clock: object) -> None:
    interval = 2 * LIMIT
    taken = trio.Event()

    async def talk(scope: Any, receive: Receive, send: Send) -> None:
        await send(ACCEPT)
        await taken.wait()
        while (await receive())["type"] != "websocket.disconnect":
            pass

    async with exchanges() as begin:
        exchange = await begin(Talk(talk), websocket_ping_interval=interval)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(exchange.exchange.receive_data, ws_frame(Op.TEXT, b"one"))
            await trio.sleep(interval + LIMIT - 1)
            taken.set()
        await trio.sleep(2)
        assert not exchange.cut
        exchange.exchange.disconnect()


@pytest.mark.parametrize("end", ["close", "disconnect"])
async def test_pings_end_with_the_websocket(end: str, autojump_clock: object) -> None:
    took = seconds_until_now()
    async with exchanges() as begin:
        exchange = await begin(echo, websocket_ping_interval=INTERVAL)
        if end == "close":
            await exchange.exchange.receive_data(close(1000))
        else:
            exchange.exchange.disconnect()
    assert took() == 0
