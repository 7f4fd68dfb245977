"""A leak detector: the tasks, threads and file descriptors of before, and no more."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import AsyncIterator, Hashable, Mapping
from contextlib import asynccontextmanager
from typing import TypeAlias

import attrs
import trio
import trio.testing
from trio._core._thread_cache import THREAD_CACHE

Things: TypeAlias = Mapping[Hashable, str]  # what tells one from another -> how to call it

POLL_INTERVAL = 0.005  # seconds between two looks


@attrs.frozen
class Census:
    """What is alive at one moment, each thing with a name for the report."""

    tasks: Things
    threads: Things
    fds: Things

    def left_since(self, before: Census) -> list[str]:
        """Name what is new, kind by kind, wherever there is more of a kind than *before*."""
        return [
            *_more("task", before.tasks, self.tasks),
            *_more("thread", before.threads, self.threads),
            *_more("file descriptor", before.fds, self.fds),
        ]


def take_census() -> Census:
    """Count every task of this run, and every working thread and open fd of this process."""
    return Census(_tasks(), _threads(), _fds())


@asynccontextmanager
async def assert_no_leaks(*, grace: float = 1.0) -> AsyncIterator[None]:
    """Fail if the block leaves more tasks, threads or file descriptors than it found.

    What is left gets *grace* real seconds to go away; under a
    :class:`trio.testing.MockClock` no virtual time passes meanwhile. Idle threads of Trio's
    cache do not count. A block that raises is not checked. Only counts decide, so a task that
    has replaced another is no leak.

    Put it round the whole of what is tested, the client included::

        async with open_server(app) as port:
            async with assert_no_leaks():
                async with open_raw(port) as raw:
                    ...

    Raises:
      AssertionError: naming each thing that is left.
    """
    before = take_census()
    yield
    deadline = time.monotonic() + grace
    while left := take_census().left_since(before):
        if time.monotonic() > deadline:
            raise AssertionError(f"left behind after {grace} s:\n  " + "\n  ".join(left))
        await _wait_a_little()


async def _wait_a_little() -> None:
    if isinstance(trio.lowlevel.current_clock(), trio.testing.MockClock):
        # A sleep would let virtual time jump, and ripen timers that nobody waits for.
        await trio.testing.wait_all_tasks_blocked()
        time.sleep(POLL_INTERVAL)  # noqa: ASYNC251  # for threads, which live in real time
    else:
        await trio.sleep(POLL_INTERVAL)


def _more(kind: str, before: Things, now: Things) -> list[str]:
    if len(now) <= len(before):
        return []
    return [f"{kind} {name}" for key, name in now.items() if key not in before]


def _tasks() -> Things:
    root = trio.lowlevel.current_root_task()
    found: dict[Hashable, str] = {}
    unseen = [] if root is None else [root]
    while unseen:
        task = unseen.pop()
        found[task] = f"{task.name} (child of {_parent_name(task)})"
        unseen += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
    return found


def _parent_name(task: trio.lowlevel.Task) -> str:
    nursery = task.parent_nursery
    return "nobody" if nursery is None else nursery.parent_task.name


def _threads() -> Things:
    # Trio keeps a worker for 10 s after its work. Only its cache knows an idle one from one that
    # is about to run: names and stack frames do not tell them apart.
    idle = {worker._thread for worker in list(THREAD_CACHE._idle_workers)}
    return {thread: repr(thread.name) for thread in threading.enumerate() if thread not in idle}


def _fds() -> Things:
    found: dict[Hashable, str] = {}
    for number in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:
            continue  # the one that listed the directory
        found[number, target] = f"{number} ({target})"
    return found
