"""The ``tsstream`` command: what can be written on its line."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from typing import NoReturn

import attrs

from tsstream._cli_options import Options
from tsstream._cli_run import MISTAKE, run
from tsstream._server.limits import Limits

EXAMPLES = """\
examples:
  tsstream run module:app                         on http://127.0.0.1:8000
  tsstream run package.module:app --bind 0.0.0.0:80 --bind [::]:80
  tsstream run module:app --bind 127.0.0.1:0      on a free port, which is printed
  tsstream run module:app --bind unix:/run/app.sock
  tsstream run module:app --reload                anew whenever a Python file changes
  tsstream run module:app --workers 4 --access-log
  tsstream run module:app --bind 0.0.0.0:443 --certfile chain.pem --keyfile key.pem
  tsstream run module:app --config hypercorn.toml

SIGINT (Ctrl-C) and SIGTERM stop gracefully: no new connections, --graceful-timeout seconds for
the responses that are under way, then the end of the application's lifespan. A second signal
stops at once. With --workers, SIGHUP replaces the workers one by one.

exit codes: 0 after a signal; 1 if the application failed to start or to stop; 2 if what was asked
for cannot be done.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line *argv*, by default that of the process; give the exit code."""
    given = vars(_parser().parse_args(argv))
    limits = {name: given.pop(name) for name in attrs.fields_dict(Limits) if name in given}
    return run(Options(**given, limits=limits))


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong."""

    def error(self, message: str) -> NoReturn:
        self.exit(MISTAKE, f"{self.prog}: {message}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="tsstream", description="Streaming web applications on Trio.")
    commands = parser.add_subparsers(required=True, metavar="command")
    command = commands.add_parser(
        "run",
        help="serve an application",
        description="Serve an ASGI application until SIGINT or SIGTERM.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        # What is not given is not there: the configuration file or serve() has the default.
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    command.add_argument(
        "app", metavar="module:app", help="where it is; the current directory can be imported from"
    )
    _add_addresses(command.add_argument_group("where"))
    _add_processes(command.add_argument_group("how"))
    _add_limits(command.add_argument_group("limits"))
    return parser


def _add_addresses(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--bind",
        action="append",
        metavar="HOST:PORT",
        help="listen there, or on unix:PATH or fd://NUMBER "
        "(default: 127.0.0.1:8000; may be repeated)",
    )
    group.add_argument("--certfile", metavar="FILE", help="for TLS: the certificate chain, PEM")
    group.add_argument("--keyfile", metavar="FILE", help="and its private key, PEM")


def _add_processes(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--workers",
        type=positive_int,
        metavar="N",
        help="serve in N processes, and replace one that dies (default: serve in this process)",
    )
    group.add_argument(
        "--reload",
        action="store_true",
        help="serve in one process, and replace it when a Python file below the current directory "
        "changes; needs tsstream[reload]",
    )
    group.add_argument(
        "--config",
        dest="config_file",
        metavar="FILE",
        help="a configuration of Hypercorn's: TOML, .json or .py; options override it",
    )
    group.add_argument(
        "--access-log", action="store_true", help="write a line for each request to standard output"
    )


def _add_limits(group: argparse._ArgumentGroup) -> None:
    defaults = Limits()
    group.add_argument(
        "--graceful-timeout",
        type=seconds,
        metavar="SECONDS",
        help="what a response gets to end by itself after a signal (default: 3)",
    )
    group.add_argument(
        "--farewell-spread",
        type=seconds,
        metavar="SECONDS",
        help="end live streams at random times within that after a signal, so that their clients "
        f"do not return all at once (default: {defaults.farewell_spread:g})",
    )
    group.add_argument(
        "--stall-timeout",
        type=limit,
        metavar="SECONDS",
        help="drop a client that accepts nothing for so long, or never: none "
        f"(default: {defaults.stall_timeout:g})",
    )
    group.add_argument(
        "--header-timeout",
        type=limit,
        metavar="SECONDS",
        help="refuse a request whose head takes longer, or none "
        f"(default: {defaults.header_timeout:g})",
    )
    group.add_argument(
        "--body-timeout",
        type=limit,
        metavar="SECONDS",
        help="refuse a request whose body is silent for so long before the response, or none "
        f"(default: {defaults.body_timeout:g})",
    )
    group.add_argument(
        "--max-connections",
        type=positive_int,
        metavar="N",
        help="refuse more than that, in each process (default: no limit)",
    )
    group.add_argument(
        "--half-close",
        action="store_true",
        help="answer a client that has closed its sending side; by default that is a disconnect",
    )


def positive_int(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 1")
    return int(text)


def seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return number


def limit(text: str) -> float | None:
    if text == "none":
        return None
    number = seconds(text)
    if number == 0:
        raise argparse.ArgumentTypeError("0 seconds are no time; write none for no limit")
    return number
