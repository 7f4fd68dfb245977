"""The one reader of receive(): what it drops, and what it does when the server errs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
from asgi import DISCONNECT, NO_BODY, Server, chunk, make_app
from farewells import on_guarded
from inboxed import Inboxed, on_each_source
from probes import Endings
from trio.testing import MockClock, wait_all_tasks_blocked

from tsstream import Response
from tsstream._http.host import CLIENT, Client


async def answer(request: object) -> Response:
    return Response(b"ok")


async def endless(request: object) -> Response:
    async def items() -> AsyncIterator[bytes]:
        yield b"a"
        await trio.sleep_forever()

    return Response(items())


@on_each_source
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
    kind: type[Server], requests: list[Any], autojump_clock: MockClock
) -> None:
    # RQ-21
    async def handler(request: object) -> Response:
        await trio.sleep(0.6)
        return Response(b"ok")

    server = kind(*requests)
    await server.call(make_app(handler), "POST")
    assert (server.body, server.complete) == (b"ok", True)
    # The guarded server takes care of the rest itself.
    assert isinstance(server, Inboxed) or server.reads >= len(requests)
    assert trio.current_time() == 0.6


@on_each_source
async def test_a_stream_with_an_unread_body_notices_the_disconnect(kind: type[Server]) -> None:
    # RQ-22, D21
    server = kind(*[chunk(b"a")] * 50, DISCONNECT)
    await server.call(make_app(endless), "POST")
    assert not server.complete
    assert server.error is None


@on_each_source
async def test_a_body_is_dropped_as_soon_as_the_handler_has_returned(kind: type[Server]) -> None:
    # RQ-23, AC-54
    bodies: list[Any] = []

    async def handler(request: Any) -> Response:
        assert await request.body.receive() == b"a"
        bodies.append(request.body)

        async def items() -> AsyncIterator[bytes]:
            await trio.sleep_forever()
            yield b"x"

        return Response(items())

    server = kind(*[chunk(b"a")] * 10, DISCONNECT)
    await server.call(make_app(handler), "POST")
    assert server.reads >= 10
    assert server.error is None
    with pytest.raises(trio.ClosedResourceError):
        await bodies[0].receive()


@on_each_source
@pytest.mark.parametrize("read", [True, False])
async def test_an_untouched_body_is_closed_at_the_end(kind: type[Server], read: bool) -> None:
    # AC-54
    requests: list[Any] = []

    async def handler(request: Any) -> Response:
        requests.append(request)
        if read:
            await request.read()
        return Response(b"ok")

    await kind(chunk(b"a", more=False)).call(make_app(handler), "POST")
    with pytest.raises(trio.ClosedResourceError):
        await requests[0].body.receive()


FAULTS: dict[str, Any] = {
    "an unknown message": {"type": "http.surprise"},
    "an error of receive()": RuntimeError("the server broke"),
}


async def wait(request: object) -> Response:
    await trio.sleep_forever()
    raise AssertionError


async def read(request: Any) -> Response:
    await request.read()
    raise AssertionError


@pytest.mark.parametrize(("kind", "handler"), [(Server, wait), (Server, read), (Inboxed, read)])
async def test_an_unknown_message_before_the_start_is_a_500(
    kind: type[Server], handler: Any
) -> None:
    # RQ-33, AC-55
    server = kind(chunk(b""), {"type": "http.surprise"})
    await server.call(make_app(handler), "POST")
    assert (server.status, server.complete) == (500, True)


async def test_an_error_of_receive_before_the_start_is_left_to_whoever_raised_it(
    autojump_clock: MockClock,
) -> None:
    # RQ-33: it may be a middleware's, which answers it
    error = RuntimeError("the server broke")
    server = Server(chunk(b""), error)
    await server.call(make_app(wait), "POST")
    assert server.sent == []
    assert server.error is error


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_a_server_that_errs_after_the_start_is_a_cut(
    fault: Any, autojump_clock: MockClock
) -> None:
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
    # RQ-26: the upload is drained first; the guarded server does that
    server = Server(*[chunk(b"a" * 65536)] * 46, NO_BODY)
    await server.call(make_app(answer), "POST")
    assert server.ok
    assert server.reads >= 47


# A receive() that never waits


class Restless(Server):
    """Gives the same message for ever, and never lets others run."""

    PATIENCE = 1000  # calls, then it gives up

    def __init__(self, message: Any, **options: Any) -> None:
        super().__init__(**options)
        self.message = message

    async def receive(self) -> Any:
        self.reads += 1
        if self.reads > self.PATIENCE:
            raise AssertionError("the event loop is held")
        return self.message


async def test_strange_messages_without_end_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    # AC-55
    server = Restless({"type": "http.surprise"})
    await server.call(make_app(wait))
    assert (server.status, server.complete, server.error) == (500, True, None)
    assert server.reads == 1
    assert len(caplog.records) == 1


async def test_strange_messages_at_the_end_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    # AC-55: they change nothing any more
    class Late(Restless):
        async def receive(self) -> Any:
            await last.wait()
            return await super().receive()

    async def note(message: Any) -> None:
        if not message.get("more_body", True):
            last.set()
            await wait_all_tasks_blocked()

    last = trio.Event()
    server = Late({"type": "http.surprise"}, on_send=note)
    await server.call(make_app(answer))
    assert server.ok
    assert server.error is None
    assert server.reads == 1
    assert [record.levelname for record in caplog.records] == ["WARNING"]


@pytest.mark.parametrize("data", [b"", b"a"])
async def test_chunks_without_end_do_not_hold_the_event_loop(data: bytes) -> None:
    async def handler(request: object) -> Response:
        for _ in range(10):
            await trio.lowlevel.checkpoint()
        return Response(b"ok")

    server = Restless(chunk(data))
    await server.call(make_app(handler), headers=[])  # no body is announced: none is waited for
    assert server.ok
    assert server.error is None


@pytest.mark.parametrize("data", [b"", b"a"])
async def test_what_still_comes_after_a_cut_does_not_hold_the_event_loop(data: bytes) -> None:
    # HOST fault 6: it is dropped, in the background
    async def fail(request: object) -> Any:
        return failing()

    async def failing() -> AsyncIterator[bytes]:
        yield b"a"
        raise ValueError

    server = Restless(chunk(data))
    app = make_app(fail)
    async with app.open_lifespan():
        await server.call(app, "POST")
        for _ in range(10):
            await trio.lowlevel.checkpoint()
        assert isinstance(server.error, ValueError)
        assert server.reads < server.PATIENCE
        app.nursery.cancel_scope.cancel()


# The guarded server tells of the client's leaving at any moment (HOST fault 9)


class Leaves(Server):
    """Tells of the client's leaving at the moment at which it gives its last message."""

    def __init__(self, *requests: Any, left: bool = True) -> None:
        super().__init__(*requests)
        self.client = Client()
        self._last = len(requests) if left else 0

    async def receive(self) -> Any:
        message = await super().receive()
        if self.reads == self._last:
            self.client.leave()
        return message

    async def call_guarded(self, handler: Any) -> Endings:
        told = Endings()
        extensions = {**on_guarded(), CLIENT: self.client}
        await self.call(make_app(handler, on_end=told), "POST", extensions=extensions)
        return told


async def read_on(request: Any) -> Response:
    with pytest.raises(trio.Cancelled):
        await request.read()
    await trio.lowlevel.checkpoint()
    raise AssertionError


@pytest.mark.parametrize("handler", [wait, read_on, endless])
@pytest.mark.parametrize(
    "messages",
    [
        [chunk(b"a")],
        [chunk(b"")],
        [chunk(b"a", more=False)],
        [NO_BODY],
        [DISCONNECT],
        [chunk(b""), chunk(b"a")],
        [chunk(b""), NO_BODY],
        [chunk(b""), DISCONNECT],
        [*[chunk(b"")] * 7, chunk(b"")],
        [{"type": "http.surprise"}],
    ],
    ids=repr,
)
async def test_a_client_that_leaves_while_a_message_arrives_has_left(
    messages: list[Any], handler: Any, caplog: pytest.LogCaptureFixture
) -> None:
    server = Leaves(*messages)
    told = await server.call_guarded(handler)
    assert told.reasons == ["disconnect"]
    assert server.error is None
    assert caplog.records == []


@pytest.mark.parametrize("more", [True, False])
async def test_a_client_that_leaves_while_a_chunk_is_handed_over_has_left(
    more: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(request: Any) -> Response:
        assert await request.body.receive() == b"a"
        server.client.leave()  # before the watcher knows that the chunk was taken, or after
        return await wait(request)

    for _ in range(20):
        server = Leaves(chunk(b"a", more=more), left=False)
        told = await server.call_guarded(handler)
        assert told.reasons == ["disconnect"]
        assert server.error is None
    assert caplog.records == []


async def test_a_client_that_leaves_behind_a_chunk_that_nobody_takes_has_left() -> None:
    async def handler(request: Any) -> Response:
        await wait_all_tasks_blocked()
        server.client.leave()
        return await wait(request)

    server = Leaves(chunk(b"a"), left=False)
    told = await server.call_guarded(handler)
    assert told.reasons == ["disconnect"]
    assert server.error is None
