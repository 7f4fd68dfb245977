"""Errors before the first item and after it, time limits, and the last word."""

import trio

from tsstream import App, HTTPError, Request, Response, StreamPolicy, merge

app = App(errors={FileNotFoundError: 404, ConnectionError: 502})


# [status]
@app.get("/feeds/{name}")
async def feed(request: Request) -> Response:
    if request.path_params["name"] != "news":
        raise HTTPError(404, "there is no feed of this name")
    return Response("news\n")


# [mapped]
async def dial(send_channel: trio.MemorySendChannel[str]) -> None:
    raise ConnectionRefusedError("nobody listens there")


@app.get("/refused")
async def refused(request: Request) -> Response:
    return Response(merge(dial), media_type="text/plain")


# [cut]
async def break_off(send_channel: trio.MemorySendChannel[str]) -> None:
    await send_channel.send("so far, so good\n")
    raise ConnectionResetError("the source is gone")


@app.get("/cut")
async def cut(request: Request) -> Response:
    return Response(merge(break_off), media_type="text/plain")


# [limits]
async def dawdle(send_channel: trio.MemorySendChannel[str]) -> None:
    await trio.sleep_forever()


@app.get("/slow")
async def slow(request: Request) -> Response:
    policy = StreamPolicy(first_item=5.0)
    return Response(merge(dawdle), media_type="text/plain", policy=policy)


# [cleanup]
async def goodbye(send_channel: trio.MemorySendChannel[str]) -> None:
    try:
        while True:
            await send_channel.send("still here\n")
            await trio.sleep(1)
    finally:
        with trio.move_on_after(1, shield=True):
            await save("where I stopped")


async def save(what: str) -> None:
    await trio.sleep(0.1)
    print(f"saved {what}")


@app.get("/goodbye")
async def say_goodbye(request: Request) -> Response:
    return Response(merge(goodbye), media_type="text/plain", live=True)


# [shutdown]
async def count(send_channel: trio.MemorySendChannel[str]) -> None:
    shutting_down = app.shutting_down
    number = 0
    while not shutting_down.is_set():
        number += 1
        await send_channel.send(f"{number}\n")
        with trio.move_on_after(1):
            await shutting_down.wait()
    await send_channel.send("that is all\n")


@app.get("/count")
async def count_up(request: Request) -> Response:
    return Response(merge(count), media_type="text/plain")
