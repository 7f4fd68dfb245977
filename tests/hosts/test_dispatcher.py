"""Apps under Hypercorn's TrioDispatcherMiddleware, behind proxies, and inside one another."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
import trio
from hosted import Hosted, ask, check_disconnect, check_streaming, get, read_cut
from hypercorn.middleware import TrioWSGIMiddleware
from hypercorn.middleware.dispatcher import TrioDispatcherMiddleware
from hypercorn.utils import LifespanTimeoutError
from leaks import assert_no_leaks
from starlette.applications import Starlette
from starlette.requests import Request as StarletteRequest
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket
from trio_websocket import open_websocket
from wire import open_server

from tsstream import App, Request
from tsstream._asgi import ASGIApp, Receive, Send


@pytest.fixture
def hosted() -> Hosted:
    return Hosted()


def dispatcher(**apps: ASGIApp) -> Any:
    return TrioDispatcherMiddleware(
        {f"/{name}": cast("Any", application) for name, application in apps.items()}
    )


# Under the dispatcher.


async def test_each_app_sees_its_own_path() -> None:
    one, two = Hosted(), Hosted()
    async with open_server(dispatcher(one=one.app, two=two.app)) as port:
        bodies = [(await get(port, path))[2] for path in ("/one/where", "/two/where/x", "/two")]
    assert [json.loads(body) for body in bodies] == [
        ["/one", "/where", {}],
        ["/two", "/where/x", {"name": "x"}],
        ["/two", "/", {}],
    ]


async def test_the_dispatcher_runs_all_lifespans() -> None:
    """It hands one scope to all of them."""
    one, two = Hosted(), Hosted()
    async with open_server(dispatcher(one=one.app, two=two.app)) as port:
        for path in ("/one/state", "/two/state"):
            assert (await get(port, path))[2] == b"state"
    assert one.events == two.events == ["startup", "shutdown"]


async def test_streaming_stays_streaming_under_the_dispatcher(hosted: Hosted) -> None:
    async with open_server(dispatcher(one=hosted.app)) as port:
        await check_streaming(hosted, port, "/one/two")


async def test_a_disconnect_cancels_the_producers_under_the_dispatcher(hosted: Hosted) -> None:
    """AC-50."""
    async with open_server(dispatcher(one=hosted.app)) as port, assert_no_leaks():
        await check_disconnect(hosted, port, "/one/endless")


async def test_a_failed_body_is_visibly_cut_under_the_dispatcher(hosted: Hosted) -> None:
    """D10."""
    async with open_server(dispatcher(one=hosted.app)) as port:
        assert await read_cut(hosted, port, "/one/cut") == b"first "


async def test_open_lifespan_serves_apps_that_the_dispatcher_shares(hosted: Hosted) -> None:
    """One app under two prefixes: the dispatcher cannot run its lifespan twice, its owner once."""

    async def http_only(scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            raise NotImplementedError  # ASGI's way to say that there is none
        await shared(scope, receive, send)

    shared = dispatcher(one=hosted.app, two=hosted.app)
    async with hosted.app.open_lifespan(), open_server(http_only) as port:
        assert (await get(port, "/one/state"))[2] == b"state"
        assert (await get(port, "/two/state"))[2] == b"state"


async def test_a_failed_startup_is_logged_though_the_dispatcher_keeps_it_to_itself(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Hypercorn 0.18: it waits for ``complete`` alone, until the server's ``startup_timeout``."""

    @asynccontextmanager
    async def lifespan(app: App[None]) -> AsyncIterator[None]:
        raise OSError("no database")
        yield

    app = App(lifespan=lifespan)
    with pytest.raises(LifespanTimeoutError):
        async with open_server(dispatcher(one=app), startup_timeout=0.2):
            pass
    assert "the app's lifespan failed at its startup" in caplog.text
    assert "no database" in caplog.text


# Behind a proxy, with a root_path that the server was told.


async def test_root_path_of_a_proxy_that_passes_the_whole_path_on(hosted: Hosted) -> None:
    async with open_server(hosted.app, root_path="/proxy") as port:
        _, _, body = await get(port, "/proxy/where/x")
    assert json.loads(body) == ["/proxy", "/where/x", {"name": "x"}]


async def test_root_path_of_a_proxy_that_removes_it(hosted: Hosted) -> None:
    async with open_server(hosted.app, root_path="/proxy") as port:
        _, _, body = await get(port, "/where/x")
    assert json.loads(body) == ["/proxy", "/where/x", {"name": "x"}]


@pytest.mark.parametrize("path", ["/proxy/inner/where/x", "/inner/where/x"])
async def test_a_sub_app_behind_either_proxy(hosted: Hosted, path: str) -> None:
    outer = App()
    outer.mount("/inner", hosted.app)
    async with open_server(outer, root_path="/proxy") as port:
        status, _, body = await get(port, path)
    assert status == 200
    assert json.loads(body) == ["/proxy/inner", "/where/x", {"name": "x"}]


@pytest.mark.parametrize("path", ["/proxy/old/x", "/old/x"])
async def test_a_foreign_app_inside_ours_behind_either_proxy(path: str) -> None:
    outer = App()
    outer.mount("/old", starlette_app())
    async with open_server(outer, root_path="/proxy") as port:
        status, _, body = await get(port, path)
    assert (status, body) == (200, b"x under /proxy/old")


async def test_an_app_in_starlette_behind_a_proxy_that_keeps_its_prefix(hosted: Hosted) -> None:
    app = Starlette(routes=[Mount("/live", app=hosted.app)])
    async with open_server(app, root_path="/proxy") as port:
        _, _, body = await get(port, "/proxy/live/where/x")
    assert json.loads(body) == ["/proxy/live", "/where/x", {"name": "x"}]


def restoring(app: ASGIApp) -> ASGIApp:
    """Put back what the proxy has removed, as ASGI has it; Hypercorn 0.18 leaves that to others."""

    async def restored(scope: Any, receive: Receive, send: Send) -> None:
        if "path" in scope:
            scope = {**scope, "path": scope["root_path"] + scope["path"]}
        await app(scope, receive, send)

    return restored


@pytest.mark.parametrize("restored", [False, True])
async def test_an_app_in_starlette_behind_a_proxy_that_removes_its_prefix(
    hosted: Hosted, restored: bool
) -> None:
    """Starlette takes the path as it comes, and ours sees a root_path that is no part of it."""
    app = Starlette(routes=[Mount("/live", app=hosted.app)])
    async with open_server(restoring(app) if restored else app, root_path="/proxy") as port:
        status, _, body = await get(port, "/live/where/x")
    if restored:
        assert json.loads(body) == ["/proxy/live", "/where/x", {"name": "x"}]
    else:
        assert status == 404  # as for any Starlette that is mounted in Starlette


@pytest.mark.parametrize("path", ["/proxy/one/where/x", "/one/where/x"])
async def test_the_dispatcher_does_not_work_behind_a_prefix(hosted: Hosted, path: str) -> None:
    """A fact of Hypercorn 0.18: it compares its mounts with the path, and adds to root_path."""
    async with open_server(dispatcher(one=hosted.app), root_path="/proxy") as port:
        assert (await get(port, path))[0] == 404


# Others inside an App.


def starlette_app() -> Starlette:
    async def item(request: StarletteRequest) -> PlainTextResponse:
        name = request.path_params["name"]
        return PlainTextResponse(f"{name} under {request.scope['root_path']}")

    async def shout(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text((await websocket.receive_text()).upper())
        await websocket.close()

    return Starlette(routes=[Route("/{name}", item), WebSocketRoute("/ws", shout)])


async def test_starlette_inside_an_app() -> None:
    outer = App()
    outer.mount("/old", starlette_app())
    async with open_server(outer) as port:
        assert (await get(port, "/old/x"))[2] == b"x under /old"
        assert (await get(port, "/old/x/y"))[0] == 404


async def test_a_websocket_goes_to_the_app_that_is_mounted_there() -> None:
    outer, inner = App(), App()
    outer.mount("/inner", inner)
    inner.mount("/old", starlette_app())
    async with open_server(outer) as port:
        with trio.fail_after(5):
            async with open_websocket(
                "127.0.0.1", port, "/inner/old/ws", use_ssl=False
            ) as websocket:
                await websocket.send_message("hello")
                assert await websocket.get_message() == "HELLO"


async def test_a_raw_asgi_app_gets_the_whole_path_and_the_prefix() -> None:
    """ASGI: ``path`` keeps what ``root_path`` names."""
    outer, seen = App(), list[Any]()

    async def raw(scope: Any, receive: Receive, send: Send) -> None:
        seen.append((scope["path"], scope["root_path"], scope["raw_path"]))
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    outer.mount("/raw", raw)
    async with open_server(outer) as port:
        assert (await get(port, "/raw/a%20b"))[0] == 204
    assert seen == [("/raw/a b", "/raw", b"/raw/a%20b")]


async def test_a_mounted_app_does_not_change_its_hosts_scope(hosted: Hosted) -> None:
    outer, scopes = App(), list[Any]()
    outer.mount("/inner", hosted.app)

    async def watching(scope: Any, receive: Receive, send: Send) -> None:
        scopes.append(scope)
        await outer(scope, receive, send)

    async with open_server(watching) as port:
        await get(port, "/inner/where")
    assert scopes[-1]["root_path"] == ""
    assert scopes[-1]["path"] == "/inner/where"


async def test_a_failure_of_a_foreign_app_is_its_hosts_to_cut(hosted: Hosted) -> None:
    outer = App()

    async def failing(scope: Any, receive: Receive, send: Send) -> None:
        raise OSError("foreign")

    outer.mount("/raw", failing)
    async with open_server(outer) as port:
        assert (await get(port, "/raw"))[0] == 500


async def test_a_wsgi_app_inside_an_app() -> None:
    def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("200 OK", [("content-type", "text/plain")])
        size = len(environ["wsgi.input"].read())
        return [f"{environ['SCRIPT_NAME']} {environ['PATH_INFO']} {size}".encode()]

    outer = App()
    outer.mount("/wsgi", cast("ASGIApp", TrioWSGIMiddleware(cast("Any", wsgi))))
    async with open_server(outer) as port:
        _, _, body = await ask(port, "POST", "/wsgi/x", None, b"12345")
    assert body == b"/wsgi /x 5"


async def test_the_lifespan_of_a_mounted_app_is_part_of_the_outer_ones(hosted: Hosted) -> None:
    outer = App()
    outer.mount("/inner", hosted.app)
    async with open_server(outer) as port:
        assert (await get(port, "/inner/state"))[2] == b"state"
    assert hosted.events == ["startup", "shutdown"]


async def test_one_sub_app_may_be_mounted_under_two_paths(hosted: Hosted) -> None:
    outer = App()
    outer.mount("/one", hosted.app)
    outer.mount("/two", hosted.app)
    async with open_server(outer) as port:
        bodies = [(await get(port, path))[2] for path in ("/one/where", "/two/where")]
        assert (await get(port, "/two/state"))[2] == b"state"
    assert [json.loads(body)[0] for body in bodies] == ["/one", "/two"]
    assert hosted.events == ["startup", "shutdown"]


async def test_a_sub_app_behind_foreign_middleware_has_no_lifespan_and_says_so(
    caplog: pytest.LogCaptureFixture, hosted: Hosted
) -> None:
    outer = App()

    async def wrapped(scope: Any, receive: Receive, send: Send) -> None:
        await hosted.app(scope, receive, send)

    outer.mount("/inner", wrapped)

    @outer.get("/")
    async def index(request: Request) -> str:
        return "outer"

    async with open_server(outer) as port:
        assert (await get(port, "/inner/state"))[0] == 500
        assert (await get(port, "/"))[2] == b"outer"
    assert "open_lifespan()" in caplog.text
