"""Applications that must neither hang the in-process client nor pass unseen."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeAlias

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tsstream import WebSocketClosed
from tsstream._asgi import ASGIApp, Receive, Send
from tsstream.testing import Client, TruncatedBodyError, WebSocketRejected, open_client

START = {"type": "http.response.start", "status": 200, "headers": []}
ACCEPT = {"type": "websocket.accept"}
CLOSE = {"type": "websocket.close"}
UP = {"type": "lifespan.startup.complete"}
BROKEN = {"type": "bogus"}

Script: TypeAlias = Callable[[Receive, Send], Awaitable[None]]
Use: TypeAlias = Callable[[Client], Awaitable[None]]


def chunk(data: bytes, *, more: bool = True) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


def text(data: str) -> dict[str, Any]:
    return {"type": "websocket.send", "text": data}


def no_lifespan(script: Script) -> ASGIApp:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await script(receive, send)

    return app


def lifespan_only(script: Script) -> ASGIApp:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await script(receive, send)
        else:
            await send(START)
            await send(chunk(b"", more=False))

    return app


async def kept_cancelled() -> trio.Cancelled:
    """Give what a broken library raises again, long after its scope has ended."""
    with trio.CancelScope() as scope:  # noqa: ASYNC912 (sleep_forever() is one)
        scope.cancel()
        try:
            await trio.sleep_forever()
        except trio.Cancelled as error:  # noqa: ASYNC103 (that is the fault)
            kept = error
    return kept


# How a test may use an application.


async def get(client: Client) -> None:
    await client.get("/")


async def stream(client: Client) -> None:
    async with client.stream("GET", "/") as response:
        async for _ in response.body:
            pass


async def stream_and_leave(client: Client) -> None:
    async with client.stream("GET", "/"):
        await wait_all_tasks_blocked()


async def request_and_leave(client: Client) -> None:
    async with client.open_request("GET", "/"):
        await wait_all_tasks_blocked()


async def enter(client: Client) -> None:
    async with client.websocket("/"):
        await wait_all_tasks_blocked()


async def receive(client: Client) -> None:
    async with client.websocket("/") as websocket:
        async for _ in websocket:
            pass


async def send(client: Client) -> None:
    async with client.websocket("/") as websocket:
        with suppress(WebSocketClosed):
            while True:
                await websocket.send("a")


async def abort(client: Client) -> None:
    async with client.websocket("/") as websocket:
        await wait_all_tasks_blocked()
        websocket.abort()


HTTP_USES = (get, stream, stream_and_leave, request_and_leave)
WEBSOCKET_USES = (enter, receive, send, abort)


def found_in(caught: pytest.ExceptionInfo[Exception]) -> BaseException | None:
    """Give what went wrong; a cut body shows it as its cause."""
    error = caught.value
    return error.__cause__ if isinstance(error, TruncatedBodyError) else error


# A breach of the specification that the application swallows; then it waits.


def swallows(*before: Any, after: Any = None) -> ASGIApp:
    async def script(receive: Receive, send: Send) -> None:
        for message in before:
            await send(message)
        try:
            await send(BROKEN)
        except AssertionError:
            pass
        if after is not None:
            await send(after)
        await trio.sleep_forever()

    return no_lifespan(script)


@pytest.mark.parametrize("raising", [True, False])
@pytest.mark.parametrize("use", HTTP_USES)
@pytest.mark.parametrize(
    "app",
    [swallows(), swallows(START), swallows(START, chunk(b"a", more=False)), swallows(after=START)],
)
async def test_swallowed_breach_of_http_comes_out_of_an_app_that_waits(
    app: ASGIApp, use: Use, raising: bool, autojump_clock: MockClock
) -> None:
    with trio.fail_after(10):
        async with open_client(app, raise_app_errors=raising) as client:
            with pytest.raises((AssertionError, TruncatedBodyError)) as caught:
                await use(client)
            assert "send() of 'bogus'" in str(found_in(caught))


@pytest.mark.parametrize("raising", [True, False])
@pytest.mark.parametrize("use", WEBSOCKET_USES)
@pytest.mark.parametrize(
    "app", [swallows(), swallows(ACCEPT), swallows(after=ACCEPT), swallows(ACCEPT, after=text("a"))]
)
async def test_swallowed_breach_of_a_websocket_comes_out_of_an_app_that_waits(
    app: ASGIApp, use: Use, raising: bool, autojump_clock: MockClock
) -> None:
    with trio.fail_after(10):
        async with open_client(app, raise_app_errors=raising) as client:
            with pytest.raises(AssertionError, match=r"send\(\) of 'bogus'"):
                await use(client)


async def test_swallowed_breach_is_not_hidden_by_what_the_app_raises_on_its_cancellation() -> None:
    @no_lifespan
    async def app(receive: Receive, send: Send) -> None:
        try:
            await send(BROKEN)
        except AssertionError:
            pass
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("mine")

    async with open_client(app) as client:
        for use in get, enter:
            with pytest.RaisesGroup(
                pytest.RaisesExc(AssertionError, match="bogus"),
                pytest.RaisesExc(ValueError, match="mine"),
            ):
                await use(client)


async def test_breach_that_the_app_wraps_comes_out_as_the_app_raised_it() -> None:
    @no_lifespan
    async def app(receive: Receive, send: Send) -> None:
        try:
            await send(BROKEN)
        except AssertionError as error:
            raise ValueError("mine") from error

    async with open_client(app) as client:
        for use in get, enter:
            with pytest.raises(ValueError, match="mine"):
                await use(client)


async def test_swallowed_breach_comes_out_of_a_test_that_is_cancelled(
    autojump_clock: MockClock,
) -> None:
    @no_lifespan
    async def app(receive: Receive, send: Send) -> None:
        await send(ACCEPT)
        try:
            await send(BROKEN)
        except AssertionError:
            await send(CLOSE)

    async with open_client(app) as client:
        with pytest.RaisesGroup(WebSocketClosed, pytest.RaisesExc(AssertionError, match="bogus")):
            async with client.websocket("/") as websocket:
                await websocket.receive()


@pytest.mark.parametrize("when", ["serving", "stopping"])
async def test_swallowed_breach_of_the_lifespan_comes_out(
    when: str, autojump_clock: MockClock
) -> None:
    @lifespan_only
    async def app(receive: Receive, send: Send) -> None:
        await receive()
        await send(UP)
        if when == "stopping":
            await receive()
        try:
            await send(UP)
        except AssertionError:
            await trio.sleep_forever()

    with trio.fail_after(10), pytest.raises(AssertionError, match="each once"):
        async with open_client(app):
            if when == "serving":
                await trio.sleep_forever()


async def test_app_that_swallows_that_it_has_no_lifespan_has_none(
    autojump_clock: MockClock,
) -> None:
    @lifespan_only
    async def app(receive: Receive, send: Send) -> None:
        try:
            await send(START)
        except AssertionError:
            await trio.sleep_forever()

    with trio.fail_after(10):
        async with open_client(app) as client:
            assert (await client.get("/")).status_code == 200


# A Cancelled that was kept and is raised again, outside of the scope that it belongs to.


def raises_kept_cancelled(*before: Any, beside: Exception | None = None) -> ASGIApp:
    async def script(receive: Receive, send: Send) -> None:
        for message in before:
            await send(message)
        kept = await kept_cancelled()
        raise kept if beside is None else BaseExceptionGroup("both", [beside, kept])

    return no_lifespan(script)


@pytest.mark.parametrize("use", HTTP_USES)
@pytest.mark.parametrize(
    "messages", [[], [START], [START, chunk(b"a")], [START, chunk(b"a", more=False)]]
)
async def test_stray_cancelled_of_a_request_is_an_error(messages: list[Any], use: Use) -> None:
    async with open_client(raises_kept_cancelled(*messages)) as client:
        with pytest.raises((RuntimeError, TruncatedBodyError)) as caught:
            await use(client)
        assert "a Cancelled was kept and raised again" in str(found_in(caught))
        with pytest.raises(RuntimeError, match="a Cancelled was kept"):
            await client.get("/")  # the client is none the worse


@pytest.mark.parametrize("use", WEBSOCKET_USES)
@pytest.mark.parametrize("messages", [[], [ACCEPT], [ACCEPT, CLOSE]])
async def test_stray_cancelled_of_a_websocket_is_an_error(messages: list[Any], use: Use) -> None:
    async with open_client(raises_kept_cancelled(*messages)) as client:
        with pytest.raises(RuntimeError, match="a Cancelled was kept and raised again"):
            await use(client)


async def test_stray_cancelled_is_a_failure_on_the_network() -> None:
    async with open_client(raises_kept_cancelled(), raise_app_errors=False) as client:
        assert (await client.get("/")).status_code == 500
        with pytest.raises(WebSocketRejected):
            await enter(client)
    app = raises_kept_cancelled(START, chunk(b"a"))
    async with open_client(app, raise_app_errors=False) as client:
        with pytest.raises(TruncatedBodyError):
            await client.get("/")
    app = raises_kept_cancelled(ACCEPT)
    async with open_client(app, raise_app_errors=False) as client:
        async with client.websocket("/") as websocket:
            with pytest.raises(WebSocketClosed, match="1011"):
                await websocket.receive()


async def test_error_beside_a_stray_cancelled_comes_out() -> None:
    error = ValueError("mine")
    async with open_client(raises_kept_cancelled(beside=error)) as client:
        for use in get, enter:
            with pytest.raises(ValueError, match="mine") as caught:
                await use(client)
            assert caught.value is error


@pytest.mark.parametrize("answers", [False, True])
async def test_stray_cancelled_of_the_lifespan_is_an_error(answers: bool) -> None:
    @lifespan_only
    async def app(receive: Receive, send: Send) -> None:
        if answers:
            await send(UP)
        raise await kept_cancelled()

    with pytest.raises(RuntimeError, match="a Cancelled was kept and raised again"):
        async with open_client(app):
            await wait_all_tasks_blocked()


async def test_stray_cancelled_of_an_upload_is_an_error() -> None:
    async def content() -> AsyncIterator[bytes]:
        yield b"a"
        raise await kept_cancelled()

    @no_lifespan
    async def app(receive: Receive, send: Send) -> None:
        await send(START)
        while (await receive())["more_body"]:
            pass

    async with open_client(app) as client:
        with pytest.raises(RuntimeError, match="a Cancelled was kept and raised again"):
            await client.post("/", content=content())


# A cancellation of the test is no such thing.


@pytest.mark.parametrize("messages", [[], [ACCEPT]])
async def test_cancelled_websocket_test_is_only_cancelled(
    messages: list[Any], autojump_clock: MockClock
) -> None:
    log: list[str] = []

    @no_lifespan
    async def app(receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            log.append("cancelled")
            raise

    async with open_client(app) as client:
        with trio.move_on_after(1) as scope:
            async with client.websocket("/") as websocket:
                await websocket.receive()
        assert scope.cancelled_caught
    assert log == ["cancelled"]


@pytest.mark.parametrize("messages", [[], [START], [START, chunk(b"a")]])
async def test_cancelled_http_test_is_only_cancelled(
    messages: list[Any], autojump_clock: MockClock
) -> None:
    log: list[str] = []

    @no_lifespan
    async def app(receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)
        async with trio.open_nursery() as nursery:  # its group holds several Cancelled
            nursery.start_soon(trio.sleep_forever)
            try:
                await trio.sleep_forever()
            except trio.Cancelled:
                log.append("cancelled")
                raise

    async with open_client(app) as client:
        with trio.move_on_after(1) as scope:
            await client.get("/")
        assert scope.cancelled_caught
    assert log == ["cancelled"]


async def test_app_that_only_returns_when_the_test_is_cancelled_has_done_nothing_wrong() -> None:
    log: list[str] = []

    @no_lifespan
    async def app(receive: Receive, send: Send) -> None:
        await send(ACCEPT)
        try:
            await trio.sleep_forever()
        except trio.Cancelled:  # noqa: ASYNC103 (that is the test)
            log.append("cancelled")
            return  # noqa: ASYNC104 (and this)

    async with open_client(app) as client:
        with trio.CancelScope() as scope:
            async with client.websocket("/"):
                await wait_all_tasks_blocked()
                scope.cancel()
                with trio.CancelScope(shield=True):  # the application is the first to know
                    await wait_all_tasks_blocked()
                assert log == ["cancelled"]
                await trio.lowlevel.checkpoint()
        assert scope.cancelled_caught
