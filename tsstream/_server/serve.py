"""Serve an ASGI application with Hypercorn's trio worker on listening sockets of our own."""

from __future__ import annotations

import copy
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from typing import Any, cast

import attrs
import trio
from hypercorn.config import Config, Sockets
from hypercorn.trio.run import worker_serve
from hypercorn.utils import LifespanFailureError, wrap_app

from tsstream._asgi import ASGIApp, Receive, Send
from tsstream._server.listen import listen
from tsstream._util import unwrapping

__all__ = ["LifespanFailureError", "serve"]


async def serve(
    app: ASGIApp,
    config: Config | None = None,
    *,
    bind: Sequence[str] | None = None,
    graceful_timeout: float | None = None,
    shutdown_trigger: Callable[[], Awaitable[object]] | None = None,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve *app* until cancelled, or until *shutdown_trigger* returns.

    Cancelling ends every request at once. *shutdown_trigger* returning ends the server gracefully:
    it accepts no more connections, gives the running requests *graceful_timeout* seconds, cancels
    those that are left, and ends the lifespan of *app*. The addresses are listened on before the
    lifespan starts, all or none of them; every socket is closed when this function leaves.

    ``await nursery.start(serve, app)`` returns when the lifespan has started, with the addresses
    as a list such as ``["http://127.0.0.1:8000"]``; ask for port 0 to be given a free one.

    Args:
      app: an :class:`App`, or any other ASGI application.
      config: Hypercorn's own configuration, for all that has no argument here (TLS, limits,
        access log...). It is not changed. What it says of processes (workers, reload, user)
        does not apply.
      bind: ``"HOST:PORT"``, ``"[IPV6]:PORT"``, ``"unix:PATH"`` or ``"fd://NUMBER"``; by default
        that of *config*, which is ``127.0.0.1:8000`` if it does not say.
      graceful_timeout: in seconds; by default that of *config*, which is 3 s if it does not say.
      shutdown_trigger: waits for whatever shall end the server.
      task_status: what ``nursery.start`` passes.

    Raises:
      OSError: an address cannot be listened on; the message names it.
      ValueError: an address is written wrongly.
      LifespanFailureError: the lifespan of *app* failed; the exception is Hypercorn's.
      KeyboardInterrupt: after a graceful end, if Ctrl-C came while this was the main task.
    """
    config = _config(config, bind, graceful_timeout)
    shutdown_triggered = False

    async def wait_shutdown() -> None:
        nonlocal shutdown_triggered
        if shutdown_trigger is None:
            await trio.sleep_forever()
        else:
            await shutdown_trigger()
        shutdown_triggered = True

    startup = _Startup(lambda addresses: task_status.started(addresses))
    with ExitStack() as stack, unwrapping():
        await worker_serve(
            wrap_app(cast(Any, startup.watch(app)), config.wsgi_max_body_size, "asgi"),
            config,
            sockets=await _open_sockets(config, stack),
            shutdown_trigger=wait_shutdown,
            task_status=startup,
        )
    if not shutdown_triggered and config.max_requests is None:
        # Nothing else ends the worker: it has swallowed a KeyboardInterrupt.
        raise KeyboardInterrupt


def _config(
    config: Config | None, bind: Sequence[str] | None, graceful_timeout: float | None
) -> Config:
    if config is None:
        config = Config()
        # Left to itself, Hypercorn would put a handler of its own on this logger.
        config.errorlog = logging.getLogger("hypercorn.error")
    config = copy.copy(config)
    if bind is not None:
        config.bind = [bind] if isinstance(bind, str) else list(bind)
    if graceful_timeout is not None:
        config.graceful_timeout = graceful_timeout
    if not config.bind:
        raise ValueError('bind is empty; name at least one address, for example "127.0.0.1:8000"')
    if config.quic_bind:
        raise ValueError("serve() has no QUIC; leave quic_bind out, or run `hypercorn -k trio`")
    return config


async def _open_sockets(config: Config, stack: ExitStack) -> Sockets:
    """Listen on every address of *config*; *stack* closes the sockets."""
    main = await listen(config.bind, config, stack)
    if not config.ssl_enabled:
        return Sockets([], main, [])
    return Sockets(main, await listen(config.insecure_bind, config, stack), [])


@attrs.define(eq=False)
class _Startup:
    """A task status that says "started" only if the lifespan has not failed to start.

    Hypercorn 0.18 says it in both cases, and raises LifespanFailureError a moment later.
    """

    announce: Callable[[list[str]], None]
    failed: bool = False

    def started(self, addresses: list[str] | None = None) -> None:
        if not self.failed and addresses is not None:
            self.announce(addresses)

    def watch(self, app: ASGIApp) -> ASGIApp:
        async def watched(scope: Any, receive: Receive, send: Send) -> None:
            async def watched_send(message: Any) -> None:
                self.failed = self.failed or message["type"] == "lifespan.startup.failed"
                await send(message)

            await app(scope, receive, watched_send if scope["type"] == "lifespan" else send)

        return watched
