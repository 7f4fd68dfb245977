"""WebSockets within HTTP/2 (RFC 8441), on real sockets."""

from __future__ import annotations

from typing import Any

import h2.events
import pytest
import trio
import trio.testing
from frames_ws import Op, WSAnswer, close, ws_frame
from leaks import assert_no_leaks
from probes import IN_TIME
from wire import H2Connection, open_guarded, open_h2
from ws_kit import ACCEPT, Talk, echo, listen

from tsstream._asgi import Receive, Send

CONNECT = {":protocol": "websocket", "sec-websocket-version": "13"}


async def connect(client: H2Connection, **headers: str) -> int:
    return await client.request("CONNECT", "/", {**CONNECT, **headers}, end_stream=False)


async def read_to_close(client: H2Connection, stream_id: int) -> WSAnswer:
    """Read frames up to the server's Close, or the end of the stream."""
    data = b""
    with trio.fail_after(IN_TIME):  # noqa: ASYNC912
        while WSAnswer.of(data).code is None:
            event = await client.next_event(stream_id)
            if isinstance(event, h2.events.DataReceived):
                data += event.data
            elif isinstance(event, h2.events.StreamEnded | h2.events.StreamReset):
                break
    return WSAnswer.of(data)


async def test_echo_and_close() -> None:
    app = Talk(echo)
    async with open_guarded(app) as port, assert_no_leaks(), open_h2(port) as client:
        stream_id = await connect(client)
        status, headers = await client.read_head(stream_id)
        assert status == 200
        assert not {"upgrade", "connection", "sec-websocket-accept"} & set(headers)
        await client.send_data(stream_id, ws_frame(Op.TEXT, b"hello") + ws_frame(Op.PING, b"p"))
        await client.send_data(stream_id, close(4000, b"done"))
        answer = await read_to_close(client, stream_id)
        assert (answer.code, answer.faults) == (4000, [])
        assert sorted(answer.frames)[:1] == [(Op.TEXT, b"hello")]
        assert app.heard[-1] == {
            "type": "websocket.disconnect",
            "code": 4000,
            "reason": "done",
        }


@pytest.mark.parametrize("reset", [True, False])
async def test_stream_that_ends_without_a_close_is_1006(reset: bool) -> None:
    app = Talk(listen)
    async with open_guarded(app) as port, assert_no_leaks(), open_h2(port) as client:
        stream_id = await connect(client)
        await client.read_head(stream_id)
        if reset:
            await client.reset(stream_id)
        else:
            await client.send_data(stream_id, b"", end_stream=True)
        assert [heard["code"] for heard in await app.wait_heard()] == [1006]
        await app.wait_over()


async def test_unread_messages_stop_their_stream_and_no_other() -> None:
    async def talk(scope: Any, receive: Receive, send: Send) -> None:
        if scope["path"] == "/":
            await receive()
            await send(ACCEPT)
            await proceed.wait()
        await echo(scope, receive, send)

    async def flood() -> None:
        await client.send_data(stream_id, b"".join(ws_frame(Op.BINARY, part) for part in parts))
        await client.send_data(stream_id, close(1000))
        sent.set()

    proceed, sent = trio.Event(), trio.Event()
    parts = [bytes([i]) * 50_000 for i in range(10)]
    app = Talk(talk)
    async with open_guarded(app) as port, open_h2(port) as client:
        stream_id = await connect(client)
        await client.read_head(stream_id)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood)
            await trio.testing.wait_all_tasks_blocked(0.02)
            assert not sent.is_set()
            other = await client.request("CONNECT", "/other", CONNECT, end_stream=False)
            await client.read_head(other)
            await client.send_data(other, ws_frame(Op.TEXT, b"hello") + close(1000))
            answer = await read_to_close(client, other)
            assert answer.payloads(Op.TEXT) == [b"hello"]
            nursery.cancel_scope.cancel()
        proceed.set()


async def test_wrong_version_is_a_426() -> None:
    app = Talk(echo)
    async with open_guarded(app) as port, assert_no_leaks(), open_h2(port) as client:
        headers = {":protocol": "websocket", "sec-websocket-version": "8"}
        stream_id = await client.request("CONNECT", "/", headers, end_stream=False)
        status, fields = await client.read_head(stream_id)
        assert (status, fields["sec-websocket-version"]) == (426, "13")
    assert app.over == 0


async def test_error_of_the_application_is_1011() -> None:
    async def talk(scope: Any, receive: Receive, send: Send) -> None:
        await send(ACCEPT)
        raise ValueError("of the application")

    async with open_guarded(Talk(talk)) as port, open_h2(port) as client:
        stream_id = await connect(client)
        await client.read_head(stream_id)
        assert (await read_to_close(client, stream_id)).code == 1011


@pytest.mark.parametrize("torn", [False, True])
async def test_a_send_that_is_cancelled_resets_the_stream_only_if_a_frame_is_torn(
    torn: bool,
) -> None:
    async def talk(scope: Any, receive: Receive, send: Send) -> None:
        await send(ACCEPT)
        if not torn:
            await send({"type": "websocket.send", "bytes": bytes(996)})  # and 4 of its frame
        with trio.move_on_after(0.02) as cancel_scope:
            await send({"type": "websocket.send", "bytes": bytes(2000)})
        assert cancel_scope.cancelled_caught
        cancelled.set()
        await send({"type": "websocket.close", "code": 4000})

    cancelled = trio.Event()
    app = Talk(talk)
    async with open_guarded(app) as port, open_h2(port, window=1000, credit=False) as client:
        stream_id = await connect(client)
        await client.read_head(stream_id)
        await cancelled.wait()
        if not torn:
            await client.grant(stream_id, 10_000)
        data, reset = b"", False
        with trio.fail_after(IN_TIME):  # noqa: ASYNC912
            while not reset and WSAnswer.of(data).code is None:
                event = await client.next_event(stream_id)
                data += getattr(event, "data", b"")
                reset = isinstance(event, h2.events.StreamReset)
    assert reset is torn
    assert [len(payload) for payload in WSAnswer.of(data).payloads(Op.BINARY)] == (
        [] if torn else [996]
    )
