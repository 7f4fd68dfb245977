"""What lives as long as the app: its state and the nursery for work that outlives a request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from tsstream._asgi import Receive, Send

from .cancellation import cancellation_within, error_within
from .ending import logger

if TYPE_CHECKING:
    from .app import App


class AppNursery:
    """Run tasks that live on when their request is over (D15, D50).

    What a task raises is logged and ends that task alone. At shutdown the tasks are given the
    app's ``background_grace`` to end by themselves.
    """

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery

    @property
    def cancel_scope(self) -> trio.CancelScope:
        """The scope round all these tasks."""
        return self._nursery.cancel_scope

    def start_soon(
        self, fn: Callable[..., Awaitable[object]], *args: object, name: object = None
    ) -> None:
        """Start ``fn(*args)``, as :meth:`trio.Nursery.start_soon` does."""
        self._nursery.start_soon(_run_logged, fn, args, name=fn if name is None else name)

    async def start(
        self, fn: Callable[..., Awaitable[object]], *args: object, name: object = None
    ) -> Any:
        """Start ``fn(*args, task_status=...)`` and give what it passes to ``started()``.

        Raises:
          Exception: what *fn* raises before it calls ``started()``.
        """
        return await self._nursery.start(
            partial(_run_logged_once_started, fn, args), name=fn if name is None else name
        )


async def _run_logged(fn: Callable[..., Awaitable[object]], args: tuple[object, ...]) -> None:
    with _logging_errors(fn):
        await fn(*args)


async def _run_logged_once_started(  # noqa: ASYNC128 (the task itself calls started())
    fn: Callable[..., Awaitable[object]],
    args: tuple[object, ...],
    *,
    task_status: trio.TaskStatus[Any],
) -> None:
    status = _Started(task_status)
    with _logging_errors(fn, status):
        await fn(*args, task_status=status)


@contextmanager
def _logging_errors(fn: object, status: _Started | None = None) -> Iterator[None]:
    """Log an error of *fn*, also one that comes together with a cancellation."""
    try:
        yield
    except (Exception, BaseExceptionGroup) as error:
        if status is not None and not status.called:
            raise  # to whoever waits in start()
        found = error if isinstance(error, Exception) else error_within(error)
        if found is not None:
            logger.error("background task %r failed", fn, exc_info=found)
        if not isinstance(error, Exception):
            raise cancellation_within(error) from None


class _Started:
    """A task status that remembers whether it was used."""

    def __init__(self, task_status: trio.TaskStatus[Any]) -> None:
        self._task_status = task_status
        self.called = False

    def started(self, value: Any = None) -> None:
        self.called = True
        self._task_status.started(value)


async def serve_lifespan(app: App[Any], receive: Receive, send: Send) -> None:
    """Speak the ASGI lifespan protocol for *app*."""
    await receive()  # lifespan.startup
    stage = "startup"
    try:
        async with app.open_lifespan():
            await send({"type": "lifespan.startup.complete"})
            stage = "shutdown"
            await receive()  # lifespan.shutdown
    except Exception as error:
        logger.exception("the app's lifespan failed at its %s", stage)
        await send({"type": f"lifespan.{stage}.failed", "message": str(error)})
    else:
        await send({"type": "lifespan.shutdown.complete"})
