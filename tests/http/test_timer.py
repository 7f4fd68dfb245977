"""Signs of life on silence: when they are sent, and when not."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Any

import trio
from asgi import START, Server, make_app
from trio.testing import MockClock

from tsstream import BYTES, NDJSON, SSE, Encoder, Response, StreamPolicy
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
    autojump_clock: MockClock,
) -> None:
    server = Server(on_send=stuck_on_data)
    await server.call(heartbeat(lambda: ticks(1, 1000), live=True))
    assert trio.current_time() == 15 + 60
    assert str(server.error) == "send limit of 60 s reached"


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
