"""What goes wrong reaches the client: as a status while that is possible, as a cut afterwards."""

from __future__ import annotations

import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from leaks import assert_no_leaks
from probes import IDLE, get, logged
from wire import RawConnection, Truncated, open_raw, open_server

from tsstream import App, HTTPError, Request, Response, merge, sse_response
from tsstream._http.content import Content

pytestmark = pytest.mark.usefixtures("each_host")

Body = Callable[[], AbstractAsyncContextManager[object]]


class BodyError(Exception):
    """What the bodies of these tests fail with."""


class RefusedError(Exception):
    """Mapped to 502 by these apps."""


@asynccontextmanager
async def open_body_app(
    body: Body, caplog: pytest.LogCaptureFixture | None = None, **response: Any
) -> AsyncIterator[RawConnection]:
    """Serve *body* at ``/``, check for leaks, and connect."""
    app = App(errors={RefusedError: 502})

    @app.get("/")
    async def handler(request: Request) -> Content:
        return Response(body(), **response)

    async with open_server(app, keep_alive_timeout=IDLE) as port, assert_no_leaks():
        async with open_raw(port) as raw:
            yield raw


async def read_cut(raw: RawConnection) -> bytes:
    """Read a body that must be visibly truncated; give what came of it."""
    with trio.fail_after(2), pytest.raises(Truncated) as caught:
        await raw.read_body()
    assert raw.ended == "fin"
    return caught.value.body


@asynccontextmanager
async def failing_to_enter() -> AsyncIterator[list[bytes]]:
    raise BodyError("no upstream")
    yield []


@asynccontextmanager
async def refused() -> AsyncIterator[list[bytes]]:
    raise RefusedError
    yield []


async def fail(send_channel: trio.MemorySendChannel[bytes]) -> None:
    raise BodyError("failed at once")


async def send_two_and_fail(send_channel: trio.MemorySendChannel[bytes]) -> None:
    await send_channel.send(b"one,")
    await send_channel.send(b"two,")
    raise BodyError("failed later")


@asynccontextmanager
async def failing_to_exit() -> AsyncIterator[list[bytes]]:
    yield [b"one,", b"two,"]
    raise BodyError("failed at the end")


@asynccontextmanager
async def empty_and_failing_to_exit() -> AsyncIterator[list[bytes]]:
    yield []
    raise BodyError("failed at the end")


@asynccontextmanager
async def suppressing() -> AsyncIterator[object]:
    try:
        async with merge(send_two_and_fail) as chunks:
            yield chunks
    except BodyError:
        pass


@asynccontextmanager
async def suppressing_what_comes_late() -> AsyncIterator[object]:
    send_channel, receive_channel = trio.open_memory_channel[bytes](0)

    async def fail_as_the_writer_waits() -> None:
        async with send_channel:  # which closes it before the nursery knows of the error
            await send_channel.send(b"one,")
            await send_channel.send(b"two,")
            await trio.testing.wait_all_tasks_blocked()
            raise BodyError("failed as nothing was on its way")

    async def fail_below() -> None:
        async with trio.open_nursery() as nursery:  # noqa: ASYNC112 (the error comes later)
            nursery.start_soon(fail_as_the_writer_waits)

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail_below)
            yield receive_channel
    except* BodyError:
        pass


@asynccontextmanager
async def yielding_none() -> AsyncIterator[None]:
    yield None


@asynccontextmanager
async def with_empty_chunks_first() -> AsyncIterator[object]:
    async def produce(send_channel: trio.MemorySendChannel[bytes]) -> None:
        for _ in range(3):
            await send_channel.send(b"")
        raise BodyError("after nothing but empty chunks")

    async with merge(produce) as chunks:
        yield chunks


async def send_an_int(send_channel: trio.MemorySendChannel[object]) -> None:
    await send_channel.send(7)


async def send_bytes_and_an_int(send_channel: trio.MemorySendChannel[object]) -> None:
    await send_channel.send(b"one,")
    await send_channel.send(7)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        pytest.param(failing_to_enter, 500, id="enter (AC-18, D4)"),
        pytest.param(refused, 502, id="enter, mapped (D4)"),
        pytest.param(lambda: merge(fail), 500, id="producer (AC-19, D6)"),
        pytest.param(yielding_none, 500, id="yields None (D5)"),
        pytest.param(empty_and_failing_to_exit, 500, id="empty, exit fails (D8)"),
        pytest.param(with_empty_chunks_first, 500, id="after empty chunks (D9)"),
        pytest.param(lambda: merge(send_an_int), 500, id="no bytes (D33, AC-26)"),
    ],
)
async def test_failure_before_the_first_chunk_is_a_status(
    body: Body, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    # AC-18, AC-19, section E 5; logged once, with its traceback
    async with open_body_app(body) as raw:
        assert await get(raw) == status
        assert await raw.read_body()
    assert logged(caplog) == [f"ERROR GET /: answered {status}"]
    (record,) = [r for r in caplog.records if r.name == "tsstream"]
    assert record.exc_info is not None


@pytest.mark.parametrize(
    ("body", "arrives"),
    [
        pytest.param(lambda: merge(send_two_and_fail), b"one,two,", id="producer (AC-20, D10)"),
        pytest.param(suppressing, b"one,two,", id="suppressed (AC-21, D11)"),
        pytest.param(
            suppressing_what_comes_late, b"one,two,", id="suppressed, last (AC-21, AC-23)"
        ),
        pytest.param(failing_to_exit, b"one,two,", id="exit (AC-22, D12)"),
        pytest.param(lambda: merge(send_bytes_and_an_int), b"one,", id="no bytes (D33)"),
    ],
)
async def test_failure_after_the_first_chunk_is_a_cut_behind_what_was_taken(
    body: Body, arrives: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    # AC-20, AC-21, AC-22, section E 4
    async with open_body_app(body) as raw:
        assert await get(raw) == 200
        assert await read_cut(raw) == arrives
    assert logged(caplog) == [f"ERROR GET /: stream failed after {len(arrives)} bytes"]


@asynccontextmanager
async def suppressing_what_it_iterates() -> AsyncIterator[object]:
    class Failing:
        def __aiter__(self) -> Failing:
            return self

        async def __anext__(self) -> bytes:
            raise BodyError("failed in the iterator")

    try:
        yield Failing()
    except BodyError:
        pass


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (suppressing_what_it_iterates, "context manager suppressed this error"),
        (suppressing, "context manager ended the stream before its channel had ended"),
    ],
)
async def test_log_names_the_context_manager_that_suppressed_the_error(
    body: Body, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    # D11; of the second error, a producer's, only the cancellation of the nursery can be seen.
    async with open_body_app(body) as raw:
        await get(raw)
        await raw.read_until_closed() if body is suppressing else await raw.read_body()
    (record,) = [r for r in caplog.records if r.name == "tsstream"]
    assert record.exc_info is not None
    assert record.exc_info[1] is not None
    assert said in "".join(traceback.format_exception(record.exc_info[1]))


async def test_producer_that_fails_at_once_never_looks_like_an_empty_body() -> None:
    # AC-23: it closes its channel before its nursery knows of the error.
    async with open_body_app(lambda: merge(fail)) as raw:
        for _ in range(50):
            assert await get(raw) == 500
            await raw.read_body()


async def test_producer_that_fails_last_never_looks_like_a_clean_end() -> None:
    # AC-23, once the body has begun
    app = App()

    @app.get("/")
    async def handler(request: Request) -> Content:
        return merge(send_two_and_fail)

    async with open_server(app) as port, assert_no_leaks():
        for _ in range(30):
            async with open_raw(port) as raw:
                assert await get(raw) == 200
                assert await read_cut(raw) == b"one,two,"


async def test_two_producers_that_fail_together_are_one_log_record_and_the_mapped_status(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # AC-24, D6
    async def refuse(send_channel: trio.MemorySendChannel[bytes]) -> None:
        raise RefusedError

    async with open_body_app(lambda: merge(fail, refuse)) as raw:
        assert await get(raw) == 502
        await raw.read_body()
    (record,) = [r for r in caplog.records if r.name == "tsstream"]
    assert record.exc_info is not None
    error = record.exc_info[1]
    assert isinstance(error, ExceptionGroup)
    assert {type(leaf) for leaf in error.exceptions} == {BodyError, RefusedError}


async def test_error_page_has_none_of_the_headers_of_the_stream_that_failed() -> None:
    # AC-25
    headers = {
        "content-disposition": 'attachment; filename="a.gz"',
        "content-encoding": "gzip",
        "content-length": "1000",
        "etag": '"1"',
        "cache-control": "max-age=3600",
        "x-mine": "yes",
    }
    body = failing_to_enter
    async with open_body_app(body, headers=headers, media_type="application/gzip") as raw:
        await raw.request("GET", "/")
        status, received = await raw.read_head()
        page = await raw.read_body()
    assert status == 500
    assert received["content-type"] == "text/plain; charset=utf-8"
    assert received["content-length"] == str(len(page))
    assert received.keys().isdisjoint(headers.keys() - {"content-length"})


@pytest.mark.parametrize("body", [failing_to_enter, lambda: merge(fail)])
async def test_failure_below_a_transform_is_a_status_without_the_transforms_headers(
    body: Body,
) -> None:
    # AC-43 without gzip, section E 7, D44
    def add_prelude(request: Request, response: Response) -> Response:
        @asynccontextmanager
        async def with_prelude() -> AsyncIterator[object]:
            async with response as chunks:
                yield chunks

        return attrs.evolve(
            response, content=with_prelude(), headers=response.headers.set("x-transform", "yes")
        )

    app = App(transforms=[add_prelude])

    @app.get("/")
    async def handler(request: Request) -> Content:
        return body()

    async with open_server(app, keep_alive_timeout=IDLE) as port, assert_no_leaks():
        async with open_raw(port) as raw:
            await raw.request("GET", "/")
            status, headers = await raw.read_head()
    assert status == 500
    assert "x-transform" not in headers


async def handler_that_raises(request: Request) -> None:
    raise BodyError("secret detail")


async def handler_with_a_status(request: Request) -> None:
    raise HTTPError(408, "too slow", {"retry-after": "7"})


async def handler_of_a_dict(request: Request) -> Content:
    return {"a": 1}


@pytest.mark.parametrize(
    ("handler", "status", "log"),
    [
        pytest.param(handler_that_raises, 500, ["ERROR GET /: answered 500"], id="raises (D1)"),
        pytest.param(handler_with_a_status, 408, [], id="HTTPError (D2)"),
        pytest.param(handler_of_a_dict, 500, ["ERROR GET /: answered 500"], id="a dict (D3)"),
    ],
)
async def test_failing_handler_is_a_status_and_the_connection_is_kept(
    handler: Callable[[Request], Awaitable[object]],
    status: int,
    log: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    # D1, D2, D3
    app = App()
    app.get("/")(handler)  # type: ignore[type-var]  # also what it must not return
    async with open_server(app, keep_alive_timeout=IDLE) as port, assert_no_leaks():
        async with open_raw(port) as raw:
            for _ in range(2):
                await raw.request("GET", "/")
                got, headers = await raw.read_head()
                page = await raw.read_body()
                assert got == status
                assert b"secret" not in page
                assert headers.get("retry-after") == ("7" if status == 408 else None)
    assert logged(caplog) == log * 2


@pytest.mark.parametrize("size", [b"4", b"12"])
async def test_body_of_another_length_than_declared_is_cut(
    size: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    # D37 (longer), D38 (shorter): nothing beyond the last chunk that fits
    async def produce(send_channel: trio.MemorySendChannel[bytes]) -> None:
        await send_channel.send(b"one,")
        await send_channel.send(b"two,")

    declared = {"content-length": size.decode()}
    app = App()

    @app.get("/")
    async def handler(request: Request) -> Content:
        return Response(merge(produce), headers=declared)

    async with open_server(app, keep_alive_timeout=IDLE) as port, assert_no_leaks():
        async with open_raw(port) as raw:
            assert await get(raw) == 200
            rest = await raw.read_until_closed()
    assert rest == (b"one," if size == b"4" else b"one,two,")
    (line,) = logged(caplog)
    assert line.startswith("ERROR GET /: stream failed after")
    (record,) = [r for r in caplog.records if r.name == "tsstream"]
    assert record.exc_info is not None
    assert f"Content-Length of {size.decode()} bytes" in str(record.exc_info[1])


@pytest.mark.stock_host("there it is a reset, which every client sees")
async def test_truncation_that_an_http_1_0_client_cannot_see_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # D46, HOST fault 12
    async with open_body_app(lambda: merge(send_two_and_fail)) as raw:
        await raw.send_all(b"GET / HTTP/1.0\r\n\r\n")
        await raw.read_head()
        assert await raw.read_until_closed() == b"one,two,"
    said = "WARNING GET /: undetectable truncation, as the client speaks HTTP/1.0"
    assert said in logged(caplog)


async def test_live_stream_that_fails_to_enter_is_still_a_status() -> None:
    # D4 for live responses, whose head does not wait for an item
    app = App()

    @app.get("/")
    async def handler(request: Request) -> Content:
        return sse_response(failing_to_enter())

    async with open_server(app, keep_alive_timeout=IDLE) as port, assert_no_leaks():
        async with open_raw(port) as raw:
            assert await get(raw) == 500
