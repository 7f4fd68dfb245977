"""One worker that is stopped and started anew whenever a Python file changes."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from contextlib import aclosing

import trio

from tsstream._server.worker import Announce, Worker

logger = logging.getLogger("tsstream")

# Milliseconds. A cancelled watchfiles.awatch() waits for its thread, which by default looks up
# every 5 s.
LOOK_UP = 100


class Reloader:
    """Keeps a worker serving that has the newest code.

    A worker that cannot start, or dies, is not replaced before the next change: that is what will
    help it. The sockets are open all the time, so clients wait instead of being refused.

    Args:
      start: starts a worker.
      directory: its Python files are watched, those of its subdirectories too.
      hopeless: exit codes of the first worker that no change of a file can help.
    """

    def __init__(
        self, start: Callable[[], Worker], *, directory: str, hopeless: Iterable[int] = ()
    ) -> None:
        self._start = start
        self._directory = directory
        self._hopeless = frozenset(hopeless)
        self._worker: Worker | None = None
        self._announced = False
        self._until_stopped = trio.CancelScope()
        self._exit_code = 0

    async def run(self, announce: Announce) -> int:
        """Serve, and announce the addresses once, until :meth:`stop`; give the exit code.

        Raises:
          OSError: the directory cannot be watched.
          ImportError: watchfiles is not installed.
        """
        from watchfiles import PythonFilter, awatch  # an extra

        # One line for each change is ours.
        logging.getLogger("watchfiles").setLevel(logging.WARNING)
        watch = awatch(
            self._directory,
            watch_filter=PythonFilter(),
            rust_timeout=LOOK_UP,
            ignore_permission_denied=True,
        )
        async with trio.open_nursery() as nursery:
            with self._until_stopped:
                async with aclosing(watch):
                    while True:
                        worker = self._hire(nursery, announce)
                        paths = {path for _, path in await anext(watch)}
                        self._log_change(paths)
                        worker.stop()
                        await worker.ended.wait()
        return self._exit_code

    def stop(self, exit_code: int = 0) -> None:
        """Stop the worker; :meth:`run` returns when it has ended."""
        self._exit_code = exit_code
        self._until_stopped.cancel()
        if self._worker is not None:
            self._worker.stop()

    def _hire(self, nursery: trio.Nursery, announce: Announce) -> Worker:
        worker = self._worker = self._start()
        nursery.start_soon(self._announce, worker, announce)
        nursery.start_soon(self._look_after, worker)
        return worker

    async def _announce(self, worker: Worker, announce: Announce) -> None:
        await worker.settled.wait()
        if worker.addresses is None:
            return
        if self._announced:
            logger.info("serving again")
        else:
            announce(worker.addresses)
            self._announced = True

    async def _look_after(self, worker: Worker) -> None:
        await worker.run()
        if worker.stopping.is_set():
            return
        if not self._announced and worker.exit_code in self._hopeless:
            self.stop(worker.exit_code)
        else:
            logger.warning(
                "the application has ended with exit code %d; it starts anew when a file changes",
                worker.exit_code,
            )

    def _log_change(self, paths: Iterable[str]) -> None:
        names = sorted(os.path.relpath(path, self._directory) for path in paths)
        logger.info("changed: %s; starting anew", ", ".join(names))
