"""The guarded server as a script: its extension, a lifespan, and an exchange at a shutdown."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio
from asgi import Server, make_app
from bodies import Body
from probes import Endings
from trio.testing import wait_all_tasks_blocked

from tsstream import SSE, App, Response, StreamPolicy
from tsstream._asgi import Message
from tsstream._http.host import EXTENSION, Host

FAREWELL = SSE.farewell
REASON = "server shutdown"


def on_guarded(host: Host | None = None) -> dict[str, Any]:
    """Give the extensions of a scope on the guarded server."""
    return {EXTENSION: Host() if host is None else host}


class Life:
    """The lifespan of an app on a server: the guarded one, if a *host* is given."""

    def __init__(self, app: App[Any], host: Host | None = None) -> None:
        self._app = app
        self._host = host
        self._over = trio.Event()
        self._messages = iter(["startup", "shutdown"])

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async def send(message: Message) -> None:
            await trio.lowlevel.checkpoint()
            assert message["type"].endswith(".complete")
            if message["type"] == "lifespan.startup.complete":
                task_status.started()

        extensions = {} if self._host is None else on_guarded(self._host)
        await self._app({"type": "lifespan", "extensions": extensions}, self._receive, send)

    async def _receive(self) -> Message:
        kind = next(self._messages)
        await trio.lowlevel.checkpoint()
        if kind == "shutdown":
            await self._over.wait()
        return {"type": f"lifespan.{kind}"}

    def end(self) -> None:
        self._over.set()


@attrs.define(eq=False)
class Guarded:
    """One exchange on a guarded server, as scripted as any, which can shut down."""

    handler: Any
    server: Server = attrs.field(factory=Server)
    policy: StreamPolicy | None = None
    host: Host = attrs.field(factory=Host)
    told: Endings = attrs.field(factory=Endings)
    method: str = "GET"

    async def call(self) -> None:
        app = make_app(self.handler, on_end=self.told, policy=self.policy)
        await self.server.call(app, self.method, extensions=on_guarded(self.host))

    async def shut_down_when_idle(self) -> None:
        await wait_all_tasks_blocked()
        self.host.shutting_down.set()

    async def run(self) -> None:
        """Begin the exchange, shut down when it waits, and give it the time that it takes."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.call)
            await self.shut_down_when_idle()

    @property
    def reason(self) -> str:
        (reason,) = self.told.reasons
        return reason


def live(content: Callable[[], Any], **options: Any) -> Any:
    async def handler(request: object) -> Response:
        return Response(content(), **{"live": True, "encoder": SSE, **options})

    return handler


@asynccontextmanager
async def failing_exit(error: Exception) -> AsyncIterator[Any]:
    try:
        yield Body("a", None).iterate()
    finally:
        raise error
