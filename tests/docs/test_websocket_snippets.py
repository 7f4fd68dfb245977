"""What "Talk over WebSockets" says of its listings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress

import pytest
import trio
import websocket_endpoints
from trio.testing import MockClock
from trio_websocket import ConnectionClosed, WebSocketRequest, serve_websocket

from tsstream import WebSocketClosed
from tsstream.testing import WebSocketRejected, open_client


async def test_echo() -> None:
    async with (
        open_client(websocket_endpoints.app) as client,
        client.websocket("/echo") as websocket,
    ):
        await websocket.send("hello")
        assert await websocket.receive() == "hello"
        await websocket.send(b"")
        assert await websocket.receive() == b""


async def test_the_clock_stops_with_its_client(autojump_clock: MockClock) -> None:
    async with open_client(websocket_endpoints.app) as client:
        async with client.websocket("/clock") as websocket:
            await websocket.send("not wanted")
            assert [await websocket.receive() for _ in range(3)] == ["tick"] * 3


@pytest.mark.parametrize(
    ("headers", "accepted"),
    [
        ({}, True),
        ({"origin": "https://app.example.org"}, True),
        ({"host": "here:8000", "origin": "http://here:8000"}, True),
        ({"host": "here:8000", "origin": "http://here"}, False),
        ({"origin": "https://elsewhere.example"}, False),
    ],
)
async def test_origins(headers: Mapping[str, str], accepted: bool) -> None:
    async with open_client(websocket_endpoints.app) as client:
        if accepted:
            async with client.websocket("/account", headers=headers) as websocket:
                assert await websocket.receive() == "your account"
        else:
            with pytest.raises(WebSocketRejected) as caught:
                async with client.websocket("/account", headers=headers):
                    pass
            assert caught.value.response.status_code == 403


async def test_a_refusal_is_a_response() -> None:
    async with open_client(websocket_endpoints.app) as client:
        async with client.websocket("/rooms/lobby") as websocket:
            assert await websocket.receive() == "welcome"
        with pytest.raises(WebSocketRejected) as caught:
            async with client.websocket("/rooms/cellar"):
                pass
        response = caught.value.response
        assert (response.status_code, response.text) == (404, "there is no such room\n")


async def test_a_subprotocol_is_agreed_on_or_the_websocket_is_refused() -> None:
    async with open_client(websocket_endpoints.app) as client:
        offered = ["graphql-ws", "graphql-transport-ws"]
        async with client.websocket("/graph", subprotocols=offered) as websocket:
            assert websocket.subprotocol == "graphql-transport-ws"
            assert websocket.headers["x-graph"] == "1"
        with pytest.raises(WebSocketRejected) as caught:
            async with client.websocket("/graph", subprotocols=["graphql-ws"]):
                pass
        assert caught.value.response.status_code == 403


async def test_a_code_and_a_reason() -> None:
    async with (
        open_client(websocket_endpoints.app) as client,
        client.websocket("/guess") as websocket,
    ):
        await websocket.send("41")
        assert await websocket.receive() == "no"
        await websocket.send("42")
        with pytest.raises(WebSocketClosed) as caught:
            await websocket.receive()
        assert (caught.value.code, caught.value.reason) == (4000, "that is it")


async def test_reports_of_two_tasks_and_answers(autojump_clock: MockClock) -> None:
    async with (
        open_client(websocket_endpoints.app) as client,
        client.websocket("/reports") as websocket,
    ):
        first = {await websocket.receive(), await websocket.receive()}
        assert first == {"mill is alive", "pump is alive"}
        await websocket.send("the mill")
        assert await websocket.receive() == "noted, all 8 of it"
        assert await websocket.receive() == "mill is alive"
        assert await websocket.receive() == "pump is alive"


async def test_items_of_a_body_are_messages() -> None:
    async with (
        open_client(websocket_endpoints.app) as client,
        client.websocket("/numbers") as websocket,
    ):
        messages = [message async for message in websocket]
    assert [json.loads(message) for message in messages] == [{"number": n} for n in range(3)]


async def test_a_feed_is_left_when_its_client_leaves(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = trio.Event()

    async def publish(request: WebSocketRequest) -> None:
        connection = await request.accept()
        await connection.send_message("news 1")
        with suppress(ConnectionClosed):
            await connection.get_message()
        left.set()

    server = await nursery.start(serve_websocket, publish, "127.0.0.1", 0, None)
    monkeypatch.setattr(websocket_endpoints, "FEED", f"ws://127.0.0.1:{server.port}")
    async with open_client(websocket_endpoints.app) as client:
        async with client.websocket("/feed") as websocket:
            assert await websocket.receive() == "news 1"
        with trio.fail_after(5):
            await left.wait()
    nursery.cancel_scope.cancel()
