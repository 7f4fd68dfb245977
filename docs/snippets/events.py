"""The same two feeds for a browser, as server-sent events."""

from tsstream import App, Request, Response, StreamPolicy, merge, sse_response, websocket_feed

NEWS = "ws://127.0.0.1:9001"
WEATHER = "ws://127.0.0.1:9002"

PAGE = """\
<!doctype html>
<title>News and weather</title>
<ul id="items"></ul>
<script>
  new EventSource("/events").onmessage = (event) => {
    const item = document.createElement("li");
    item.textContent = event.data;
    document.getElementById("items").prepend(item);
  };
</script>
"""

app = App(policy=StreamPolicy(heartbeat=15.0))


@app.get("/")
async def page(request: Request) -> Response:
    return Response(PAGE, media_type="text/html")


@app.get("/events")
async def events(request: Request) -> Response:
    feeds = merge(websocket_feed(NEWS), websocket_feed(WEATHER), on_error="drop")
    return sse_response(feeds)
