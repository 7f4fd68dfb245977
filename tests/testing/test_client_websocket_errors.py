"""What goes wrong on a WebSocket of the in-process client: errors, and a broken ASGI."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tsstream import WebSocketClosed
from tsstream._asgi import ASGIApp, Receive, Send
from tsstream.testing import WebSocketRejected, open_client

ACCEPT = {"type": "websocket.accept"}
CLOSE = {"type": "websocket.close"}


def text(data: str) -> dict[str, Any]:
    return {"type": "websocket.send", "text": data}


def websocket_only(app: ASGIApp) -> ASGIApp:
    async def wrapper(scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await app(scope, receive, send)

    return wrapper


def sends(*messages: Any, then: Exception | None = None) -> ASGIApp:
    @websocket_only
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)
        if then is not None:
            raise then

    return app


# The application's own exception


async def test_error_before_the_accept_comes_out() -> None:
    error = ValueError("mine")
    async with open_client(sends(then=error)) as client:
        with pytest.raises(ValueError, match="mine") as caught:
            async with client.websocket("/"):
                pytest.fail("entered")
    assert caught.value is error


async def test_error_comes_out_of_whatever_the_test_waits_in() -> None:
    error = ValueError("mine")
    error.__cause__ = cause = KeyError()
    async with open_client(sends(ACCEPT, text("a"), then=error)) as client:
        async with client.websocket("/") as websocket:
            assert await websocket.receive() == "a"
            for use in websocket.receive, websocket.__anext__:
                with pytest.raises(ValueError, match="mine"):
                    await use()
            with pytest.raises(ValueError, match="mine") as caught:
                await websocket.send("b")
    assert caught.value is error  # seen: the block is left in peace
    assert caught.value.__cause__ is cause


async def test_error_that_nobody_saw_comes_out_on_leaving() -> None:
    async with open_client(sends(ACCEPT, then=ValueError("mine"))) as client:
        with pytest.raises(ValueError, match="mine"):
            async with client.websocket("/"):
                await wait_all_tasks_blocked()


async def test_error_after_a_close_comes_out_on_leaving() -> None:
    async with open_client(sends(ACCEPT, CLOSE, then=ValueError("mine"))) as client:
        codes: list[int | None] = []
        with pytest.raises(ValueError, match="mine"):
            async with client.websocket("/") as websocket:
                await wait_all_tasks_blocked()  # it has raised
                with pytest.raises(WebSocketClosed) as closed:
                    await websocket.receive()
                codes.append(closed.value.code)
        assert codes == [1000]


async def test_error_after_a_rejection_comes_out() -> None:
    async with open_client(sends(CLOSE, then=ValueError("mine"))) as client:
        with pytest.raises(ValueError, match="mine"):
            async with client.websocket("/"):
                pytest.fail("entered")


async def test_error_of_an_app_that_says_1011_first_comes_out(autojump_clock: MockClock) -> None:
    @websocket_only
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await send(ACCEPT)
        await send({**CLOSE, "code": 1011})
        await trio.sleep(1)
        raise ValueError("mine")

    async with open_client(app) as client, client.websocket("/") as websocket:
        with pytest.raises(ValueError, match="mine"):
            await websocket.receive()
    async with open_client(sends(ACCEPT, {**CLOSE, "code": 1011})) as client:
        async with client.websocket("/") as websocket:
            with pytest.raises(WebSocketClosed, match="1011"):
                await websocket.receive()


async def test_errors_can_be_left_to_the_network() -> None:
    error = ValueError("mine")
    for app in sends(then=error), sends():
        async with open_client(app, raise_app_errors=False) as client:
            with pytest.raises(WebSocketRejected) as caught:
                async with client.websocket("/"):
                    pytest.fail("entered")
        assert caught.value.response.status_code == 500
    for app in sends(ACCEPT, text("a"), then=error), sends(ACCEPT, text("a")):
        async with open_client(app, raise_app_errors=False) as client:
            async with client.websocket("/") as websocket:
                assert [message async for message in websocket] == ["a"]
                with pytest.raises(WebSocketClosed) as closed:
                    await websocket.receive()
        assert closed.value.code == 1011


async def test_extension_asks_for_errors_only_if_they_are_raised() -> None:
    seen: list[Any] = []

    @websocket_only
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        seen.append("tsstream.raise_errors" in scope["extensions"])
        await send(CLOSE)

    for raising in True, False:
        async with open_client(app, raise_app_errors=raising) as client:
            with pytest.raises(WebSocketRejected):
                async with client.websocket("/"):
                    pytest.fail("entered")
    assert seen == [True, False]


# What the application does wrong (its messages: test_client_websocket_messages.py)


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        ([], "without accepting"),
        ([text("a")], "is not open yet"),
        ([{"type": "websocket.http.response.start", "status": 404}], "without the final message"),
    ],
)
async def test_broken_handshake_is_explained(messages: list[Any], complaint: str) -> None:
    async with open_client(sends(*messages)) as client:
        with pytest.raises(AssertionError, match=complaint):
            async with client.websocket("/"):
                pytest.fail("entered")


@pytest.mark.parametrize("raising", [True, False])
async def test_broken_message_comes_out_of_receive(raising: bool) -> None:
    async with open_client(sends(ACCEPT, ACCEPT), raise_app_errors=raising) as client:
        async with client.websocket("/") as websocket:
            with pytest.raises(AssertionError, match="the WebSocket is open"):
                await websocket.receive()


async def test_broken_message_that_the_app_swallows_comes_out_on_leaving() -> None:
    @websocket_only
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await send(ACCEPT)
        with pytest.raises(AssertionError):
            await send(text(b"a"))  # type: ignore[arg-type]  # that is the test
        await send(CLOSE)

    async with open_client(app) as client:
        with pytest.raises(AssertionError, match="is a str, not bytes"):
            async with client.websocket("/") as websocket:
                assert [message async for message in websocket] == []


async def test_app_that_returns_without_a_close_is_explained() -> None:
    async with open_client(sends(ACCEPT)) as client, client.websocket("/") as websocket:
        with pytest.raises(AssertionError, match=r"without 'websocket\.close'"):
            await websocket.receive()


async def test_send_after_a_cancelled_send_is_explained(autojump_clock: MockClock) -> None:
    @websocket_only
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await send(ACCEPT)
        with trio.move_on_after(1):
            await send(text("half"))
        await send(text("whole"))

    async with open_client(app) as client, client.websocket("/") as websocket:
        await trio.sleep(2)
        with pytest.raises(AssertionError, match="was cancelled"):
            await websocket.receive()


async def test_close_after_a_cancelled_send_is_right(autojump_clock: MockClock) -> None:
    @websocket_only
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await send(ACCEPT)
        with trio.move_on_after(1):
            await send(text("half"))
        await send({**CLOSE, "code": 1001})

    async with open_client(app) as client, client.websocket("/") as websocket:
        await trio.sleep(2)
        with pytest.raises(WebSocketClosed, match="1001"):
            await websocket.receive()
