"""What a client is told of an error: a status before the start, a cut after it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from asgi import START, Server, make_app

from tsstream import App, HTTPError, Response, merge
from tsstream._asgi import Message

STREAM_HEADERS = {
    "content-type": "application/x-tgz",
    "content-disposition": 'attachment; filename="a.tar.gz"',
    "content-encoding": "gzip",
    "content-length": "10",
    "etag": '"1"',
    "cache-control": "public",
    "x-stream": "1",
}


class UpstreamError(Exception):
    pass


async def answer(handler: Any, *, method: str = "GET", on_send: Any = None, **app: Any) -> Server:
    server = Server(on_send=on_send)
    await server.call(make_app(handler, **app), method)
    return server


async def serve(content: Any, **app: Any) -> Server:
    async def handler(request: object) -> Response:
        return Response(content, headers=STREAM_HEADERS)

    return await answer(handler, **app)


@asynccontextmanager
async def failing(
    *items: object,
    entering: Exception | None = None,
    iterating: Exception | None = None,
    leaving: Exception | None = None,
    suppress: bool = False,
) -> AsyncIterator[Any]:
    async def iterate() -> Any:
        for item in items:
            yield item
        if iterating is not None:
            raise iterating

    if entering is not None:
        raise entering
    try:
        yield iterate()
    except Exception:
        if not suppress:
            raise
    if leaving is not None:
        raise leaving


def failing_producer(*items: bytes, error: Exception) -> Any:
    async def produce(send_channel: trio.MemorySendChannel[bytes]) -> None:
        for item in items:
            await send_channel.send(item)
        raise error

    return produce


async def forever(send_channel: object) -> None:
    await trio.sleep_forever()


def raising(error: Exception) -> Any:
    raise error
    yield


# Before the start: each error is a status (AC-18, AC-19, D1, D4 to D8)


EARLY: dict[str, Any] = {
    "entering": lambda error: failing(entering=error),
    "first item": lambda error: failing(iterating=error),
    "first item after an empty one": lambda error: failing(b"", "", iterating=error),  # D9
    "leaving an empty body": lambda error: failing(leaving=error),  # D8
    "a producer": lambda error: merge(failing_producer(error=error)),
    "one of two producers": lambda error: merge(failing_producer(error=error), forever),
    "a blocking iterator": lambda error: raising(error),
}


early = pytest.mark.parametrize("make", EARLY.values(), ids=EARLY)


@early
async def test_an_error_before_the_start_is_a_500_with_nothing_of_the_stream(make: Any) -> None:
    # AC-18, AC-19, AC-25
    server = await serve(make(ValueError("secret")))
    assert (server.status, server.complete, server.error) == (500, True, None)
    assert server.body == b"Internal Server Error"
    assert dict(server.headers) == {
        "content-type": "text/plain; charset=utf-8",
        "content-length": str(len(server.body)),
    }


@early
async def test_an_http_error_before_the_start_is_its_own_status(make: Any) -> None:
    # D2, D6
    server = await serve(make(HTTPError(418, "I am a teapot", {"x-pot": "1"})))
    assert (server.status, server.complete, server.error) == (418, True, None)
    assert server.body == b"I am a teapot"
    assert server.headers["x-pot"] == "1"
    assert "x-stream" not in server.headers


@early
async def test_a_registered_error_before_the_start_is_its_status(make: Any) -> None:
    # D4: a refused upstream is a 502, not a cut 200
    server = await serve(make(ConnectionRefusedError()), errors={OSError: 502})
    assert (server.status, server.body) == (502, b"Bad Gateway")


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError(), 500), (HTTPError(403), 403), (OSError(), 502)]
)
async def test_an_error_of_the_handler(error: Exception, status: int) -> None:
    # D1, D2
    def handler(request: object) -> Response:
        raise error

    server = await answer(handler, errors={OSError: 502})
    assert (server.status, server.complete) == (status, True)


async def test_an_error_of_a_transform_is_a_500() -> None:
    def transform(request: object, response: Response) -> Response:
        raise ValueError

    assert (await serve(failing(b"a"), transforms=[transform])).status == 500


async def test_a_transform_that_gives_no_response_is_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def forgetful(request: object, response: Response) -> Any:
        return None

    server = await serve(failing(b"a"), transforms=[forgetful])
    assert server.status == 500
    assert "forgetful" in caplog.text
    assert "it must return a Response" in caplog.text


@pytest.mark.parametrize("given", [None, 1, {"a": 1}], ids=repr)
async def test_a_handler_that_gives_what_cannot_be_streamed(
    given: Any, caplog: pytest.LogCaptureFixture
) -> None:
    # D3: the log names the type and the route
    async def handler(request: object) -> Any:
        return given

    server = await answer(handler)
    assert (server.status, server.complete) == (500, True)
    assert "GET /" in caplog.text
    assert f"{type(given).__name__}; give it bytes" in caplog.text


async def test_a_handler_that_is_not_async(caplog: pytest.LogCaptureFixture) -> None:
    # D3
    def handler(request: object) -> Response:
        return Response(b"")

    assert (await answer(handler)).status == 500
    assert "async def" in caplog.text


async def test_the_race_of_the_last_error_with_the_end_of_the_stream() -> None:
    # AC-23: the channel ends before the nursery hears of the error
    @asynccontextmanager
    async def body() -> AsyncIterator[Any]:
        send_channel, receive_channel = trio.open_memory_channel[bytes](0)

        async def produce() -> None:
            with send_channel:
                raise ValueError

        async with trio.open_nursery() as nursery:
            nursery.start_soon(produce)
            yield receive_channel

    for _ in range(1000):
        assert (await serve(body())).status == 500


# Which status (D6, AC-24)


@pytest.mark.parametrize(
    ("errors", "status"),
    [
        ([ValueError(), HTTPError(409)], 409),
        ([HTTPError(409), HTTPError(410)], 409),
        ([UpstreamError(), HTTPError(409)], 409),  # somebody chose it
        ([ValueError(), UpstreamError()], 502),
        ([ValueError(), KeyError()], 500),
        ([ExceptionGroup("", [ValueError(), UpstreamError()]), KeyError()], 502),
    ],
)
async def test_the_status_of_a_group(errors: list[Exception], status: int) -> None:
    server = await serve(
        failing(entering=ExceptionGroup("both", errors)), errors={UpstreamError: 502}
    )
    assert server.status == status


async def test_a_registered_type_stands_for_its_subclasses() -> None:
    class Timeout(UpstreamError):
        pass

    assert (await serve(failing(entering=Timeout()), errors={UpstreamError: 502})).status == 502


@pytest.mark.parametrize("first", [OSError, FileNotFoundError])
async def test_the_most_specific_registered_type_decides(first: type[OSError]) -> None:
    # as in Starlette, where the exception's own order of base classes counts
    statuses: dict[type[OSError], int] = {OSError: 503, FileNotFoundError: 404}
    errors: dict[type[OSError], int] = {first: statuses[first], **statuses}
    assert (await serve(failing(entering=FileNotFoundError()), errors=errors)).status == 404


@pytest.mark.parametrize("status", [200, 399, 600])
def test_a_status_that_is_no_errors_is_refused(status: int) -> None:
    with pytest.raises(ValueError, match="400 to 599"):
        HTTPError(status)
    with pytest.raises(ValueError, match="400 to 599"):
        App(errors={OSError: status})


def test_an_http_error_says_what_it_is() -> None:
    assert str(HTTPError(404)) == "404 Not Found"
    assert str(HTTPError(499, "Gone away")) == "499 Gone away"
    assert HTTPError(599).detail == "Error"


def test_a_header_of_an_http_error_is_checked_at_once() -> None:
    with pytest.raises(ValueError, match="header 'x'"):
        HTTPError(401, headers={"x": "a\r\nb"})


async def test_debug_shows_the_traceback_of_our_errors_only() -> None:
    server = await serve(failing(entering=ValueError("the reason")), debug=True)
    assert b"Traceback" in server.body
    assert b"the reason" in server.body
    server = await serve(failing(entering=HTTPError(404)), debug=True)
    assert server.body == b"Not Found"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_an_error_page_has_a_length_and_no_body_for_head(method: str) -> None:
    async def handler(request: object) -> Response:
        raise HTTPError(404)

    server = await answer(handler, method=method)
    assert server.headers["content-length"] == "9"
    assert server.body == (b"Not Found" if method == "GET" else b"")


# After the start: a cut (AC-20 to AC-22, D10 to D12)


LATE: dict[str, Any] = {
    "iterating": lambda error: failing(b"abc", iterating=error),
    "iterating, suppressed": lambda error: failing(b"abc", iterating=error, suppress=True),
    "leaving": lambda error: failing(b"abc", leaving=error),
    "a producer": lambda error: merge(failing_producer(b"abc", error=error)),
    "an item": lambda error: failing(b"abc", 1),
    "a list with a bad item": lambda error: [b"abc", 1],
    "too long": lambda error: [b"abc", b"12345678"],  # D37
    "too short": lambda error: [b"abc"],  # D38
}


@pytest.mark.parametrize("make", LATE.values(), ids=LATE)
async def test_an_error_after_the_start_is_a_cut(make: Any) -> None:
    server = await serve(make(ValueError()))
    assert server.status == 200
    assert server.body == b"abc"  # what was taken is sent first: D10
    assert not server.complete
    assert server.error is not None


async def test_an_http_error_after_the_start_is_a_cut_like_any_other() -> None:
    error = HTTPError(409)
    server = await serve(failing(b"abc", iterating=error))
    assert (server.status, server.body, server.complete) == (200, b"abc", False)
    assert server.error is error


async def test_an_error_is_not_joined_by_those_of_producers_that_it_stops() -> None:
    # D10: their channel stays open until their nursery cancels them
    async def produce(send_channel: trio.MemorySendChannel[object]) -> None:
        for item in (b"abc", 1, b"d"):
            await send_channel.send(item)

    @asynccontextmanager
    async def body() -> AsyncIterator[Any]:
        send_channel, receive_channel = trio.open_memory_channel[object](0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(produce, send_channel)
            yield receive_channel

    server = await serve(body())
    assert isinstance(server.error, TypeError)


async def test_the_error_that_was_suppressed_comes_out_with_a_note() -> None:
    # D11, AC-21
    error = ValueError("broken")
    server = await serve(failing(b"abc", iterating=error, suppress=True))
    assert server.error is error
    assert error.__notes__ == [
        "The body's context manager suppressed this error; the body is incomplete."
    ]


async def test_a_manager_that_cancels_its_own_stream_is_told_how_to_end_it() -> None:
    # D11
    @asynccontextmanager
    async def body() -> AsyncIterator[Any]:
        with trio.CancelScope() as scope:  # noqa: ASYNC100

            async def iterate() -> Any:
                yield b"abc"
                scope.cancel()
                await trio.sleep_forever()

            yield iterate()

    server = await serve(body())
    assert not server.complete
    assert "to end a stream well, close the send end of its channel" in str(server.error)


# Failing to tell (D45)


async def test_an_error_while_the_500_is_sent_is_a_cut_and_one_record(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def broken(message: Message) -> None:
        raise RuntimeError("send failed")

    error = ValueError("first")
    server = await answer(lambda request: raising_now(error), on_send=broken)
    assert server.sent == []
    assert server.error is error
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


def raising_now(error: Exception) -> Any:
    raise error


async def test_an_error_between_the_messages_of_the_500_is_a_cut() -> None:
    async def broken(message: Message) -> None:
        if message["type"] != START:
            raise RuntimeError("send failed")

    server = await answer(lambda request: raising_now(ValueError()), on_send=broken)
    assert server.status == 500
    assert not server.complete
    assert isinstance(server.error, ValueError)
