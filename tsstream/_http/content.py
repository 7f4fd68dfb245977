"""What a response may stream, and how each kind becomes a channel."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
)
from functools import partial
from typing import IO, Any, Protocol, TypeAlias, cast

import attrs
import trio

from tsstream._adapters import (
    close_generator,
    open_generator_task,
    open_iterator_thread,
    read_chunks,
)

from .breakage import is_breakage

Content: TypeAlias = (
    bytes
    | bytearray
    | memoryview
    | str
    | AbstractAsyncContextManager[object]
    | AsyncIterable[object]
    | Iterable[object]
)
"""Bytes or text; an async context manager that yields any of the others; a receive channel, an
async iterator or generator; a sync iterator or a file, read in a worker thread."""


class ItemChannel(Protocol):
    """The half of a receive channel that the writer uses."""

    async def receive(self) -> object:
        """Give the next item, or raise :class:`trio.EndOfChannel`."""
        ...


SMALL = 32 * 1024  # bytes, or characters: such a body needs no task of its own to be sent


@attrs.define(eq=False)
class Items:
    """An entered body: its channel, and whether the reader saw the channel's end."""

    channel: ItemChannel
    ended: bool = False


def check_content(content: object) -> None:
    """Raise TypeError, with the remedy, for what no response can stream (D3, D5)."""
    if hasattr(type(content), "status_code"):
        raise TypeError(
            "a response is no content of another one: return it from the handler, or yield it "
            "from a handler that is itself decorated with @asynccontextmanager"
        )
    if not (
        is_whole(content)
        or is_context_manager(content)
        or _is_channel(content)
        or hasattr(type(content), "__aiter__")
        or _is_file(content)
        or (hasattr(type(content), "__iter__") and not isinstance(content, Mapping))
    ):
        raise TypeError(
            f"a response cannot stream {_article(content)}; give it bytes, text, a receive "
            "channel, an (async) iterator, a file or an async context manager that yields one "
            "of these, or use json_response() for data"
        )


def is_whole(content: object) -> bool:
    """Say whether *content* is all there: bytes or text, with a length."""
    return isinstance(content, bytes | bytearray | memoryview | str)


def is_small(content: object) -> bool:
    """Say whether *content* is all there, and so little that one send takes it."""
    return isinstance(content, bytes | bytearray | str) and len(content) <= SMALL


def is_context_manager(content: object) -> bool:
    """Say whether *content* is an async context manager and nothing else.

    Channels and files have ``__aenter__`` too, but they are their own iterators. The type is
    asked, not the object, so that a mock is not taken for everything at once (AC-8).
    """
    kind = type(content)
    return (
        hasattr(kind, "__aenter__")
        and hasattr(kind, "__aexit__")
        and not hasattr(kind, "__aiter__")
        and not _is_channel(content)
    )


@asynccontextmanager
async def open_items(content: object) -> AsyncIterator[Items]:
    """Enter a body and yield its items; entering, iterating and leaving belong in one task.

    Whoever leaves before ``ended`` is set, and without an error, leaves by cancellation: a plain
    exit would wait for producers that nobody listens to any more (AC-14). What the context
    manager yielded is closed before it is left, iterated or not (AC-12).

    Raises:
      TypeError: *content*, or what it yielded, is nothing that can be streamed.
      Exception: whatever entering or leaving the context manager raises.
    """
    scope = trio.CancelScope()
    try:
        with scope:
            async with AsyncExitStack() as stack:
                if is_context_manager(content):
                    yielded = await _enter_manager(content, stack)
                    channel = await _enter_channel(yielded, stack, bare=False)
                else:
                    channel = await _enter_channel(content, stack, bare=True)
                items = Items(channel)
                stack.push(_early_stop(items, scope))
                yield items
    except Exception as error:
        if not (scope.cancel_called and is_breakage(error)):
            raise


def _early_stop(items: Items, scope: trio.CancelScope) -> Any:
    def leave(kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and not items.ended:
            scope.cancel(reason="the body was left before its end")

    return leave


def discard(content: object) -> None:
    """Release what a handler opened for a body that will never be entered (D43)."""
    close = getattr(content, "close", None)
    if close is not None and not is_context_manager(content) and not is_whole(content):
        close()


async def _enter_manager(manager: object, stack: AsyncExitStack) -> object:
    left: list[object] = []
    stack.callback(_close_channels, left)
    yielded = await stack.enter_async_context(cast("AbstractAsyncContextManager[object]", manager))
    left.append(yielded)
    return yielded


async def _enter_channel(content: object, stack: AsyncExitStack, *, bare: bool) -> ItemChannel:
    """Make *content* a channel that *stack* closes.

    Args:
      bare: nobody else owns it: it is not what a context manager has yielded.
    """
    check_content(content)
    if is_context_manager(content):
        raise TypeError(
            "the body's context manager yielded another one; enter that with 'async with' and "
            "yield the channel that it gives"
        )
    if is_whole(content):
        return _ListChannel([content])
    if isinstance(content, list | tuple):
        return _ListChannel(content)
    if _is_channel(content):
        if bare:
            stack.callback(_close_channels, [content])
        stack.push_async_exit(partial(_close, content))
        return cast("ItemChannel", content)
    if isinstance(content, AsyncGenerator) and bare:
        return await stack.enter_async_context(open_generator_task(content))
    if hasattr(type(content), "__aiter__"):
        return await _enter_async_iterable(cast("AsyncIterable[object]", content), stack)
    iterable = read_chunks(cast("IO[bytes]", content)) if _is_file(content) else content
    return await stack.enter_async_context(open_iterator_thread(cast("Iterable[object]", iterable)))


async def _enter_async_iterable(
    content: AsyncIterable[object], stack: AsyncExitStack
) -> ItemChannel:
    if hasattr(type(content), "__aenter__"):
        content = await stack.enter_async_context(
            cast("AbstractAsyncContextManager[AsyncIterable[object]]", content)
        )
    else:
        stack.push_async_exit(partial(_close, content))
    iterator = aiter(content)
    if iterator is not content:
        if isinstance(iterator, AsyncGenerator):  # "async def __aiter__" with a yield in it
            return await stack.enter_async_context(open_generator_task(iterator))
        stack.push_async_exit(partial(_close, iterator))
    return _IteratorChannel(iterator)


class _ListChannel:
    """The items of a list: all of them are ready at once."""

    def __init__(self, items: Iterable[object]) -> None:
        self._items = iter(items)

    async def receive(self) -> object:
        await trio.lowlevel.checkpoint()
        return self.receive_nowait()

    def receive_nowait(self) -> object:
        for item in self._items:
            return item
        raise trio.EndOfChannel


class _IteratorChannel:
    """An async iterator, driven by the task that receives.

    A cancelled ``receive()`` ends the iterator, as it ends any generator: nothing of ours sets a
    timeout round it.
    """

    def __init__(self, iterator: AsyncIterator[object]) -> None:
        self._iterator = iterator

    async def receive(self) -> object:
        try:
            return await anext(self._iterator)
        except StopAsyncIteration:
            raise trio.EndOfChannel from None


async def _close(resource: object, error: type[BaseException] | None, *_: object) -> None:
    """Close what a context manager yielded, before it is left: ``aclose()``, else ``close()``."""
    if isinstance(resource, trio.MemoryReceiveChannel):
        # Not while an error is in flight: its producers would fail with BrokenResourceError
        # before their nursery, which is about to cancel them, has heard of the error.
        if error is None:
            resource.close()
    elif isinstance(resource, AsyncGenerator):
        await close_generator(resource)
    elif hasattr(resource, "aclose"):
        await resource.aclose()
    elif hasattr(resource, "close"):
        resource.close()


def _close_channels(resources: list[object]) -> None:
    """Close, whatever happened, the memory channels that nobody else has closed."""
    for resource in resources:
        if isinstance(resource, trio.MemoryReceiveChannel):
            resource.close()


def _is_channel(content: object) -> bool:
    return isinstance(content, trio.abc.ReceiveChannel)


def _is_file(content: object) -> bool:
    kind = type(content)
    return hasattr(kind, "read") and hasattr(kind, "__iter__") and hasattr(kind, "__enter__")


def _article(content: object) -> str:
    name = type(content).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"
