"""Fan-in: several producers, one channel."""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, nullcontext
from typing import Any, Literal, TypeAlias, TypeVar, get_args

import trio

from tsstream._util import name_of, unwrapping

T = TypeVar("T")

Producer: TypeAlias = Callable[[trio.MemorySendChannel[T]], Awaitable[object]]
"""An async function that sends items and returns when it has no more.

It may ask for any ``trio.abc.SendChannel``. It need not close its channel: :func:`merge` does.
"""

OnError: TypeAlias = Literal["fail", "drop"]

logger = logging.getLogger("tsstream")


def merge(
    *producers: Producer[T], on_error: OnError = "fail"
) -> AbstractAsyncContextManager[trio.MemoryReceiveChannel[T]]:
    """Run *producers* side by side and give one channel with what they all send.

    Each runs in its own task with its own clone of the send channel. The channel ends when every
    producer has returned or closed its clone. Nothing is buffered: a producer waits in ``send()``
    until its item is received, and those that wait are served in turn. What one producer sends
    keeps its order.

    Leaving the block before the end cancels the producers, and waits for their cleanup. Leaving
    it after the end waits for them, so an error raised after the last item still comes out: only
    a block that was left without an error says that the items were all there are.

    A single error leaves the block as itself, several as an ``ExceptionGroup``. The
    ``trio.BrokenResourceError`` of a producer that sends to a reader who has left is no error.

    Example::

        async with merge(websocket_feed(NEWS), partial(tick, every=1.0)) as receive_channel:
            async for item in receive_channel:
                print(item)

    Args:
      producers: async functions that take a send channel.
      on_error: ``"fail"``: an error of one producer cancels the others and leaves the block.
        ``"drop"``: it is logged as a warning with its traceback, and the others go on; if all
        have failed, the channel ends.

    Raises:
      TypeError: a producer is not an async function.
      ValueError: there are no producers, or *on_error* is unknown.
    """
    for producer in producers:
        _check_producer(producer)
    if not producers:
        raise ValueError("merge() has nothing to read from; give it at least one producer")
    if on_error not in get_args(OnError):
        raise ValueError(f'on_error is "fail" or "drop", not {on_error!r}')
    return _open_merged(producers, on_error)


@asynccontextmanager
async def _open_merged(
    producers: Sequence[Producer[T]], on_error: OnError
) -> AsyncIterator[trio.MemoryReceiveChannel[T]]:
    send_channel, receive_channel = trio.open_memory_channel[T](0)
    # The receive end outlives the producers, unless the reader leaves early: a producer that sees
    # it closed knows that nobody reads any more.
    with unwrapping(), receive_channel:
        async with trio.open_nursery() as nursery:
            with send_channel:
                for producer in producers:
                    clone = send_channel.clone()
                    nursery.start_soon(_run, producer, clone, on_error, name=name_of(producer))
            try:
                yield receive_channel
            finally:
                if receive_channel.statistics().open_send_channels:
                    # In this order, so that who waits in send() sees Cancelled. Closed at once,
                    # so that a shielded send() does not wait for a reader who has left.
                    nursery.cancel_scope.cancel("the reader of merge() has left before the end")
                    receive_channel.close()


async def _run(
    producer: Producer[T], send_channel: trio.MemorySendChannel[T], on_error: OnError
) -> None:
    dropping = _dropping_errors(name_of(producer)) if on_error == "drop" else nullcontext()
    # Not "async with": on a cancelled scope its checkpoint would replace the producer's error
    # (python-trio/trio#1559).
    with send_channel, dropping, _ignoring_the_lost_reader(send_channel):
        await producer(send_channel)


@contextmanager
def _dropping_errors(name: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # and so no group with a Cancelled or a KeyboardInterrupt in it
        logger.warning("dropped the producer %s: it failed", name, exc_info=error)


@contextmanager
def _ignoring_the_lost_reader(send_channel: trio.MemorySendChannel[Any]) -> Iterator[None]:
    """Drop the errors, alone or in groups, that say no more than that the reader has left."""
    rest: BaseException | None
    try:
        yield
        return
    except (trio.BrokenResourceError, BaseExceptionGroup) as error:
        if send_channel.statistics().open_receive_channels:
            raise
        if isinstance(error, BaseExceptionGroup):
            rest = error.split(_says_reader_left)[1]
        else:
            rest = None if _says_reader_left(error) else error
    if rest is not None:
        raise rest


def _says_reader_left(error: BaseException) -> bool:
    # A memory channel raises it bare. That of a broken socket or TLS stream has a text or a
    # cause: it is about another peer, and stays an error.
    return (
        isinstance(error, trio.BrokenResourceError) and not error.args and error.__cause__ is None
    )


def _check_producer(producer: object) -> None:
    if inspect.iscoroutine(producer):
        producer.close()  # or Python would warn that it was never awaited
        raise TypeError(
            f"merge() takes functions, not the coroutine {producer.__qualname__}(...); without "
            "its parentheses, or with functools.partial(), merge() calls it with its channel"
        )
    if inspect.isasyncgenfunction(producer):
        raise TypeError(
            f"merge() takes async functions, and {name_of(producer)} is an async generator "
            'function; have it take a send channel, and write "await send_channel.send(item)" for '
            '"yield item"'
        )
    if isinstance(producer, AbstractAsyncContextManager):
        raise TypeError(
            f"merge() takes functions, not the context manager {type(producer).__name__}; write "
            "an async function that enters it and sends on what it receives"
        )
    if not callable(producer):
        raise TypeError(
            f"merge() takes async functions with one parameter, the send channel, not {producer!r}"
        )
