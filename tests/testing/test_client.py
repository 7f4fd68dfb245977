"""The in-process client, against small raw ASGI applications."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from typing import Any

import pytest
import trio
import trio.testing
from leaks import assert_no_leaks
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route
from trio.testing import MockClock, wait_all_tasks_blocked

from tsstream._asgi import ASGIApp, Receive, Send
from tsstream.testing import TruncatedBodyError, open_client


def http_only(app: ASGIApp) -> ASGIApp:
    async def wrapper(scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await app(scope, receive, send)

    return wrapper


def start(status: int = 200, *headers: tuple[bytes, bytes]) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def body(data: bytes, *, more: bool = True) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


def sends(*messages: Any, then: Exception | None = None) -> ASGIApp:
    @http_only
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)
        if then is not None:
            raise then

    return app


class Ticker:
    """Sends a tick for ever, and stops when the client leaves; what happened is in ``log``."""

    def __init__(self, cleanup: float = 0) -> None:
        self.log: list[str] = []
        self.cleanup = cleanup

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        self.log.append("called")
        await send(start())
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.tick, send)
                while (await receive())["type"] != "http.disconnect":
                    pass
                self.log.append("disconnect")
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(self.cleanup)
            self.log.append("clean")

    async def tick(self, send: Send) -> None:
        while True:
            await send(body(b"tick"))
            self.log.append("sent")


# Whole responses


async def test_whole_response() -> None:
    app = sends(
        start(201, (b"content-type", b"text/plain; charset=latin-1"), (b"x-a", b"1")),
        body("größe".encode("latin-1")),
        body(b"!", more=False),
    )
    async with open_client(app) as client:
        response = await client.get("/")
    assert response.status_code == 201
    assert response.headers["X-A"] == "1"
    assert response.content == b"gr\xf6\xdfe!"
    assert response.text == "größe!"


async def test_json() -> None:
    async with open_client(sends(start(), body(b'{"a": [1]}', more=False))) as client:
        assert (await client.get("/")).json() == {"a": [1]}


async def test_scope_has_every_key() -> None:
    scopes: list[Any] = []

    @http_only
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        scopes.append(scope)
        await send(start())
        await send(body(b"", more=False))

    async with open_client(app, root_path="/root") as client:
        await client.request("get", "/a b/ü%2F?q=ä&r=1", headers={"X-Name": "v"})
    assert scopes == [
        {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": "/a b/ü/",
            "raw_path": b"/a%20b/%C3%BC%2F",
            "query_string": b"q=%C3%A4&r=1",
            "root_path": "/root",
            "headers": [(b"host", b"testserver"), (b"x-name", b"v")],
            "client": ("testclient", 50000),
            "server": ("testserver", 80),
            "state": {},
            "extensions": {"tsstream.raise_errors": {}},
        }
    ]


@pytest.mark.parametrize("path", ["", "items", "http://testserver/items"])
async def test_path_must_be_a_path(path: str) -> None:
    async with open_client(sends()) as client:
        with pytest.raises(ValueError, match="give it from '/'"):
            await client.get(path)


@pytest.mark.parametrize(
    ("method", "content", "framing"),
    [
        ("GET", b"", None),
        ("POST", b"", (b"content-length", b"0")),
        ("POST", b"abc", (b"content-length", b"3")),
        ("DELETE", "ä", (b"content-length", b"2")),
        ("POST", [b"a"], (b"transfer-encoding", b"chunked")),
    ],
)
async def test_framing_of_the_request(method: str, content: Any, framing: Any) -> None:
    seen: list[Any] = []

    @http_only
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        seen.extend(scope["headers"][1:])
        await send(start())
        await send(body(b"", more=False))

    async with open_client(app) as client:
        await client.request(method, "/", content=content)
    assert seen == ([framing] if framing else [])


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
async def test_response_without_a_body(method: str, status: int) -> None:
    app = sends(start(status, (b"content-length", b"3")), body(b"abc", more=False))
    async with open_client(app) as client:
        response = await client.request(method, "/")
        assert (response.status_code, response.content) == (status, b"")
    async with open_client(
        sends(start(status, (b"content-length", b"3")), body(b"", more=False))
    ) as client:
        assert (await client.request(method, "/")).content == b""


async def test_foreign_framework() -> None:
    async def upper(request: Request) -> StreamingResponse:
        # Starlette watches for the disconnect while it streams, so the upload is read before.
        words = [chunk.upper() async for chunk in request.stream()]
        return StreamingResponse(iter(words))

    async def where(request: Request) -> JSONResponse:
        return JSONResponse({"name": request.path_params["name"], "q": request.query_params["q"]})

    app = Starlette(
        routes=[Route("/upper", upper, methods=["POST"]), Route("/where/{name}", where)]
    )
    async with open_client(app) as client:
        assert (await client.get("/where/x?q=1")).json() == {"name": "x", "q": "1"}
        assert (await client.get("/nowhere")).status_code == 404
        assert (await client.post("/upper", content=[b"a", b"b"])).text == "AB"


# Streams, and backpressure


async def test_send_waits_until_the_test_receives() -> None:
    app = Ticker()
    async with open_client(app) as client, client.stream("GET", "/") as response:
        assert response.status_code == 200
        await wait_all_tasks_blocked()
        assert app.log == ["called"]
        assert await response.body.receive() == b"tick"
        await wait_all_tasks_blocked()
        assert app.log == ["called", "sent"]


async def test_chunks_come_as_they_were_sent_and_then_the_end() -> None:
    app = sends(start(), body(b"a"), body(b""), body(b"bc"), body(b"d", more=False))
    async with open_client(app) as client, client.stream("GET", "/") as response:
        assert [chunk async for chunk in response.body] == [b"a", b"bc", b"d"]
        for _ in range(2):
            with pytest.raises(trio.EndOfChannel):
                await response.body.receive()


async def test_receive_nowait_tells_whether_the_app_waits() -> None:
    app = Ticker()
    async with open_client(app) as client, client.stream("GET", "/") as response:
        with pytest.raises(trio.WouldBlock):
            response.body.receive_nowait()
        await wait_all_tasks_blocked()
        assert response.body.receive_nowait() == b"tick"


async def test_cancelled_receive_loses_nothing(autojump_clock: MockClock) -> None:
    @http_only
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await send(start())
        await trio.sleep(2)
        await send(body(b"late", more=False))

    async with open_client(app) as client, client.stream("GET", "/") as response:
        with trio.move_on_after(1):
            await response.body.receive()
        assert await response.body.receive() == b"late"


async def test_time_is_virtual(autojump_clock: MockClock) -> None:
    @http_only
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await send(start())
        for _ in range(3):
            await trio.sleep(3600)
            await send(body(b"x"))
        await send(body(b"", more=False))

    begin = trio.current_time()
    async with open_client(app) as client:
        assert (await client.get("/")).text == "xxx"
    assert trio.current_time() - begin == 3 * 3600


# Truncation


@pytest.mark.parametrize("sent", [[], [body(b"a")]])
async def test_body_without_its_end_is_truncated(sent: list[Any]) -> None:
    async with open_client(sends(start(), *sent)) as client:
        async with client.stream("GET", "/") as response:
            for message in sent:
                assert await response.body.receive() == message["body"]
            for _ in range(2):
                with pytest.raises(TruncatedBodyError, match="without its final message"):
                    await response.body.receive()
        with pytest.raises(TruncatedBodyError):
            await client.get("/")


async def test_body_shorter_than_its_content_length_is_truncated() -> None:
    app = sends(start(200, (b"content-length", b"5")), body(b"abc", more=False))
    async with open_client(app) as client:
        with pytest.raises(TruncatedBodyError, match="is 5, but 3 bytes"):
            await client.get("/")


async def test_app_cancelled_in_its_final_send_has_not_finished(autojump_clock: MockClock) -> None:
    @http_only
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await send(start())
        with trio.move_on_after(1):
            await send(body(b"all", more=False))

    async with open_client(app) as client, client.stream("GET", "/") as response:
        await trio.sleep(2)
        with pytest.raises(TruncatedBodyError):
            await response.body.receive()


# The application's own exception


async def test_error_before_the_start_comes_out() -> None:
    error = ValueError("mine")
    async with open_client(sends(then=error)) as client:
        with pytest.raises(ValueError, match="mine") as caught:
            await client.get("/")
        assert caught.value is error
        with pytest.raises(ValueError, match="mine"):
            async with client.stream("GET", "/"):
                pytest.fail("entered")


async def test_error_after_the_start_comes_out_of_get() -> None:
    async with open_client(sends(start(), body(b"a"), then=ValueError("mine"))) as client:
        with pytest.raises(ValueError, match="mine"):
            await client.get("/")


async def test_error_after_the_start_is_the_cause_of_the_truncation() -> None:
    error = ValueError("mine")
    async with open_client(sends(start(), body(b"a"), then=error)) as client:
        async with client.stream("GET", "/") as response:
            await response.body.receive()
            with pytest.raises(TruncatedBodyError) as caught:
                await response.body.receive()
        assert caught.value.__cause__ is error  # seen: the block is left in peace


async def test_error_that_nobody_saw_comes_out_on_leaving() -> None:
    async with open_client(sends(start(), body(b"a"), then=ValueError("mine"))) as client:
        with pytest.raises(ValueError, match="mine"):
            async with client.stream("GET", "/") as response:
                await response.body.receive()


async def test_error_after_a_complete_answer_comes_out() -> None:
    app = sends(start(500), body(b"sorry", more=False), then=ValueError("mine"))
    async with open_client(app) as client:
        with pytest.raises(ValueError, match="mine"):
            await client.get("/")
        with pytest.raises(ValueError, match="mine"):
            async with client.stream("GET", "/") as response:
                assert response.status_code == 500
                assert [chunk async for chunk in response.body] == [b"sorry"]


async def test_error_and_an_error_of_the_test_leave_together() -> None:
    async with open_client(sends(start(), then=ValueError("the app's"))) as client:
        with pytest.RaisesGroup(KeyError, ValueError):
            async with client.stream("GET", "/"):
                await wait_all_tasks_blocked()
                raise KeyError("the test's")


async def test_error_in_the_cleanup_is_not_lost_to_cancellation() -> None:
    @http_only
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await send(start())
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("mine")

    with pytest.RaisesGroup(ValueError, flatten_subgroups=True, allow_unwrapped=True):
        with trio.CancelScope() as scope:
            async with open_client(app) as client, client.stream("GET", "/"):
                await wait_all_tasks_blocked()
                scope.cancel()
                await trio.sleep_forever()


async def test_group_of_the_app_is_left_as_it_is() -> None:
    error = ExceptionGroup("mine", [ValueError("one")])
    async with open_client(sends(start(), then=error)) as client:
        with pytest.RaisesGroup(ValueError, match="mine"):
            await client.get("/")


async def test_errors_can_be_left_to_the_network() -> None:
    async with open_client(sends(then=ValueError("mine")), raise_app_errors=False) as client:
        assert (await client.get("/")).status_code == 500
    async with open_client(sends(), raise_app_errors=False) as client:
        assert (await client.get("/")).status_code == 500
    app = sends(start(), body(b"a"), then=ValueError("mine"))
    async with open_client(app, raise_app_errors=False) as client:
        with pytest.raises(TruncatedBodyError) as caught:
            await client.get("/")
        assert isinstance(caught.value.__cause__, ValueError)
        async with client.stream("GET", "/") as response:
            await response.body.receive()


async def test_extension_asks_for_errors_only_if_they_are_raised() -> None:
    seen: list[Any] = []

    @http_only
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        seen.append(scope["extensions"])
        await send(start())
        await send(body(b"", more=False))

    for raising in True, False:
        async with open_client(app, raise_app_errors=raising) as client:
            await client.get("/")
    assert seen == [{"tsstream.raise_errors": {}}, {}]


# The request body


def echo_messages() -> tuple[ASGIApp, list[Any]]:
    seen: list[Any] = []

    @http_only
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            seen.append((message["body"], message["more_body"]))
            if not message["more_body"]:
                break
        await send(start())
        await send(body(b"", more=False))

    return app, seen


class Source:
    """An async iterable that counts what was taken from it."""

    def __init__(self, items: Iterable[bytes]) -> None:
        self.items = iter(items)
        self.taken = 0

    def __aiter__(self) -> Source:
        return self

    async def __anext__(self) -> bytes:
        await trio.lowlevel.checkpoint()
        for item in self.items:
            self.taken += 1
            return item
        raise StopAsyncIteration


def agen() -> AsyncGenerator[bytes, None]:
    return (item async for item in Source([b"a", b"b"]))


@pytest.mark.parametrize(
    ("content", "messages"),
    [
        (b"", [(b"", False)]),
        (b"abc", [(b"abc", False)]),
        ("ä", [("ä".encode(), False)]),
        ([b"a", "b"], [(b"a", True), (b"b", True), (b"", False)]),
        (iter([b"a"]), [(b"a", True), (b"", False)]),
        (Source([b"a"]), [(b"a", True), (b"", False)]),
        (agen(), [(b"a", True), (b"b", True), (b"", False)]),
    ],
)
async def test_request_body(content: Any, messages: list[Any]) -> None:
    app, seen = echo_messages()
    async with open_client(app) as client:
        await client.post("/", content=content)
    assert seen == messages


async def test_upload_from_a_channel_is_duplex() -> None:
    @http_only
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await send(start())
        more = True
        while more:
            message = await receive()
            more = message["more_body"]
            await send(body(message["body"].upper(), more=more))

    send_channel, receive_channel = trio.open_memory_channel[bytes](0)
    async with open_client(app) as client:
        async with client.stream("POST", "/", content=receive_channel) as response:
            for word in b"one", b"two":
                await send_channel.send(word)
                assert await response.body.receive() == word.upper()
            send_channel.close()
            with pytest.raises(trio.EndOfChannel):
                await response.body.receive()


async def test_upload_goes_at_the_pace_of_the_app() -> None:
    source = Source([b"x"] * 1000)
    go_on = trio.Event()

    @http_only
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        await send(start())
        await go_on.wait()
        await send(body(b"", more=False))

    async with open_client(app) as client, client.stream("POST", "/", content=source):
        await wait_all_tasks_blocked()
        assert source.taken == 1
        go_on.set()


async def test_error_in_the_content_is_the_tests() -> None:
    def content() -> Any:
        yield b"a"
        raise ValueError("mine")

    app, _ = echo_messages()
    async with open_client(app) as client:
        with pytest.raises(ValueError, match="mine"):
            await client.post("/", content=content())
        with pytest.raises(TypeError, match="give bytes or str"):
            await client.post("/", content=[1])  # type: ignore[list-item]  # that is the test


# The client leaves


async def test_leaving_the_block_is_the_client_leaving() -> None:
    app = Ticker()
    async with open_client(app) as client:
        async with client.stream("GET", "/") as response:
            await response.body.receive()
        assert app.log[-2:] == ["disconnect", "clean"]


async def test_closing_the_body_is_the_client_leaving() -> None:
    app = Ticker()
    async with open_client(app) as client, client.stream("GET", "/") as response:
        await response.body.receive()
        await response.body.aclose()
        await wait_all_tasks_blocked()
        assert app.log[-1] == "clean"
        with pytest.raises(trio.ClosedResourceError, match="the client has left"):
            await response.body.receive()


async def test_slow_shielded_cleanup_is_waited_for(autojump_clock: MockClock) -> None:
    app = Ticker(cleanup=1000)
    begin = trio.current_time()
    async with open_client(app) as client:
        async with client.stream("GET", "/"):
            pass
        assert app.log[-1] == "clean"
        assert trio.current_time() - begin == 1000


@pytest.mark.parametrize("how", ["raise", "cancel"])
async def test_cleanup_is_waited_for_on_every_path(how: str, autojump_clock: MockClock) -> None:
    app = Ticker(cleanup=1000)
    async with open_client(Ticker()):  # another application does not matter
        with pytest.raises(KeyError) if how == "raise" else trio.move_on_after(1):
            async with open_client(app) as client, client.stream("GET", "/") as response:
                await response.body.receive()
                if how == "raise":
                    raise KeyError
                await trio.sleep_forever()
    assert app.log[-1] == "clean"


async def test_block_that_raises_does_not_wait_for_a_deaf_app() -> None:
    @http_only
    async def deaf(scope: Any, receive: Receive, send: Send) -> None:
        await send(start())
        await trio.sleep_forever()

    async with open_client(deaf) as client:
        with pytest.raises(KeyError):
            async with client.stream("GET", "/"):
                raise KeyError


async def test_after_the_client_has_left() -> None:
    seen: list[str] = []

    @http_only
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        assert (await receive())["type"] == "http.request"
        await send(start())
        for _ in range(3):
            with trio.testing.assert_checkpoints():
                seen.append((await receive())["type"])
        for more in True, True, False:
            with trio.testing.assert_checkpoints():
                await send(body(b"into the void", more=more))

    async with open_client(app) as client, client.stream("GET", "/"):
        pass
    assert seen == ["http.disconnect"] * 3


async def test_unread_request_body_does_not_hide_the_disconnect() -> None:
    seen: list[str] = []
    left = trio.Event()

    @http_only
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await send(start())
        await left.wait()
        seen.append((await receive())["type"])

    async with open_client(app) as client:
        async with client.stream("POST", "/", content=b"unread") as response:
            response.body.close()
            left.set()
    assert seen == ["http.disconnect"]


async def test_final_message_is_followed_by_a_disconnect() -> None:
    seen: list[str] = []

    @http_only
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch, receive)
            await send(start())
            await send(body(b"all", more=False))
            # HOST fault 7: it is told from inside the final send()
            seen.append("sent")

    async def watch(receive: Receive) -> None:
        for _ in range(2):
            seen.append((await receive())["type"])

    async with open_client(app) as client:
        assert (await client.get("/")).text == "all"
    assert sorted(seen) == ["http.disconnect", "http.disconnect", "sent"]
    assert seen[0] == "http.disconnect"


async def test_send_that_waits_when_the_client_leaves_returns() -> None:
    returned: list[bool] = []

    @http_only
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await send(start())
        await send(body(b"never taken"))
        returned.append(True)

    async with open_client(app) as client:
        async with client.stream("GET", "/"):
            await wait_all_tasks_blocked()
            assert returned == []
    assert returned == [True]


async def test_nothing_is_left_after_500_random_cancellations() -> None:
    randomness = random.Random(0)

    async def cancel_after(checkpoints: int, scope: trio.CancelScope) -> None:
        for _ in range(checkpoints):
            await trio.lowlevel.cancel_shielded_checkpoint()
        scope.cancel()

    async def visit(app: ASGIApp) -> None:
        async with open_client(app) as client:
            await client.post("/", content=agen())
            async with client.stream("POST", "/", content=[b"a", b"b"]) as response:
                for _ in range(5):
                    await response.body.receive()

    ends: dict[bool, int] = {True: 0, False: 0}
    async with assert_no_leaks():
        for _ in range(500):
            alive = 0

            async def app(scope: Any, receive: Receive, send: Send) -> None:
                nonlocal alive
                alive += 1
                try:
                    await (lifespan if scope["type"] == "lifespan" else answer)(receive, send)
                finally:
                    with trio.CancelScope(shield=True):
                        await trio.lowlevel.checkpoint()
                    alive -= 1

            scope = trio.CancelScope()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(cancel_after, randomness.randrange(60), scope)
                with scope:
                    await visit(app)
                assert alive == 0
            ends[scope.cancelled_caught] += 1
    assert ends[True] > 100, ends
    assert ends[False] > 10, ends


async def lifespan(receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


async def answer(receive: Receive, send: Send) -> None:
    await receive()
    await send(start())
    for _ in range(5):
        await send(body(b"x"))
    await send(body(b"", more=False))


# The application's messages


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        ([body(b"a")], "send 'http.response.start' first"),
        ([start(), start()], "started already"),
        ([start(), body(b"", more=False), body(b"a")], "has ended"),
        ([start(), body(b"", more=False), start()], "has ended"),
        ([start(), body("text")], "is bytes, not str"),  # type: ignore[arg-type]
        ([start(), body(bytearray())], "is bytes, not bytearray"),  # type: ignore[arg-type]
        ([start(), {"type": "http.response.body", "more_body": 1}], "is a bool"),
        ([start(100)], "from 200 to 999"),
        ([start("200")], "from 200 to 999"),  # type: ignore[arg-type]
        ([{"type": "http.response.start"}], "not None"),
        ([{**start(), "headers": None}], "iterable of pairs"),
        ([start(200, (b"X-A", b"1"))], "lower case"),
        ([start(200, ("x-a", "1"))], "pair of bytes"),  # type: ignore[arg-type]
        ([start(200, (b"x-a", b"1\r\nx-b: 2"))], "percent-encode"),
        ([start(200, (b"content-length", b"x"))], "not one number"),
        ([start(200, (b"content-length", b"2")), body(b"abc")], "longer than content-length"),
        ([start(), {"type": "http.response.push"}], "does not offer it"),
        ([b"hello"], "is a dict"),
        ([{"status": 200}], "is a dict"),
    ],
)
async def test_broken_message_is_explained(messages: list[Any], complaint: str) -> None:
    async with open_client(sends(*messages), raise_app_errors=False) as client:
        with pytest.raises(AssertionError, match=complaint):
            await client.get("/")


async def test_broken_message_that_the_app_swallows_comes_out() -> None:
    @http_only
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        try:
            await send(body(b"a"))
        except AssertionError:
            await send(start())
            await send(body(b"", more=False))

    async with open_client(app) as client:
        with pytest.raises(AssertionError, match="first"):
            await client.get("/")


async def test_app_that_sends_nothing_is_explained() -> None:
    async with open_client(sends()) as client:
        with pytest.raises(AssertionError, match="returned without sending"):
            await client.get("/")


async def test_send_after_a_cancelled_send_is_explained(autojump_clock: MockClock) -> None:
    @http_only
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await send(start())
        with trio.move_on_after(1):
            await send(body(b"half"))
        await send(body(b"", more=False))

    async with open_client(app) as client, client.stream("GET", "/") as response:
        await trio.sleep(2)
        with pytest.raises(TruncatedBodyError) as caught:
            await response.body.receive()
        assert "was cancelled" in str(caught.value.__cause__)


# The lifespan

Script = Callable[[Any, Receive, Send], Awaitable[None]]


def living(script: Script) -> ASGIApp:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await script(scope, receive, send)
        else:
            scope["state"]["mine"] = scope["state"].get("mine", 0) + 1
            await send(start())
            await send(body(str(scope["state"]).encode(), more=False))

    return app


async def test_lifespan_runs_round_the_client() -> None:
    log: list[str] = []

    async def script(scope: Any, receive: Receive, send: Send) -> None:
        assert await receive() == {"type": "lifespan.startup"}
        scope["state"]["mine"] = 1
        log.append("up")
        await send({"type": "lifespan.startup.complete"})
        assert await receive() == {"type": "lifespan.shutdown"}
        log.append("down")
        await send({"type": "lifespan.shutdown.complete"})
        log.append("returned")

    async with open_client(living(script)) as client:
        assert log == ["up"]
        for _ in range(2):  # each request has a copy of the state
            assert (await client.get("/")).text == "{'mine': 2}"
    assert log == ["up", "down", "returned"]
    with pytest.raises(RuntimeError, match="the client is closed"):
        await client.get("/")


async def test_app_that_raises_on_the_lifespan_scope_has_none() -> None:
    async def script(scope: Any, receive: Receive, send: Send) -> None:
        raise NotImplementedError

    async with open_client(living(script)) as client:
        assert (await client.get("/")).status_code == 200


async def test_app_that_answers_the_lifespan_with_http_has_none() -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await send(start())
        await send(body(b"", more=False))

    async with open_client(app) as client:
        assert (await client.get("/")).status_code == 200


@pytest.mark.parametrize("loops", [False, True])
async def test_failed_startup_raises(loops: bool) -> None:
    async def script(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})
        while loops:
            await receive()

    with pytest.raises(RuntimeError, match="the startup of the application failed: no database"):
        async with open_client(living(script)):
            pytest.fail("entered")


async def test_failed_startup_raises_what_the_app_raises() -> None:
    async def script(scope: Any, receive: Receive, send: Send) -> None:
        await send({"type": "lifespan.startup.failed", "message": "no database"})
        raise ConnectionError("no database at this address")

    with pytest.raises(ConnectionError, match="at this address"):
        async with open_client(living(script)):
            pytest.fail("entered")


async def test_failed_shutdown_raises() -> None:
    async def script(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.failed", "message": "disk full"})

    with pytest.raises(RuntimeError, match="the shutdown of the application failed: disk full"):
        async with open_client(living(script)):
            pass


@pytest.mark.parametrize("when", ["serving", "stopping"])
async def test_error_of_a_living_app_comes_out(when: str) -> None:
    async def script(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        if when == "stopping":
            await receive()
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        async with open_client(living(script)):
            if when == "serving":
                await trio.sleep_forever()


async def test_wrong_lifespan_message_is_explained() -> None:
    async def script(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.startup.complete"})

    with pytest.raises(AssertionError, match="each once"):
        async with open_client(living(script)):
            await trio.sleep_forever()


async def test_block_that_raises_cancels_the_lifespan() -> None:
    log: list[str] = []

    async def script(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        try:
            await receive()
        except trio.Cancelled:
            log.append("cancelled")
            raise

    with pytest.raises(KeyError):
        async with open_client(living(script)):
            await wait_all_tasks_blocked()
            raise KeyError
    assert log == ["cancelled"]
