"""``tsstream run``: serve in this process, or in workers that it looks after."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from importlib.util import find_spec
from types import FrameType
from typing import Protocol, TextIO, TypeAlias

import trio

from tsstream._asgi import ASGIApp
from tsstream._cli_app import BrokenModule, Mistake, load
from tsstream._cli_options import Options, make_config, set_up_logging, worker_count
from tsstream._server.config import Config
from tsstream._server.listen import listen
from tsstream._server.reload import Reloader
from tsstream._server.serve import LifespanFailureError, serve
from tsstream._server.worker import Announce, Sockets, Worker, pass_over, start_worker
from tsstream._server.workers import Supervisor
from tsstream._util import unwrapping

# Exit codes.
FAILED = 1  # the application cannot start or stop
MISTAKE = 2  # the command cannot do what it was asked, as in argparse
INTERRUPTED = 128 + signal.SIGINT  # Ctrl-C, before anything has started; as in shells
BROKEN = 3  # of a worker only: a MISTAKE that the change of a file may undo

WORKERS_SIGNALS = (signal.SIGTERM,)
HOLDUP = 1.0  # seconds that the end may take, after the responses' own, before a word is said
OVERTIME = 2.0  # seconds: what a worker gets to end after everything in it has timed out

logger = logging.getLogger("tsstream")

Handler: TypeAlias = Callable[[int, FrameType | None], object] | signal.Handlers


class Master(Protocol):
    """Looks after workers."""

    async def run(self, announce: Announce) -> int: ...
    def stop(self) -> None: ...


def run(options: Options) -> int:
    """Do what *options* say until a signal ends it; give the exit code."""
    code = _with_exit_code(_run, options)
    return MISTAKE if code == BROKEN else code


def _with_exit_code(fn: Callable[..., int], *args: object) -> int:
    """Call ``fn(*args)``; make a line and an exit code of what the user can do something about."""
    try:
        return fn(*args)
    except Mistake as error:
        _say(f"tsstream: {error}", sys.stderr)
        return BROKEN if isinstance(error, BrokenModule) else MISTAKE
    except LifespanFailureError as error:
        _say(f"tsstream: {error}", sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED


def _run(options: Options) -> int:
    if options.reload:
        return _run_reloading(options)
    config = make_config(options)
    count = worker_count(options, config)
    if count is not None:
        set_up_logging(config)
        note = " with 1 worker" if count == 1 else f" with {count} workers"
        return trio.run(_run_master, partial(Supervisor, count=count), options, config, note)
    app = load(options.app)
    set_up_logging(config)  # after the application, which may have set it up already
    trio.run(_serve, app, options, config, _print_addresses)
    return 0


def _run_reloading(options: Options) -> int:
    if options.workers is not None:
        raise Mistake("--reload runs one worker of its own; leave --workers out")
    if find_spec("watchfiles") is None:
        raise Mistake("--reload needs watchfiles; install tsstream[reload]")
    config = make_config(options)
    set_up_logging(config)
    master = partial(Reloader, directory=os.getcwd(), hopeless=[MISTAKE])
    return trio.run(_run_master, master, options, config)


def _print_addresses(addresses: Sequence[str], note: str = "") -> None:
    for address in addresses:
        _say(f"Running on {address}{note} (Ctrl-C to stop)", sys.stdout)


def _say(line: str, stream: TextIO | None) -> None:
    """Write *line*; that nobody reads *stream*, or that there is none, changes nothing."""
    if stream is None:
        return
    try:
        stream.write(f"{line}\n")
        stream.flush()
    except OSError:
        # What it has buffered would fail again at the exit, whose code would be 120 then.
        with suppress(OSError), open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), stream.fileno())


async def _serve(
    app: ASGIApp, options: Options, config: Config, announce: Announce, *, worker: bool = False
) -> None:
    """Serve *app* and announce its addresses; a signal stops it.

    Raises:
      Mistake: an address is not one, or cannot be listened on.
    """
    starting = trio.CancelScope()
    shutdown = trio.Event()

    def stop() -> None:
        if not worker:
            _log_stop(config)
        starting.cancel()
        shutdown.set()

    start = partial(serve, app, config, shutdown_trigger=shutdown.wait, **options.limits)
    # All signals to a worker but the first change nothing: whoever stops a whole service, such as
    # systemd, sends one to each process, and so does the master.
    handling = _on_signal(stop, WORKERS_SIGNALS, pass_over) if worker else _on_signal(stop)
    with handling, unwrapping():
        async with trio.open_nursery() as watch:
            watch.start_soon(_warn_of_threads, shutdown, config.graceful_timeout)
            async with trio.open_nursery() as server:
                with starting, _naming_the_mistake():
                    announce(await server.start(start))
            watch.cancel_scope.cancel()


async def _warn_of_threads(shutdown: trio.Event, graceful_timeout: float) -> None:
    """Say what may hold up the end, and cannot be cut as connections are."""
    await shutdown.wait()
    await trio.sleep(graceful_timeout + HOLDUP)
    if count := trio.to_thread.current_default_thread_limiter().borrowed_tokens:
        logger.warning(
            "not over yet; threads of the application that still run: %d; a second signal ends all",
            count,
        )


async def _run_master(
    master: Callable[[Callable[[], Worker]], Master],
    options: Options,
    config: Config,
    note: str = "",
) -> int:
    """Listen, and let a master look after workers that serve; a signal stops them.

    Raises:
      Mistake: an address is not one, or cannot be listened on.
    """
    with ExitStack() as stack, unwrapping():
        with _naming_the_mistake():
            sockets = await _open_sockets(config, stack)
        job = partial(_work, options)
        served = master(partial(start_worker, job, sockets, _patience(options, config)))

        def stop() -> None:
            _log_stop(config)
            stack.close()  # who comes now is refused, instead of waiting for nothing
            served.stop()

        with _on_signal(stop):
            return await served.run(partial(_print_addresses, note=note))


async def _open_sockets(config: Config, stack: ExitStack) -> Sockets:
    await trio.lowlevel.checkpoint()
    names = ["bind", "insecure_bind"] if config.ssl_enabled else ["bind"]
    return {name: await listen(getattr(config, name), config, stack) for name in names}


def _patience(options: Options, config: Config) -> float:
    if options.reload:
        return config.graceful_timeout + OVERTIME
    return config.graceful_timeout + config.shutdown_timeout + OVERTIME


def _work(options: Options, sockets: Sockets, announce: Announce) -> int:
    """Serve in a worker; give the exit code."""
    if options.reload:
        with suppress(OSError):
            sys.stdin = os.fdopen(0, closefd=False)  # for a debugger: multiprocessing has hidden it
    return _with_exit_code(_serve_sockets, options, sockets, announce)


def _serve_sockets(options: Options, sockets: Sockets, announce: Announce) -> int:
    config = make_config(options)
    for name, opened in sockets.items():
        setattr(config, name, [f"fd://{sock.detach()}" for sock in opened])
    app = load(options.app)
    set_up_logging(config, origin="[%(process)d] ")
    trio.run(partial(_serve, worker=True), app, options, config, announce)
    return 0


@contextmanager
def _naming_the_mistake() -> Iterator[None]:
    """Say in one line why an address cannot be listened on."""
    try:
        yield
    except OSError as error:
        raise Mistake(error.strerror or error) from error
    except ValueError as error:
        raise Mistake(error) from error


def _log_stop(config: Config) -> None:
    logger.info("stopping: responses have %g s; a second signal ends all", config.graceful_timeout)


@contextmanager
def _on_signal(
    fn: Callable[[], object],
    numbers: Sequence[int] = (signal.SIGINT, signal.SIGTERM),
    then: Handler = signal.SIG_DFL,
) -> Iterator[None]:
    """Call *fn*, as soon as Trio can, at the first of the signals; and *then* at all others."""
    token = trio.lowlevel.current_trio_token()

    def handle(number: int, frame: FrameType | None) -> None:
        # By default the second signal ends the process. It is not left to Trio, whose loop may be
        # blocked by a handler, and whose KeyboardInterrupt waits for whatever is shielded.
        for each in numbers:
            signal.signal(each, then)
        with suppress(trio.RunFinishedError):
            token.run_sync_soon(fn)

    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is handle:
                signal.signal(number, handler)
