"""A scripted WebSocket, seen from the server's side, and a way to call an app with it."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tsstream import App
from tsstream._asgi import ASGIApp, Message
from tsstream._util import leaves

CONNECT: Message = {"type": "websocket.connect"}
LOST: Message = {"type": "websocket.disconnect", "code": 1006}
REJECTION = "websocket.http.response"


@pytest.fixture(autouse=True)
def asserts_of_handlers(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail a test of the module that imports this for an assert that has failed in a handler.

    An app logs and answers it like any other error.
    """
    yield
    for record in caplog.get_records("call"):
        error = record.exc_info[1] if record.exc_info else None
        for leaf in leaves(error) if error is not None else ():
            if isinstance(leaf, AssertionError):
                raise leaf


def text(data: str) -> Message:
    return {"type": "websocket.receive", "text": data}


def binary(data: bytes) -> Message:
    return {"type": "websocket.receive", "bytes": data}


def disconnect(code: int, reason: str = "") -> Message:
    return {"type": "websocket.disconnect", "code": code, "reason": reason}


def make_ws_app(handler: Any, **options: Any) -> App[Any]:
    """Give an app whose WebSockets on ``/`` are *handler*'s."""
    app: App[Any] = App(**options)
    app.websocket("/")(handler)
    return app


class Peer:
    """One WebSocket from the server's side.

    Args:
      script: what receive() gives behind ``websocket.connect``; an exception is raised. After the
        last it waits for :meth:`say` and :meth:`leave`.
      on_send: awaited with every message before it is taken: it may wait, or raise.

    Attributes:
      sent: the messages that were taken.
      error: what the application raised.
      over: set when the application has returned.
    """

    def __init__(
        self,
        *script: Message | Exception,
        on_send: Callable[[Message], Awaitable[None]] | None = None,
    ) -> None:
        self.sent: list[Message] = []
        self.error: Exception | None = None
        self.over = trio.Event()
        self._script = deque([CONNECT, *script])
        self._said = trio.lowlevel.ParkingLot()
        self._on_send = on_send
        self._farewell: Message | None = None  # which is given again and again
        self._reading = False

    async def call(self, app: ASGIApp, path: str = "/", **scope: object) -> None:
        """Call *app* once; keep what it raises in ``error``."""
        whole = {
            "type": "websocket",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "scheme": "ws",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(b"host", b"testserver")],
            "client": ("testclient", 50000),
            "server": ("testserver", 80),
            "subprotocols": [],
            "extensions": {REJECTION: {}},
            **scope,
        }
        try:
            await app(whole, self.receive, self.send)
        except Exception as error:
            self.error = error
        finally:
            self.over.set()

    @asynccontextmanager
    async def calling(self, app: ASGIApp, path: str = "/", **scope: object) -> AsyncIterator[None]:
        """Call *app*; the block begins when all is quiet, and its end waits for the app's."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: self.call(app, path, **scope))
            await wait_all_tasks_blocked()
            yield

    def say(self, message: Message | Exception) -> None:
        self._script.append(message)
        self._said.unpark_all()

    def leave(self, code: int = 1006, reason: str = "") -> None:
        self.say(disconnect(code, reason))

    @property
    def unread(self) -> int:
        """How many messages nobody has received yet."""
        return len(self._script)

    async def receive(self) -> Message:
        if self._reading:
            raise AssertionError("receive() was called while it was waited for")
        self._reading = True
        try:
            await trio.lowlevel.checkpoint()
            if self._farewell is not None:
                return self._farewell
            while not self._script:
                await self._said.park()
            message = self._script.popleft()
        finally:
            self._reading = False
        if isinstance(message, Exception):
            raise message
        if message["type"] == "websocket.disconnect":
            self._farewell = message
        return message

    async def send(self, message: Message) -> None:
        if self._on_send is not None:
            await self._on_send(message)
        self.sent.append(message)  # taken, also if we are cancelled below: as servers do
        await trio.lowlevel.checkpoint()

    @property
    def kinds(self) -> list[str]:
        return [message["type"].removeprefix("websocket.") for message in self.sent]

    @property
    def messages(self) -> list[str | bytes]:
        """What was sent, text and binary; nothing came before the accept, or after a close."""
        kinds = self.kinds
        if kinds:
            assert kinds[0] == "accept"
            assert set(kinds[1:-1]) <= {"send"}
        return [
            message["text"] if "text" in message else message["bytes"]
            for message in self.sent
            if message["type"] == "websocket.send"
        ]

    @property
    def closed(self) -> tuple[int, str] | None:
        """The code and the reason of our Close, the last message; None if there is none."""
        if not self.sent or self.sent[-1]["type"] != "websocket.close":
            return None
        return self.sent[-1]["code"], self.sent[-1]["reason"]

    @property
    def status(self) -> int | None:
        """The status of the response that has refused it."""
        if not self.sent or self.sent[0]["type"] != f"{REJECTION}.start":
            return None
        status: int = self.sent[0]["status"]
        return status

    @property
    def body(self) -> bytes:
        """That of the response, which came to its end."""
        assert self.sent[-1]["type"] == f"{REJECTION}.body"
        assert not self.sent[-1].get("more_body", False)
        return b"".join(message["body"] for message in self.sent[1:])
