"""A scripted ASGI server: what receive() gives, what send() does, and what came of one call."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from tsstream import App
from tsstream._asgi import ASGIApp, Message
from tsstream._sansio.headers import Headers
from tsstream.testing._request import build_http_scope

OnSend = Callable[[Message], Awaitable[None]]
START = "http.response.start"


def chunk(data: bytes, *, more: bool = True) -> Message:
    return {"type": "http.request", "body": data, "more_body": more}


NO_BODY = chunk(b"", more=False)
DISCONNECT: Message = {"type": "http.disconnect"}


def make_app(handler: Any, **options: Any) -> App[Any]:
    """Give an app that answers GET, HEAD and POST on ``/`` with *handler*."""
    app: App[Any] = App(**options)
    app.route("/", methods=["GET", "POST"])(handler)
    return app


class Server:
    """One exchange, seen from the server's side.

    Args:
      requests: what receive() gives, in this order; an exception is raised. After the last it
        waits for what is :meth:`put`, or until :meth:`leave`, and then gives ``http.disconnect``.
      on_send: awaited with every message before it is taken: it may wait, raise, or note it.

    Attributes:
      sent: the messages that were taken; ``times`` says when.
      reads: how often receive() was called.
      error: what the application raised.
      over: set when the application has returned.
    """

    def __init__(self, *requests: Message | Exception, on_send: OnSend | None = None) -> None:
        self.sent: list[Message] = []
        self.times: list[float] = []
        self.reads = 0
        self.error: Exception | None = None
        self.over = trio.Event()
        self._script = deque(requests or [NO_BODY])
        has_body = any(isinstance(item, dict) and item.get("more_body") for item in requests)
        self._framing = [(b"transfer-encoding", b"chunked")] if has_body else []
        self._on_send = on_send
        self._left = False
        self._changed = trio.lowlevel.ParkingLot()
        self._reading = False

    async def call(
        self, app: ASGIApp, method: str = "GET", path: str = "/", **scope: object
    ) -> None:
        """Call *app* once; keep what it raises in ``error``.

        A body is announced as chunked, unless *scope* has headers of its own.
        """
        whole = {**build_http_scope(method, path, (), b""), "headers": self._framing, **scope}
        try:
            await app(whole, self.receive, self.send)
        except Exception as error:
            self.error = error
        finally:
            self.over.set()

    def put(self, message: Message) -> None:
        """Add to the script."""
        self._script.append(message)
        self._changed.unpark_all()

    def leave(self) -> None:
        """The client goes."""
        self._left = True
        self._changed.unpark_all()

    async def receive(self) -> Message:
        if self._reading:
            raise AssertionError("receive() was called while it was waited for")
        self._reading = True
        try:
            self.reads += 1
            await trio.lowlevel.checkpoint()
            while not self._script and not self._left:
                await self._changed.park()
            message = self._script.popleft() if self._script else DISCONNECT
        finally:
            self._reading = False
        if isinstance(message, Exception):
            raise message
        return message

    async def send(self, message: Message) -> None:
        if self._on_send is not None:
            await self._on_send(message)
        await trio.lowlevel.checkpoint()
        self.sent.append(message)
        self.times.append(trio.current_time())

    @property
    def status(self) -> int | None:
        return self.sent[0]["status"] if self.sent else None

    @property
    def headers(self) -> Headers:
        return Headers(self.sent[0]["headers"])

    @property
    def chunks(self) -> list[bytes]:
        """The data of each body message that had some."""
        data = [message["body"] for message in self.sent if message["type"] != START]
        return [part for part in data if part]

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    @property
    def ok(self) -> bool:
        """The client got a whole response, and no error page: no assertion failed on the way."""
        return self.status == 200 and self.complete

    @property
    def complete(self) -> bool:
        """The final message came, once and last."""
        finals = [
            message["type"] != START and not message.get("more_body", False)
            for message in self.sent
        ]
        assert sum(finals) <= 1
        return bool(finals) and finals[-1]
