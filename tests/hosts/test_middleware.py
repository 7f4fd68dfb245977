"""Foreign ASGI middleware round an App: what stays true, and which middleware breaks what."""

from __future__ import annotations

import gzip
import zlib
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeAlias, cast

import pytest
import trio
from hosted import (
    IN_TIME,
    PROMPT,
    SEEN,
    Hosted,
    ask,
    check_disconnect,
    check_streaming,
    get,
    read_cut,
    read_some,
)
from hypercorn.middleware import HTTPToHTTPSRedirectMiddleware, ProxyFixMiddleware
from leaks import assert_no_leaks
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request as StarletteRequest
from starlette.responses import PlainTextResponse
from starlette.responses import Response as StarletteResponse
from starlette.routing import Mount
from wire import Truncated, open_raw, open_server

from tsstream import App, Request, Response, json_response
from tsstream._asgi import ASGIApp, Receive, Send

Wrap: TypeAlias = Callable[[ASGIApp], ASGIApp]


@pytest.fixture
def hosted() -> Hosted:
    return Hosted()


async def pass_on(
    request: StarletteRequest, call_next: RequestResponseEndpoint
) -> StarletteResponse:
    response = await call_next(request)
    response.headers["seen"] = request.url.path
    return response


def with_base(app: ASGIApp) -> ASGIApp:
    return BaseHTTPMiddleware(app, dispatch=pass_on)


def with_base_twice(app: ASGIApp) -> ASGIApp:
    return with_base(with_base(app))


def with_gzip(app: ASGIApp) -> ASGIApp:
    return GZipMiddleware(app)


def with_cors(app: ASGIApp) -> ASGIApp:
    return CORSMiddleware(app, allow_origins=["*"])


def with_trusted_host(app: ASGIApp) -> ASGIApp:
    return TrustedHostMiddleware(app, allowed_hosts=["127.0.0.1"])


def with_body_limit(app: ASGIApp) -> ASGIApp:
    return RequestBodyLimitMiddleware(app, max_body_size=100)


def with_proxy_fix(app: ASGIApp) -> ASGIApp:
    return cast("ASGIApp", ProxyFixMiddleware(cast("Any", app)))


def with_starlette(app: ASGIApp) -> ASGIApp:
    """The error middleware of Starlette itself."""
    return Starlette(routes=[Mount("/", app=app)])


def with_session(app: ASGIApp) -> ASGIApp:
    """Set a cookie in the response's start, as session middleware does."""

    async def session(scope: Any, receive: Receive, send: Send) -> None:
        async def send_with_cookie(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"].append((b"set-cookie", b"session=1"))
            await send(message)

        await app({**scope, "session": {}}, receive, send_with_cookie)

    return session


class Counters:
    """What a metrics exporter counts."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.idle = trio.Event()

    def wrap(self, app: ASGIApp) -> ASGIApp:
        async def counting(scope: Any, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return

            async def counting_receive() -> Any:
                message = await receive()
                self.counts[message["type"]] += 1
                return message

            async def counting_send(message: Any) -> None:
                await send(message)
                self.counts["bytes"] += len(message.get("body", b""))

            self.counts["requests"] += 1
            self.counts["running"] += 1
            self.idle = trio.Event()
            try:
                await app(scope, counting_receive, counting_send)
            except Exception:
                self.counts["failed"] += 1
                raise
            finally:
                self.counts["running"] -= 1
                self.idle.set()

        return counting


def with_counters(app: ASGIApp) -> ASGIApp:
    return Counters().wrap(app)


TRANSPARENT = [
    with_cors,
    with_trusted_host,
    with_body_limit,
    with_proxy_fix,
    with_starlette,
    with_session,
    with_counters,
]
ALL = [with_base, with_base_twice, with_gzip, *TRANSPARENT]


@pytest.mark.parametrize("wrap", ALL)
async def test_streaming_stays_streaming(hosted: Hosted, wrap: Wrap) -> None:
    async with open_server(wrap(hosted.app)) as port:
        await check_streaming(hosted, port, "/two")


@pytest.mark.parametrize("wrap", ALL)
async def test_a_disconnect_still_cancels(hosted: Hosted, wrap: Wrap) -> None:
    """AC-50."""
    async with open_server(wrap(hosted.app)) as port, assert_no_leaks():
        await check_disconnect(hosted, port, "/endless")


@pytest.mark.parametrize("wrap", [with_gzip, *TRANSPARENT])
async def test_a_failed_body_is_visibly_cut(hosted: Hosted, wrap: Wrap) -> None:
    """D10."""
    async with open_server(wrap(hosted.app)) as port:
        assert await read_cut(hosted, port, "/cut") == b"first "


@pytest.mark.parametrize("wrap", [with_base, with_base_twice])
async def test_a_failed_body_is_completed_by_base_http_middleware(
    hosted: Hosted, wrap: Wrap
) -> None:
    """A fact of Starlette 1.10, whatever the application does: it raises only after the end."""
    hosted.proceed.set()
    async with open_server(wrap(hosted.app)) as port:
        assert await get_body(port, "/cut") == b"first "


async def get_body(port: int, path: str) -> bytes:
    return (await get(port, path))[2]


@pytest.mark.parametrize("wrap", ALL)
async def test_a_failure_before_the_first_item_is_500(hosted: Hosted, wrap: Wrap) -> None:
    """AC-19."""
    async with open_server(wrap(hosted.app)) as port:
        status, headers, body = await get(port, "/early")
    assert (status, body) == (500, b"Internal Server Error")
    assert "of-the-stream" not in headers


@pytest.mark.parametrize("wrap", ALL)
async def test_duplex_works_in_lockstep(hosted: Hosted, wrap: Wrap) -> None:
    async with open_server(wrap(hosted.app)) as port, open_raw(port) as raw:
        await raw.request("POST", "/echo", {"transfer-encoding": "chunked"})
        for item in (b"one", b"two"):
            await raw.send_all(b"%x\r\n%s\r\n" % (len(item), item))
            with trio.fail_after(IN_TIME):
                if item == b"one":
                    await raw.read_head()
                assert await raw.read_chunk() == item
        await raw.send_all(b"0\r\n\r\n")
        with trio.fail_after(IN_TIME):
            assert await raw.read_body() == b""


@pytest.mark.parametrize("wrap", ALL)
async def test_an_upload_arrives_whole(hosted: Hosted, wrap: Wrap) -> None:
    async with open_server(wrap(hosted.app)) as port:
        assert (await ask(port, "POST", "/size", None, b"x" * 90))[2] == b"90"


@pytest.mark.parametrize("wrap", [each for each in ALL if each is not with_body_limit])
async def test_an_unread_upload_ends_well(hosted: Hosted, wrap: Wrap) -> None:
    """RQ-21."""
    async with open_server(wrap(hosted.app)) as port:
        assert (await ask(port, "POST", "/where", None, b"x" * 1_000_000))[0] == 405


@pytest.mark.parametrize("wrap", ALL)
async def test_a_connection_is_used_again(hosted: Hosted, wrap: Wrap) -> None:
    """RQ-32."""
    async with open_server(wrap(hosted.app)) as port, open_raw(port) as raw:
        for _ in range(3):
            with trio.fail_after(IN_TIME):
                await raw.request("GET", "/where")
                assert (await raw.read_head())[0] == 200
                await raw.read_body()


@pytest.mark.parametrize("wrap", ALL)
async def test_context_variables_reach_all_of_the_users_code(hosted: Hosted, wrap: Wrap) -> None:
    def with_context(app: ASGIApp) -> ASGIApp:
        async def setting(scope: Any, receive: Receive, send: Send) -> None:
            SEEN.set("mine")
            await app(scope, receive, send)

        return setting

    async with open_server(with_context(wrap(hosted.app))) as port:
        _, headers, body = await get(port, "/context")
    assert headers["handler-saw"] == "mine"
    assert body == b"producer mine"
    assert "manager mine" in hosted.events


# GZipMiddleware.


async def test_gzip_middleware_compresses_item_by_item(hosted: Hosted) -> None:
    """AC-42 through Starlette's middleware, which flushes since 1.10."""
    decompress = zlib.decompressobj(31).decompress
    async with open_server(with_gzip(hosted.app)) as port, open_raw(port) as raw:
        await raw.request("GET", "/two", {"accept-encoding": "gzip"})
        _, headers = await raw.read_head()
        assert headers["content-encoding"] == "gzip"
        assert decompress(await read_some(raw)) == b"first "
        hosted.proceed.set()
        assert decompress(await raw.read_body()) == b"second"


async def test_gzip_middleware_lets_the_head_of_a_live_stream_out(hosted: Hosted) -> None:
    async with open_server(with_gzip(hosted.app)) as port:
        await check_disconnect(hosted, port, "/endless", **{"accept-encoding": "gzip"})


async def test_a_failed_body_has_no_gzip_trailer(hosted: Hosted) -> None:
    """AC-44."""
    async with open_server(with_gzip(hosted.app)) as port:
        data = await read_cut(hosted, port, "/cut", **{"accept-encoding": "gzip"})
    with pytest.raises(EOFError):
        gzip.decompress(data)


async def test_gzip_middleware_leaves_a_small_body_alone() -> None:
    """It asks whether the first body message is the last one; a whole body goes in one."""
    app = App()

    @app.get("/")
    async def short(request: Request) -> str:
        return "short"

    async with open_server(GZipMiddleware(app)) as port:
        _, headers, body = await ask(port, "GET", "/", {"accept-encoding": "gzip"})
    assert headers["content-length"] == "5"
    assert body == b"short"


async def test_gzip_middleware_shortens_a_whole_body() -> None:
    app = App()

    @app.get("/")
    async def long(request: Request) -> str:
        return "long " * 1000

    async with open_server(GZipMiddleware(app)) as port:
        _, headers, body = await ask(port, "GET", "/", {"accept-encoding": "gzip"})
    assert int(headers["content-length"]) == len(body) < 1000
    assert gzip.decompress(body) == b"long " * 1000


# Others of Starlette and Hypercorn.


async def test_cors_headers_are_added_to_a_stream(hosted: Hosted) -> None:
    hosted.proceed.set()
    async with open_server(with_cors(hosted.app)) as port:
        _, headers, body = await ask(port, "GET", "/two", {"origin": "http://a"})
    assert headers["access-control-allow-origin"] == "*"
    assert body == b"first second"


async def test_cors_middleware_answers_the_preflight(hosted: Hosted) -> None:
    fields = {"origin": "http://a", "access-control-request-method": "GET"}
    async with open_server(with_cors(hosted.app)) as port:
        assert (await ask(port, "OPTIONS", "/two", fields))[0] == 200


async def test_base_http_middleware_may_read_the_body_first(hosted: Hosted) -> None:
    async def dispatch(
        request: StarletteRequest, call_next: RequestResponseEndpoint
    ) -> StarletteResponse:
        assert await request.body() == b"12345"
        return await call_next(request)

    async with open_server(BaseHTTPMiddleware(hosted.app, dispatch)) as port:
        assert (await ask(port, "POST", "/size", None, b"12345"))[2] == b"5"


async def test_base_http_middleware_may_answer_itself(hosted: Hosted) -> None:
    async def dispatch(
        request: StarletteRequest, call_next: RequestResponseEndpoint
    ) -> StarletteResponse:
        return PlainTextResponse("no", 403)

    async with open_server(BaseHTTPMiddleware(hosted.app, dispatch)) as port:
        assert (await get(port, "/endless"))[0] == 403
    assert "in" not in hosted.events


async def test_base_http_middleware_may_leave_a_response_unsent(hosted: Hosted) -> None:
    """It throws the stream away after its head; the producers must not stay."""

    async def dispatch(
        request: StarletteRequest, call_next: RequestResponseEndpoint
    ) -> StarletteResponse:
        await call_next(request)
        return PlainTextResponse("instead")

    async with open_server(BaseHTTPMiddleware(hosted.app, dispatch)) as port, assert_no_leaks():
        assert (await get(port, "/endless"))[2] == b"instead"
        with trio.fail_after(PROMPT):
            await hosted.left.wait()


async def test_a_body_limit_of_starlette_is_413(hosted: Hosted) -> None:
    async with open_server(with_body_limit(hosted.app)) as port:
        assert (await ask(port, "POST", "/size", None, b"x" * 101))[0] == 413


async def test_a_body_limit_of_starlette_is_413_for_a_chunked_upload_too(hosted: Hosted) -> None:
    """It raises from ``receive()``, and waits for its own exception outside the application."""
    async with open_server(with_body_limit(hosted.app)) as port, open_raw(port) as raw:
        await raw.request("POST", "/size", {"transfer-encoding": "chunked"})
        await raw.send_all(b"65\r\n" + b"x" * 0x65 + b"\r\n0\r\n\r\n")
        with trio.fail_after(IN_TIME):
            assert (await raw.read_head())[0] == 413


async def test_proxy_fix_sets_client_and_scheme() -> None:
    app = App()

    @app.get("/")
    async def who(request: Request) -> Response:
        return json_response([request.client, request.scheme])

    fields = {"x-forwarded-for": "192.0.2.7", "x-forwarded-proto": "https"}
    async with open_server(with_proxy_fix(app)) as port:
        assert (await ask(port, "GET", "/", fields))[2] == b'[["192.0.2.7",0],"https"]'


async def test_a_redirect_to_https_answers_for_the_app(hosted: Hosted) -> None:
    app = HTTPToHTTPSRedirectMiddleware(cast("Any", hosted.app), host="example.org")
    async with open_server(cast("ASGIApp", app)) as port:
        status, headers, _ = await get(port, "/two")
    assert (status, headers["location"]) == (307, "https://example.org/two")


# Middleware of one's own.


async def test_counters_see_what_happens(hosted: Hosted) -> None:
    counters = Counters()
    hosted.proceed.set()
    async with open_server(counters.wrap(hosted.app)) as port:
        await get(port, "/two")
        await read_cut(hosted, port, "/cut")
        await check_disconnect(hosted, port, "/endless")
        with trio.fail_after(IN_TIME):
            await counters.idle.wait()
    counts = counters.counts
    assert counts["running"] == 0
    assert (counts["requests"], counts["failed"], counts["bytes"]) == (3, 1, 12 + 6 + 6)


async def test_an_answered_error_is_no_failure_to_middleware(hosted: Hosted) -> None:
    """Only a cut is raised: what was answered is a response like any other."""
    counters = Counters()
    async with open_server(counters.wrap(hosted.app)) as port:
        await get(port, "/early")
    assert counters.counts["failed"] == 0


@pytest.mark.parametrize("started", [False, True])
async def test_a_timeout_of_middleware_cancels_the_app(hosted: Hosted, started: bool) -> None:
    """D40: it may answer in our place if nothing was sent, else the body is cut."""
    if not started:

        @hosted.app.get("/stuck")
        async def stuck(request: Request[str]) -> str:
            await trio.sleep_forever()
            return "never"

    async def limited(scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await hosted.app(scope, receive, send)
            return
        with trio.move_on_after(0.05) as limit:
            await hosted.app(scope, receive, send)
        if limit.cancelled_caught and not started:
            await PlainTextResponse("too slow", 504)(scope, receive, send)

    async with open_server(limited) as port, open_raw(port) as raw:
        await raw.request("GET", "/endless" if started else "/stuck")
        with trio.fail_after(IN_TIME):
            if started:
                with pytest.raises(Truncated):
                    await raw.read_head()
                    await raw.read_body()
                assert hosted.events[-1] == "out"
            else:
                assert (await raw.read_head())[0] == 504


async def test_an_error_of_middleware_in_send_cuts_the_body(
    hosted: Hosted, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(app: ASGIApp) -> ASGIApp:
        async def wrapped(scope: Any, receive: Receive, send: Send) -> None:
            async def send_once(message: Any) -> None:
                if message.get("body") == b"second":
                    raise ValueError("the middleware failed")
                await send(message)

            await app(scope, receive, send_once)

        return wrapped

    hosted.proceed.set()
    async with open_server(failing(hosted.app)) as port:
        with pytest.raises(Truncated):
            await get(port, "/two")
    ours = [record for record in caplog.records if record.name == "tsstream"]
    assert [record.levelname for record in ours] == ["ERROR"]
    assert "the middleware failed" in caplog.text


async def test_an_error_of_middleware_in_receive_is_answered_at_once(
    hosted: Hosted, caplog: pytest.LogCaptureFixture
) -> None:
    """RQ-33: there is nothing left to wait for when ``receive()`` has failed."""

    async def failing(scope: Any, receive: Receive, send: Send) -> None:
        async def receive_nothing() -> Any:
            raise ValueError("the middleware failed")

        await hosted.app(scope, receive if scope["type"] == "lifespan" else receive_nothing, send)

    async with open_server(failing) as port, open_raw(port) as raw:
        with trio.fail_after(PROMPT):
            await raw.request("POST", "/size", {"connection": "close"}, b"12345")
            assert (await raw.read_head())[0] == 500
            await raw.read_until_closed()
    ours = [record for record in caplog.records if record.name == "tsstream"]
    assert [record.levelname for record in ours] == ["ERROR"]


async def test_middleware_that_swallows_our_error_leaves_the_body_cut(hosted: Hosted) -> None:
    def swallowing(app: ASGIApp) -> ASGIApp:
        async def wrapped(scope: Any, receive: Receive, send: Send) -> None:
            try:
                await app(scope, receive, send)
            except OSError:
                pass

        return wrapped

    async with open_server(swallowing(hosted.app)) as port:
        assert await read_cut(hosted, port, "/cut") == b"first "


async def read_ahead(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


@pytest.mark.parametrize("path", ["/size", "/echo"])
async def test_middleware_may_read_the_body_and_replay_it(hosted: Hosted, path: str) -> None:
    """The body once, then what the server tells."""

    async def replaying(scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await hosted.app(scope, receive, send)
            return
        messages = [{"type": "http.request", "body": await read_ahead(receive)}]

        async def replay() -> Any:
            return messages.pop() if messages else await receive()

        await hosted.app(scope, replay, send)

    async with open_server(replaying) as port:
        expected = b"5" if path == "/size" else b"12345"
        assert (await ask(port, "POST", path, None, b"12345"))[2] == expected


async def test_middleware_may_replay_the_body_without_end(hosted: Hosted) -> None:
    """A common idiom; to an application that reads no further than the end, it makes no odds."""

    async def replaying(scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await hosted.app(scope, receive, send)
            return
        body = await read_ahead(receive)

        async def replay() -> Any:
            return {"type": "http.request", "body": body, "more_body": False}

        await hosted.app(scope, replay, send)

    async with open_server(replaying) as port:
        status, _, body = await ask(port, "POST", "/size", None, b"12345")
    assert (status, body) == (200, b"5")
