"""The whole demo in one process: two feed servers, and the application that merges them.

``python -m examples.demo``, then open the address that it prints.
"""

from __future__ import annotations

import argparse
import errno
import os
import signal
import sys
from collections.abc import Sequence
from functools import partial

import trio

from examples.feeds_server import serve_feeds
from examples.news_and_weather import app
from tsstream import serve

PORTS = range(8000, 8020)  # the first free one is taken


async def start_app(nursery: trio.Nursery, binds: Sequence[str]) -> str:
    """Serve the application on the first of *binds* that is free; give its address."""
    for bind in binds:
        try:
            addresses = await nursery.start(partial(serve, app, bind=[bind]))
        except OSError as error:
            if error.errno != errno.EADDRINUSE or bind == binds[-1]:
                raise
        else:
            return str(addresses[0])
    raise ValueError("there is nothing to bind to")


async def main(binds: Sequence[str]) -> str | None:
    """Run the demo until a signal comes; give what is wrong if it cannot run."""
    problem = None
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            os.environ["FEEDS"] = " ".join(await nursery.start(serve_feeds))
            try:
                address = await start_app(nursery, binds)
            except (OSError, ValueError) as error:
                problem = f"demo: {error}"
            else:
                print(f"The merged feeds are live at {address}/")
                print(f"In another terminal:  curl -N {address}/feed")
                print("Ctrl-C ends the demo.", flush=True)
                async for _ in signals:
                    break
            nursery.cancel_scope.cancel()
    return problem


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m examples.demo", description=__doc__)
    parser.add_argument("--bind", metavar="HOST:PORT", help="instead of the first free port")
    bind = parser.parse_args().bind
    sys.exit(trio.run(main, [bind] if bind else [f"127.0.0.1:{port}" for port in PORTS]))
