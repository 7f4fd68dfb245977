"""A plain ASGI application that knows when its client leaves, and when its server is to end."""

from typing import Any

import trio


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        raise NotImplementedError("HTTP only")
    host = scope["extensions"].get("tsstream.host")
    shutting_down = host.shutting_down if host else trio.Event()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cancel_when_gone, receive, nursery.cancel_scope)
        while not shutting_down.is_set():
            await send({"type": "http.response.body", "body": b"tick\n", "more_body": True})
            with trio.move_on_after(1):
                await shutting_down.wait()
        nursery.cancel_scope.cancel()
    await send({"type": "http.response.body", "body": b"that is all\n"})


async def cancel_when_gone(receive: Any, cancel_scope: trio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    cancel_scope.cancel()
