"""Two producers, merged into one response."""

import itertools
from functools import partial

import trio

from tsstream import App, Request, Response, merge

app = App()


SendChannel = trio.MemorySendChannel[str]


async def clock(sound: str, interval: float, send_channel: SendChannel) -> None:
    for number in itertools.count(1):
        await send_channel.send(f"{sound} {number}\n")
        await trio.sleep(interval)


@app.get("/clocks")
async def clocks(request: Request) -> Response:
    both = merge(partial(clock, "tick", 1.0), partial(clock, "TOCK", 2.5))
    return Response(both, media_type="text/plain")
