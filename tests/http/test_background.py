"""Background tasks that fail at shutdown: it is logged, and no business of the lifespan's."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from tsstream import App

GRACE = 1.0  # seconds


class CleanupError(Exception):
    """What the tasks of these tests fail with."""


async def fail_in_cleanup() -> None:
    try:
        await trio.sleep_forever()
    finally:
        raise CleanupError


async def fail_beside_a_cancellation() -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)
        await fail_in_cleanup()


async def fail_twice_beside_a_cancellation() -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fail_in_cleanup)
        await fail_beside_a_cancellation()


tasks = pytest.mark.parametrize(
    ("task", "failures"),
    [
        (fail_in_cleanup, 1),
        (fail_beside_a_cancellation, 1),
        (fail_twice_beside_a_cancellation, 2),
    ],
)


async def start_soon(app: App[None], task: Callable[[], Awaitable[None]]) -> None:
    app.nursery.start_soon(task)


async def start(app: App[None], task: Callable[[], Awaitable[None]]) -> None:
    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        await task()

    await app.nursery.start(run)


def failures_in(record: logging.LogRecord) -> int:
    assert record.exc_info is not None
    assert record.exc_info[1] is not None
    error = record.exc_info[1]
    leaves = list(flatten(error))
    assert {type(leaf) for leaf in leaves} == {CleanupError}  # nothing of the cancellation
    return len(leaves)


def flatten(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in flatten(inner)]
    return [error]


@tasks
@pytest.mark.parametrize("how", [start_soon, start])
async def test_a_task_that_fails_while_it_is_cancelled_at_shutdown_is_logged_and_ends_alone(
    task: Any, failures: int, how: Any, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    # D50
    app: App[None] = App(background_grace=GRACE)
    async with app.open_lifespan():
        await how(app, task)
    assert trio.current_time() == GRACE
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.getMessage().startswith("background task ")
    assert failures_in(record) == failures


@tasks
async def test_the_server_is_told_of_a_complete_shutdown_though_such_a_task_fails(
    task: Any, failures: int, autojump_clock: MockClock
) -> None:
    # D50
    app: App[None] = App(background_grace=GRACE)
    sent: list[str] = []
    events = ["lifespan.startup", "lifespan.shutdown"]

    async def receive() -> Any:
        if len(events) == 1:
            app.nursery.start_soon(task)
            await trio.testing.wait_all_tasks_blocked()
        return {"type": events.pop(0)}

    async def send(message: Any) -> None:
        sent.append(message["type"])

    await app({"type": "lifespan"}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


async def test_a_cancellation_of_the_server_passes_a_task_that_fails(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    # D40: what is logged is the error, what goes on is the cancellation
    app: App[None] = App()
    with trio.move_on_after(1) as scope:
        async with app.open_lifespan():
            app.nursery.start_soon(fail_beside_a_cancellation)
            await trio.sleep_forever()
    assert scope.cancelled_caught
    (record,) = caplog.records
    assert failures_in(record) == 1
