"""Serve an ASGI application: sockets, lifespan, connections, and an end in the right order."""

from __future__ import annotations

import copy
import logging
import math
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from random import randint
from typing import Any, cast

import attrs
import trio
from hypercorn.config import Config
from hypercorn.trio.statsd import StatsdLogger
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.utils import LifespanFailureError, repr_socket_addr, wrap_app

from tsstream._asgi import ASGIApp
from tsstream._http.host import Host
from tsstream._server.config import check_tls, keep_loggers
from tsstream._server.lifespan import open_lifespan
from tsstream._server.limits import (
    BODY_TIMEOUT,
    HEADER_TIMEOUT,
    PONG_TIMEOUT,
    STALL_TIMEOUT,
    Limits,
)
from tsstream._server.listen import listen
from tsstream._server.server import Server
from tsstream._util import unwrapping

__all__ = ["LifespanFailureError", "serve"]

logger = logging.getLogger("tsstream.server")

LAST_WORDS = 0.05  # seconds: for what is said to those who are cut to leave this process


async def serve(  # noqa: ASYNC128 (_serve_until_shutdown calls started())
    app: ASGIApp,
    config: Config | None = None,
    *,
    bind: Sequence[str] | None = None,
    certfile: str | None = None,
    keyfile: str | None = None,
    graceful_timeout: float | None = None,
    stall_timeout: float | None = STALL_TIMEOUT,
    header_timeout: float | None = HEADER_TIMEOUT,
    body_timeout: float | None = BODY_TIMEOUT,
    pong_timeout: float | None = PONG_TIMEOUT,
    max_connections: int | None = None,
    half_close: bool = False,
    farewell_spread: float = 0.0,
    shutdown_trigger: Callable[[], Awaitable[object]] | None = None,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve *app* until cancelled, or until *shutdown_trigger* returns.

    ``await nursery.start(serve, app)`` returns when the lifespan has started, with the addresses
    as a list such as ``["http://127.0.0.1:8000"]``; ask for port 0 to be given a free one. The
    addresses are listened on before the lifespan starts, all or none of them; every socket is
    closed when this function leaves.

    *shutdown_trigger* returning ends the server gracefully. It accepts no more connections and
    closes idle ones; a tsstream :class:`App` ends its live streams, and WebSockets are closed with
    1001; what is under way then has *graceful_timeout* seconds, after which it is cut. Cancelling
    leaves these seconds out. The lifespan of *app* is ended last, in any case.

    Args:
      app: an :class:`App`, or any other ASGI application.
      config: Hypercorn's own configuration, for all that has no argument here (limits of the
        protocols, access log...). It is not changed. What it says of processes (workers, reload,
        user) does not apply.
      bind: ``"HOST:PORT"``, ``"[IPV6]:PORT"``, ``"unix:PATH"`` or ``"fd://NUMBER"``; by default
        that of *config*, which is ``127.0.0.1:8000`` if it does not say.
      certfile: for TLS: a file with the certificate chain, in PEM format.
      keyfile: and one with its private key.
      graceful_timeout: in seconds; by default that of *config*, which is 3 s if it does not say.
      stall_timeout: seconds; a client that accepts nothing of what it is sent for so long is
        dropped. One that reads slowly is not.
      header_timeout: seconds for the head of a request, from its first byte (408 after that), and
        for a TLS handshake.
      body_timeout: seconds of silence within the body of a request that has no response yet
        (408); by default the ``read_timeout`` of *config*, if it has one. An app of tsstream's
        minds that itself, by its :class:`BodyLimits`.
      pong_timeout: seconds for a WebSocket to answer a ping, if *config* has them sent
        (``websocket_ping_interval``).
      max_connections: open at the same time; further ones are answered 503 and closed.
      half_close: answer a client that has closed its sending side. By default that is a
        disconnect, as clients that are gone look the same (D22).
      farewell_spread: seconds; live streams and WebSockets end at random times within it when the
        server shuts down, so that their clients do not come back all at once. To be of use it must
        be less than *graceful_timeout*.
      shutdown_trigger: waits for whatever shall end the server.
      task_status: what ``nursery.start`` passes.

    Raises:
      OSError: an address cannot be listened on, or a certificate not be read; the message names it.
      ValueError: an address is written wrongly, or the certificate and the key do not fit.
      LifespanFailureError: the lifespan of *app* failed; the exception is Hypercorn's.
      KeyboardInterrupt: after a graceful end, if Ctrl-C came while this was the main task.
    """
    if config is not None and config.read_timeout is not None and body_timeout == BODY_TIMEOUT:
        body_timeout = config.read_timeout
    limits = Limits(
        stall_timeout=stall_timeout,
        header_timeout=header_timeout,
        body_timeout=body_timeout,
        pong_timeout=pong_timeout,
        max_connections=max_connections,
        half_close=half_close,
        farewell_spread=farewell_spread,
    )
    config = _config(config, bind, certfile, keyfile, graceful_timeout)
    if not 0 <= config.graceful_timeout < math.inf:
        raise ValueError("graceful_timeout must be a number of seconds, 0 or more")
    if farewell_spread > config.graceful_timeout:
        raise ValueError("farewell_spread must not be more than graceful_timeout")
    host = Host(farewell_spread=farewell_spread)
    wrapped = wrap_app(cast(Any, app), config.wsgi_max_body_size, "asgi")
    server = Server(wrapped, config, limits, WorkerContext(_max_requests(config)), host)
    ssl_context = check_tls(config)
    with _open_log(config), ExitStack() as stack, unwrapping():
        secure, plain = await _open_sockets(config, stack)
        listeners = [_Listener(sock, ssl_context) for sock in secure]
        listeners += [_Listener(sock, None) for sock in plain]
        async with open_lifespan(app, config, host, server.state):
            await _serve_until_shutdown(server, listeners, stack, shutdown_trigger, task_status)


async def _serve_until_shutdown(  # noqa: ASYNC128 (_accept_until_shutdown calls started())
    server: Server,
    listeners: Sequence[_Listener],
    sockets: ExitStack,
    shutdown_trigger: Callable[[], Awaitable[object]] | None,
    task_status: trio.TaskStatus[list[str]],
) -> None:
    async with trio.open_nursery() as nursery:
        connections, scope = await nursery.start(_hold_connections, server)
        # Nobody ends them but we ourselves. Not before: a start() that is cancelled would wait.
        scope.shield = True
        try:
            with sockets:  # who comes after this is refused
                interrupted = await _accept_until_shutdown(
                    server, listeners, connections, shutdown_trigger, task_status
                )
            server.begin_closing()
            with trio.move_on_after(server.config.graceful_timeout):
                await server.wait_empty()
        finally:
            # Whatever has ended us: who is still there is told what can be told.
            server.begin_closing()
            if count := server.abandon():
                logger.info("shutting down: connections that are cut: %d", count)
                with trio.CancelScope(shield=True):
                    await trio.sleep(LAST_WORDS)
            connections.cancel_scope.cancel(reason="server shutdown")
    if interrupted:
        raise KeyboardInterrupt


async def _hold_connections(
    server: Server, *, task_status: trio.TaskStatus[tuple[trio.Nursery, trio.CancelScope]]
) -> None:
    """Hold the nursery of all connections."""
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as connections:
            await connections.start(server.hangups.run_watch)
            task_status.started((connections, scope))
            await trio.sleep_forever()


async def _accept_until_shutdown(
    server: Server,
    listeners: Sequence[_Listener],
    connections: trio.Nursery,
    shutdown_trigger: Callable[[], Awaitable[object]] | None,
    task_status: trio.TaskStatus[list[str]],
) -> bool:
    """Accept until the server shuts down; say whether Ctrl-C was the reason."""
    interrupted = False
    try:
        async with trio.open_nursery() as accepting:
            for listener in listeners:
                accepting.start_soon(listener.serve, server, connections)
            for listener in listeners:
                await server.config.log.info("Running on %s", listener.address)
            task_status.started([listener.address for listener in listeners])
            await _wait_shutdown(server, shutdown_trigger)
            accepting.cancel_scope.cancel(reason="the server shuts down")
    except* KeyboardInterrupt:
        interrupted = True
    return interrupted


async def _wait_shutdown(
    server: Server, shutdown_trigger: Callable[[], Awaitable[object]] | None
) -> None:
    async def wait(fn: Callable[[], Awaitable[object]]) -> None:
        await fn()
        nursery.cancel_scope.cancel()

    async def wait_max_requests() -> None:
        await server.context.terminate.wait()
        logger.info("%d requests served; the server ends", server.context.requests)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait, wait_max_requests)
        if shutdown_trigger is not None:
            nursery.start_soon(wait, shutdown_trigger)


@attrs.frozen(eq=False)
class _Listener:
    """A listening socket, and whether TLS is spoken on it."""

    sock: socket.socket
    ssl_context: ssl.SSLContext | None

    @property
    def address(self) -> str:
        scheme = "http" if self.ssl_context is None else "https"
        return f"{scheme}://{repr_socket_addr(self.sock.family, self.sock.getsockname())}"

    async def serve(self, server: Server, connections: trio.Nursery) -> None:
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(self.sock))
        await server.accept(listener, self.ssl_context, connections)


def _config(
    config: Config | None,
    bind: Sequence[str] | None,
    certfile: str | None,
    keyfile: str | None,
    graceful_timeout: float | None,
) -> Config:
    if config is None:
        config = Config()
        # Left to itself, Hypercorn would put a handler of its own on this logger.
        config.errorlog = logging.getLogger("hypercorn.error")
    config = copy.copy(config)
    if bind is not None:
        config.bind = [bind] if isinstance(bind, str) else list(bind)
    if certfile is not None or keyfile is not None:
        config.certfile, config.keyfile = certfile, keyfile
    if graceful_timeout is not None:
        config.graceful_timeout = graceful_timeout
    if not config.bind:
        raise ValueError('bind is empty; name at least one address, for example "127.0.0.1:8000"')
    if config.insecure_bind and not config.ssl_enabled:
        raise ValueError("insecure_bind is for servers with a certificate; use bind")
    if config.quic_bind:
        raise ValueError("serve() has no QUIC; leave quic_bind out, or run `hypercorn -k trio`")
    config.set_statsd_logger_class(StatsdLogger)
    keep_loggers(config)
    return config


@contextmanager
def _open_log(config: Config) -> Iterator[None]:
    """Open the files of the log now, which Hypercorn does when it has something to write."""
    try:
        log = config.log
    except OSError as error:
        name = error.filename or "the log"
        raise OSError(error.errno, f"cannot write {name}: {error.strerror or error}") from error
    with log.socket if isinstance(log, StatsdLogger) else nullcontext():
        yield


def _max_requests(config: Config) -> int | None:
    if config.max_requests is None:
        return None
    return config.max_requests + randint(0, config.max_requests_jitter)


async def _open_sockets(
    config: Config, stack: ExitStack
) -> tuple[list[socket.socket], list[socket.socket]]:
    """Listen on every address of *config*, with TLS and without; *stack* closes the sockets."""
    main = await listen(config.bind, config, stack)
    if not config.ssl_enabled:
        return [], main
    return main, await listen(config.insecure_bind, config, stack)
