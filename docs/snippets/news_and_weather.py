"""Two WebSocket feeds, merged into one response."""

from tsstream import App, Request, Response, merge, websocket_feed

NEWS = "ws://127.0.0.1:9001"
WEATHER = "ws://127.0.0.1:9002"

app = App()


@app.get("/feed")
async def news_and_weather(request: Request) -> Response:
    feeds = merge(websocket_feed(NEWS), websocket_feed(WEATHER))
    return Response(feeds, media_type="text/plain", live=True)
