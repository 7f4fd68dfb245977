"""Facts about the stock Hypercorn on HTTP/2 (HOST faults 2, 3, 4, 8, 14 and 16)."""

from __future__ import annotations

from contextlib import suppress

import h2.exceptions
import pytest
import trio
from probes import IN_TIME
from stock import (
    HTTP2,
    INBOX,
    NO_TIMER,
    RESPONSE,
    SENDER,
    STREAM,
    Call,
    Stock,
    cured,
    does_nothing,
    next_timer,
    open_stock,
    returns,
    settle,
)
from wire import H2Connection, open_h2

CHUNK = b"x" * 2**16
FAR_BEYOND = 2**25  # bytes: of no window is so much left


async def ask(stock: Stock, connection: H2Connection) -> tuple[int, Call]:
    """Send a GET; give its stream's id and the call that it makes."""
    return await connection.request("GET", "/"), await stock.next_call()


async def start(stock: Stock, connection: H2Connection) -> tuple[int, Call]:
    """Send a GET, and start its response; give its stream's id and the call."""
    stream_id, call = await ask(stock, connection)
    await call.start()
    return stream_id, call


async def read_half(stream_id: int, connection: H2Connection) -> None:
    with trio.fail_after(IN_TIME):
        await connection.read_head(stream_id)
        assert await connection.read_chunk(stream_id) == b"half"


async def test_what_is_sent_beyond_the_window_is_accepted_without_a_bound() -> None:
    """HOST fault 2: a client that gives no credit at all, and 32 MiB for it."""
    async with open_stock() as stock, open_h2(stock.port, window=0, credit=False) as connection:
        _, call = await start(stock, connection)

        async def flood() -> None:
            for _ in range(FAR_BEYOND // len(CHUNK)):
                await call.body(CHUNK)

        accepted = await returns(flood)
    assert accepted, cured("send() waits for the client's window", STREAM)


async def test_a_response_that_fails_is_never_ended() -> None:
    """HOST fault 3: neither END_STREAM nor RST_STREAM comes, while another stream is alive."""
    async with open_stock(keep_alive_timeout=0.01) as stock, open_h2(stock.port) as connection:
        await start(stock, connection)
        stream_id, call = await start(stock, connection)
        await call.body(b"half")
        call.finish(ValueError("the source broke"))
        await read_half(stream_id, connection)
        told = await returns(connection.next_event, stream_id)
        assert not told, cured("a failed stream is reset", STREAM)
        assert next_timer() == NO_TIMER
        with trio.fail_after(IN_TIME):
            await connection.ping()  # the connection is alive and well


async def test_one_unread_body_stops_the_whole_connection() -> None:
    """HOST fault 4: not even a PING is answered."""
    async with open_stock() as stock, open_h2(stock.port) as connection:
        upload = await connection.request("POST", "/", end_stream=False)
        await stock.next_call()
        for _ in range(15):  # events; 10 of them wait for receive()
            await connection.send_data(upload, b"x")
        answered = await returns(connection.ping)
        assert not answered, cured("an unread body leaves a PING alone", HTTP2, INBOX)
        await connection.request("GET", "/")
        await settle()
        calls = len(stock.calls)
        assert calls == 1, cured("an unread body leaves other streams alone", HTTP2, INBOX)
        assert next_timer() == NO_TIMER


async def test_after_a_reset_a_send_does_nothing_at_all() -> None:
    """HOST fault 8: no checkpoint, so a loop of sends stops the event loop, deadlines included."""
    async with open_stock() as stock, open_h2(stock.port) as connection:
        stream_id, call = await start(stock, connection)
        await connection.reset(stream_id)
        await settle()
        deaf = await does_nothing(call.body, b"x")
    assert deaf, cured("send() to nobody is a checkpoint or an error", STREAM, SENDER)


@pytest.mark.parametrize(
    "header", [(b"a", b"b\r\nc: d"), (b"a", b"\0"), (b"a b", b"c"), (b"content-length", b"five")]
)
async def test_an_invalid_response_header_goes_out(header: tuple[bytes, bytes]) -> None:
    """HOST fault 14: HTTP/1.1 refuses it in send(); here the client ends the connection for it."""
    assert await breaks_the_connection(200, header), cured(
        "invalid headers are refused on HTTP/2", STREAM, RESPONSE
    )


@pytest.mark.parametrize("status", [103, 199, 1000])
async def test_a_status_that_can_have_no_body_or_is_none_goes_out(status: int) -> None:
    """HOST fault 14: a body follows what is no final response."""
    assert await breaks_the_connection(status), cured(
        "the status is checked on HTTP/2", STREAM, RESPONSE
    )


async def breaks_the_connection(status: int, *headers: tuple[bytes, bytes]) -> bool:
    """Send such a response; say whether the client's h2 finds that the protocol is broken."""
    try:
        async with open_stock() as stock, open_h2(stock.port) as connection:
            _, call = await ask(stock, connection)
            with suppress(ValueError, TypeError):  # with which a host would refuse it
                await call.start(status, headers)
                await call.end(b"x")
            await settle()
    except h2.exceptions.ProtocolError:
        return True
    return False


async def test_the_limit_of_requests_silences_the_streams_that_are_under_way() -> None:
    """HOST fault 16: GOAWAY, and after it not a byte, though the app's sends go well."""
    async with (
        open_stock(keep_alive_max_requests=1) as stock,
        open_h2(stock.port) as connection,
    ):
        streams = [await start(stock, connection)]
        await streams[0][1].body(b"half")
        await read_half(streams[0][0], connection)
        streams.append(await start(stock, connection))
        for _, call in streams:
            await call.body(b"x")
        heard = [await returns(connection.next_event, stream_id) for stream_id, _ in streams]
        assert heard == [False, False], cured("the limit lets streams end", HTTP2)
        assert connection.terminated is not None
