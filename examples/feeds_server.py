"""Two websocket servers with made-up live data, news and weather, for the demo to merge.

``python -m examples.feeds_server`` runs them alone and prints their addresses.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial

import trio
from trio_websocket import ConnectionClosed, WebSocketRequest, serve_websocket

HOST = "127.0.0.1"
PAUSE = (0.2, 0.9)  # seconds between two items: fast enough to watch, slow enough to read

PLACES = ("Bergen", "Lisbon", "Nairobi", "Osaka", "Quito", "Tallinn", "Wellington")
SUBJECTS = ("City library", "Harbour ferry", "Night train", "Old observatory", "Tram line 4")
EVENTS = (
    "opens a day early",
    "celebrates its centenary",
    "is looking for volunteers",
    "runs on time for a whole year",
    "gets a new clock",
    "stays open all night",
)
WINDS = ("calm", "light breeze", "fresh breeze", "near gale")


def headlines(rng: random.Random) -> Iterator[str]:
    """Make up news for ever."""
    while True:
        yield f"news: {rng.choice(SUBJECTS)} in {rng.choice(PLACES)} {rng.choice(EVENTS)}"


def readings(rng: random.Random) -> Iterator[str]:
    """Make up weather for ever."""
    while True:
        place, degrees, wind = rng.choice(PLACES), rng.uniform(-9, 31), rng.choice(WINDS)
        yield f"weather: {place} {degrees:.1f} °C, {wind}"


async def send_items(
    make_items: Callable[[random.Random], Iterator[str]], request: WebSocketRequest
) -> None:
    """Send items to one client until it goes; every client gets the same ones."""
    rng = random.Random(36916)
    websocket = await request.accept()
    with suppress(ConnectionClosed):
        for item in make_items(rng):
            await websocket.send_message(item)
            await trio.sleep(rng.uniform(*PAUSE))


async def serve_feeds(
    ports: tuple[int, int] = (0, 0),
    *,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run both servers until cancelled; ``nursery.start`` gives their URLs."""
    urls = []
    # A client that is gone in the middle of a handshake is not waited for a whole minute.
    serve = partial(serve_websocket, connect_timeout=2)
    async with trio.open_nursery() as nursery:
        for make_items, port in zip((headlines, readings), ports, strict=True):
            handler = partial(send_items, make_items)
            server = await nursery.start(serve, handler, HOST, port, None)
            urls.append(f"ws://{HOST}:{server.port}")
        task_status.started(urls)


async def main() -> None:
    async with trio.open_nursery() as nursery:
        urls = await nursery.start(serve_feeds)
        print(f'FEEDS="{" ".join(urls)}"', flush=True)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        trio.run(main)
