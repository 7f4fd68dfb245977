"""A handshake that is refused: by the handler, by an error, by the routes, by the origin."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import attrs
import pytest
import trio
import trio.lowlevel
from farewells import on_guarded
from probes import Endings, logged
from trio.testing import wait_all_tasks_blocked
from ws_asgi import (
    REJECTION,
    Peer,
    asserts_of_handlers,  # noqa: F401 (a fixture)
    make_ws_app,
    text,
)

from tsstream import App, Headers, HTTPError, Request, Response, json_response
from tsstream._asgi import ASGIApp, Message
from tsstream._http.websocket import WebSocket


async def refuse(handler: Any, peer: Peer | None = None, **options: Any) -> Peer:
    """Give what came of a WebSocket that *handler* refuses."""
    peer = peer or Peer()
    await peer.call(make_ws_app(handler, **options))
    return peer


def fields(peer: Peer) -> Headers:
    return Headers(peer.sent[0]["headers"])


# With a response


async def test_a_returned_response_refuses_whole() -> None:
    # RQ-38
    async def handler(websocket: WebSocket) -> Response:
        return json_response({"a": 1}, 501, {"x-a": "b"})

    peer = await refuse(handler)
    assert (peer.status, peer.body, peer.error) == (501, b'{"a":1}', None)
    assert fields(peer) == Headers(
        {"x-a": "b", "content-type": "application/json", "content-length": "7"}
    )


async def test_a_returned_response_may_be_a_stream() -> None:
    # RQ-38
    async def handler(websocket: WebSocket) -> Response:
        return Response(items(), 404)

    async def items() -> AsyncIterator[bytes]:
        yield b"a"
        await wait_all_tasks_blocked()
        yield b"b"

    peer = await refuse(handler)
    assert (peer.status, peer.body) == (404, b"ab")
    assert len(peer.sent) == 4


async def test_transforms_see_the_response_and_the_request_that_the_handshake_is() -> None:
    seen: list[Any] = []

    def transform(request: Request, response: Response) -> Response:
        seen.extend([request.method, request.path, request.scheme, request.headers["host"]])
        return attrs.evolve(response, headers=response.headers.set("x-a", "b"))

    async def handler(websocket: WebSocket) -> Response:
        return Response(b"no", 400)

    peer = await refuse(handler, transforms=[transform])
    assert fields(peer)["x-a"] == "b"
    assert seen == ["GET", "/", "http", "testserver"]


async def test_a_stream_that_nobody_waits_for_any_more_is_cancelled() -> None:
    left: list[bool] = []

    async def handler(websocket: WebSocket) -> Response:
        return Response(items(), 404)

    async def items() -> AsyncIterator[bytes]:
        try:
            yield b"a"
            await trio.sleep_forever()
        finally:
            left.append(True)

    peer = Peer()
    async with peer.calling(make_ws_app(handler)):
        assert len(peer.sent) == 2
        peer.leave()
    assert (left, peer.error) == ([True], None)


@pytest.mark.parametrize("status", [200, 204])
async def test_a_response_that_refuses_says_no(
    status: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(websocket: WebSocket) -> Response:
        return Response(b"", status)

    peer = await refuse(handler)
    assert peer.status == 500
    assert "does not refuse a WebSocket" in caplog.text


async def test_the_hook_of_http_requests_is_not_called() -> None:
    endings = Endings()

    async def handler(websocket: WebSocket) -> Response:
        return Response(b"no", 400)

    await refuse(handler, on_end=endings)
    assert endings.seen == []


# With an error


@pytest.mark.parametrize(
    ("error", "status", "body"),
    [
        (HTTPError(401, "who?", {"www-authenticate": "Basic"}), 401, b"who?"),
        (ValueError("x"), 500, b"Internal Server Error"),
        (ConnectionRefusedError(), 502, b"Bad Gateway"),
    ],
)
async def test_an_error_before_the_accept_is_answered_with_its_page(
    error: Exception, status: int, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    # RQ-38, D48
    async def handler(websocket: WebSocket) -> None:
        raise error

    peer = await refuse(handler, errors={ConnectionRefusedError: 502})
    assert (peer.status, peer.body, peer.error) == (status, body, None)
    assert fields(peer).get("www-authenticate") == ("Basic" if status == 401 else None)
    assert logged(caplog) == ([f"ERROR WebSocket /: answered {status}"] if status >= 500 else [])


async def test_a_page_shows_the_traceback_if_the_app_is_being_debugged() -> None:
    async def handler(websocket: WebSocket) -> None:
        raise ValueError("look here")

    peer = await refuse(handler, debug=True)
    assert b"look here" in peer.body


async def say_nothing(websocket: WebSocket) -> None:
    pass


async def test_a_handler_that_returns_without_a_word_refuses_with_403() -> None:
    peer = await refuse(say_nothing)
    assert (peer.status, peer.body) == (403, b"Forbidden")


async def test_close_before_the_accept_refuses_at_once() -> None:
    # RQ-38
    async def handler(websocket: WebSocket) -> None:
        await websocket.close(4000, "no")
        assert peer.sent == [{"type": "websocket.close"}]
        with pytest.raises(RuntimeError, match="close it once"):
            await websocket.close()

    peer = Peer()
    await refuse(handler, peer)
    assert (peer.kinds, peer.error) == (["close"], None)


async def test_a_response_after_a_close_before_the_accept_is_an_error_that_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    send_channel, receive_channel = trio.open_memory_channel[bytes](0)

    async def handler(websocket: WebSocket) -> Response:
        await websocket.close()
        return Response(receive_channel, 404)

    peer = await refuse(handler)
    assert (peer.kinds, peer.error) == (["close"], None)
    assert logged(caplog) == ["ERROR WebSocket / failed"]
    assert "after close() had refused it" in caplog.text
    with pytest.raises(trio.BrokenResourceError):  # it was closed
        send_channel.send_nowait(b"x")
    receive_channel.close()


@pytest.mark.parametrize(
    ("error", "records"),
    [
        (HTTPError(404), ["DEBUG WebSocket /: refused with 403, and not with 404"]),
        (HTTPError(503), ["ERROR WebSocket / failed"]),
        (KeyError("x"), ["ERROR WebSocket / failed"]),
        (None, ["DEBUG WebSocket /: refused with 403"]),
    ],
)
async def test_an_error_after_a_close_before_the_accept_is_one_only_if_it_is_ours(
    error: Exception | None, records: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "tsstream")

    async def handler(websocket: WebSocket) -> None:
        await websocket.close()
        if error is not None:
            raise error

    peer = await refuse(handler)
    assert (peer.kinds, peer.error) == (["close"], None)
    found = [record for record in logged(caplog, logging.DEBUG) if "asyncio" not in record]
    assert found[: len(records)] == records


@pytest.mark.parametrize(("error", "status"), [(KeyError("x"), 500), (HTTPError(404), 404)])
async def test_a_test_client_may_ask_for_the_error(error: Exception, status: int) -> None:
    async def handler(websocket: WebSocket) -> None:
        raise error

    peer = Peer()
    extensions: dict[str, Any] = {REJECTION: {}, "tsstream.raise_errors": {}}
    await peer.call(make_ws_app(handler), extensions=extensions)
    assert peer.status == status
    assert peer.error is (error if status == 500 else None)


async def test_a_cancellation_from_outside_cuts_the_response() -> None:
    async def handler(websocket: WebSocket) -> Response:
        return Response(items(), 404)

    async def items() -> AsyncIterator[bytes]:
        yield b"a"
        await trio.sleep_forever()

    peer = Peer()
    with trio.move_on_after(0.01) as scope:
        await peer.call(make_ws_app(handler))
    assert scope.cancelled_caught
    assert peer.kinds == ["http.response.start", "http.response.body"]


# To a server that cannot send a response


@pytest.mark.parametrize("extensions", [{}, None])
@pytest.mark.parametrize("way", ["response", "HTTPError", "return", "close"])
async def test_without_the_extension_a_refusal_is_a_close(extensions: Any, way: str) -> None:
    # RQ-38: which servers make 403
    send_channel, receive_channel = trio.open_memory_channel[bytes](0)

    async def handler(websocket: WebSocket) -> Response | None:
        if way == "response":
            return Response(receive_channel, 404)
        if way == "HTTPError":
            raise HTTPError(404)
        if way == "close":
            await websocket.close()
        return None

    peer = Peer()
    await peer.call(make_ws_app(handler), extensions=extensions)
    assert (peer.sent, peer.error) == ([{"type": "websocket.close"}], None)
    if way == "response":
        with pytest.raises(trio.BrokenResourceError):  # it was closed
            send_channel.send_nowait(b"x")
    receive_channel.close()


async def test_without_the_extension_an_error_is_the_servers_to_answer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # D48: which servers do with 500
    async def handler(websocket: WebSocket) -> None:
        raise KeyError("x")

    peer = Peer()
    await peer.call(make_ws_app(handler), extensions={})
    assert (peer.sent, type(peer.error)) == ([], KeyError)
    assert logged(caplog) == ["ERROR WebSocket / failed before it was accepted"]


@pytest.mark.parametrize("way", ["response", "HTTPError"])
async def test_without_the_extension_a_client_that_has_gone_is_no_error(way: str) -> None:
    async def handler(websocket: WebSocket) -> Response:
        if way == "response":
            return Response(b"no", 404)
        raise HTTPError(404)

    async def lose(message: Message) -> None:
        raise OSError

    peer = Peer(on_send=lose)
    await peer.call(make_ws_app(handler), extensions={})
    assert peer.error is None


async def test_an_accept_that_the_server_does_not_take_is_not_followed_by_a_close(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def handler(websocket: WebSocket) -> None:
        await websocket.accept()

    async def fail(message: Message) -> None:
        tried.append(message["type"])
        raise RuntimeError("the server is broken")

    tried: list[str] = []
    peer = Peer(on_send=fail)
    await peer.call(make_ws_app(handler))
    assert tried == ["websocket.accept"]
    assert len(logged(caplog)) == 1


# The routes


def rooms() -> App[None]:
    app: App[None] = App()

    @app.websocket("/rooms/{name}")
    async def room(websocket: WebSocket[None]) -> None:
        await websocket.send(f"{websocket.root_path} {websocket.path_params}")

    @app.get("/rooms/{name}")
    async def describe(request: Request) -> str:
        return "a room"

    @app.get("/http")
    async def http_only(request: Request) -> str:
        return "no WebSocket"

    return app


@pytest.mark.parametrize("path", ["/", "/nothing", "/http", "/rooms/"])
@pytest.mark.parametrize("extensions", [{REJECTION: {}}, {}, on_guarded()])
async def test_a_path_without_a_websocket_is_404(path: str, extensions: Any) -> None:
    peer = Peer()
    await peer.call(rooms(), path, extensions=extensions)
    if REJECTION in extensions:
        assert (peer.status, peer.body) == (404, b"Not Found")
    else:
        assert peer.sent == [{"type": "websocket.close"}]


async def test_mounted_apps_have_websockets() -> None:
    app, middle = rooms(), App()
    middle.mount("/b", app)
    outer = App()
    outer.mount("/a", middle)
    peer = Peer()
    await peer.call(outer, "/a/b/rooms/x")
    assert peer.messages == ["/a/b {'name': 'x'}"]
    peer = Peer()
    await peer.call(outer, "/a/c")
    assert peer.status == 404


async def test_a_foreign_app_that_is_mounted_gets_its_websockets() -> None:
    async def foreign(scope: Any, receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
        assert await receive() == {"type": "websocket.connect"}
        await send({"type": "websocket.close", "path": scope["path"], "root": scope["root_path"]})

    app = rooms()
    app.mount("/foreign", foreign)
    peer = Peer()
    await peer.call(app, "/foreign/x")
    assert peer.sent == [{"type": "websocket.close", "path": "/foreign/x", "root": "/foreign"}]


def test_a_path_can_have_one_websocket_only() -> None:
    app = rooms()
    with pytest.raises(ValueError, match="already routed"):
        app.websocket("/rooms/{other}")(say_nothing)
    with pytest.raises(ValueError, match="pattern"):
        app.websocket("rooms")(say_nothing)


# The origin


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([], None),
        ([(b"origin", b"http://testserver")], None),
        ([(b"origin", b"https://app.example.org")], None),
        ([(b"origin", b"https://evil.test"), (b"cookie", b"session=1")], 403),
        ([(b"origin", b"null")], 403),
        ([(b"origin", b"http://testserver"), (b"origin", b"https://evil.test")], 403),
    ],
)
async def test_pages_of_other_sites_are_refused(
    headers: list[tuple[bytes, bytes]], status: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)

    async def handler(websocket: WebSocket) -> None:
        websocket.check_origin("https://app.example.org")
        await websocket.accept()

    peer = Peer(text("x"))
    app: ASGIApp = make_ws_app(handler)
    await peer.call(app, headers=[(b"host", b"testserver"), *headers])
    assert peer.status == status
    assert logged(caplog) == []


async def test_an_allowed_origin_that_is_none_is_an_error() -> None:
    async def handler(websocket: WebSocket) -> None:
        with pytest.raises(ValueError, match="no origin"):
            websocket.check_origin("https://example.org/")

    peer = await refuse(handler)
    assert peer.status == 403  # for returning without a word


async def test_messages_of_the_refusal_are_of_the_extension() -> None:
    async def handler(websocket: WebSocket) -> None:
        raise HTTPError(404)

    sent: list[Message] = (await refuse(handler)).sent
    assert [message["type"] for message in sent] == [f"{REJECTION}.start", f"{REJECTION}.body"]
