"""WebSockets within an HTTP/2 connection (RFC 8441): streams like others."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import h2.settings
import trio
from leaks import assert_no_leaks
from probes import IN_TIME, PROMPT
from wire import H2Connection, open_guarded, open_h2
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, TextMessage

from tsstream._asgi import Receive, Send

CHUNK = bytes(30_000)


class App:
    """Echoes on ``/echo``, floods on ``/flood``, and refuses ``/no``.

    Attributes:
      codes: with which each WebSocket was closed, as the application was told.
      raised: by a send().
    """

    def __init__(self) -> None:
        self.codes: list[int] = []
        self.raised: list[Exception] = []
        self.left = trio.Event()

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"ok", "more_body": False})
        elif scope["type"] == "websocket":
            assert await receive() == {"type": "websocket.connect"}
            try:
                await self._talk(scope["path"], receive, send)
            except OSError as error:
                self.raised.append(error)
            self.left.set()
        else:
            for stage in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{stage}.complete"})

    async def _talk(self, path: str, receive: Receive, send: Send) -> None:
        if path == "/no":
            await send({"type": "websocket.close"})
            return
        await send({"type": "websocket.accept"})
        while path == "/flood":
            await send({"type": "websocket.send", "bytes": CHUNK})
        while (message := await receive())["type"] == "websocket.receive":
            await send({**message, "type": "websocket.send"})
        self.codes.append(message["code"])

    async def wait_left(self) -> None:
        with trio.fail_after(PROMPT):
            await self.left.wait()


class WebSocket:
    """The client's end of one."""

    def __init__(self, client: H2Connection, stream_id: int) -> None:
        self.client = client
        self.stream_id = stream_id
        self.frames = Connection(ConnectionType.CLIENT)

    async def send(self, event: Event, *, end_stream: bool = False) -> None:
        data = self.frames.send(event)
        await self.client.send_data(self.stream_id, data, end_stream=end_stream)

    async def read(self) -> Event:
        with trio.fail_after(IN_TIME):
            while True:
                for event in self.frames.events():
                    return event
                self.frames.receive_data(await self.client.read_chunk(self.stream_id))


@asynccontextmanager
async def open_client(app: App, **options: Any) -> AsyncIterator[H2Connection]:
    async with open_guarded(app) as port, assert_no_leaks():
        async with open_h2(port, **options) as client:
            yield client


async def connect(client: H2Connection, path: str = "/echo") -> int:
    """Ask for a WebSocket; give its stream."""
    await client.ping()  # our SETTINGS are there
    codes = h2.settings.SettingCodes
    assert client._h2.remote_settings[codes.ENABLE_CONNECT_PROTOCOL] == 1
    return await client.request(
        "CONNECT",
        path,
        {":protocol": "websocket", "sec-websocket-version": "13"},
        end_stream=False,
    )


async def open_websocket(client: H2Connection, path: str = "/echo") -> WebSocket:
    stream_id = await connect(client, path)
    with trio.fail_after(IN_TIME):
        assert (await client.read_head(stream_id))[0] == 200
    return WebSocket(client, stream_id)


async def check_of_use(client: H2Connection) -> None:
    with trio.fail_after(PROMPT):
        stream_id = await client.request("GET", "/")
        assert (await client.read_head(stream_id))[0] == 200
        assert await client.read_body(stream_id) == b"ok"


async def test_messages_go_both_ways_and_a_close_ends_the_stream_cleanly() -> None:
    app = App()
    async with open_client(app) as client:
        websocket = await open_websocket(client)
        for event in (TextMessage("hello"), BytesMessage(bytes(50_000))):
            await websocket.send(event)
            received = bytearray()
            while len(received) < len(event.data):
                answer = await websocket.read()
                assert isinstance(answer, TextMessage | BytesMessage)
                data = answer.data
                received += data.encode() if isinstance(data, str) else data
        await websocket.send(CloseConnection(1000))
        closed = await websocket.read()
        assert isinstance(closed, CloseConnection)
        assert closed.code == 1000
        with trio.fail_after(IN_TIME):
            assert await client.read_chunk(websocket.stream_id) is None  # END_STREAM
        await app.wait_left()
        await check_of_use(client)
    assert app.codes == [1000]


async def test_a_refused_websocket_is_an_ordinary_response() -> None:
    async with open_client(App()) as client:
        stream_id = await connect(client, "/no")
        with trio.fail_after(IN_TIME):
            assert (await client.read_head(stream_id))[0] == 403
            assert await client.read_body(stream_id) == b""
        await check_of_use(client)


async def test_a_flood_is_held_by_the_window_of_its_stream() -> None:
    app = App()
    async with open_client(app, credit=False) as client:
        websocket = await open_websocket(client, "/flood")
        await check_of_use(client)
        got = 0
        with trio.move_on_after(0.05):
            while True:
                got += len(await client.read_chunk(websocket.stream_id) or b"")
        assert got == 65_535
        await client.reset(websocket.stream_id)
        await app.wait_left()
        await check_of_use(client)
    assert len(app.raised) == 1
