"""What an app does otherwise on the guarded server, and what it hears from it."""

from __future__ import annotations

import copy
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
from asgi import Server, chunk, make_app
from farewells import Life, on_guarded
from probes import logged
from trio.testing import MockClock, wait_all_tasks_blocked
from wire import open_server

from tsstream import App, HTTPError, Request, Response
from tsstream._asgi import Receive, Scope, Send
from tsstream._errors import is_logged, mark_logged
from tsstream._http.host import CLIENT, EXTENSION, Client, Host, client_of, host_of
from tsstream._http.lifespan import _warn_of_bare_hypercorn
from tsstream.testing import open_client

# Who is the server?


def test_the_host_is_found_in_the_scope() -> None:
    host = Host()
    assert host_of({"extensions": on_guarded(host)}) is host


@pytest.mark.parametrize(
    "scope",
    [{}, {"extensions": None}, {"extensions": {}}, {"extensions": {EXTENSION: {}}}],
    ids=repr,
)
def test_another_server_has_none(scope: Scope) -> None:
    assert host_of(scope) is None


def test_the_host_and_the_client_survive_a_copy_of_the_scope() -> None:
    # Hypercorn's ProxyFixMiddleware makes one.
    host, client = Host(), Client()
    scope = copy.deepcopy({"extensions": {**on_guarded(host), CLIENT: client}, "headers": []})
    assert host_of(scope) is host
    assert client_of(scope) is client


# The rest of a request's body is the guarded server's to drop


async def never_read(request: object) -> Response:
    return Response(b"no, thank you")


async def stream_cut(request: object) -> Response:
    return Response(break_off())


async def break_off() -> AsyncGenerator[bytes, None]:
    yield b"abc"
    raise ValueError


@pytest.mark.parametrize(
    ("extensions", "waits"), [(on_guarded(), 0), ({}, 1)], ids=["ours", "other"]
)
async def test_the_end_does_not_wait_for_an_unread_body(
    extensions: Any, waits: float, autojump_clock: MockClock
) -> None:
    server = Server(chunk(b"1"), chunk(b"2"))
    await server.call(make_app(never_read), "POST", extensions=extensions)
    assert server.ok
    assert server.times[-1] == waits


@pytest.mark.parametrize("lifespan", [True, False])
async def test_nothing_is_read_any_more_when_a_response_was_cut(
    lifespan: bool, autojump_clock: MockClock
) -> None:
    app = make_app(stream_cut)
    server = Server(chunk(b"1"), chunk(b"2"))
    async with open_lifespan_if(app, lifespan):
        await server.call(app, "POST", extensions=on_guarded())
        assert not server.complete
        assert trio.current_time() == 0
        reads = server.reads
        await wait_all_tasks_blocked()
        assert server.reads == reads


@asynccontextmanager
async def open_lifespan_if(app: App[Any], opened: bool) -> AsyncIterator[None]:
    if opened:
        async with app.open_lifespan():
            yield
    else:
        yield


@pytest.mark.parametrize(("extensions", "warned"), [(on_guarded(), False), ({}, True)])
async def test_a_cut_of_http_1_0_is_a_reset_there(
    extensions: Any, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    # D46, HOST fault 12
    server = Server()
    await server.call(make_app(stream_cut), http_version="1.0", extensions=extensions)
    assert not server.complete
    assert any("undetectable" in line for line in logged(caplog)) is warned


# What the log knows already


async def test_an_error_that_is_raised_to_the_server_says_that_it_was_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = Server()
    await server.call(make_app(stream_cut))
    assert logged(caplog) == ["ERROR GET /: stream failed after 3 bytes"]
    assert server.error is not None
    assert is_logged(server.error)


async def test_an_error_that_a_test_client_asked_for_says_so_too() -> None:
    def fail(request: object) -> Response:
        raise ValueError

    server = Server()
    await server.call(make_app(fail), extensions={"tsstream.raise_errors": {}})
    assert isinstance(server.error, ValueError)
    assert is_logged(server.error)


async def test_a_refusal_that_is_left_to_a_middleware_is_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    refusal = HTTPError(413)
    server = Server(chunk(b"1"), refusal)

    async def handler(request: Request) -> str:
        return await request.text()

    await server.call(make_app(handler), "POST")
    assert server.error is refusal
    assert logged(caplog) == []
    assert not is_logged(refusal)


def test_a_group_is_marked_with_all_that_is_in_it() -> None:
    inner = ValueError()
    outer = ExceptionGroup("outer", [ExceptionGroup("inner", [inner]), KeyError()])
    mark_logged(outer)
    assert is_logged(outer)
    assert is_logged(inner)


@attrs.frozen
class Frozen(Exception):
    """Cannot be given an attribute."""


class Broken(Exception):
    """Cannot even be asked for one."""

    def __getattr__(self, name: str) -> object:
        raise RuntimeError

    def __setattr__(self, name: str, value: object) -> None:
        raise RuntimeError


@pytest.mark.parametrize("kind", [Frozen, Broken])
def test_an_error_that_cannot_be_marked_is_left_alone(kind: type[Exception]) -> None:
    error = kind()
    mark_logged(error)
    assert not is_logged(error)


# A bare Hypercorn worker


@pytest.fixture
def forgotten() -> Iterator[None]:
    """The process has not been warned yet; and is afterwards."""
    _warn_of_bare_hypercorn.cache_clear()
    yield
    _warn_of_bare_hypercorn()


@pytest.mark.usefixtures("forgotten")
async def test_a_bare_hypercorn_worker_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    # HOST, the rules that follow
    for _ in range(2):
        async with open_server(App()):
            pass
    (record,) = [record for record in caplog.records if record.name == "tsstream"]
    assert record.levelno == logging.WARNING
    text = record.getMessage()
    assert "tsstream run" in text
    assert "tsstream.serve" in text
    assert "\n" not in text


@pytest.mark.usefixtures("forgotten")
@pytest.mark.parametrize("host", [Host(), None], ids=["ours", "other"])
async def test_other_servers_are_not_warned_of(
    host: Host | None, caplog: pytest.LogCaptureFixture
) -> None:
    life = Life(App(), host)
    life.end()
    await life.run()
    async with open_client(App()):
        pass
    assert logged(caplog) == []


@pytest.mark.usefixtures("forgotten")
async def test_the_guarded_server_is_known_though_its_lifespan_is_hypercorns(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app: App[None] = App()

    async def as_guarded(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "extensions": on_guarded()}, receive, send)

    async with open_server(as_guarded):
        pass
    assert logged(caplog) == []
