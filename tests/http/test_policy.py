"""Each limit of a StreamPolicy: what the client gets, what the log says, and who is cancelled."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from inspect import isfunction
from typing import Any

import pytest
import trio
from asgi import Server, chunk, make_app
from trio.testing import MockClock

from tsstream import Ending, Response, StreamPolicy
from tsstream._asgi import Message


class Reasons:
    """Notes why it was cancelled."""

    def __init__(self) -> None:
        self.seen: list[str | None] = []

    async def wait(self, seconds: float = float("inf")) -> None:
        try:
            await trio.sleep(seconds)
        except trio.Cancelled as cancelled:
            self.seen.append(cancelled.reason)
            raise


async def ticks(number: int, every: float) -> AsyncGenerator[bytes, None]:
    for _ in range(number):
        await trio.sleep(every)
        yield b"tick"


def respond(content: Any, **options: Any) -> Any:
    async def handler(request: object) -> Response:
        return Response(content() if isfunction(content) else content, **options)

    return handler


async def stuck(message: Message) -> None:
    await trio.sleep_forever()


async def stuck_on_data(message: Message) -> None:
    if message.get("body"):
        await trio.sleep_forever()


# What each limit limits


@asynccontextmanager
async def body(
    reasons: Reasons,
    *,
    entering: float = 0,
    first: float = 0,
    second: float = 0,
    leaving: float = 0,
) -> AsyncIterator[Any]:
    async def items() -> AsyncGenerator[bytes, None]:
        await reasons.wait(first)
        yield b"a"
        await reasons.wait(second)
        yield b"b"

    await reasons.wait(entering)
    yield items()
    await reasons.wait(leaving)


LIMITS: list[tuple[str, dict[str, float]]] = [
    ("first_item", {"entering": 100}),
    ("first_item", {"first": 100}),
    ("idle", {"second": 100}),
    ("exit", {"leaving": 100}),
    ("lifetime", {"entering": 100}),
    ("lifetime", {"first": 100}),
    ("lifetime", {"second": 100}),
    ("lifetime", {"leaving": 100}),
]
limits = pytest.mark.parametrize(
    ("limit", "waits"), LIMITS, ids=[f"{limit} {next(iter(waits))}" for limit, waits in LIMITS]
)


@limits
@pytest.mark.parametrize("of_response", [True, False], ids=["response", "app"])
async def test_a_stream_that_takes_too_long_ends(
    limit: str,
    waits: dict[str, float],
    of_response: bool,
    caplog: pytest.LogCaptureFixture,
    autojump_clock: MockClock,
) -> None:
    # D13, D24
    reasons = Reasons()
    endings: list[Ending] = []
    policy = StreamPolicy(**{limit: 5})
    handler = respond(body(reasons, **waits), policy=policy if of_response else None)
    app = make_app(
        handler,
        policy=StreamPolicy(lifetime=50) if of_response else policy,
        on_end=lambda request, ending: endings.append(ending),
    )
    server = Server()
    await server.call(app)
    assert trio.current_time() == 5
    assert reasons.seen == [f"{limit} limit of 5 s reached"]
    if "second" in waits or "leaving" in waits:
        assert (server.status, server.complete) == (200, False)
        assert server.error is None  # the log and the missing end say it: no error of the app's
    else:
        assert (server.status, server.complete, server.error) == (504, True, None)
        assert server.body.decode() == f"Gateway Timeout: {limit} limit of 5 s reached"
    assert [ending.limit for ending in endings] == [limit]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert f"{limit} limit of 5 s reached" in record.getMessage()


@limits
async def test_a_stream_that_takes_no_longer_is_complete(
    limit: str, waits: dict[str, float], autojump_clock: MockClock
) -> None:
    policy = StreamPolicy(**{"exit": None, limit: 101})
    server = Server()
    await server.call(make_app(respond(body(Reasons(), **waits)), policy=policy))
    assert (server.body, server.complete) == (b"ab", True)


@pytest.mark.parametrize("duplex", [False, True])
async def test_a_handler_that_takes_too_long_is_a_504(
    duplex: bool, autojump_clock: MockClock
) -> None:
    # D24
    reasons = Reasons()

    @asynccontextmanager
    async def yielding(request: object) -> AsyncIterator[Response]:
        await reasons.wait()
        yield Response()

    async def returning(request: object) -> Response:
        await reasons.wait()
        return Response()

    server = Server()
    handler = yielding if duplex else returning
    await server.call(make_app(handler, policy=StreamPolicy(handler=5)))
    assert trio.current_time() == 5
    assert (server.status, server.complete) == (504, True)
    assert reasons.seen == ["handler limit of 5 s reached"]


async def test_the_limit_of_a_handler_ends_with_its_response(autojump_clock: MockClock) -> None:
    server = Server()
    await server.call(make_app(respond(lambda: ticks(1, 10)), policy=StreamPolicy(handler=5)))
    assert server.ok


async def test_the_limit_of_a_handler_is_not_that_of_its_client(
    autojump_clock: MockClock,
) -> None:
    async def slow(message: Message) -> None:
        await trio.sleep(10)

    server = Server(on_send=slow)
    await server.call(make_app(respond(b"small"), policy=StreamPolicy(handler=5)))
    assert server.ok


async def test_a_short_lifetime_holds_though_the_handler_had_longer(
    autojump_clock: MockClock,
) -> None:
    async def handler(request: object) -> Response:
        await trio.sleep(1)
        return Response(ticks(1, 1000))

    server = Server()
    await server.call(make_app(handler, policy=StreamPolicy(handler=100, lifetime=5)))
    assert trio.current_time() == 6
    assert server.status == 504


@pytest.mark.parametrize(
    "content",
    [b"small", lambda: ticks(3, 0), bytes(200_000)],
    ids=["small", "stream", "large"],
)
@pytest.mark.parametrize("of_response", [True, False], ids=["response", "app"])
@pytest.mark.parametrize("on_send", [stuck, stuck_on_data])
async def test_a_client_that_takes_nothing_is_cut(
    content: Any,
    of_response: bool,
    on_send: Any,
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    # D24, RQ-24
    policy = StreamPolicy(send=5)
    app = make_app(
        respond(content, policy=policy if of_response else None),
        policy=None if of_response else policy,
    )
    server = Server(on_send=on_send)
    await server.call(app)
    assert 5 <= trio.current_time() <= 6  # the last step has a second more, for the upload
    assert not server.complete
    assert server.error is None
    assert "send limit of 5 s reached" in caplog.text


async def test_a_client_may_take_a_minute_for_each_batch_by_default(
    autojump_clock: MockClock,
) -> None:
    # D24
    async def slow(message: Message) -> None:
        if message.get("body"):
            await trio.sleep(59)

    server = Server(on_send=slow)
    await server.call(make_app(respond(bytes(200_000))))
    assert len(server.chunks) == 4
    assert server.ok
    server = Server(on_send=stuck)
    began = trio.current_time()
    await server.call(make_app(respond(bytes(200_000))))
    assert trio.current_time() == began + 60


@pytest.mark.parametrize("content", [b"a", lambda: ticks(1, 0)], ids=["small", "stream"])
async def test_a_client_that_does_not_take_the_final_message_is_cut(
    content: Any, autojump_clock: MockClock
) -> None:
    async def last(message: Message) -> None:
        if not message.get("more_body", True):
            await trio.sleep_forever()

    endings: list[Ending] = []
    app = make_app(
        respond(content),
        policy=StreamPolicy(send=5),
        on_end=lambda request, ending: endings.append(ending),
    )
    server = Server(on_send=last)
    await server.call(app)
    assert 5 <= trio.current_time() <= 6
    assert [(ending.reason, ending.limit) for ending in endings] == [("timeout", "send")]
    assert not server.complete
    assert server.error is None


async def test_waiting_for_an_upload_at_the_end_is_no_send(autojump_clock: MockClock) -> None:
    # RQ-25: the second that the client is given has nothing to do with the limit of a send
    server = Server(chunk(b"never ends"))
    await server.call(make_app(respond(b"abc"), policy=StreamPolicy(send=0.5)), "POST")
    assert server.ok
    assert server.error is None


async def test_an_error_page_is_given_no_longer_than_a_send(autojump_clock: MockClock) -> None:
    def handler(request: object) -> Response:
        raise ValueError

    server = Server(on_send=stuck)
    await server.call(make_app(handler, policy=StreamPolicy(send=5)))
    assert 5 <= trio.current_time() <= 6


async def test_the_last_batch_of_a_failed_body_is_given_half_a_second(
    autojump_clock: MockClock,
) -> None:
    # D10
    async def items() -> AsyncGenerator[bytes, None]:
        yield b"a"
        await trio.sleep(1)
        raise ValueError

    server = Server(on_send=stuck_on_data)
    await server.call(make_app(respond(items)))
    assert trio.current_time() == 1.5
    assert isinstance(server.error, ValueError)


async def test_an_exit_has_ten_seconds_by_default(autojump_clock: MockClock) -> None:
    # D13
    server = Server()
    await server.call(make_app(respond(body(Reasons(), leaving=9))))
    assert server.ok
    began = trio.current_time()
    await Server().call(make_app(respond(body(Reasons(), leaving=11))))
    assert trio.current_time() == began + 10


async def test_nothing_limits_the_whole_of_a_download_by_default(autojump_clock: MockClock) -> None:
    # BK-8
    server = Server()
    await server.call(make_app(respond(lambda: ticks(360, 10))))
    assert trio.current_time() == 3600
    assert server.body == b"tick" * 360
    assert server.ok


async def test_a_disconnect_before_the_limit_is_a_disconnect(autojump_clock: MockClock) -> None:
    reasons = Reasons()
    server = Server()
    async with trio.open_nursery() as nursery:
        app = make_app(respond(body(reasons, second=100)), policy=StreamPolicy(idle=5))
        nursery.start_soon(server.call, app)
        await trio.sleep(4)
        server.leave()
    assert reasons.seen == ["client disconnected"]
    assert server.error is None


async def test_a_limit_that_passes_after_a_disconnect_is_nothing(
    autojump_clock: MockClock,
) -> None:
    endings: list[Ending] = []

    @asynccontextmanager
    async def slow_cleanup() -> AsyncIterator[Any]:
        try:
            yield ticks(1, 1000)
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(10)

    app = make_app(
        respond(slow_cleanup()),
        policy=StreamPolicy(lifetime=5),
        on_end=lambda request, ending: endings.append(ending),
    )
    server = Server()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.call, app)
        await trio.sleep(4)
        server.leave()
    assert trio.current_time() == 14
    assert [(ending.reason, ending.limit) for ending in endings] == [("disconnect", None)]


# The values themselves


def test_the_defaults() -> None:
    # D24
    assert StreamPolicy() == StreamPolicy(
        handler=None,
        first_item=None,
        idle=None,
        send=60.0,
        exit=10.0,
        lifetime=None,
        heartbeat=None,
    )


@pytest.mark.parametrize(
    "name", ["handler", "first_item", "idle", "send", "exit", "lifetime", "heartbeat"]
)
@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_a_limit_that_is_not_above_zero_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} is a number of seconds above 0, or None"):
        StreamPolicy(**{name: value})


async def test_the_handler_limit_ends_with_the_response_that_a_duplex_handler_yields(
    autojump_clock: MockClock,
) -> None:
    @asynccontextmanager
    async def handler(request: object) -> AsyncIterator[Response]:
        yield Response(b"")
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 20):
            await trio.sleep_forever()  # leaving is not what this limit is about

    server = Server()
    await server.call(make_app(handler, policy=StreamPolicy(handler=5, exit=None)), "HEAD")
    assert server.status == 200
