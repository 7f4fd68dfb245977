"""A worker: a process that serves sockets of its master, stops when told, and never outlives it."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import get_context, parent_process, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import TypeAlias

import attrs
import trio

logger = logging.getLogger("tsstream")

Sockets: TypeAlias = dict[str, list[socket.socket]]  # by the name of the option, such as "bind"
Announce: TypeAlias = Callable[[list[str]], None]  # is told the addresses
# Runs in the worker: serves the sockets until SIGTERM, announces the addresses when it has started,
# gives the exit code. It is pickled: a function of a module, or a partial of one.
Job: TypeAlias = Callable[[Sockets, Announce], int]

# A terminal sends these to every process of the command; they are for the master.
MASTERS_SIGNALS = (signal.SIGINT, signal.SIGHUP)


@attrs.define(eq=False)
class Worker:
    """One worker process, as its master sees it; :meth:`run` looks after it.

    Attributes:
      addresses: where it serves, once it does.
      settled: it serves, or it has ended.
      stopping: it has been told to stop.
      started: when, on the clock of Trio.
    """

    process: BaseProcess
    pipe: Connection
    patience: float
    addresses: list[str] | None = None
    settled: trio.Event = attrs.field(factory=trio.Event)
    ended: trio.Event = attrs.field(factory=trio.Event)
    stopping: trio.Event = attrs.field(factory=trio.Event)
    started: float = attrs.field(factory=trio.current_time)

    @property
    def serves(self) -> bool:
        return self.addresses is not None and not self.ended.is_set()

    @property
    def exit_code(self) -> int:
        """0, also if it was stopped before it had started; -N if signal N ended it otherwise."""
        code = self.process.exitcode
        if code == -signal.SIGTERM and self.stopping.is_set():
            return 0
        return -signal.SIGKILL if code is None else code

    def stop(self) -> None:
        """Tell it to stop gracefully; if it has not ended after *patience* seconds, kill it."""
        if not self.ended.is_set():
            self.stopping.set()
            self.process.terminate()

    async def run(self) -> None:
        """Wait until the process has ended; being cancelled kills it."""
        # Not the sentinel or the end of the pipe: a child that the application has forked holds
        # them open after the worker's death.
        wait = self.process.join
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._hear)
                nursery.start_soon(self._kill_overdue)
                await trio.to_thread.run_sync(
                    wait, abandon_on_cancel=True, limiter=trio.CapacityLimiter(1)
                )
                nursery.cancel_scope.cancel()
        finally:
            self.process.kill()
            self.process.join()
            self.pipe.close()
            self.ended.set()
            self.settled.set()

    async def _hear(self) -> None:
        await trio.lowlevel.wait_readable(self.pipe.fileno())
        with suppress(EOFError, OSError):
            self.addresses = self.pipe.recv()
            self.settled.set()

    async def _kill_overdue(self) -> None:
        await self.stopping.wait()
        await trio.sleep(self.patience)
        logger.error(
            "worker %s has not stopped within %g s and is killed", self.process.pid, self.patience
        )
        self.process.kill()


def start_worker(job: Job, sockets: Sockets, patience: float) -> Worker:
    """Start a process that does *job* on *sockets*, in a new interpreter.

    Args:
      patience: seconds that it gets to end after it was told to stop.
    """
    context = get_context("spawn")
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(job, sockets, writer))
    # The signals are blocked, not ignored as Hypercorn does it: ignored, a Ctrl-C that comes at
    # this moment would be lost.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, MASTERS_SIGNALS)
    try:
        # Python 3.11 unblocks SIGINT when it starts the resource tracker, so that is started here.
        # With SIGHUP blocked, or it would die of it.
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, MASTERS_SIGNALS)
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        writer.close()
    return Worker(process, reader, patience)


def _work(job: Job, sockets: Sockets, pipe: Connection) -> None:
    """Run *job*, in the worker."""
    for number in MASTERS_SIGNALS:
        signal.signal(number, pass_over)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, MASTERS_SIGNALS)
    threading.Thread(target=_end_with_master, name="end with the master", daemon=True).start()
    sys.exit(job(sockets, pipe.send))


def _end_with_master() -> None:
    """End this process as soon as the master has, however busy the event loop is."""
    master = parent_process()
    assert master is not None
    master.join()
    os._exit(1)


def pass_over(number: int, frame: object) -> None:
    """Do nothing about a signal; unlike SIG_IGN, processes that are started do not inherit it."""
