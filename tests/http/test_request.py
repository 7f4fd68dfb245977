"""What a handler is told about its request, and how it reads the body."""

from __future__ import annotations

from typing import Any

import pytest
from asgi import Server, chunk, make_app
from inboxed import on_each_source

from tsstream import App, Request, Response, json_response
from tsstream.testing import open_client


async def ask(
    look: Any,
    *requests: Any,
    kind: type[Server] = Server,
    method: str = "POST",
    path: str = "/",
    **scope: Any,
) -> tuple[Any, Server]:
    """Give what *look* makes of the request, and the server that made it."""
    seen: list[Any] = []

    async def handler(request: Request[Any]) -> Response:
        found = look(request)
        seen.append(await found if hasattr(found, "__await__") else found)
        return Response(b"ok")

    server = kind(*requests)
    await server.call(make_app(handler), method, path, **scope)
    return (seen[0] if seen else None), server


# The head


async def test_method_path_and_version() -> None:
    found, _ = await ask(
        lambda request: (request.method, request.path, request.http_version, request.scheme),
        path="/",
        http_version="2",
        scheme="https",
    )
    assert found == ("POST", "/", "2", "https")


async def test_headers_are_found_in_any_case_and_kept_when_repeated() -> None:
    headers = [(b"X-A", b"1"), (b"x-a", b"2"), (b"x-b", b"\xe9")]
    found, _ = await ask(lambda request: request.headers, headers=headers)
    assert found["X-a"] == "1, 2"
    assert found.getlist("x-a") == ["1", "2"]
    assert found["x-b"] == "é"


async def test_headers_are_parsed_once() -> None:
    found, _ = await ask(lambda request: request.headers is request.headers)
    assert found is True


@pytest.mark.parametrize("name", [b"bad name", b"transfer-encoding"])
async def test_headers_of_a_request_are_taken_as_they_came(name: bytes) -> None:
    found, _ = await ask(lambda request: request.headers.raw, headers=[(name, b"\x00")])
    assert (name, b"\x00") in found


async def test_query_params_are_decoded() -> None:
    found, _ = await ask(lambda request: request.query_params, path="/?a=1&a=%C3%A9&b=&c=x+y")
    assert found.getlist("a") == ["1", "é"]
    assert (found["a"], found["b"], found["c"]) == ("é", "", "x y")


async def test_a_scope_without_a_query_string_has_no_query_params() -> None:
    app = make_app(lambda request: answer(len(request.query_params)))
    server = Server()
    scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "http_version": "1.1"}
    await app(scope, server.receive, server.send)
    assert server.body == b"0"


async def answer(value: object) -> Response:
    return Response(str(value))


async def test_a_minimal_scope_has_the_defaults_of_asgi() -> None:
    seen: list[Any] = []

    async def handler(request: Request[Any]) -> str:
        seen.append((request.scheme, request.client, request.root_path, request.state))
        return ""

    server = Server()
    scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "http_version": "1.1"}
    await make_app(handler)(scope, server.receive, server.send)
    assert seen == [("http", None, "", None)]


@pytest.mark.parametrize(
    ("client", "expected"),
    [(None, None), (["1.2.3.4", 5], ("1.2.3.4", 5)), (("::1", 6), ("::1", 6))],
)
async def test_client(client: Any, expected: Any) -> None:
    found, _ = await ask(lambda request: request.client, client=client)
    assert found == expected


async def test_path_params() -> None:
    app: App[None] = App()

    @app.get("/items/{name}/{rest:path}")
    async def item(request: Request[None]) -> Response:
        return json_response(request.path_params)

    async with open_client(app) as client:
        response = await client.get("/items/a%20b/c/d%2Fe")
    assert response.json() == {"name": "a b", "rest": "c/d/e"}


async def test_a_route_without_parameters_has_none() -> None:
    found, _ = await ask(lambda request: request.path_params)
    assert found == {}


# The body as a whole


@on_each_source
async def test_read_joins_and_gives_the_same_again(kind: type[Server]) -> None:
    # RQ-9, RQ-15
    async def look(request: Request[Any]) -> tuple[bytes, str, bytes]:
        return await request.read(), await request.text(), await request.read()

    halves = chunk("é".encode()[:1]), chunk("é".encode()[1:], more=False)
    found, _ = await ask(look, *halves, kind=kind)
    assert found == ("é".encode(), "é", "é".encode())


@on_each_source
@pytest.mark.parametrize("data", [b'{"a":[1]}', b" 1 ", b'"\xc3\xa9"'])
async def test_json(kind: type[Server], data: bytes) -> None:
    async def look(request: Request[Any]) -> Any:
        return await request.json(), await request.json()

    found, _ = await ask(look, chunk(data, more=False), kind=kind)
    expected = {b'{"a":[1]}': {"a": [1]}, b" 1 ": 1}.get(data, "é")
    assert found == (expected, expected)


@on_each_source
@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b'{"a":1}x', b"[" * 100_000])
async def test_json_that_is_none_is_a_400(kind: type[Server], data: bytes) -> None:
    _, server = await ask(lambda request: request.json(), chunk(data, more=False), kind=kind)
    assert server.status == 400
    assert server.body.startswith(b"The request body is ")
    assert b"JSON" in server.body


@on_each_source
async def test_text_that_is_not_utf_8_is_a_400(kind: type[Server]) -> None:
    _, server = await ask(lambda request: request.text(), chunk(b"\xff", more=False), kind=kind)
    assert server.status == 400
    assert server.body.startswith(b"The request body is not valid UTF-8: ")
