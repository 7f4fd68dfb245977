"""The echo that Autobahn's cases are run against (``scripts/autobahn``)."""

from __future__ import annotations

from typing import Any

from tsstream._asgi import Receive, Send


async def app(scope: Any, receive: Receive, send: Send) -> None:
    """Send every message back."""
    if scope["type"] == "lifespan":
        while (message := await receive())["type"] != "lifespan.shutdown":
            await send({"type": f"{message['type']}.complete"})
        await send({"type": "lifespan.shutdown.complete"})
    elif scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            try:
                await send({**message, "type": "websocket.send"})
            except OSError:
                return
    else:
        await send({"type": "http.response.start", "status": 404})
        await send({"type": "http.response.body"})
