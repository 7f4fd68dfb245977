"""The echo that Autobahn's cases are run against (``scripts/autobahn``)."""

from __future__ import annotations

from tsstream import App, WebSocket

app = App()


@app.websocket("/")
async def echo(websocket: WebSocket) -> None:
    """Send every message back."""
    async for message in websocket:
        await websocket.send(message)
