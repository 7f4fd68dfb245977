"""An App inside Starlette, on Hypercorn's trio worker (issue: mounting; HOST, other hosts)."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
import trio
from hosted import Hosted, ask, check_disconnect, check_streaming, get, read_cut
from leaks import assert_no_leaks
from starlette.applications import Starlette
from starlette.requests import Request as StarletteRequest
from starlette.routing import Mount, Route
from wire import SERVER_LOG, open_h2, open_raw, open_server

from tsstream import App, Request
from tsstream._asgi import ASGIApp, Receive, Send

Lifespan = Callable[[Starlette], AbstractAsyncContextManager[None]]


def opening(*apps: App[str]) -> Lifespan:
    @asynccontextmanager
    async def lifespan(starlette: Starlette) -> AsyncIterator[None]:
        if not apps:
            yield
            return
        async with apps[0].open_lifespan(), opening(*apps[1:])(starlette):
            yield

    return lifespan


def mounted(hosted: Hosted, prefix: str = "/live") -> Starlette:
    return Starlette(routes=[Mount(prefix, app=hosted.app)], lifespan=opening(hosted.app))


@pytest.fixture
def hosted() -> Hosted:
    return Hosted()


@pytest.mark.parametrize(
    ("path", "seen"),
    [
        ("/live/where", ["/live", "/where", {}]),
        ("/live/where/name", ["/live", "/where/name", {"name": "name"}]),
        ("/live/", ["/live", "/", {}]),
        ("/live/where/a%20b?c=d", ["/live", "/where/a b", {"name": "a b"}]),
        ("/live/where/%C3%A9", ["/live", "/where/é", {"name": "é"}]),
    ],
)
async def test_a_mounted_app_sees_its_own_path(
    hosted: Hosted, path: str, seen: list[object]
) -> None:
    async with open_server(mounted(hosted)) as port:
        status, _, body = await get(port, path)
    assert (status, json.loads(body)) == (200, seen)


async def test_a_mounted_app_sees_its_own_path_over_http2(hosted: Hosted) -> None:
    async with open_server(mounted(hosted)) as port, open_h2(port) as connection:
        stream_id = await connection.request("GET", "/live/where")
        assert (await connection.read_head(stream_id))[0] == 200
        body = await connection.read_body(stream_id)
    assert json.loads(body) == ["/live", "/where", {}]


async def test_the_parameters_of_the_mount_are_among_path_params(hosted: Hosted) -> None:
    """Starlette's own mounted applications get them there (DESIGN 5: do as its users expect)."""
    async with open_server(mounted(hosted, "/rooms/{room}")) as port:
        _, _, body = await get(port, "/rooms/blue/where/name")
    assert json.loads(body) == [
        "/rooms/blue",
        "/where/name",
        {"room": "blue", "name": "name"},
    ]


async def test_a_path_outside_the_routes_is_404_from_the_app(hosted: Hosted) -> None:
    async with open_server(mounted(hosted)) as port:
        assert (await get(port, "/live/nowhere"))[0] == 404


async def test_405_comes_through_with_allow(hosted: Hosted) -> None:
    async with open_server(mounted(hosted)) as port:
        status, headers, _ = await ask(port, "DELETE", "/live/where")
    assert (status, headers["allow"]) == (405, "GET, HEAD")


async def test_streaming_stays_streaming(hosted: Hosted) -> None:
    async with open_server(mounted(hosted)) as port:
        await check_streaming(hosted, port, "/live/two")


async def test_a_disconnect_cancels_the_producers(hosted: Hosted) -> None:
    """AC-50."""
    async with open_server(mounted(hosted)) as port, assert_no_leaks():
        await check_disconnect(hosted, port, "/live/endless")


async def test_a_failed_body_is_visibly_cut(hosted: Hosted) -> None:
    """D10."""
    async with open_server(mounted(hosted)) as port:
        assert await read_cut(hosted, port, "/live/cut") == b"first "


async def test_a_failure_before_the_first_item_is_500(hosted: Hosted) -> None:
    """AC-19: with none of the stream's headers."""
    async with open_server(mounted(hosted)) as port:
        status, headers, _ = await get(port, "/live/early")
    assert status == 500
    assert "of-the-stream" not in headers


async def test_an_http_error_has_its_status(hosted: Hosted) -> None:
    async with open_server(mounted(hosted)) as port:
        assert (await get(port, "/live/teapot"))[0] == 418


async def test_duplex_works_in_lockstep(hosted: Hosted) -> None:
    async with open_server(mounted(hosted)) as port, open_raw(port) as raw:
        await raw.request("POST", "/live/echo", {"transfer-encoding": "chunked"})
        for item in (b"one", b"two"):
            await raw.send_all(b"%x\r\n%s\r\n" % (len(item), item))
            if item == b"one":
                await raw.read_head()
            with trio.fail_after(1):
                assert await raw.read_chunk() == item
        await raw.send_all(b"0\r\n\r\n")
        assert await raw.read_body() == b""


async def test_an_unread_upload_ends_well(hosted: Hosted) -> None:
    """RQ-21."""
    async with open_server(mounted(hosted)) as port:
        status, _, _ = await ask(port, "POST", "/live/where", None, b"x" * 1_000_000)
    assert status == 405


async def test_open_lifespan_gives_the_state(hosted: Hosted) -> None:
    async with open_server(mounted(hosted)) as port:
        assert (await get(port, "/live/state"))[2] == b"state"
    assert hosted.events == ["startup", "shutdown"]


async def test_without_open_lifespan_the_error_names_the_remedy(
    hosted: Hosted, caplog: pytest.LogCaptureFixture
) -> None:
    app = Starlette(routes=[Mount("/live", app=hosted.app)])
    async with open_server(app) as port:
        status, _, body = await get(port, "/live/state")
    assert (status, body) == (500, b"Internal Server Error")
    assert "open_lifespan()" in caplog.text


async def test_without_open_lifespan_what_needs_no_state_works(hosted: Hosted) -> None:
    async with open_server(Starlette(routes=[Mount("/live", app=hosted.app)])) as port:
        await check_streaming(hosted, port, "/live/two")


async def test_work_in_the_app_nursery_outlives_its_request() -> None:
    """D50."""
    app, done = App(), trio.Event()

    @app.post("/job")
    async def job(request: Request) -> str:
        request.app.nursery.start_soon(work)
        return "accepted"

    async def work() -> None:
        await trio.lowlevel.checkpoint()
        done.set()

    @asynccontextmanager
    async def lifespan(starlette: Starlette) -> AsyncIterator[None]:
        async with app.open_lifespan():
            yield

    starlette = Starlette(routes=[Mount("/live", app=app)], lifespan=lifespan)
    async with open_server(starlette) as port:
        assert (await ask(port, "POST", "/live/job"))[2] == b"accepted"
        with trio.fail_after(1):
            await done.wait()


async def test_several_apps_are_mounted_side_by_side() -> None:
    one, two = Hosted(), Hosted()
    app = Starlette(
        routes=[Mount("/one", app=one.app), Mount("/one/two", app=two.app)][::-1],
        lifespan=opening(one.app, two.app),
    )
    async with open_server(app) as port:
        bodies = [(await get(port, path))[2] for path in ("/one/where", "/one/two/where")]
    assert [json.loads(body)[0] for body in bodies] == ["/one", "/one/two"]
    assert one.events == two.events == ["startup", "shutdown"]


async def test_one_app_may_be_mounted_under_two_paths(hosted: Hosted) -> None:
    app = Starlette(
        routes=[Mount("/one", app=hosted.app), Mount("/two", app=hosted.app)],
        lifespan=opening(hosted.app),
    )
    async with open_server(app) as port:
        bodies = [(await get(port, path))[2] for path in ("/one/where", "/two/where")]
    assert [json.loads(body)[0] for body in bodies] == ["/one", "/two"]


async def test_an_app_in_an_app_in_starlette(hosted: Hosted) -> None:
    outer = App()
    outer.mount("/inner", hosted.app)

    @asynccontextmanager
    async def lifespan(starlette: Starlette) -> AsyncIterator[None]:
        async with outer.open_lifespan():
            yield

    app = Starlette(routes=[Mount("/outer", app=outer)], lifespan=lifespan)
    async with open_server(app) as port:
        _, _, body = await get(port, "/outer/inner/where/x")
        assert (await get(port, "/outer/inner/state"))[2] == b"state"
        await check_disconnect(hosted, port, "/outer/inner/endless")
    assert json.loads(body) == ["/outer/inner", "/where/x", {"name": "x"}]


@pytest.mark.parametrize("path", ["/two", "/endless", "/cut"])
async def test_an_app_may_be_returned_by_an_endpoint(hosted: Hosted, path: str) -> None:
    async def endpoint(request: StarletteRequest) -> ASGIApp:
        return hosted.app

    routes = [Route(path, endpoint)]
    async with open_server(Starlette(routes=routes)) as port:
        if path == "/two":
            await check_streaming(hosted, port, path)
        elif path == "/endless":
            await check_disconnect(hosted, port, path)
        else:
            await read_cut(hosted, port, path)


async def test_an_app_may_be_a_route_of_its_own(hosted: Hosted) -> None:
    """A Route's endpoint that is no function is called as an ASGI application."""
    async with open_server(Starlette(routes=[Route("/endless", hosted.app)])) as port:
        await check_disconnect(hosted, port, "/endless")


async def test_an_app_may_be_called_by_middleware_for_some_paths(hosted: Hosted) -> None:
    starlette = Starlette()

    async def choose(scope: object, receive: Receive, send: Send) -> None:
        assert isinstance(scope, dict)
        live = scope["type"] == "http" and scope["path"].startswith("/t")
        await (hosted.app if live else starlette)(scope, receive, send)

    async with open_server(choose) as port:
        await check_streaming(hosted, port, "/two")
        assert (await get(port, "/where"))[0] == 404  # Starlette's


async def test_a_websocket_to_a_mounted_app_without_a_route_for_it_is_404(hosted: Hosted) -> None:
    async with open_server(mounted(hosted)) as port, open_raw(port) as raw:
        await raw.request(
            "GET",
            "/live/two",
            {
                "connection": "Upgrade",
                "upgrade": "websocket",
                "sec-websocket-version": "13",
                "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
            },
        )
        assert (await raw.read_head())[0] == 404


async def test_a_cut_body_is_one_error_of_ours_in_the_log(
    hosted: Hosted, caplog: pytest.LogCaptureFixture
) -> None:
    """D10; Hypercorn adds one of its own, as for any application that raises."""
    async with open_server(mounted(hosted)) as port:
        await read_cut(hosted, port, "/live/cut")
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert [record.name for record in errors] == ["tsstream", SERVER_LOG.name]
    assert "GET /cut: stream failed after 6 bytes" in errors[0].getMessage()
