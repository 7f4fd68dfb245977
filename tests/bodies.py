"""A body for tests, which notes what happens to it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio

from tsstream import Response


class Body:
    """A body that notes what happens to it, and in which task.

    Args:
      items: ``None`` waits for ever, an exception is raised.
      on_exit: awaited on leaving.
    """

    def __init__(self, *items: object, on_exit: Callable[[], Any] | None = None) -> None:
        self.items = items
        self.on_exit = on_exit
        self.log: list[str] = []
        self.tasks: list[trio.lowlevel.Task] = []
        self.cancelled: list[str | None] = []

    def note(self, event: str) -> None:
        self.log.append(event)
        self.tasks.append(trio.lowlevel.current_task())

    @asynccontextmanager
    async def open(self) -> AsyncIterator[AsyncGenerator[object, None]]:
        self.note("enter")
        try:
            yield self.iterate()
            if self.on_exit is not None:
                await self.on_exit()
        except trio.Cancelled as cancelled:
            self.cancelled.append(cancelled.reason)
            raise
        finally:
            self.note("exit")

    async def iterate(self) -> AsyncGenerator[object, None]:
        try:
            for item in self.items:
                if item is None:
                    await trio.sleep_forever()
                if isinstance(item, Exception):
                    raise item
                yield item
                self.note("next")
        finally:
            self.note("close")

    async def handler(self, request: object) -> Response:
        self.note("handler")
        return Response(self.open())
