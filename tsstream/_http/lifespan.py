"""What lives as long as the app: its state and the nursery for work that outlives a request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import trio

from tsstream._asgi import Receive, Scope, Send
from tsstream._util import unwrapped

from .cancellation import cancellation_within, error_within
from .ending import logger
from .host import Host, host_of

if TYPE_CHECKING:
    from .app import App


class AppNursery:
    """Run tasks that live on when their request is over (D15, D50).

    What a task raises is logged and ends that task alone. At shutdown the tasks are given the
    app's ``background_grace`` to end by themselves.
    """

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._following = trio.CancelScope()

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

    def _follow(self, host: Host, fn: Callable[[], None]) -> None:
        """Call *fn* when *host* begins to shut down; once, and for one host."""
        self._nursery.start_soon(_follow, host, fn, self._following)

    def _stop_following(self) -> None:
        self._following.cancel(reason="the lifespan is over")


async def _follow(host: Host, fn: Callable[[], None], scope: trio.CancelScope) -> None:
    with scope:
        await host.shutting_down.wait()
        fn()


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


async def serve_lifespan(app: App[Any], scope: Scope, receive: Receive, send: Send) -> None:
    """Speak the ASGI lifespan protocol for *app*."""
    host = host_of(scope)
    if host is None and _is_hypercorns(receive):
        _warn_of_bare_hypercorn()
    await receive()  # lifespan.startup
    stage = "startup"
    try:
        async with app._open_lifespan(host):
            await send({"type": "lifespan.startup.complete"})
            stage = "shutdown"
            await receive()  # lifespan.shutdown
            if host is not None:
                _log_shutdown(host)
    except Exception as error:
        logger.exception("the app's lifespan failed at its %s", stage)
        await send({"type": f"lifespan.{stage}.failed", "message": str(unwrapped(error))})
    else:
        await send({"type": "lifespan.shutdown.complete"})


def _log_shutdown(host: Host) -> None:
    if host.endings:
        text = "the server's shutdown: %d live responses ended, %d requests cut"
        logger.info(text, host.endings["shutdown"], host.endings["cancelled"])


def _is_hypercorns(receive: Receive) -> bool:
    owner = type(getattr(receive, "__self__", None))
    return owner.__module__.partition(".")[0] == "hypercorn"


@cache  # once in a process
def _warn_of_bare_hypercorn() -> None:
    logger.warning(
        "this is a bare Hypercorn worker; 'tsstream run' or tsstream.serve() guard it. Without "
        "them one malformed request may end the whole server, HTTP/2 has neither backpressure "
        "nor a cut, a client that does not read can hold up a shutdown, and a shutdown cuts "
        "live responses"
    )
