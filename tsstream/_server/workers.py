"""Several workers behind the same sockets: one that ends is replaced, and all end together.

The loop of Hypercorn's own supervisor, ``hypercorn.run.run``, is not used. We measured of 0.18: a
worker that dies ends the others and the master too, whose exit code then is 0; and at a SIGTERM
the first worker that has ended makes it terminate the others in the midst of their responses.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable

import trio

from tsstream._server.worker import Announce, Worker

logger = logging.getLogger("tsstream")

STEADY = 10.0  # seconds: a worker that has lived that long is replaced at once
FIRST_PAUSE = 0.1  # seconds: before an early death is replaced; doubled for each one in a row...
LONGEST_PAUSE = 10.0  # seconds: ...up to this, which costs the processor next to nothing
MAX_FAILED_STARTS = 6  # in a row; if no worker serves then, it is over. With the pauses, after 3 s


class Supervisor:
    """Keeps workers serving.

    Args:
      start: starts one.
      count: how many there shall be.
    """

    def __init__(self, start: Callable[[], Worker], *, count: int) -> None:
        self._start = start
        self._count = count
        self._workers: list[Worker] = []
        self._newcomer: Worker | None = None  # on trial: it replaces another if it can serve
        self._early_deaths = 0  # in a row
        self._failed_starts = 0  # in a row
        self._running = False
        self._stopping = trio.Event()
        self._until_stopped = trio.CancelScope()
        self._exit_code = 0

    async def run(self, announce: Announce) -> int:
        """Start the workers, announce their addresses, and look after them until :meth:`stop`.

        SIGHUP replaces them, one after the other. It is over if the first one cannot start, or
        later on none any more.

        Returns:
          the exit code: 0 if all went well.
        """
        with trio.open_signal_receiver(signal.SIGHUP) as hangups:
            async with trio.open_nursery() as nursery:
                with self._until_stopped:
                    announce(await self._start_all(nursery))
                    self._running = True
                    async for _ in hangups:
                        await self._replace_all(nursery)
        return self._exit_code

    def stop(self, exit_code: int = 0) -> None:
        """Stop all workers gracefully; :meth:`run` returns when they have ended."""
        self._exit_code = exit_code
        self._stopping.set()
        self._until_stopped.cancel()
        for worker in self._workers:
            worker.stop()

    async def _start_all(self, nursery: trio.Nursery) -> list[str]:
        # The first one starts alone: what keeps it from starting would keep each of them from it,
        # and shall be said once.
        first = self._hire(nursery)
        await _wait_settled(first)
        others = [self._hire(nursery) for _ in range(1, self._count)]
        for worker in others:
            await _wait_settled(worker)
        return first.addresses or []

    async def _replace_all(self, nursery: trio.Nursery) -> None:
        await trio.lowlevel.checkpoint()
        logger.info("SIGHUP: the workers are replaced one by one")
        for old in list(self._workers):
            new = self._newcomer = self._hire(nursery)
            await _wait_settled(new)
            self._newcomer = None
            if not new.serves:
                logger.error("a new worker cannot start, so the old ones stay")
                return
            # If the old one has died meanwhile, it has got a successor already.
            (old if old in self._workers else new).stop()
        logger.info("the workers have been replaced")

    def _hire(self, nursery: trio.Nursery) -> Worker:
        worker = self._start()
        self._workers.append(worker)
        nursery.start_soon(self._look_after, worker, nursery)
        return worker

    async def _look_after(self, worker: Worker, nursery: trio.Nursery) -> None:
        await worker.run()
        self._workers.remove(worker)
        if self._stopping.is_set():
            self._exit_code = self._exit_code or int(worker.exit_code != 0)
        elif not worker.stopping.is_set() and worker is not self._newcomer:
            self._count_death(worker)
            if self._hopeless:
                self._give_up(worker)
            else:
                await self._replace(worker, nursery)

    def _count_death(self, worker: Worker) -> None:
        served = worker.addresses is not None
        self._failed_starts = 0 if served else self._failed_starts + 1
        # A worker that ends well has served its number of requests, or was sent a SIGTERM.
        ended_well = served and worker.exit_code == 0
        steady = trio.current_time() - worker.started >= STEADY
        self._early_deaths = 0 if ended_well or steady else self._early_deaths + 1

    @property
    def _hopeless(self) -> bool:
        if not self._running:
            return self._failed_starts > 0
        nobody_serves = not any(worker.serves for worker in self._workers)
        return nobody_serves and self._failed_starts >= MAX_FAILED_STARTS

    def _give_up(self, worker: Worker) -> None:
        # One that fails at the very start has said why, unless it was killed.
        if self._running or worker.exit_code < 0:
            logger.critical("no worker can start; the last exit code is %d", worker.exit_code)
        self.stop(max(worker.exit_code, 1))

    async def _replace(self, worker: Worker, nursery: trio.Nursery) -> None:
        pause = 0.0
        if self._early_deaths:
            pause = min(FIRST_PAUSE * 2.0 ** (self._early_deaths - 1), LONGEST_PAUSE)
        logger.log(
            logging.WARNING if worker.exit_code else logging.INFO,
            "worker %s has ended with exit code %d; another one starts in %g s",
            *(worker.process.pid, worker.exit_code, pause),
        )
        with trio.move_on_after(pause):
            await self._stopping.wait()
        if not self._stopping.is_set():
            self._hire(nursery)


async def _wait_settled(worker: Worker) -> None:
    await worker.settled.wait()
    # If its end is the end of all, this has been cancelled in the same moment.
    await trio.lowlevel.checkpoint_if_cancelled()
