"""WebSockets: one way, both ways, refused, closed, and with a stream in them."""

import trio

from tsstream import (
    NDJSON,
    App,
    Response,
    WebSocket,
    merge,
    text_response,
    websocket_feed,
)

FEED = "ws://127.0.0.1:9001"

app = App()


# [echo]
@app.websocket("/echo")
async def echo(websocket: WebSocket) -> None:
    async for message in websocket:
        await websocket.send(message)


# [send-only]
@app.websocket("/clock")
async def clock(websocket: WebSocket) -> None:
    websocket.send_only()
    while True:
        await websocket.send("tick")
        await trio.sleep(1)


# [origin]
@app.websocket("/account")
async def account(websocket: WebSocket) -> None:
    websocket.check_origin("https://app.example.org")
    await websocket.send("your account")


# [refuse]
@app.websocket("/rooms/{name}")
async def room(websocket: WebSocket) -> Response | None:
    if websocket.path_params["name"] != "lobby":
        return text_response("there is no such room\n", 404)
    await websocket.send("welcome")
    return None


# [subprotocol]
@app.websocket("/graph")
async def graph(websocket: WebSocket) -> None:
    if "graphql-transport-ws" in websocket.subprotocols:
        await websocket.accept("graphql-transport-ws", {"x-graph": "1"})
    else:
        await websocket.close()


# [close]
@app.websocket("/guess")
async def guess(websocket: WebSocket) -> None:
    async for message in websocket:
        if message == "42":
            await websocket.close(4000, "that is it")
            break
        await websocket.send("no")


# [nursery]
async def report(websocket: WebSocket, name: str, pause: float) -> None:
    while True:
        await websocket.send(f"{name} is alive")
        await trio.sleep(pause)


@app.websocket("/reports")
async def reports(websocket: WebSocket) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(report, websocket, "mill", 2)
        nursery.start_soon(report, websocket, "pump", 3)
        async for message in websocket:
            await websocket.send(f"noted, all {len(message)} of it")
        nursery.cancel_scope.cancel()


# [stream]
async def count(send_channel: trio.MemorySendChannel[dict[str, int]]) -> None:
    for number in range(3):
        await send_channel.send({"number": number})


@app.websocket("/numbers")
async def numbers(websocket: WebSocket) -> None:
    await websocket.stream(merge(count), encoder=NDJSON)


@app.websocket("/feed")
async def feed(websocket: WebSocket) -> None:
    websocket.send_only()
    await websocket.stream(merge(websocket_feed(FEED)))
