"""Many live feeds, one response: the websockets named in FEEDS are merged for every client.

FEEDS="ws://127.0.0.1:8101 ws://127.0.0.1:8102" tsstream run examples.news_and_weather:app
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Literal, TypeVar

import attrs
import trio

from tsstream import (
    NDJSON,
    SSE,
    App,
    Encoder,
    HTTPError,
    Request,
    Response,
    json_response,
    merge,
    websocket_feed,
)

T = TypeVar("T")
Item = str | bytes  # a text or a binary message
SendChannel = trio.abc.SendChannel[Item]
ReceiveChannel = trio.abc.ReceiveChannel[Item]
Feed = Callable[[SendChannel], Awaitable[None]]
OnError = Literal["fail", "drop"]

PAGE = trio.Path(__file__).with_suffix(".html")


@attrs.define
class State:
    """What the requests share: the feeds, and a count of what is running for them."""

    feeds: list[Feed]
    running: Counter[str] = attrs.field(factory=Counter)

    @contextmanager
    def counting(self, what: str) -> Iterator[None]:
        """Count the block among what is running."""
        self.running[what] += 1
        try:
            yield
        finally:
            self.running[what] -= 1


@asynccontextmanager
async def lifespan(app: App[State]) -> AsyncIterator[State]:
    yield State([websocket_feed(url) for url in os.environ.get("FEEDS", "").split()])


app = App(lifespan=lifespan)


async def read_feed(state: State, feed: Feed, send_channel: SendChannel) -> None:
    with state.counting("producers"):
        await feed(send_channel)


@asynccontextmanager
async def merged(state: State, on_error: OnError) -> AsyncIterator[ReceiveChannel]:
    with state.counting("streams"):
        producers = [partial(read_feed, state, feed) for feed in state.feeds]
        async with merge(*producers, on_error=on_error) as receive_channel:
            yield receive_channel


def to_text(item: Item) -> str:
    return item if isinstance(item, str) else item.decode(errors="replace")


def encode_line(item: Item) -> bytes:
    return " ".join(to_text(item).splitlines()).encode() + b"\n"


FORMATS = {
    "text": Encoder(encode_line, media_type="text/plain; charset=utf-8"),
    "sse": SSE,
    "ndjson": attrs.evolve(NDJSON, encode=lambda item: NDJSON.encode(to_text(item))),
}
POLICIES: dict[str, OnError] = {"fail": "fail", "drop": "drop"}


def choose(request: Request[State], name: str, choices: Mapping[str, T]) -> T:
    """Give the choice that the query makes, or the first one if it makes none."""
    value = request.query_params.get(name, next(iter(choices)))
    if value not in choices:
        raise HTTPError(400, f"{name} is one of {', '.join(choices)}; not {value!r}\n")
    return choices[value]


@app.get("/feed")
async def feed(request: Request[State]) -> Response:
    encoder = choose(request, "format", FORMATS)
    on_error = choose(request, "policy", POLICIES)
    if not request.state.feeds:
        raise HTTPError(503, "there is nothing to merge; name websocket URLs in FEEDS\n")
    return Response(merged(request.state, on_error), encoder=encoder, live=True)


@app.get("/stats")
async def stats(request: Request[State]) -> Response:
    running = request.state.running
    tasks = trio.lowlevel.current_statistics().tasks_living
    return json_response(
        {"streams": running["streams"], "producers": running["producers"], "tasks": tasks}
    )


@app.get("/health")
async def health(request: Request[State]) -> str:
    return "ok"


@app.get("/")
async def page(request: Request[State]) -> Response:
    return Response(await PAGE.read_bytes(), media_type="text/html; charset=utf-8")
