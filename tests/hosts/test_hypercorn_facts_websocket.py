"""Facts about the stock Hypercorn's WebSockets (HOST faults 8, 13 and 16)."""

from __future__ import annotations

import zlib

import pytest
from stock import (
    EXCHANGE,
    NO_TIMER,
    SENDER,
    UPGRADE,
    WEBSOCKET,
    WebSocket,
    cured,
    does_nothing,
    next_timer,
    open_stock,
    open_websocket,
    returns,
    settle,
    traced,
)
from wire import open_raw
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event

MIB = 2**20


def message(size: int) -> bytes:
    return Connection(ConnectionType.CLIENT).send(BytesMessage(bytes(size)))


def deflated_message(size: int) -> bytes:
    """Give a frame of *size* zeros, compressed; masked with zeros, so as it is."""
    compressor = zlib.compressobj(wbits=-15)
    data = compressor.compress(bytes(size)) + compressor.flush(zlib.Z_SYNC_FLUSH)
    data = data.removesuffix(b"\0\0\xff\xff")
    return b"\xc2\xfe" + len(data).to_bytes(2, "big") + bytes(4) + data


async def send_repeatedly(websocket: WebSocket, data: bytes, count: int) -> None:
    for _ in range(count):
        await websocket.raw.send_all(data)
    await settle()


def close_codes(events: list[Event]) -> list[int]:
    return [event.code for event in events if isinstance(event, CloseConnection)]


@pytest.mark.parametrize("code", [1000, 1001, 4000])
async def test_the_app_hears_1006_whatever_the_client_has_closed_with(code: int) -> None:
    """HOST fault 13."""
    async with open_stock() as stock, open_websocket(stock) as (websocket, call):
        await websocket.send(CloseConnection(code))
        told = await call.receive()
    assert told == {"type": "websocket.disconnect", "code": 1006}, cured(
        "the client's close code reaches the app", WEBSOCKET
    )


async def test_the_client_hears_1011_whether_the_app_fails_or_returns() -> None:
    """HOST fault 13."""
    codes = []
    async with open_stock() as stock:
        for error in (ValueError("it broke"), None):
            async with open_websocket(stock) as (websocket, call):
                call.finish(error)
                codes += close_codes(await websocket.read_events())
    assert codes == [1011, 1011], cured("a return is told from a failure", WEBSOCKET)


async def test_a_message_that_is_too_big_is_kept_with_all_that_follow() -> None:
    """HOST fault 13: 1009 is sent, and then the connection goes on and memory grows."""
    data = message(64 * 1024)
    async with (
        open_stock(websocket_max_message_size=1024) as stock,
        open_websocket(stock) as (websocket, call),
    ):
        with traced() as memory:
            await returns(send_repeatedly, websocket, data, 8 * MIB // len(data) + 1)
            memory.measure()
        assert close_codes(await websocket.read_events()) == [1009]
        ended = await returns(call.receive)
    assert memory.now > 7 * MIB, cured("what is too big is not kept", WEBSOCKET)
    assert not ended, cured("1009 ends the connection", WEBSOCKET)


async def test_waiting_messages_are_counted_and_not_measured() -> None:
    """HOST fault 13: ten wait for receive(), and each may have websocket_max_message_size."""
    data = message(MIB)
    async with (
        open_stock(websocket_max_message_size=MIB) as stock,
        open_websocket(stock) as (websocket, _),
    ):
        with traced() as memory:
            await returns(send_repeatedly, websocket, data, 10)
            memory.measure()
    assert memory.now > 9 * MIB, cured("the memory of waiting messages is bounded", WEBSOCKET)


async def test_a_small_frame_is_inflated_far_beyond_the_limit_of_a_message() -> None:
    """HOST fault 13: compression is agreed on unasked, and the limit is looked at afterwards."""
    bomb = deflated_message(16 * MIB)
    assert len(bomb) < 20_000
    async with open_stock(websocket_max_message_size=64 * 1024) as stock:
        offer = {"sec-websocket-extensions": "permessage-deflate"}
        async with open_websocket(stock, offer) as (websocket, _):
            deflates = b"permessage-deflate" in websocket.raw.head
            assert deflates, cured("permessage-deflate is not agreed on by itself", WEBSOCKET)
            with traced() as memory:
                await websocket.raw.send_all(bomb)
                await settle()
                memory.measure()
    assert memory.peak > 16 * MIB, cured("inflating is bounded by the limit", WEBSOCKET)


async def test_after_the_client_has_gone_a_send_does_nothing_at_all() -> None:
    """HOST fault 8: no checkpoint, so a loop of sends stops the event loop, deadlines included."""
    async with open_stock() as stock, open_websocket(stock) as (websocket, call):
        websocket.raw.close()
        await settle()
        deaf = await does_nothing(call.send, {"type": "websocket.send", "bytes": b"x"})
    assert deaf, cured("send() to nobody is a checkpoint or an error", EXCHANGE, SENDER)


async def test_a_handshake_that_is_refused_by_the_server_is_never_closed() -> None:
    """HOST fault 16: although the response says "connection: close"."""
    async with open_stock(keep_alive_timeout=0.01) as stock, open_raw(stock.port) as raw:
        await raw.request("GET", "/", {**UPGRADE, "sec-websocket-version": "99"})
        status, headers = await raw.read_head()
        assert (status // 100, headers["connection"]) == (4, "close")
        closed = await returns(raw.read_until_closed)
        assert not closed, cured("a refused handshake is closed", WEBSOCKET)
        assert next_timer() == NO_TIMER
