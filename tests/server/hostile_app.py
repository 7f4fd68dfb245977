"""The application that hostile clients talk to: it never fails by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

if TYPE_CHECKING:
    from tsstream._asgi import Receive, Send

TICK = 0.02  # seconds
TEXT = [(b"content-type", b"text/plain")]
HELLO = b"hello"


async def hostile_app(scope: Any, receive: Receive, send: Send) -> None:
    """Answer ``/hello``, ``/echo``, ``/tick``, ``/ignore``, ``/limited`` and WebSockets.

    A client that has gone ends the call quietly, so whatever is logged is the server's own.
    """
    calls = {"lifespan": _run_lifespan, "websocket": _talk}
    try:
        await calls.get(scope["type"], _respond)(scope, receive, send)
    except* OSError:
        pass  # of send(): the client has gone


async def _run_lifespan(scope: Any, receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


async def _respond(scope: Any, receive: Receive, send: Send) -> None:
    routes = {"/echo": _echo, "/tick": _tick, "/ignore": _ignore, "/limited": _limit}
    await routes.get(scope["path"], _answer)(scope, receive, send)


async def _answer(scope: Any, receive: Receive, send: Send) -> None:
    found = scope["path"] == "/hello"
    await _start(send, 200 if found else 404, length=len(HELLO))
    await send({"type": "http.response.body", "body": HELLO})


async def _ignore(scope: Any, receive: Receive, send: Send) -> None:
    await _start(send, 200, length=len(HELLO))
    await send({"type": "http.response.body", "body": HELLO})


async def _limit(scope: Any, receive: Receive, send: Send) -> None:
    """Take one piece of the body and refuse the rest."""
    await receive()
    await _start(send, 413, length=0)
    await send({"type": "http.response.body"})


async def _echo(scope: Any, receive: Receive, send: Send) -> None:
    message = await receive()
    if message["type"] == "http.disconnect":
        return
    await _start(send, 200)
    while message["type"] != "http.disconnect":
        more = message.get("more_body", False)
        await send({"type": "http.response.body", "body": message["body"], "more_body": more})
        if not more:
            return
        message = await receive()


async def _tick(scope: Any, receive: Receive, send: Send) -> None:
    async def wait_disconnect() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        nursery.cancel_scope.cancel()

    await _start(send, 200)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait_disconnect)
        while True:
            await send({"type": "http.response.body", "body": b"tick\n", "more_body": True})
            await trio.sleep(TICK)


async def _talk(scope: Any, receive: Receive, send: Send) -> None:
    await receive()
    if scope["path"] != "/ws":
        await send({"type": "websocket.close"})
        return
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})


async def _start(send: Send, status: int, *, length: int | None = None) -> None:
    sized = [] if length is None else [(b"content-length", b"%d" % length)]
    await send({"type": "http.response.start", "status": status, "headers": TEXT + sized})
