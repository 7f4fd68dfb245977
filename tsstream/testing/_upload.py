"""The body of a request, as the messages that the application receives."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext
from typing import Any, TypeAlias

import trio

from tsstream._asgi import Message

Content: TypeAlias = bytes | str | Iterable[bytes | str] | AsyncIterable[bytes | str]


class Upload:
    """A request's body, one ``http.request`` for each ``receive()``.

    A body that is there as a whole is one message. Of any other the next item is taken only when
    the application waits for it, so that nothing is buffered between it and the test.

    Args:
      content: the items; None if they come through :meth:`send`.

    Attributes:
      streamed: the items must be taken from the content, by :meth:`run`.
    """

    def __init__(self, content: Content | None) -> None:
        body = whole_body(content)
        self.streamed = body is None and content is not None
        self._content: Any = content
        self._running = trio.CancelScope()
        self._asked = trio.Event()
        self._ending = False  # the end is to be told after the last item
        self._stopped = trio.Event()
        self._send_channel, self._receive_channel = trio.open_memory_channel[Message](
            0 if body is None else 1
        )
        if body is not None:
            self._send_channel.send_nowait(_message(body, more=False))
            self._send_channel.close()

    async def run(self) -> None:
        """Send the items, until there are no more or :meth:`stop`; close the content then.

        Raises:
          TypeError: an item is neither bytes nor str.
          whatever the content raises.
        """
        with self._running:
            if isinstance(self._content, AsyncIterable):
                async with _closing(self._content):
                    await self._wait_asked()
                    async for item in self._content:
                        await self.send(item)
                        await self._wait_asked()
            else:
                await self._wait_asked()
                for part in self._content:
                    await self.send(part)
                    await self._wait_asked()
            self.end()

    async def send(self, item: object) -> None:
        """Wait until the application receives *item*.

        Raises:
          TypeError: it is neither bytes nor str.
          trio.BrokenResourceError: the application is not going to.
          trio.ClosedResourceError: :meth:`end` was called.
        """
        await self._send_channel.send(_message(_to_bytes(item), more=True))

    def end(self) -> None:
        """The body is complete."""
        self._ending = True
        self._send_channel.close()

    async def receive(self) -> Message:
        """Give the next message; after the last one wait for :meth:`stop`.

        Raises:
          trio.EndOfChannel: it was called.
        """
        self._asked.set()
        try:
            return await self._receive_channel.receive()
        except (trio.EndOfChannel, trio.ClosedResourceError):
            pass
        if self._ending and not self._stopped.is_set():
            await trio.lowlevel.checkpoint()
            self._ending = False
            return _message(b"", more=False)
        if not self._stopped.is_set():
            await self._stopped.wait()
        raise trio.EndOfChannel

    def stop(self) -> None:
        """Pass on nothing any more; who waits in :meth:`receive` or :meth:`send` is told."""
        self._stopped.set()
        self._running.cancel()
        self._receive_channel.close()

    async def _wait_asked(self) -> None:  # noqa: ASYNC910 (send() is a checkpoint)
        while not self._receive_channel.statistics().tasks_waiting_receive:
            self._asked = trio.Event()
            await self._asked.wait()


def _closing(content: AsyncIterable[Any]) -> AbstractAsyncContextManager[object]:
    """Close a generator, and a channel, so that whoever sends to it does not wait for ever."""
    if isinstance(content, AsyncGenerator):
        return aclosing(content)
    return content if isinstance(content, trio.abc.ReceiveChannel) else nullcontext()


def whole_body(content: Content | None) -> bytes | None:
    """Give *content* as bytes if it is known as a whole, None if it is an upload."""
    whole = isinstance(content, bytes | bytearray | memoryview | str)
    return _to_bytes(content) if whole else None


def _to_bytes(item: object) -> bytes:
    if isinstance(item, str):
        return item.encode()
    if isinstance(item, bytes | bytearray | memoryview):
        return bytes(item)
    raise TypeError(f"content gave {item!r}; give bytes or str, or an iterable of those")


def _message(body: bytes, *, more: bool) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}
