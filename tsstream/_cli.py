"""The ``tsstream`` command: run an application until a signal says stop."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from operator import attrgetter

import trio

from tsstream._asgi import ASGIApp
from tsstream._server.serve import LifespanFailureError, serve
from tsstream._util import unwrapping

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
GRACEFUL_TIMEOUT = 3.0  # seconds: what serve() gives too; few people wait longer after Ctrl-C
MISTAKE = 2  # exit code: the command cannot do what it was asked, as in argparse

logger = logging.getLogger("tsstream")

EXAMPLES = """\
examples:
  tsstream run module:app                         on http://127.0.0.1:8000
  tsstream run package.module:app --bind 0.0.0.0:80 --bind [::]:80
  tsstream run module:app --bind 127.0.0.1:0      on a free port, which is printed
  tsstream run module:app --bind unix:/run/app.sock

SIGINT (Ctrl-C) and SIGTERM stop gracefully: no new connections, --graceful-timeout seconds for
the responses that are under way, then the end of the application's lifespan. A second signal
stops at once.
"""


class Mistake(Exception):
    """What was asked for cannot be done; the message says why, in one line."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line *argv*, by default that of the process; give the exit code."""
    options = _parser().parse_args(argv)
    try:
        app = load(options.app)
        logging.basicConfig(
            level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
        )
        # Hypercorn's own "Running on" would be the second.
        logging.getLogger("hypercorn.error").setLevel(logging.WARNING)
        trio.run(run, app, options.bind or ["127.0.0.1:8000"], options.graceful_timeout)
    except Mistake as error:
        print(f"tsstream: {error}", file=sys.stderr)
        return MISTAKE
    except LifespanFailureError as error:
        print(f"tsstream: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tsstream", description="Streaming web applications on Trio."
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    run_parser = commands.add_parser(
        "run",
        help="serve an application",
        description="Serve an ASGI application until SIGINT or SIGTERM.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    run_parser.add_argument(
        "app", metavar="module:app", help="where it is; the current directory can be imported from"
    )
    run_parser.add_argument(
        "--bind",
        action="append",
        metavar="HOST:PORT",
        help="listen there, or on unix:PATH (default: 127.0.0.1:8000; may be repeated)",
    )
    run_parser.add_argument(
        "--graceful-timeout",
        type=seconds,
        default=GRACEFUL_TIMEOUT,
        metavar="SECONDS",
        help="what a response gets to end by itself after a signal (default: %(default)s)",
    )
    return parser


def seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds < float("inf"):
        raise ValueError(text)
    return seconds


def load(target: str) -> ASGIApp:
    """Import the application that *target* names, ``module:attribute`` or ``module`` alone.

    Raises:
      Mistake: there is none.
    """
    module_name, _, path = target.partition(":")
    path = path or "app"
    if "/" in module_name or module_name.endswith(".py") or not module_name:
        raise Mistake(f"{target!r} is not module:app; write it as in `import`, without .py or /")
    if (directory := os.getcwd()) not in sys.path:
        sys.path.insert(0, directory)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # One that the module itself imports is the module's fault, and needs the traceback.
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            raise Mistake(
                f"there is no module {error.name!r} here or among what is installed"
            ) from None
        raise _import_failure(module_name) from error
    except Exception as error:
        raise _import_failure(module_name) from error
    try:
        app = attrgetter(path)(module)
    except AttributeError:
        raise Mistake(f"module {module_name!r} has no {path!r}") from None
    if not callable(app):
        raise Mistake(
            f"{path!r} in module {module_name!r} is of type {type(app).__name__}, "
            "which is not an ASGI application: it cannot be called"
        )
    loaded: ASGIApp = app
    return loaded


def _import_failure(module_name: str) -> Mistake:
    traceback.print_exc()
    return Mistake(f"importing {module_name!r} failed; see the traceback above")


async def run(app: ASGIApp, bind: Sequence[str], graceful_timeout: float) -> None:
    """Serve *app* and print its addresses; a signal stops it.

    Raises:
      Mistake: an address is not one, or cannot be listened on.
    """
    starting = trio.CancelScope()
    shutdown = trio.Event()

    def stop() -> None:
        logger.info("stopping: responses have %g s; a second signal ends all", graceful_timeout)
        starting.cancel()
        shutdown.set()

    with unwrapping():
        async with trio.open_nursery() as nursery:
            await nursery.start(_call_on_signal, stop)
            with starting:
                start = partial(
                    serve,
                    app,
                    bind=bind,
                    graceful_timeout=graceful_timeout,
                    shutdown_trigger=shutdown.wait,
                )
                try:
                    addresses = await nursery.start(start)
                except OSError as error:
                    raise Mistake(error.strerror) from error
                except ValueError as error:
                    raise Mistake(error) from error
                for address in addresses:
                    print(f"Running on {address} (Ctrl-C to stop)", flush=True)


async def _call_on_signal(fn: Callable[[], None], *, task_status: trio.TaskStatus[None]) -> None:
    with trio.open_signal_receiver(*STOP_SIGNALS) as signals:
        task_status.started()
        async for _ in signals:
            break
    # The second signal is not left to Trio: a KeyboardInterrupt waits for whatever is shielded,
    # and behind a client that has stopped reading that is for ever.
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    fn()
