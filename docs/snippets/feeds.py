"""Two feeds to try the tutorial with: news on port 9001, weather on port 9002."""

import itertools
from functools import partial

import trio
from trio_websocket import ConnectionClosed, WebSocketRequest, serve_websocket


async def publish(topic: str, interval: float, request: WebSocketRequest) -> None:
    connection = await request.accept()
    try:
        for number in itertools.count(1):
            await connection.send_message(f"{topic} {number}\n")
            await trio.sleep(interval)
    except ConnectionClosed:
        print(f"{topic}: a reader has left")


async def main() -> None:
    async with trio.open_nursery() as nursery:
        for topic, interval, port in [("news", 1.0, 9001), ("weather", 2.5, 9002)]:
            handler = partial(publish, topic, interval)
            nursery.start_soon(serve_websocket, handler, "127.0.0.1", port, None)


if __name__ == "__main__":
    trio.run(main)
