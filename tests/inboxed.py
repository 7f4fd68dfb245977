"""A scripted guarded server: an inbox, which the application's reader empties by itself."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from asgi import DISCONNECT, OnSend, Server, make_app
from farewells import on_guarded

from tsstream import Request, Response
from tsstream._asgi import ASGIApp, Message
from tsstream._http.host import CLIENT, Client
from tsstream._server.inbox import Inbox

CHUNKED = [(b"transfer-encoding", b"chunked")]


class WatchedInbox(Inbox):
    """An inbox that knows who reads it.

    Attributes:
      reads: how often receive() was called, and how many messages were dropped.
      most_readers: that were within it at one time.
      taken: where one waits until somebody has left it.
    """

    def __init__(self, **callbacks: Any) -> None:
        super().__init__(**callbacks)
        self.reads = self.most_readers = 0
        self.taken = trio.lowlevel.ParkingLot()
        self._readers = 0

    def put(self, message: dict[str, Any], size: int = 0) -> None:
        self.reads += self._discarding
        super().put(message, size)

    def discard(self) -> None:
        self.reads += len(self._messages)
        super().discard()
        self.taken.unpark_all()

    async def receive(self) -> dict[str, Any]:
        self.reads += 1
        self._readers += 1
        self.most_readers = max(self.most_readers, self._readers)
        try:
            return await super().receive()
        finally:
            self._readers -= 1
            self.taken.unpark_all()


class Inboxed(Server):
    """One exchange on the guarded server, as scripted as any.

    It reads ahead as far as the inbox has room. A ``DISCONNECT`` of the script comes when all
    before it was received; :meth:`leave` does not wait for that.

    Attributes:
      inbox: whose receive() the application is called with.
      client: what the application finds in its scope.
      wanted: the client that waits for 100 Continue would have got it.
    """

    def __init__(self, *requests: Message | Exception, on_send: OnSend | None = None) -> None:
        super().__init__(*requests, on_send=on_send)
        self.wanted = False
        self.inbox = WatchedInbox(on_wanted=self._note_wanted)
        self.client = Client(self.inbox)
        self.receive = self.inbox.receive  # type: ignore[method-assign]

    async def call(
        self, app: ASGIApp, method: str = "GET", path: str = "/", **scope: object
    ) -> None:
        extensions = {**on_guarded(), CLIENT: self.client}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._fill)
            await super().call(app, method, path, extensions=extensions, **scope)
            nursery.cancel_scope.cancel()

    def put(self, message: Message) -> None:
        self.inbox.put(dict(message), len(message.get("body", b"")))

    def leave(self) -> None:
        """The client goes, which overtakes what waits."""
        self.inbox.disconnect(dict(DISCONNECT))
        self.client.leave()

    @property
    def reads(self) -> int:
        return self.inbox.reads

    @reads.setter
    def reads(self, reads: int) -> None:
        pass  # the inbox counts them

    async def _fill(self) -> None:
        while self._script:
            message = self._script.popleft()
            while self.inbox.full or (message is DISCONNECT and self.inbox.ready):
                await self.inbox.taken.park()
            assert not isinstance(message, Exception), "an inbox raises nothing"
            if message is DISCONNECT:
                self.leave()
            else:
                self.put(message)

    def _note_wanted(self) -> None:
        self.wanted = True


on_each_source = pytest.mark.parametrize("kind", [Server, Inboxed], ids=["any server", "guarded"])
Kind = type[Server]


async def ask(
    kind: Kind, look: Any, *requests: Any, headers: Any = CHUNKED, method: str = "POST"
) -> tuple[Any, Server]:
    """Give what *look* makes of the request, and the server that made it."""
    seen: list[Any] = []

    async def handler(request: Request[Any]) -> Response:
        found = look(request)
        seen.append(await found if hasattr(found, "__await__") else found)
        return Response(b"ok")

    server = kind(*requests)
    await server.call(make_app(handler), method, headers=headers)
    return (seen[0] if seen else None), server


async def read_all(request: Request[Any]) -> list[bytes]:
    return [data async for data in request.body]


class Reader:
    """What one task has got of a body: its chunks, and the error that was the end."""

    def __init__(self) -> None:
        self.got: list[Any] = []

    async def receive_into(self, request: Request[Any]) -> None:
        try:
            self.got.append(await request.body.receive())
        except Exception as error:
            self.got.append(error)

    async def read_to_the_end(self, request: Request[Any]) -> None:
        while not self.got or isinstance(self.got[-1], bytes):
            await self.receive_into(request)
