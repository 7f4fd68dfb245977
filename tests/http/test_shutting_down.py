"""``App.shutting_down``: when it is set, on which server, and for which app."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from asgi import Server, make_app
from farewells import Life, on_guarded
from trio.testing import MockClock, wait_all_tasks_blocked

from tsstream import App, Response
from tsstream._http.host import Host
from tsstream.testing import open_client


async def never_read(request: object) -> Response:
    return Response(b"no, thank you")


async def ask(app: App[Any], path: str = "/", host: Host | None = None) -> Server:
    server = Server()
    await server.call(app, path=path, extensions={} if host is None else on_guarded(host))
    return server


def test_an_app_that_has_not_been_served_is_not_shutting_down() -> None:
    assert not App().shutting_down.is_set()


async def test_it_is_set_as_soon_as_the_guarded_server_begins_to_shut_down() -> None:
    # HOST fault 15
    host = Host()
    app: App[None] = App()
    life = Life(app, host)
    async with trio.open_nursery() as nursery:
        await nursery.start(life.run)
        event = app.shutting_down
        assert not event.is_set()
        host.shutting_down.set()
        assert event.is_set()
        life.end()


async def test_it_is_set_even_while_the_lifespan_is_starting() -> None:
    host = Host()
    seen: list[str] = []

    @asynccontextmanager
    async def lifespan(app: App[None]) -> AsyncIterator[None]:
        await app.shutting_down.wait()
        seen.append("hurry")
        yield

    life = Life(App(lifespan=lifespan), host)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(life.run)
        await wait_all_tasks_blocked()
        host.shutting_down.set()
        life.end()
    assert seen == ["hurry"]


async def test_other_servers_set_it_when_they_end_the_lifespan() -> None:
    seen: list[bool] = []

    @asynccontextmanager
    async def lifespan(app: App[None]) -> AsyncIterator[None]:
        yield
        seen.append(app.shutting_down.is_set())

    app: App[None] = App(lifespan=lifespan)
    async with open_client(app):
        event = app.shutting_down
        assert not event.is_set()
    assert event.is_set()
    assert seen == [True]


@pytest.mark.parametrize("host", [Host(), None], ids=["ours", "other"])
async def test_background_tasks_can_end_by_it(host: Host | None, autojump_clock: MockClock) -> None:
    # D50: within the background_grace, and not at its end
    log: list[str] = []
    app: App[None] = App()

    async def work() -> None:
        await app.shutting_down.wait()
        await trio.sleep(1)
        log.append("done")

    life = Life(app, host)
    async with trio.open_nursery() as nursery:
        await nursery.start(life.run)
        app.nursery.start_soon(work)
        await wait_all_tasks_blocked()
        if host is not None:
            host.shutting_down.set()
        life.end()
    assert log == ["done"]
    assert trio.current_time() == 1


@pytest.mark.parametrize("hosted", [True, False], ids=["ours", "other"])
async def test_an_app_that_is_served_twice_gets_a_fresh_one(hosted: bool) -> None:
    app: App[None] = App()
    events: list[trio.Event] = []
    for _ in range(2):
        host = Host() if hosted else None
        life = Life(app, host)
        async with trio.open_nursery() as nursery:
            await nursery.start(life.run)
            events.append(app.shutting_down)
            assert not app.shutting_down.is_set()
            if host is not None:
                host.shutting_down.set()
            life.end()
        assert app.shutting_down.is_set()
    assert events[0] is not events[1]


async def test_an_app_that_was_on_the_guarded_server_can_go_to_another() -> None:
    app: App[None] = App()
    host = Host()
    for life in (Life(app, host), Life(app)):
        async with trio.open_nursery() as nursery:
            await nursery.start(life.run)
            assert not app.shutting_down.is_set()
            host.shutting_down.set()
            life.end()


@pytest.mark.parametrize("hosted", [True, False], ids=["ours", "other"])
async def test_mounted_apps_hear_it_with_the_app_that_they_are_in(hosted: bool) -> None:
    inner: App[None] = App()
    outer: App[None] = App()
    outer.mount("/a", inner)
    outer.mount("/self", outer)
    heard: list[str] = []

    async def work(name: str, app: App[None], other: App[None]) -> None:
        await app.shutting_down.wait()
        if other.shutting_down.is_set():
            heard.append(name)

    host = Host() if hosted else None
    life = Life(outer, host)
    async with trio.open_nursery() as nursery:
        await nursery.start(life.run)
        inner.nursery.start_soon(work, "inner", inner, outer)
        outer.nursery.start_soon(work, "outer", outer, inner)
        await wait_all_tasks_blocked()
        assert heard == []
        if host is not None:
            host.shutting_down.set()
            await wait_all_tasks_blocked()
            assert sorted(heard) == ["inner", "outer"]
        life.end()
    assert sorted(heard) == ["inner", "outer"]


async def test_an_app_without_a_lifespan_hears_it_by_its_requests() -> None:
    host = Host()
    app = make_app(never_read)
    await ask(app, host=host)
    assert not app.shutting_down.is_set()
    host.shutting_down.set()
    assert app.shutting_down.is_set()


async def test_an_app_whose_lifespan_was_opened_by_hand_hears_it_by_its_requests(
    autojump_clock: MockClock,
) -> None:
    # Under Starlette, say. Whoever waits since before the first request hears it too.
    host = Host()
    app = make_app(never_read)
    async with app.open_lifespan():
        early = app.shutting_down
        for _ in range(2):
            await ask(app, host=host)
        late = app.shutting_down
        host.shutting_down.set()
        await wait_all_tasks_blocked()
        assert early.is_set()
        assert late.is_set()
    assert trio.current_time() == 0


async def test_such_an_app_goes_by_the_server_of_its_last_request() -> None:
    app = make_app(never_read)
    hosts = [Host(), Host()]
    async with app.open_lifespan():
        for host in hosts:
            server = await ask(app, host=host)
            assert server.ok
            assert not app.shutting_down.is_set()
            host.shutting_down.set()
            assert app.shutting_down.is_set()


async def test_listening_for_the_server_does_not_hold_up_the_end_of_the_lifespan(
    autojump_clock: MockClock,
) -> None:
    app = make_app(never_read)
    async with app.open_lifespan():
        await ask(app, host=Host())
        event = app.shutting_down
        assert not event.is_set()
    assert trio.current_time() == 0
    assert app.shutting_down.is_set()
