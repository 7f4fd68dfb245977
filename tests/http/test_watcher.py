"""The one reader of receive(): what it drops, and what it does when the server errs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
from asgi import DISCONNECT, NO_BODY, Server, chunk, make_app
from trio.testing import MockClock, wait_all_tasks_blocked

from tsstream import Response


async def answer(request: object) -> Response:
    return Response(b"ok")


async def endless(request: object) -> Response:
    async def items() -> AsyncIterator[bytes]:
        yield b"a"
        await trio.sleep_forever()

    return Response(items())


@pytest.mark.parametrize(
    "requests",
    [
        [NO_BODY],
        [chunk(b"a" * 10, more=False)],
        [*[chunk(b"a")] * 50, NO_BODY],
        [*[chunk(b"a" * 65536)] * 80, NO_BODY],
    ],
    ids=["none", "10 B", "50 chunks", "5 MiB"],
)
async def test_a_handler_that_never_reads_its_body_finishes(
    requests: list[Any], autojump_clock: MockClock
) -> None:
    # RQ-21
    async def handler(request: object) -> Response:
        await trio.sleep(0.6)
        return Response(b"ok")

    server = Server(*requests)
    await server.call(make_app(handler), "POST")
    assert (server.body, server.complete) == (b"ok", True)
    assert server.reads >= len(requests)
    assert trio.current_time() == 0.6


async def test_a_stream_with_an_unread_body_notices_the_disconnect() -> None:
    # RQ-22, D21
    server = Server(*[chunk(b"a")] * 50, DISCONNECT)
    await server.call(make_app(endless), "POST")
    assert not server.complete
    assert server.error is None


async def test_a_body_is_dropped_as_soon_as_the_handler_has_returned() -> None:
    # RQ-23, AC-54
    bodies: list[Any] = []

    async def handler(request: Any) -> Response:
        assert await request.body.receive() == b"a"
        bodies.append(request.body)

        async def items() -> AsyncIterator[bytes]:
            await trio.sleep_forever()
            yield b"x"

        return Response(items())

    server = Server(*[chunk(b"a")] * 10, DISCONNECT)
    await server.call(make_app(handler), "POST")
    assert server.reads == 11
    with pytest.raises(trio.ClosedResourceError):
        await bodies[0].receive()


@pytest.mark.parametrize("read", [True, False])
async def test_an_untouched_body_is_closed_at_the_end(read: bool) -> None:
    # AC-54
    requests: list[Any] = []

    async def handler(request: Any) -> Response:
        requests.append(request)
        if read:
            await request.read()
        return Response(b"ok")

    await Server(chunk(b"a", more=False)).call(make_app(handler), "POST")
    with pytest.raises(trio.ClosedResourceError):
        await requests[0].body.receive()


FAULTS: dict[str, Any] = {
    "an unknown message": {"type": "http.surprise"},
    "an error of receive()": RuntimeError("the server broke"),
}


async def wait(request: object) -> Response:
    await trio.sleep_forever()
    raise AssertionError


async def test_an_unknown_message_before_the_start_is_a_500() -> None:
    # RQ-33, AC-55
    server = Server(chunk(b""), {"type": "http.surprise"})
    await server.call(make_app(wait), "POST")
    assert (server.status, server.complete) == (500, True)


async def test_an_error_of_receive_before_the_start_is_left_to_whoever_raised_it() -> None:
    # RQ-33: it may be a middleware's, which answers it
    error = RuntimeError("the server broke")
    server = Server(chunk(b""), error)
    await server.call(make_app(wait), "POST")
    assert server.sent == []
    assert server.error is error


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_a_server_that_errs_after_the_start_is_a_cut(fault: Any) -> None:
    # RQ-33, AC-55
    started = trio.Event()

    class Late(Server):
        async def receive(self) -> Any:
            await started.wait()
            return await super().receive()

    async def note(message: Any) -> None:
        started.set()

    server = Late(chunk(b""), fault, on_send=note)
    await server.call(make_app(endless), "POST")
    assert server.status == 200
    assert not server.complete
    assert server.error is not None


@pytest.mark.parametrize("extra", [NO_BODY, chunk(b"more")])
async def test_a_body_that_is_replayed_after_its_end_is_nothing(extra: Any) -> None:
    # some middleware does so
    async def handler(request: Any) -> bytes:
        data: bytes = await request.read()
        await wait_all_tasks_blocked()
        return data

    server = Server(chunk(b"once", more=False), extra, extra)
    await server.call(make_app(handler), "POST")
    assert (server.body, server.ok) == (b"once", True)


async def test_a_disconnect_as_the_first_message_ends_the_exchange() -> None:
    server = Server(DISCONNECT)
    await server.call(make_app(endless), "POST")
    assert server.reads == 1
    assert not server.complete
    assert server.error is None


async def test_receive_is_not_called_again_after_a_disconnect() -> None:
    # RQ-31
    async def handler(request: object) -> Response:
        with trio.CancelScope(shield=True):
            await wait_all_tasks_blocked()
        return Response(b"ok")

    server = Server(NO_BODY, DISCONNECT, RuntimeError("receive() after a disconnect"))
    await server.call(make_app(handler))
    assert server.reads == 2
    assert server.error is None


async def test_a_small_answer_to_a_large_upload_is_complete() -> None:
    # RQ-26: the upload is drained first
    server = Server(*[chunk(b"a" * 65536)] * 46, NO_BODY)
    await server.call(make_app(answer), "POST")
    assert server.ok
    assert server.reads >= 47
