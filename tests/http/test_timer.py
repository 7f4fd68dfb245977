"""Signs of life on silence: when they are sent, and when not; and whose limits are watched."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
from asgi import START, Server, make_app
from trio.testing import MockClock

from tsstream import BYTES, NDJSON, SSE, App, Encoder, Request, Response, StreamPolicy
from tsstream._asgi import Message


async def ticks(number: int, every: float) -> AsyncGenerator[bytes, None]:
    for _ in range(number):
        await trio.sleep(every)
        yield b"tick"


async def stuck_on_data(message: Message) -> None:
    if message.get("body"):
        await trio.sleep_forever()


def heartbeat(
    content: Callable[[], Any],
    *,
    encoder: Encoder = SSE,
    live: bool = False,
    every: float | None = 15,
) -> Any:
    async def handler(request: object) -> Response:
        return Response(content(), encoder=encoder, live=live, policy=StreamPolicy(heartbeat=every))

    return make_app(handler)


async def test_silence_is_filled_with_heartbeats(autojump_clock: MockClock) -> None:
    server = Server()
    await server.call(heartbeat(lambda: ticks(2, 40)))
    sent = list(zip(server.times, [message.get("body") for message in server.sent], strict=True))
    assert sent == [
        (40, None),
        (40, b"data: tick\n\n"),
        (55, b":\n\n"),
        (70, b":\n\n"),
        (80, b"data: tick\n\n"),
        (80, b""),
    ]


async def test_a_live_response_has_heartbeats_before_its_first_item(
    autojump_clock: MockClock,
) -> None:
    server = Server()
    await server.call(heartbeat(lambda: ticks(1, 40), live=True))
    times = [
        time
        for time, message in zip(server.times, server.sent, strict=True)
        if message.get("body") == b":\n\n"
    ]
    assert times == [15, 30]


async def test_a_response_that_has_not_started_has_no_heartbeats(autojump_clock: MockClock) -> None:
    # D9: a heartbeat would give up the status
    server = Server()
    await server.call(heartbeat(lambda: ticks(1, 40)))
    assert server.times[0] == 40
    assert server.chunks == [b"data: tick\n\n"]


async def test_each_format_has_its_own_heartbeat(autojump_clock: MockClock) -> None:
    server = Server()
    await server.call(heartbeat(iter_json, encoder=NDJSON, live=True))
    assert server.chunks == [b"\n", b"1\n"]


async def iter_json() -> AsyncGenerator[int, None]:
    await trio.sleep(20)
    yield 1


async def test_a_format_without_heartbeats_is_silent(autojump_clock: MockClock) -> None:
    server = Server()
    await server.call(heartbeat(lambda: ticks(2, 40), encoder=BYTES))
    assert server.chunks == [b"tick", b"tick"]


async def test_no_heartbeat_is_sent_by_default(autojump_clock: MockClock) -> None:
    server = Server()
    await server.call(heartbeat(lambda: ticks(1, 1000), live=True, every=None))
    assert server.chunks == [b"data: tick\n\n"]


async def test_no_heartbeats_pile_up_behind_a_send_that_is_stuck(autojump_clock: MockClock) -> None:
    tried: list[bytes] = []

    async def slow(message: Message) -> None:
        if message["type"] != START:
            tried.append(message["body"])
            if message["body"]:
                await trio.sleep(55)

    server = Server(on_send=slow)
    await server.call(heartbeat(lambda: ticks(1, 1)))
    assert tried == [b"data: tick\n\n", b""]


async def test_a_client_that_does_not_take_a_heartbeat_is_cut_by_the_send_limit(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    server = Server(on_send=stuck_on_data)
    await server.call(heartbeat(lambda: ticks(1, 1000), live=True))
    assert trio.current_time() == 15 + 60
    assert not server.complete
    assert "send limit of 60 s reached" in caplog.text


async def test_a_body_of_a_declared_length_has_no_room_for_heartbeats(
    autojump_clock: MockClock,
) -> None:
    # D37: they would count
    async def handler(request: object) -> Response:
        return Response(
            ticks(1, 40),
            headers={"content-length": "12"},
            encoder=SSE,
            live=True,
            policy=StreamPolicy(heartbeat=15),
        )

    server = Server()
    await server.call(make_app(handler))
    assert server.chunks == [b"data: tick\n\n"]
    assert server.ok


# Between items, and nowhere else


BATCHES = 20
HUGE = "x" * (64 * 1024 * BATCHES)
HEARTBEAT = 15.0  # seconds


class SlowClient(Server):
    """Takes just as long for a message of some kind as the silence may last."""

    def __init__(self, is_slow: Callable[[Message], bool]) -> None:
        super().__init__()
        self.is_slow = is_slow

    async def send(self, message: Message) -> None:
        # No checkpoint after the sleep: what it wakes runs together with what the clock wakes.
        await trio.sleep(HEARTBEAT if self.is_slow(message) else 0)
        self.sent.append(message)


async def stream_huge_item(server: Server) -> None:
    async def handler(request: object) -> Response:
        policy = StreamPolicy(heartbeat=HEARTBEAT, send=None, exit=None)
        return Response([HUGE], encoder=SSE, policy=policy)

    await server.call(make_app(handler))
    assert server.ok
    assert f"data: {HUGE}\n\n".encode() in server.body


async def test_a_heartbeat_is_never_inside_an_item_that_a_slow_client_takes(
    autojump_clock: MockClock,
) -> None:
    # It leaves in batches, and the silence may be over just between two of them.
    await stream_huge_item(SlowClient(lambda message: bool(message.get("body"))))


async def test_a_heartbeat_is_never_inside_an_item_while_the_event_loop_is_blocked(
    autojump_clock: MockClock,
) -> None:
    async def let_time_pass_at_every_step(server: Server) -> None:
        while not server.complete:
            await trio.lowlevel.checkpoint()
            if server.chunks:
                autojump_clock.jump(HEARTBEAT)

    for _ in range(3):  # Trio shuffles its tasks
        server = Server()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(let_time_pass_at_every_step, server)
            await stream_huge_item(server)


async def test_no_heartbeat_comes_after_the_final_message(autojump_clock: MockClock) -> None:
    # a server may take one for the beginning of the next response
    for _ in range(30):  # Trio shuffles its tasks
        server = SlowClient(lambda message: message["type"] != START)
        await server.call(heartbeat(lambda: ticks(0, 1)))
        assert server.ok  # the final message came once, and last
        assert server.chunks == []


async def test_a_client_that_does_not_take_the_head_of_a_live_stream_is_cut_by_the_send_limit(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    # A live stream has no limit on its first item, but its head is on its way before that.
    async def stuck(message: Message) -> None:
        await trio.sleep_forever()

    server = Server(on_send=stuck)
    await server.call(heartbeat(lambda: ticks(1, 1000), live=True, every=None))
    assert trio.current_time() == 60
    assert not server.complete
    assert "send limit of 60 s reached" in caplog.text


async def test_a_stuck_heartbeat_is_cut_by_the_send_limit_though_items_are_ready(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def stuck_on_heartbeats(message: Message) -> None:
        if message.get("body") == b":\n\n":
            await trio.sleep_forever()

    server = Server(on_send=stuck_on_heartbeats)
    await server.call(heartbeat(lambda: ticks(100, 20), live=True))
    assert trio.current_time() == 15 + 60
    assert not server.complete
    assert "send limit of 60 s reached" in caplog.text


# Whose limits


async def test_the_limit_of_a_handler_is_over_once_it_yields_a_response_with_a_policy(
    autojump_clock: MockClock,
) -> None:
    # The response's policy knows no limit of that name.
    @asynccontextmanager
    async def handler(request: object) -> AsyncIterator[Response]:
        try:
            yield Response(b"x", policy=StreamPolicy())
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(2)

    server = Server()
    await server.call(make_app(handler, policy=StreamPolicy(handler=1)), "HEAD")
    assert (server.status, server.complete, server.error) == (200, True, None)


async def test_the_policy_of_the_app_changed_for_one_response_keeps_its_other_limits(
    autojump_clock: MockClock,
) -> None:
    limits: list[str | None] = []
    app: App[None] = App(
        policy=StreamPolicy(idle=5, exit=2),
        on_end=lambda request, ending: limits.append(ending.limit),
    )

    async def items() -> AsyncGenerator[bytes, None]:
        yield b"a"
        await trio.sleep(6)
        yield b"b"
        await trio.sleep(8)

    @app.get("/{idle}")
    async def handler(request: Request[None]) -> Response:
        idle = float(request.path_params["idle"])
        return Response(items(), policy=attrs.evolve(request.app.policy, idle=idle))

    @asynccontextmanager
    async def slow_exit() -> AsyncIterator[list[bytes]]:
        yield [b"a"]
        await trio.sleep(3)

    @app.post("/")
    async def leave_slowly(request: Request[None]) -> Response:
        return Response(slow_exit(), policy=attrs.evolve(request.app.policy, idle=7))

    for path, method in (("/7", "GET"), ("/9", "GET"), ("/", "POST")):
        await Server().call(app, method, path)
    assert limits == ["idle", None, "exit"]
    assert app.policy == StreamPolicy(idle=5, exit=2)
