"""WebSockets of the in-process client, against small raw ASGI applications."""

from __future__ import annotations

import random
from typing import Any

import pytest
import trio
import trio.testing
from leaks import assert_no_leaks
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect
from trio.testing import MockClock, wait_all_tasks_blocked

from tsstream import App, HTTPError, WebSocketClosed
from tsstream._asgi import ASGIApp, Receive, Send
from tsstream._http.websocket import WebSocket as ServerWebSocket
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


class Echo:
    """Sends back what it receives; what that was is in ``messages``."""

    def __init__(self, cleanup: float = 0) -> None:
        self.messages: list[Any] = []
        self.ended = False
        self.cleanup = cleanup

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "websocket":
            return
        try:
            self.messages.append(await receive())
            await send(ACCEPT)
            while True:
                message = await receive()
                self.messages.append(message)
                if message["type"] == "websocket.disconnect":
                    break
                await send({**message, "type": "websocket.send"})
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(self.cleanup)
            self.ended = True


# The handshake


async def test_scope_has_every_key() -> None:
    scopes: list[Any] = []

    @websocket_only
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        scopes.append(scope)
        await send(ACCEPT)
        await receive()
        await receive()

    async with open_client(app, root_path="/below") as client:
        async with client.websocket(
            "/below/ws?a=1", headers={"origin": "http://x"}, subprotocols=["a", "b"]
        ):
            pass
    assert scopes == [
        {
            "type": "websocket",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "scheme": "ws",
            "path": "/below/ws",
            "raw_path": b"/below/ws",
            "query_string": b"a=1",
            "root_path": "/below",
            "headers": [
                (b"host", b"testserver"),
                (b"origin", b"http://x"),
                (b"connection", b"Upgrade"),
                (b"upgrade", b"websocket"),
                (b"sec-websocket-version", b"13"),
                (b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ=="),
                (b"sec-websocket-protocol", b"a, b"),
            ],
            "client": ("testclient", 50000),
            "server": ("testserver", 80),
            "subprotocols": ["a", "b"],
            "state": {},
            "extensions": {"websocket.http.response": {}, "tsstream.raise_errors": {}},
        }
    ]


async def test_entering_waits_for_the_accept(autojump_clock: MockClock) -> None:
    @websocket_only
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        assert await receive() == {"type": "websocket.connect"}
        await trio.sleep(5)
        await send({**ACCEPT, "subprotocol": "b", "headers": [(b"x-a", b"1")]})
        await receive()

    begin = trio.current_time()
    async with open_client(app) as client:
        async with client.websocket("/", subprotocols=["a", "b"]) as websocket:
            assert trio.current_time() - begin == 5
            assert websocket.subprotocol == "b"
            assert websocket.headers["x-a"] == "1"
            assert websocket.headers["sec-websocket-protocol"] == "b"


async def test_subprotocols_are_a_list() -> None:
    async with open_client(Echo()) as client:
        with pytest.raises(TypeError, match="give a list"):
            async with client.websocket("/", subprotocols="chat"):
                pytest.fail("entered")


async def test_close_before_accept_rejects_with_403() -> None:
    async with open_client(sends(CLOSE)) as client:
        with pytest.raises(WebSocketRejected, match="403") as caught:
            async with client.websocket("/"):
                pytest.fail("entered")
    assert caught.value.response.status_code == 403
    assert caught.value.response.content == b""


async def test_rejection_with_a_whole_response_is_given_when_the_app_has_returned(
    autojump_clock: MockClock,
) -> None:
    log: list[str] = []

    @websocket_only
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        prefix = "websocket.http.response"
        await send({"type": f"{prefix}.start", "status": 401, "headers": [(b"x-a", b"1")]})
        await send({"type": f"{prefix}.body", "body": b"go ", "more_body": True})
        await send({"type": f"{prefix}.body", "body": b"away"})
        log.extend([(await receive())["type"], (await receive())["type"]])
        await trio.sleep(5)
        log.append("clean")

    async with open_client(app) as client:
        with pytest.raises(WebSocketRejected) as caught:
            async with client.websocket("/"):
                pytest.fail("entered")
        assert log == ["websocket.connect", "websocket.disconnect", "clean"]
    response = caught.value.response
    assert (response.status_code, response.headers["x-a"], response.text) == (401, "1", "go away")


# Messages, and backpressure


@pytest.mark.parametrize("message", ["ä", "", b"\x00\xff", b""])
async def test_message_comes_as_it_was_sent(message: str | bytes) -> None:
    app = Echo()
    async with open_client(app) as client, client.websocket("/") as websocket:
        await websocket.send(message)
        assert await websocket.receive() == message
    is_text = isinstance(message, str)
    assert app.messages[1] == {
        "type": "websocket.receive",
        "text": message if is_text else None,
        "bytes": None if is_text else message,
    }


async def test_message_of_another_type_is_a_type_error() -> None:
    async with open_client(Echo()) as client, client.websocket("/") as websocket:
        with pytest.raises(TypeError, match="give str for text"):
            await websocket.send(bytearray(b"a"))  # type: ignore[arg-type]  # that is the test


async def test_send_of_the_app_waits_until_the_test_receives() -> None:
    sent: list[str] = []
    go_on = trio.Event()

    @websocket_only
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await send(ACCEPT)
        await go_on.wait()
        for data in "ab":
            await send(text(data))
            sent.append(data)
        await send(CLOSE)

    async with open_client(app) as client, client.websocket("/") as websocket:
        with pytest.raises(trio.WouldBlock):
            websocket.receive_nowait()
        go_on.set()
        await wait_all_tasks_blocked()
        assert sent == []
        assert websocket.receive_nowait() == "a"
        await wait_all_tasks_blocked()
        assert sent == ["a"]
        assert [message async for message in websocket] == ["b"]
        with pytest.raises(WebSocketClosed):
            websocket.receive_nowait()


async def test_send_of_the_test_waits_until_the_app_receives() -> None:
    go_on = trio.Semaphore(0)

    @websocket_only
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        for _ in range(2):
            await go_on.acquire()
            await receive()
        await send(CLOSE)

    sent: list[str] = []
    async with open_client(app) as client, client.websocket("/") as websocket:
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def talk() -> None:
                for data in "ab":
                    await websocket.send(data)
                    sent.append(data)

            for expected in [], ["a"], ["a", "b"]:
                await wait_all_tasks_blocked()
                assert sent == expected
                go_on.release()


async def test_cancelled_send_and_receive_lose_nothing(autojump_clock: MockClock) -> None:
    @websocket_only
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        await trio.sleep(2)
        await send(text((await receive())["text"]))
        await send(CLOSE)

    async with open_client(app) as client, client.websocket("/") as websocket:
        with trio.move_on_after(1) as scope:
            await websocket.send("lost")
        assert scope.cancelled_caught
        with trio.move_on_after(0.5):
            await websocket.receive()
        await websocket.send("kept")
        assert [message async for message in websocket] == ["kept"]


async def test_all_messages_come_before_the_disconnect() -> None:
    app = Echo()
    async with open_client(app) as client, client.websocket("/") as websocket:
        await websocket.send("a")
    assert [message["type"] for message in app.messages] == [
        "websocket.connect",
        "websocket.receive",
        "websocket.disconnect",
    ]


# The application closes


async def test_close_of_the_app_ends_the_messages() -> None:
    app = sends(ACCEPT, text("a"), {**CLOSE, "code": 3001, "reason": "enough"})
    async with open_client(app) as client, client.websocket("/") as websocket:
        assert [message async for message in websocket] == ["a"]
        for _ in range(2):
            with pytest.raises(WebSocketClosed) as caught:
                await websocket.receive()
            assert (caught.value.code, caught.value.reason) == (3001, "enough")
        with pytest.raises(WebSocketClosed, match="3001"):
            await websocket.send("a")
        await websocket.close()  # is closed


async def test_close_of_the_app_wakes_who_sends_and_who_receives() -> None:
    go_on, return_ = trio.Event(), trio.Event()

    @websocket_only
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await send(ACCEPT)
        await go_on.wait()
        await send(CLOSE)
        await return_.wait()

    async with open_client(app) as client, client.websocket("/") as websocket:

        async def talk() -> None:
            with pytest.raises(WebSocketClosed):
                await websocket.send("a")

        async def listen() -> None:
            with pytest.raises(WebSocketClosed):
                await websocket.receive()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(talk)
            nursery.start_soon(listen)
            await wait_all_tasks_blocked()
            go_on.set()
        return_.set()


async def test_send_that_a_close_overtakes_goes_nowhere() -> None:
    @websocket_only
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await send(ACCEPT)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, text("a"))
            await wait_all_tasks_blocked()
            await send(CLOSE)

    async with open_client(app) as client, client.websocket("/") as websocket:
        await wait_all_tasks_blocked(0.01)
        assert [message async for message in websocket] == []


async def test_app_that_has_closed_receives_its_own_code() -> None:
    seen: list[Any] = []

    @websocket_only
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def listen() -> None:
                for _ in range(2):
                    seen.append(await receive())

            await wait_all_tasks_blocked()
            await send({**CLOSE, "code": 3001, "reason": "enough"})

    async with open_client(app) as client, client.websocket("/") as websocket:
        with pytest.raises(WebSocketClosed):
            await websocket.receive()
    assert seen == [{"type": "websocket.disconnect", "code": 3001, "reason": "enough"}] * 2


# The client closes


@pytest.mark.parametrize(
    ("how", "code", "reason"),
    [("leave", 1000, ""), ("close", 3001, "bye"), ("abort", 1006, "")],
)
async def test_app_is_told_how_the_client_left(how: str, code: int, reason: str) -> None:
    app = Echo()
    async with open_client(app) as client:
        async with client.websocket("/") as websocket:
            if how == "close":
                await websocket.close(3001, "bye")
                await websocket.close()  # the first one holds
            elif how == "abort":
                websocket.abort()
            if how != "leave":
                await wait_all_tasks_blocked()
                assert app.ended
                for use in websocket.receive, websocket.__anext__:
                    with pytest.raises(trio.ClosedResourceError, match="has closed"):
                        await use()
                with pytest.raises(trio.ClosedResourceError, match="has closed"):
                    await websocket.send("a")
                with pytest.raises(trio.ClosedResourceError, match="has closed"):
                    websocket.receive_nowait()
        assert app.messages[1:] == [
            {"type": "websocket.disconnect", "code": code, "reason": reason}
        ]


@pytest.mark.parametrize(("code", "reason"), [(1006, ""), (1000, "x" * 124)])
async def test_close_that_cannot_be_sent_is_an_error(code: int, reason: str) -> None:
    async with open_client(Echo()) as client, client.websocket("/") as websocket:
        with pytest.raises(ValueError, match="close"):
            await websocket.close(code, reason)
        await websocket.send("still open")
        assert await websocket.receive() == "still open"


async def test_leaving_waits_for_the_cleanup(autojump_clock: MockClock) -> None:
    app = Echo(cleanup=1000)
    begin = trio.current_time()
    async with open_client(app) as client:
        async with client.websocket("/"):
            pass
        assert app.ended
        assert trio.current_time() - begin == 1000


@pytest.mark.parametrize("how", ["raise", "cancel"])
async def test_block_that_fails_cancels_a_deaf_app(how: str, autojump_clock: MockClock) -> None:
    @websocket_only
    async def deaf(scope: Any, receive: Receive, send: Send) -> None:
        await send(ACCEPT)
        await trio.sleep_forever()

    async with open_client(deaf) as client:
        with pytest.raises(KeyError) if how == "raise" else trio.move_on_after(1):
            async with client.websocket("/"):
                if how == "raise":
                    raise KeyError
                await trio.sleep_forever()


async def test_after_the_client_has_left_nothing_is_an_error() -> None:
    seen: list[Any] = []

    @websocket_only
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        await send(text("waits for the test, in vain"))
        with trio.testing.assert_checkpoints():
            await send(text("into the void"))
        for _ in range(2):
            with trio.testing.assert_checkpoints():
                seen.append((await receive())["code"])
        with trio.testing.assert_checkpoints():
            await send(CLOSE)

    async with open_client(app) as client, client.websocket("/"):
        await wait_all_tasks_blocked()
    assert seen == [1000, 1000]


# Whatever the application is written with


async def test_foreign_framework() -> None:
    left: list[int] = []

    async def echo(websocket: WebSocket) -> None:
        await websocket.accept("chat", headers=[(b"x-a", b"1")])
        try:
            while True:
                await websocket.send_text((await websocket.receive_text()).upper())
        except WebSocketDisconnect as error:
            left.append(error.code)

    async def count(websocket: WebSocket) -> None:
        await websocket.accept()
        for number in range(3):
            await websocket.send_bytes(b"%d" % number)
        await websocket.close(4000, "done")

    async def refuse(websocket: WebSocket) -> None:
        raise HTTPException(401, "no")

    app = Starlette(
        routes=[
            WebSocketRoute("/echo", echo),
            WebSocketRoute("/count", count),
            WebSocketRoute("/refuse", refuse),
        ]
    )
    async with open_client(app) as client:
        async with client.websocket("/echo", subprotocols=["chat"]) as websocket:
            assert websocket.subprotocol == "chat"
            await websocket.send("a")
            assert await websocket.receive() == "A"
            await websocket.close(4001)
        assert left == [4001]
        async with client.websocket("/count") as websocket:
            assert [message async for message in websocket] == [b"0", b"1", b"2"]
            with pytest.raises(WebSocketClosed, match="4000 done"):
                await websocket.receive()
        for path, status in ("/refuse", 401), ("/nowhere", 403):
            with pytest.raises(WebSocketRejected) as caught:
                async with client.websocket(path):
                    pytest.fail("entered")
            assert caught.value.response.status_code == status


async def test_tsstream_app() -> None:
    app = App()

    @app.websocket("/upper")
    async def upper(websocket: ServerWebSocket) -> None:
        await websocket.accept("chat")
        async for message in websocket:
            assert isinstance(message, str)
            await websocket.send(message.upper())

    @app.websocket("/count")
    async def count(websocket: ServerWebSocket) -> None:
        for number in range(3):
            await websocket.send(str(number))

    @app.websocket("/refuse")
    async def refuse(websocket: ServerWebSocket) -> None:
        raise HTTPError(401, "who are you?")

    @app.websocket("/fail")
    async def fail(websocket: ServerWebSocket) -> None:
        raise ValueError(await websocket.receive())

    async with open_client(app) as client:
        async with client.websocket("/upper", subprotocols=["chat"]) as websocket:
            assert websocket.subprotocol == "chat"
            await websocket.send("a")
            assert await websocket.receive() == "A"
        async with client.websocket("/count") as websocket:
            assert [message async for message in websocket] == ["0", "1", "2"]
            with pytest.raises(WebSocketClosed, match="1000"):
                await websocket.receive()
        with pytest.raises(WebSocketRejected) as caught:
            async with client.websocket("/refuse"):
                pytest.fail("entered")
        assert caught.value.response.status_code == 401
        assert "who are you?" in caught.value.response.text
        with pytest.raises(ValueError, match="mine"):
            async with client.websocket("/fail") as websocket:
                await websocket.send("mine")
                await websocket.receive()


async def test_nothing_is_left_after_random_cancellations() -> None:
    randomness = random.Random(0)

    async def cancel_after(checkpoints: int, scope: trio.CancelScope) -> None:
        for _ in range(checkpoints):
            await trio.lowlevel.cancel_shielded_checkpoint()
        scope.cancel()

    async def visit(app: ASGIApp) -> None:
        async with open_client(app) as client, client.websocket("/") as websocket:
            for data in "ab":
                await websocket.send(data)
                await websocket.receive()

    ends: dict[bool, int] = {True: 0, False: 0}
    async with assert_no_leaks():
        for _ in range(200):
            app = Echo()
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(cancel_after, randomness.randrange(40), scope)
                    await visit(app)
                    nursery.cancel_scope.cancel()
            assert app.ended or not app.messages
            ends[scope.cancelled_caught] += 1
    assert ends[True] > 50, ends
    assert ends[False] > 10, ends
