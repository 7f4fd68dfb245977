"""The exchange alone, on a connection that is made up: what takes time, and what is kept."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import trio
import trio.testing
from frames_ws import MASK, Op, close, ws_frame
from hypercorn.protocol.events import EndBody, EndData, Response, StreamClosed
from hypercorn.utils import UnexpectedMessageError
from ws_fake import SPREAD, exchanges, seconds_until_now
from ws_kit import ACCEPT, Talk, echo, listen

from tsstream._asgi import Receive, Send
from tsstream._server.websocket import CLOSE_TIMEOUT


async def close_at_once(scope: Any, receive: Receive, send: Send) -> None:
    await send(ACCEPT)
    await send({"type": "websocket.close", "code": 4000})


async def sleep(scope: Any, receive: Receive, send: Send) -> None:
    """Accept, and never receive."""
    await send(ACCEPT)
    await trio.sleep_forever()


async def test_client_that_does_not_answer_a_close_has_5_seconds(autojump_clock: object) -> None:
    took = seconds_until_now()
    async with exchanges() as begin:
        exchange = await begin(close_at_once)
        assert exchange.answer.code == 4000
        assert not isinstance(exchange.events[-1], StreamClosed)
    assert took() == CLOSE_TIMEOUT == 5
    assert exchange.events[-1] == StreamClosed(1)
    assert not exchange.cut


async def test_client_that_does_not_take_a_close_is_cut(autojump_clock: object) -> None:
    proceed = trio.Event()

    async def talk(scope: Any, receive: Receive, send: Send) -> None:
        await send(ACCEPT)
        await proceed.wait()

    async with exchanges() as begin:
        exchange = await begin(talk)
        exchange.blocked = trio.Event()
        proceed.set()
        await trio.sleep(CLOSE_TIMEOUT + 1)
        assert exchange.cut
        exchange.exchange.disconnect()  # as the driver does then


async def test_close_answered_ends_at_once(autojump_clock: object) -> None:
    took = seconds_until_now()
    async with exchanges() as begin:
        exchange = await begin(close_at_once)
        await exchange.exchange.receive_data(close(4000))
    assert took() == 0
    assert exchange.events[-1] == StreamClosed(1)


async def test_messages_after_our_close_are_dropped_and_pings_not_answered() -> None:
    async with exchanges() as begin:
        app = Talk(close_at_once)
        exchange = await begin(app, websocket_max_message_size=1000)
        frames = 3 * ws_frame(Op.BINARY, b"x" * 100_000) + ws_frame(Op.PING, b"ping")
        await exchange.exchange.receive_data(frames + close(4000))
    assert [op for op, _ in exchange.answer.frames] == [Op.CLOSE]
    assert app.heard == []
    assert exchange.connection.failures == []


async def test_one_message_is_read_ahead() -> None:
    async with exchanges() as begin:
        exchange = await begin(sleep)
        data = b"".join(ws_frame(Op.PING, b"%d" % i) + ws_frame(Op.TEXT, b"") for i in range(3))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(exchange.exchange.receive_data, data)
            for i in range(3):
                await trio.testing.wait_all_tasks_blocked()
                assert exchange.answer.payloads(Op.PONG) == [b"%d" % j for j in range(i + 1)]
                assert exchange.exchange.inbox.full
                while (await exchange.exchange.inbox.receive())["type"] == "websocket.connect":
                    pass
        exchange.connection.nursery.cancel_scope.cancel()


async def test_empty_frames_do_not_hold_up_others() -> None:
    """10,000 of them come in one packet; the event loop turns meanwhile."""
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with exchanges() as begin:
        exchange = await begin(echo)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(turn)
            frames = ws_frame(Op.TEXT, fin=False) + 9_999 * ws_frame(Op.CONTINUATION, fin=False)
            await exchange.exchange.receive_data(frames)
            nursery.cancel_scope.cancel()
        await exchange.exchange.receive_data(close(1000))
    assert turns > 100


async def test_bytes_before_the_accept_are_kept_and_after_a_refusal_dropped() -> None:
    decide = trio.Event()

    async def refuse(scope: Any, receive: Receive, send: Send) -> None:
        await decide.wait()
        await send({"type": "websocket.close"})

    async with exchanges() as begin:
        exchange = await begin(refuse)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(exchange.exchange.receive_data, ws_frame(Op.TEXT, b"early"))
            await trio.testing.wait_all_tasks_blocked()
            decide.set()
    kinds = [type(event) for event in exchange.events]
    assert kinds == [Response, EndBody, StreamClosed]


async def test_frames_that_go_out_in_pieces_do_not_mix() -> None:
    async def talk(scope: Any, receive: Receive, send: Send) -> None:
        await send(ACCEPT)
        await receive()
        await receive()
        async with trio.open_nursery() as nursery:
            for task in range(4):
                nursery.start_soon(say, task, send)

    async def say(task: int, send: Send) -> None:
        for _ in range(5):
            await send({"type": "websocket.send", "bytes": bytes([task]) * 100})

    async with exchanges() as begin:
        app = Talk(talk)
        exchange = await begin(app, pieces=True)
        await exchange.exchange.receive_data(ws_frame(Op.TEXT, b"go"))
        await trio.lowlevel.checkpoint()
        await exchange.exchange.receive_data(ws_frame(Op.PING, b"between"))
        await app.wait_over()
        await exchange.exchange.receive_data(close(1000))
    assert len(exchange.answer.frames) == 22
    assert exchange.answer.code == 1000
    assert exchange.answer.faults == []


async def test_farewells_are_spread(autojump_clock: object) -> None:
    said: list[float] = []

    async def talk(scope: Any, receive: Receive, send: Send) -> None:
        await listen(scope, receive, send)
        said.append(took())

    took = seconds_until_now()
    async with exchanges() as begin:
        for _ in range(40):
            exchange = await begin(talk)
            exchange.exchange.begin_closing()
    said.sort()
    assert len(said) == 40
    assert said[0] < SPREAD / 2 < said[-1] <= SPREAD
    assert len(set(said)) > 20


async def test_farewell_is_not_waited_for_by_a_websocket_that_ends_before(
    autojump_clock: object,
) -> None:
    took = seconds_until_now()
    async with exchanges() as begin:
        exchange = await begin(listen)
        exchange.exchange.begin_closing()
        await exchange.exchange.receive_data(close(1000))
    assert took() == 0
    assert exchange.answer.code == 1000


async def test_disconnect_is_idempotent_and_the_last_word() -> None:
    app = Talk(listen)
    async with exchanges() as begin:
        exchange = await begin(app)
        exchange.exchange.disconnect()
        exchange.exchange.disconnect()
    assert [message["code"] for message in app.heard] == [1006]
    assert not any(isinstance(event, StreamClosed) for event in exchange.events)


async def test_cancelled_application_cuts_an_open_websocket() -> None:
    async with exchanges() as begin:
        exchange = await begin(listen)
        exchange.connection.nursery.cancel_scope.cancel()
    assert exchange.cut


@pytest.mark.parametrize(
    "message",
    [
        ACCEPT,
        {"type": "websocket.close"},
        {"type": "websocket.http.response.body"},
    ],
)
async def test_answer_to_the_handshake_that_is_cancelled_is_a_cut(message: Any) -> None:
    async def talk(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        await receive()
        await send({"type": "websocket.http.response.start", "status": 403})
        with trio.CancelScope() as cancel_scope:
            cancel_scope.cancel()
            await send(message)

    async with exchanges() as begin:
        exchange = await begin(talk)
        exchange.blocked = trio.Event()
        exchange.exchange.inbox.put({"type": "go"})
        await trio.testing.wait_all_tasks_blocked()
        assert exchange.cut
        exchange.connection.nursery.cancel_scope.cancel()


async def test_two_tasks_cannot_both_accept() -> None:
    async def talk(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        await receive()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, ACCEPT)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(UnexpectedMessageError):
                await send(ACCEPT)
            unblock.set()

    unblock = trio.Event()
    async with exchanges() as begin:
        app = Talk(talk)
        exchange = await begin(app)
        exchange.blocked = unblock
        exchange.exchange.inbox.put({"type": "go"})
        await app.wait_over()
        await exchange.exchange.receive_data(close(1000))
    assert app.raised == []
    assert [type(event) for event in exchange.events] == [Response, StreamClosed]


async def test_application_that_fails_while_a_message_waits_does_not_hold_up_the_end() -> None:
    proceed = trio.Event()

    async def talk(scope: Any, receive: Receive, send: Send) -> None:
        await send(ACCEPT)
        await proceed.wait()
        raise ValueError("of the application")

    async with exchanges() as begin:
        exchange = await begin(talk)
        async with trio.open_nursery() as nursery:
            data = 5 * ws_frame(Op.TEXT, b"not taken") + close(1000)
            nursery.start_soon(exchange.exchange.receive_data, data)
            await trio.testing.wait_all_tasks_blocked()
            proceed.set()
    assert exchange.answer.code == 1011
    assert exchange.events[-1] == StreamClosed(1)


async def test_extended_connect_is_accepted_with_200_and_ended_with_the_stream() -> None:
    async with exchanges() as begin:
        exchange = await begin(echo, "2")
        await exchange.exchange.receive_data(ws_frame(Op.TEXT, b"hello") + close(1000))
    response, *rest = exchange.events
    assert isinstance(response, Response)
    assert response.status_code == 200
    assert not {name for name, _ in response.headers} & {b"connection", b"upgrade"}
    assert rest == [EndData(1), StreamClosed(1)]
    assert exchange.answer.payloads(Op.TEXT) == [b"hello"]


@pytest.mark.parametrize("messages", [[{"type": "websocket.close"}], []])
async def test_refusal_of_an_extended_connect_has_no_connection_header(messages: Any) -> None:
    async def talk(scope: Any, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)

    async with exchanges() as begin:
        exchange = await begin(talk, "2")
    response, *rest = exchange.events
    assert isinstance(response, Response)
    assert response.headers == [(b"content-length", b"0")]
    assert rest == [EndBody(1), StreamClosed(1)]


async def test_extended_connect_cannot_be_refused_with_2xx() -> None:
    async def talk(scope: Any, receive: Receive, send: Send) -> None:
        with pytest.raises(ValueError, match="does not refuse"):
            await send({"type": "websocket.http.response.start", "status": 204})

    async with exchanges() as begin:
        exchange = await begin(talk, "2")
    assert isinstance(exchange.events[0], Response)
    assert exchange.events[0].status_code == 500


async def test_frames_byte_by_byte_and_whole_are_the_same() -> None:
    data = (
        ws_frame(Op.TEXT, "caf\xe9".encode()[:4], fin=False)
        + ws_frame(Op.PING, b"between")
        + ws_frame(Op.CONTINUATION, "caf\xe9".encode()[4:])
        + ws_frame(Op.BINARY, MASK * 50)
        + close(3000, b"done")
    )
    answers = []
    for step in (1, 3, len(data)):
        async with exchanges() as begin:
            exchange = await begin(echo)
            receive_data = partial(exchange.exchange.receive_data)
            for start in range(0, len(data), step):
                await receive_data(data[start : start + step])
        answers.append(exchange.answer)
    assert answers[0] == answers[1] == answers[2]
    assert sorted(answers[0].frames) == sorted(
        [
            (Op.PONG, b"between"),
            (Op.TEXT, "caf\xe9".encode()),
            (Op.BINARY, MASK * 50),
            (Op.CLOSE, b"\x0b\xb8done"),
        ]
    )
