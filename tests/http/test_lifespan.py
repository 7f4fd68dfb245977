"""The life of an app: its state, its protocol with the server, and its nursery."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import attrs
import pytest
import trio
from asgi import Server, make_app
from trio.testing import MockClock, wait_all_tasks_blocked

from tsstream import App, Request, Response
from tsstream.testing import open_client


@attrs.define
class State:
    """What a lifespan may yield."""

    log: list[str] = attrs.Factory(list)


def logging_lifespan(name: str, log: list[str]) -> Any:
    @asynccontextmanager
    async def lifespan(app: App[State]) -> AsyncIterator[State]:
        log.append(f"enter {name}")
        yield State(log)
        log.append(f"exit {name}")

    return lifespan


async def speak(app: App[Any]) -> list[Any]:
    """Give what the app answers to a startup and a shutdown."""
    events = ["lifespan.startup", "lifespan.shutdown"]
    sent: list[Any] = []

    async def receive() -> Any:
        await trio.lowlevel.checkpoint()
        return {"type": events.pop(0)}

    async def send(message: Any) -> None:
        sent.append(message)

    await app({"type": "lifespan"}, receive, send)
    return sent


COMPLETE = [{"type": "lifespan.startup.complete"}, {"type": "lifespan.shutdown.complete"}]


# State


async def test_the_state_is_what_the_lifespan_yielded() -> None:
    log: list[str] = []
    app: App[State] = App(lifespan=logging_lifespan("app", log))

    @app.get("/")
    async def handler(request: Request[State]) -> Response:
        request.state.log.append("request")
        assert request.app is app
        assert request.state is app.state
        return Response()

    async with open_client(app) as client:
        await client.get("/")
    assert log == ["enter app", "request", "exit app"]


def test_an_app_without_a_lifespan_has_no_state() -> None:
    assert App().state is None


@pytest.mark.parametrize("name", ["state", "nursery"])
async def test_what_needs_the_lifespan_tells_how_to_run_it(name: str) -> None:
    app: App[State] = App(lifespan=logging_lifespan("app", []))
    for _ in range(2):  # before and after it ran
        with pytest.raises(RuntimeError, match=r"async with app\.open_lifespan"):
            getattr(app, name)
        async with app.open_lifespan():
            getattr(app, name)


@pytest.mark.parametrize("name", ["state", "nursery"])
@pytest.mark.parametrize("when", ["before", "after", "after an error"])
async def test_the_lifespan_itself_is_told_to_open_a_nursery_of_its_own(
    name: str, when: str
) -> None:
    asked: list[str] = []

    def ask(app: App[None]) -> None:
        with pytest.raises(RuntimeError, match=r"once the lifespan has yielded, .* of its own"):
            getattr(app, name)
        asked.append(name)

    @asynccontextmanager
    async def lifespan(app: App[None]) -> AsyncIterator[None]:
        if when == "before":
            ask(app)
        try:
            yield
        finally:
            if when != "before":
                ask(app)

    with suppress(KeyError):
        async with App(lifespan=lifespan).open_lifespan():
            if when == "after an error":
                raise KeyError
    assert asked == [name]


async def test_a_lifespan_runs_once_at_a_time() -> None:
    app: App[None] = App()
    async with app.open_lifespan():
        with pytest.raises(RuntimeError, match="running already"):
            async with app.open_lifespan():
                pass
    async with app.open_lifespan():
        pass


async def test_the_lifespans_of_mounted_apps_are_part_of_it() -> None:
    log: list[str] = []
    app: App[State] = App(lifespan=logging_lifespan("outer", log))
    inner: App[State] = App(lifespan=logging_lifespan("inner", log))
    app.mount("/a", inner)
    app.mount("/b", inner)
    async with app.open_lifespan():
        assert inner.state.log is log
    assert log == ["enter inner", "enter outer", "exit outer", "exit inner"]


async def test_an_app_that_two_mounted_apps_mount_has_one_lifespan() -> None:
    log: list[str] = []
    top: App[State] = App(lifespan=logging_lifespan("top", log))
    shared: App[State] = App(lifespan=logging_lifespan("shared", log))
    for prefix in ("/left", "/right"):
        side: App[None] = App()
        side.mount("/shared", shared)
        top.mount(prefix, side)
    async with top.open_lifespan():
        assert shared.state.log is log
    assert log == ["enter shared", "enter top", "exit top", "exit shared"]


async def test_open_lifespan_gives_the_state() -> None:
    app: App[State] = App(lifespan=logging_lifespan("app", []))
    async with app.open_lifespan() as state:
        assert state is app.state


# The protocol


@pytest.mark.parametrize("with_lifespan", [True, False])
async def test_startup_and_shutdown_are_answered(with_lifespan: bool) -> None:
    app: App[Any] = App(lifespan=logging_lifespan("app", [])) if with_lifespan else App()
    assert await speak(app) == COMPLETE


async def failing_startup(app: object) -> AsyncIterator[None]:
    raise ValueError("no database")
    yield


async def failing_shutdown(app: object) -> AsyncIterator[None]:
    yield
    raise ValueError("no database")


@pytest.mark.parametrize(
    ("lifespan", "sent", "stage"),
    [(failing_startup, [], "startup"), (failing_shutdown, COMPLETE[:1], "shutdown")],
)
async def test_a_lifespan_that_fails_is_told_to_the_server_and_the_log(
    lifespan: Any, sent: list[Any], stage: str, caplog: pytest.LogCaptureFixture
) -> None:
    app: App[None] = App(lifespan=asynccontextmanager(lifespan))
    failed = {"type": f"lifespan.{stage}.failed", "message": "no database"}
    assert await speak(app) == [*sent, failed]
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.getMessage() == f"the app's lifespan failed at its {stage}"
    assert record.exc_info is not None


async def test_a_lifespan_that_breaks_while_it_serves_has_not_failed_to_start(
    autojump_clock: MockClock,
) -> None:
    @asynccontextmanager
    async def lifespan(app: object) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(break_later)
            yield

    async def break_later() -> None:
        await trio.sleep(1)
        raise ValueError("broken")

    sent: list[str] = []
    started = [{"type": "lifespan.startup"}]

    async def receive() -> Any:
        if not started:
            await trio.sleep_forever()
        return started.pop()

    async def send(message: Any) -> None:
        sent.append(message["type"])

    await App(lifespan=lifespan)({"type": "lifespan"}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.failed"]


# The nursery


def in_background(task: Any) -> App[None]:
    app: App[None] = App()

    @app.get("/")
    async def handler(request: Request[None]) -> Response:
        request.app.nursery.start_soon(task)
        return Response(b"ok")

    return app


async def test_a_background_task_outlives_its_request(autojump_clock: MockClock) -> None:
    # D50
    log: list[str] = []

    async def task() -> None:
        await trio.sleep(1)
        log.append("done")

    async with open_client(in_background(task)) as client:
        assert (await client.get("/")).text == "ok"
        assert log == []
        await trio.sleep(2)
        assert log == ["done"]


async def test_a_background_task_outlives_its_client(autojump_clock: MockClock) -> None:
    # D15
    log: list[str] = []

    async def task() -> None:
        await trio.sleep(1)
        log.append("done")

    async def handler(request: Request[None]) -> Response:
        request.app.nursery.start_soon(task)
        await trio.sleep_forever()
        raise AssertionError

    app = make_app(handler)
    server = Server()
    async with app.open_lifespan(), trio.open_nursery() as nursery:
        nursery.start_soon(server.call, app)
        await wait_all_tasks_blocked()
        server.leave()
        await server.over.wait()
        assert log == []
        await trio.sleep(2)
        assert log == ["done"]


async def test_a_background_task_that_fails_is_logged_and_ends_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # D50
    async def task() -> None:
        raise ValueError("broken")

    async with open_client(in_background(task)) as client:
        for _ in range(2):
            assert (await client.get("/")).text == "ok"
            await wait_all_tasks_blocked()
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2
    assert "background task" in caplog.text
    assert "ValueError: broken" in caplog.text


@pytest.mark.parametrize(("grace", "finished"), [(None, True), (3.0, False), (6.0, True)])
async def test_background_tasks_are_given_their_grace_at_shutdown(
    grace: float | None, finished: bool, autojump_clock: MockClock
) -> None:
    # D50
    log: list[str] = []

    async def task() -> None:
        try:
            await trio.sleep(4)
            log.append("finished")
        finally:
            log.append("ended")

    app: App[None] = App() if grace is None else App(background_grace=grace)
    async with app.open_lifespan():
        app.nursery.start_soon(task)
    assert log == (["finished", "ended"] if finished else ["ended"])
    assert trio.current_time() == (4 if finished else grace)


async def test_background_tasks_have_the_lifespan_as_long_as_they_run(
    autojump_clock: MockClock,
) -> None:
    # D50
    log: list[str] = []
    app: App[State] = App(lifespan=logging_lifespan("app", log))

    async def task() -> None:
        await trio.sleep(1)
        app.nursery.start_soon(last)
        app.state.log.append("task")

    async def last() -> None:
        app.state.log.append("last")

    async with app.open_lifespan():
        app.nursery.start_soon(task)
    assert log == ["enter app", "task", "last", "exit app"]


async def test_the_grace_is_not_for_the_lifespan_itself(autojump_clock: MockClock) -> None:
    log: list[str] = []

    @asynccontextmanager
    async def lifespan(app: object) -> AsyncIterator[None]:
        yield
        await trio.sleep(100)
        log.append("closed")

    async with App(lifespan=lifespan, background_grace=1).open_lifespan():
        pass
    assert log == ["closed"]


async def test_start_gives_what_the_task_has_started_with() -> None:
    async def task(number: int, *, task_status: trio.TaskStatus[int]) -> None:
        task_status.started(number + 1)

    app: App[None] = App()
    async with app.open_lifespan():
        assert await app.nursery.start(task, 1) == 2


async def test_an_error_before_a_task_has_started_is_the_starters(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def task(*, task_status: trio.TaskStatus[None]) -> None:
        raise ValueError

    app: App[None] = App()
    async with app.open_lifespan():
        with pytest.raises(ValueError, match=r"^$"):
            await app.nursery.start(task)
    assert not caplog.records


async def test_an_error_after_a_task_has_started_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def task(*, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        raise ValueError

    app: App[None] = App()
    async with app.open_lifespan():
        await app.nursery.start(task)
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


async def test_all_background_tasks_can_be_cancelled(autojump_clock: MockClock) -> None:
    app: App[None] = App()
    async with app.open_lifespan():
        app.nursery.start_soon(trio.sleep_forever)
        app.nursery.cancel_scope.cancel()
    assert trio.current_time() == 0


async def test_an_error_in_the_block_ends_the_background_tasks_at_once(
    autojump_clock: MockClock,
) -> None:
    app: App[None] = App()
    with pytest.raises(KeyError):
        async with app.open_lifespan():
            app.nursery.start_soon(trio.sleep_forever)
            raise KeyError
    assert trio.current_time() == 0


async def test_a_background_task_has_a_name() -> None:
    names: list[str] = []

    async def task() -> None:
        names.append(trio.lowlevel.current_task().name)

    app: App[None] = App()
    async with app.open_lifespan():
        app.nursery.start_soon(task)
        app.nursery.start_soon(task, name="renamed")
    assert {name.rpartition(".")[2] for name in names} == {"task", "renamed"}
