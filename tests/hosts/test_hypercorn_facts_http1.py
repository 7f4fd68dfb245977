"""Facts about the stock Hypercorn on HTTP/1.1: sends, disconnects and ends (HOST faults 5 to 12).

"For ever" is shown without waiting: nothing runs any more, and no timer is set.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial

import trio
from leaks import take_census
from probes import IN_TIME
from stock import (
    CONNECTION,
    CYCLE,
    EXCHANGE,
    GET,
    HANGUP,
    HTTP1,
    INBOX,
    LIMITS,
    MORE_THAN_BUFFERS,
    NO_TIMER,
    OUTPUT,
    SENDER,
    SMALL_BUFFER,
    TRANSPORT,
    WATCHER,
    Call,
    answer,
    counting_steps,
    cured,
    does_nothing,
    lost,
    next_timer,
    open_stock,
    returns,
    settle,
)
from wire import Truncated, open_raw

open_small_stock = partial(open_stock, send_buffer=SMALL_BUFFER)
open_slow_raw = partial(open_raw, receive_buffer=SMALL_BUFFER)

UPLOAD = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
UNREAD_UPLOAD = UPLOAD + b"1\r\nx\r\n" * 15  # 150 bytes; 10 events wait for receive(), no more
STRAY = GET + b"GET "  # a request, and the beginning of another
ATTEMPTS = 60  # at a race of two tasks that a fault wins every second time


async def test_a_send_to_a_client_that_does_not_read_cannot_be_cancelled() -> None:
    """HOST fault 5."""
    async with open_small_stock() as stock, open_slow_raw(stock.port) as raw:
        call = await stock.ask(raw)
        await call.start()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call.body, MORE_THAN_BUFFERS)
            await settle()
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await settle()
            stuck = bool(nursery.child_tasks) and next_timer() == NO_TIMER
            raw.abort()
    assert stuck, cured("send() can be cancelled, or has a limit", OUTPUT, TRANSPORT, SENDER)


async def test_the_final_send_waits_for_ever_behind_an_unread_body() -> None:
    """HOST fault 6: with the client there, and when it has gone."""
    async with open_stock() as stock, open_raw(stock.port) as raw:
        call = await stock.ask(raw, UNREAD_UPLOAD)
        await call.start()
        await settle()
        stuck = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call.end)
            await settle()
            stuck.append(bool(nursery.child_tasks) and next_timer() == NO_TIMER)
            raw.close()
            await settle()
            stuck.append(bool(nursery.child_tasks) and next_timer() == NO_TIMER)
            nursery.cancel_scope.cancel()
    assert stuck == [True, True], cured("http.disconnect overtakes the body", INBOX, WATCHER)


async def test_any_send_waits_for_ever_behind_an_unread_body_when_the_client_has_gone() -> None:
    """HOST fault 6."""
    async with open_stock() as stock, open_raw(stock.port) as raw:
        call = await stock.ask(raw, UNREAD_UPLOAD)
        await call.start()
        raw.abort()
        await settle()
        ended = await returns(call.body, b"x")
        assert not ended, cured("http.disconnect overtakes the body", INBOX, WATCHER)


async def test_unread_bodies_leave_tasks_and_sockets_whose_clients_have_gone() -> None:
    """HOST fault 6: 150 bytes each, and nothing in the server will ever end them."""
    clients = 5

    async def end(call: Call) -> None:
        await call.start()
        await settle()
        await call.end()

    async with open_stock(end, keep_alive_timeout=0.01) as stock:
        before = take_census()
        for _ in range(clients):
            async with open_raw(stock.port) as raw:
                await stock.ask(raw, UNREAD_UPLOAD)
                await settle()
        await settle()
        left = take_census().left_since(before)
        calls = [name for name in left if "_handle " in name]
        sockets = [name for name in left if name.startswith("file")]
        assert (len(calls), len(sockets)) == (clients, clients), cured(
            "unread bodies leave nothing behind", INBOX, WATCHER
        )
        assert next_timer() == NO_TIMER


async def test_the_disconnect_comes_from_within_the_final_send() -> None:
    """HOST fault 7: after every response, the client being there."""
    events = []
    async with open_stock() as stock, open_raw(stock.port) as raw:
        call = await stock.ask(raw)
        await call.receive()
        await call.start()

        async def watch() -> None:
            events.append(await call.receive_type())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            await call.end(b"x")
            events.append("sent")
    assert events == ["http.disconnect", "sent"], cured(
        "the end of a response is not told as a disconnect within send()", EXCHANGE
    )


async def test_cancelling_the_final_send_on_that_disconnect_leaks_the_connection() -> None:
    """HOST fault 7: the client was promised a close, and nobody will ever close."""
    async with open_stock(keep_alive_timeout=0.01) as stock, open_raw(stock.port) as raw:
        call = await stock.ask(raw, b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        await call.receive()
        await call.start()

        async def watch() -> None:
            await call.receive()
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            await call.end(b"x")
        call.finish()
        with trio.fail_after(IN_TIME):
            await call.over.wait()
            await raw.read_head()
            assert await raw.read_body() == b"x"
        closed = await returns(raw.read_until_closed)
        assert not closed, cured("a cancelled end does not leak the connection", HTTP1, EXCHANGE)
        assert next_timer() == NO_TIMER


async def test_after_a_cut_upload_a_send_does_nothing_at_all() -> None:
    """HOST fault 8: no checkpoint, so a loop of sends stops the event loop, deadlines included."""
    async with open_stock() as stock, open_raw(stock.port) as raw:
        call = await stock.ask(raw, b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nx")
        await raw.half_close()
        await settle()
        deaf = await does_nothing(call.start) and await does_nothing(call.body, b"x")
        assert deaf, cured("send() to nobody is a checkpoint or an error", SENDER)


async def test_bytes_after_the_request_hide_that_the_client_has_gone() -> None:
    """HOST fault 9: nobody reads the connection while they wait."""
    async with open_stock() as stock:
        async with open_raw(stock.port) as raw:
            call = await stock.ask(raw, STRAY)
            await call.receive()
            await call.start()
        heard = await returns(call.receive)
        assert not heard, cured("a hang-up is heard behind stray bytes", HANGUP)
        await call.body(b"x")
        await call.body(b"x")
        assert await returns(call.receive), lost("not even a send shows that the client has gone")


async def test_a_connection_with_bytes_after_its_request_leaks_when_it_was_aborted() -> None:
    """The app learns of it by a send, gives up, and the reader is never woken."""
    async with open_stock(keep_alive_timeout=0.01) as stock:
        before = take_census()
        async with open_raw(stock.port) as raw:
            call = await stock.ask(raw, STRAY)
            await call.receive()
            await call.start()
            raw.abort()
        await call.body(b"x")
        assert await call.receive_type() == "http.disconnect"
        call.finish()
        await settle()
        left = take_census().left_since(before)
        assert left, cured("an aborted connection with stray bytes ends", HANGUP, HTTP1)
        assert next_timer() == NO_TIMER


async def test_a_cancelled_send_loses_its_bytes_and_what_follows_looks_complete() -> None:
    """HOST fault 10."""
    async with open_stock() as stock, open_raw(stock.port) as raw:
        call = await stock.ask(raw)
        await call.start()
        with trio.CancelScope() as scope:
            scope.cancel()
            await call.body(b"lost ")
        body = b""
        with suppress(OSError, Truncated):
            await call.end(b"last")
            await raw.read_head()
            body = await raw.read_body()
    corrupt = scope.cancelled_caught and body == b"last"
    assert corrupt, cured("what follows a cancelled send is no clean end", EXCHANGE, SENDER)


async def test_a_disconnect_is_lost_when_a_cancelled_send_finds_it() -> None:
    """HOST fault 11: what waits for it afterwards waits for ever."""
    async with open_small_stock() as stock, open_slow_raw(stock.port) as raw:
        call = await stock.ask(raw, STRAY)
        await call.receive()
        await call.start()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call.body, MORE_THAN_BUFFERS)
            await settle()
            raw.abort()
            nursery.cancel_scope.cancel()
        heard = await returns(call.receive)
        assert not heard, cured("no disconnect is lost", INBOX)


async def test_on_http10_a_failure_looks_like_the_end() -> None:
    """HOST fault 12: without a length the end of the connection is the end of the body."""
    async with open_stock() as stock, open_raw(stock.port) as raw:
        call = await stock.ask(raw, b"GET / HTTP/1.0\r\n\r\n")
        await call.start()
        await call.body(b"half")
        call.finish(ValueError("the source broke"))
        with trio.fail_after(IN_TIME):
            await raw.read_head()
            assert await raw.read_until_closed() == b"half"
        assert raw.ended == "fin", cured("a failure on HTTP/1.0 is a reset", HTTP1)


async def test_a_send_while_the_server_closes_may_raise_busy_resource_error() -> None:
    """What the client sends is no HTTP; the server's FIN and the app's bytes meet."""

    async def raises_busy() -> bool:
        async with open_stock() as stock, open_raw(stock.port) as raw:
            call = await stock.ask(raw, UPLOAD)
            await call.start()
            await raw.send_all(b"no chunk\r\n")
            try:
                for _ in range(20):
                    await call.body(b"x")
            except trio.BusyResourceError:
                return True
            except OSError:
                pass
        return False

    busy = False
    for _ in range(ATTEMPTS):
        if busy := await raises_busy():
            break
    assert busy, cured("send() does not raise BusyResourceError", OUTPUT, CYCLE)


async def test_an_idle_connection_whose_client_has_closed_stays_until_its_timeout() -> None:
    async with open_stock(answer, keep_alive_timeout=IN_TIME) as stock:
        before = take_census()
        async with open_raw(stock.port) as raw:
            await stock.ask(raw)
            await raw.read_head()
            await raw.read_body()
            await settle()
        await settle()
        left = take_census().left_since(before)
        kinds = {name.split()[0] for name in left}
        assert kinds == {"task", "file"}, cured("an idle connection ends with its client", HTTP1)
        assert next_timer() > IN_TIME / 2


async def test_a_body_may_pause_for_ever() -> None:
    """HOST fault 16: read_timeout is off by default, and keep_alive_timeout is for idleness."""
    async with open_stock(keep_alive_timeout=0.01) as stock, open_raw(stock.port) as raw:
        await stock.ask(raw, UPLOAD)
        await settle()
        assert next_timer() == NO_TIMER, cured("a body that pauses has a limit", LIMITS, HTTP1)


async def test_a_request_for_a_foreign_host_is_refused_and_never_closed() -> None:
    """HOST fault 16: although the response says "connection: close"."""
    async with open_stock(server_names=["a.example"]) as stock, open_raw(stock.port) as raw:
        await raw.request("GET", "/")
        status, headers = await raw.read_head()
        assert (status, headers["connection"]) == (404, "close")
        closed = await returns(raw.read_until_closed)
        assert not closed, cured("a refused connection is closed", EXCHANGE)
        assert next_timer() == NO_TIMER


async def test_receive_in_a_cancelled_scope_gives_nothing_though_something_is_there() -> None:
    """HOST fault 17: so an app cannot poll for a disconnect."""
    async with open_stock() as stock:
        async with open_raw(stock.port) as raw:
            call = await stock.ask(raw)
            await call.receive()
        await settle()
        with trio.CancelScope() as scope:
            scope.cancel()
            await call.receive()
        assert scope.cancelled_caught, lost("receive() can be polled")
        assert await call.receive_type() == "http.disconnect"


async def test_each_send_takes_two_passes_of_the_scheduler() -> None:
    """HOST fault 18."""
    sends = 100
    async with open_stock() as stock, open_raw(stock.port) as raw:
        call = await stock.ask(raw)
        await call.start()
        with counting_steps() as steps:
            for _ in range(sends):
                await call.body(b"x")
    assert steps.count >= 2 * sends, cured("a send is cheaper than two passes", OUTPUT)


async def test_each_request_on_a_connection_costs_a_task_for_its_idle_timeout() -> None:
    """HOST fault 18: one task is the call's, the other waits until the connection is too idle."""
    requests = 10
    async with open_stock(answer) as stock, open_raw(stock.port) as raw:
        await stock.ask(raw)
        with counting_steps() as steps:
            for _ in range(requests):
                await raw.read_head()
                await raw.read_body()
                await stock.ask(raw)
            await settle()
    assert steps.spawned >= 2 * requests, cured("a request costs one task", CONNECTION)
