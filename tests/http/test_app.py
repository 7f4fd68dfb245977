"""Which scope, which route, which prefix: what reaches a handler, and what the others get."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from functools import partial
from typing import Any

import attrs
import pytest
from asgi import Server
from hypercorn.middleware.dispatcher import TrioDispatcherMiddleware
from starlette.applications import Starlette
from starlette.requests import Request as StarletteRequest
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from tsstream import App, Request, Response, json_response
from tsstream._asgi import ASGIApp
from tsstream.testing import open_client

METHODS = ["get", "post", "put", "patch", "delete"]


def place(request: Request[Any]) -> dict[str, Any]:
    return {"path": request.path, "root_path": request.root_path, "params": request.path_params}


async def where(request: Request[Any]) -> Response:
    return json_response(place(request))


def where_app(*paths: str) -> App[None]:
    app: App[None] = App()
    for path in paths:
        app.get(path)(where)
    return app


async def ask(app: ASGIApp, path: str, **options: Any) -> Any:
    async with open_client(app, **options) as client:
        response = await client.get(path)
    return response.json() if response.status_code == 200 else response.status_code


# Routes


@pytest.mark.parametrize("method", METHODS)
async def test_each_method_has_its_decorator(method: str) -> None:
    app: App[None] = App()

    async def handler(request: Request[None]) -> str:
        return request.method

    assert getattr(app, method)("/")(handler) is handler  # it can be registered twice
    async with open_client(app) as client:
        assert (await client.request(method, "/")).text == method.upper()
        others = [other for other in METHODS if other != method]
        for other in others:
            assert (await client.request(other, "/")).status_code == 405


async def test_a_route_may_have_several_methods() -> None:
    app: App[None] = App()
    app.route("/", methods=["PUT", "query"])(where)
    async with open_client(app) as client:
        for method in ("PUT", "QUERY"):
            assert (await client.request(method, "/")).status_code == 200


async def test_a_route_is_for_get_by_default() -> None:
    app: App[None] = App()
    app.route("/")(where)
    assert await ask(app, "/") == {"path": "/", "root_path": "", "params": {}}


@pytest.mark.parametrize("path", ["/nothing", "//", "/a/", "/A", "/a/b", "/a%2Fb"])
async def test_a_path_that_no_route_has_is_a_404(path: str) -> None:
    async with open_client(where_app("/", "/a")) as client:
        response = await client.get(path)
    assert (response.status_code, response.text) == (404, "Not Found")


@pytest.mark.parametrize(
    ("methods", "allow"),
    [(["POST"], "POST"), (["GET"], "GET, HEAD"), (["PUT", "GET"], "GET, HEAD, PUT")],
)
async def test_another_method_is_a_405_that_says_which_are_allowed(
    methods: list[str], allow: str
) -> None:
    # BK-16, ET-1
    app: App[None] = App()
    app.route("/", methods=methods)(where)
    async with open_client(app) as client:
        response = await client.delete("/")
    assert (response.status_code, response.headers["allow"]) == (405, allow)


async def test_head_is_answered_by_get() -> None:
    # D35
    async with open_client(where_app("/")) as client:
        get, head = await client.get("/"), await client.head("/")
    assert head.status_code == 200
    assert head.headers.raw == get.headers.raw
    assert head.content == b""


async def test_a_request_for_the_whole_server_is_a_404() -> None:
    server = Server()
    await server.call(where_app("/", "/{rest:path}"), "OPTIONS", "*")
    assert server.status == 404


@pytest.mark.parametrize(
    "register",
    [
        lambda app: app.get("no-slash")(where),
        lambda app: app.get("/{")(where),
        lambda app: app.get("/taken")(where),
        lambda app: app.route("/x", methods=[])(where),
        lambda app: app.mount("no-slash", where_app()),
        lambda app: app.mount("/{name}", where_app()),
        lambda app: app.mount("/mounted", where_app()),
    ],
)
def test_a_malformed_or_taken_route_is_refused(register: Callable[[App[None]], object]) -> None:
    app = where_app("/taken")
    app.mount("/mounted", where_app())
    with pytest.raises(ValueError, match=r"route|mount|methods|pattern|start"):
        register(app)


# Prefixes


@pytest.mark.parametrize(
    ("root_path", "path", "found"),
    [
        ("", "/a", "/a"),
        ("/api", "/api/a", "/a"),
        ("/api", "/api/api/a", "/api/a"),
        ("/api", "/api", "/"),
        ("/api", "/api/", "/"),
        ("/api", "/a", "/a"),  # a proxy has removed it
        ("/api", "/apiary", "/apiary"),
        ("/", "/a", "/a"),  # Hypercorn's dispatcher with a mount at "/"
        ("/a/b", "/a/b/c", "/c"),
        ("/a/b", "/a/c", "/a/c"),
    ],
)
async def test_routes_are_found_below_the_root_path(root_path: str, path: str, found: str) -> None:
    answer = await ask(where_app("/", "/{rest:path}"), path, root_path=root_path)
    assert (answer["path"], answer["root_path"]) == (found, root_path)


@pytest.mark.parametrize(
    ("path", "found"),
    [("/sub", "/"), ("/sub/", "/"), ("/sub/x", "/x"), ("/sub/sub", "/sub")],
)
@pytest.mark.parametrize("root_path", ["", "/proxy"])
async def test_a_mounted_app_sees_its_own_paths(path: str, found: str, root_path: str) -> None:
    app = where_app("/")
    app.mount("/sub", where_app("/", "/{rest:path}"))
    answer = await ask(app, root_path + path, root_path=root_path)
    assert (answer["path"], answer["root_path"]) == (found, f"{root_path}/sub")


async def test_mounts_nest() -> None:
    app, middle = where_app("/"), where_app("/")
    middle.mount("/b", where_app("/{name}"))
    app.mount("/a", middle)
    assert await ask(app, "/a/b/c") == {"path": "/c", "root_path": "/a/b", "params": {"name": "c"}}


async def test_a_route_wins_over_a_mount_and_a_mount_answers_the_rest() -> None:
    app = where_app("/sub/x")
    app.mount("/sub", where_app("/y"))
    assert (await ask(app, "/sub/x"))["root_path"] == ""
    assert (await ask(app, "/sub/y"))["root_path"] == "/sub"
    assert await ask(app, "/sub/z") == 404
    assert await ask(app, "/subway") == 404


async def raw_app(scope: Any, receive: Any, send: Any) -> None:
    body = f"{scope['method']} {scope['root_path']} {scope['path']}".encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


async def test_a_foreign_app_gets_the_whole_path_and_the_prefix() -> None:
    app = where_app("/")
    app.mount("/raw", raw_app)
    async with open_client(app) as client:
        assert (await client.get("/raw/x")).text == "GET /raw /raw/x"
        assert (await client.delete("/raw")).text == "DELETE /raw /raw"


async def test_the_scope_of_the_server_is_left_as_it_is() -> None:
    app = where_app("/")
    app.mount("/raw", raw_app)
    scope = {"type": "http", "method": "GET", "path": "/raw", "headers": [], "http_version": "1.1"}
    server = Server()
    await app(scope, server.receive, server.send)
    assert server.body == b"GET /raw /raw"
    assert "root_path" not in scope


async def hello(request: StarletteRequest) -> PlainTextResponse:
    return PlainTextResponse(f"{request.scope['root_path']} {request.path_params['name']}")


async def test_starlette_below_us() -> None:
    app = where_app("/")
    app.mount("/star", Starlette(routes=[Route("/hello/{name}", hello)]))
    async with open_client(app) as client:
        assert (await client.get("/star/hello/x")).text == "/star x"
        assert (await client.get("/star/nothing")).status_code == 404


@pytest.mark.parametrize(
    ("path", "found"), [("/sub/x", "/x"), ("/sub/", "/"), ("/sub/a/b", "/a/b")]
)
async def test_below_starlette(path: str, found: str) -> None:
    outer = Starlette(routes=[Mount("/sub", app=where_app("/", "/{rest:path}"))])
    answer = await ask(outer, path)
    assert (answer["path"], answer["root_path"]) == (found, "/sub")


@pytest.mark.parametrize(
    ("path", "found", "root_path"),
    [("/sub/x", "/x", "/sub"), ("/sub", "/", "/sub"), ("/other", "/other", "/")],
)
async def test_below_hypercorns_dispatcher(path: str, found: str, root_path: str) -> None:
    outer: Any = TrioDispatcherMiddleware(
        {"/sub": where_app("/", "/{rest:path}"), "/": where_app("/{rest:path}")}  # type: ignore[dict-item]
    )
    answer = await ask(outer, path)
    assert (answer["path"], answer["root_path"]) == (found, root_path)


async def test_a_mount_is_found_behind_a_proxy_that_has_removed_its_prefix() -> None:
    app = where_app("/")
    app.mount("/sub", where_app("/{rest:path}"))
    answer = await ask(app, "/sub/x", root_path="/proxy")
    assert (answer["path"], answer["root_path"]) == ("/x", "/proxy/sub")


async def test_the_parameters_of_whatever_mounted_us_are_kept() -> None:
    outer = Starlette(routes=[Mount("/{tenant}", app=where_app("/items/{name}"))])
    assert (await ask(outer, "/a/items/b"))["params"] == {"tenant": "a", "name": "b"}


# Other scopes


def test_another_event_loop_is_refused_with_the_remedy() -> None:
    server = Server()
    for message in ("http", "lifespan"):
        with pytest.raises(RuntimeError, match="hypercorn -k trio"):
            asyncio.run(speak_once(where_app("/"), message, server))


async def speak_once(app: ASGIApp, kind: str, server: Server) -> None:
    scope = {"type": kind, "method": "GET", "path": "/", "headers": [], "http_version": "1.1"}
    if kind == "http":
        await app(scope, server.receive, server.send)
    else:
        async with where_app("/").open_lifespan():
            pass


async def speak_websocket(app: ASGIApp, path: str) -> list[dict[str, Any]]:
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await app({"type": "websocket", "path": path, "headers": []}, receive, send)
    return sent


@pytest.mark.parametrize("path", ["/", "/nothing", "/sub/x"])
async def test_a_websocket_is_refused_before_it_is_accepted(path: str) -> None:
    app = where_app("/")
    app.mount("/sub", where_app("/"))
    assert await speak_websocket(app, path) == [{"type": "websocket.close"}]


async def test_a_websocket_of_a_foreign_app_reaches_it() -> None:
    async def foreign(
        scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
    ) -> None:
        await send({"type": "websocket.accept", "subprotocol": scope["root_path"]})

    app = where_app("/")
    app.mount("/ws", foreign)
    assert await speak_websocket(app, "/ws/x") == [
        {"type": "websocket.accept", "subprotocol": "/ws"}
    ]


async def test_an_unknown_scope_is_an_error_that_names_it() -> None:
    server = Server()
    with pytest.raises(RuntimeError, match="'carrier-pigeon'"):
        await where_app("/")({"type": "carrier-pigeon"}, server.receive, server.send)


# What the test client asks for


@pytest.mark.parametrize("status", [404, 503])
async def test_an_error_that_was_answered_is_raised_for_those_who_ask(status: int) -> None:
    error = OSError()

    async def handler(request: object) -> Response:
        raise error

    app: App[None] = App(errors={OSError: status})
    app.get("/")(handler)
    server = Server()
    await server.call(app, extensions={"tsstream.raise_errors": {}})
    assert (server.status, server.complete) == (status, True)
    assert server.error is (error if status >= 500 else None)


# Odd handlers and hooks


@attrs.define
class Unhashable:
    """A handler that is an object, and gives an async generator."""

    text: str

    def __call__(self, request: object) -> AsyncGenerator[str, None]:
        return self.generate()

    async def generate(self) -> AsyncGenerator[str, None]:
        yield self.text


async def test_a_handler_need_not_be_hashable() -> None:
    app: App[None] = App()
    app.get("/a")(Unhashable("a"))
    app.get("/b")(Unhashable("b"))
    async with open_client(app) as client:
        for name in "abab":
            response = await client.get(f"/{name}")
            assert (response.status_code, response.text) == (200, name)


async def async_hook(request: object, ending: object) -> None:
    raise AssertionError


class AsyncHook:
    """An object that is called like an async function."""

    async def __call__(self, request: object, ending: object) -> None:
        raise AssertionError


@pytest.mark.parametrize(
    "hook", [async_hook, partial(async_hook), AsyncHook()], ids=["function", "partial", "object"]
)
def test_a_hook_that_is_async_is_refused_with_the_reason(hook: Any) -> None:
    with pytest.raises(TypeError, match="on_end is a plain function"):
        App(on_end=hook)
