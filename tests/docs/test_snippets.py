"""Every listing of the documentation is run, and says what the text says it says."""

from __future__ import annotations

import json
import re
import signal
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import attrs
import background
import behind_proxy
import embed_dispatcher
import embed_nursery
import embed_starlette
import endings
import events
import feeds
import hello
import kinds_of_body
import news_and_weather
import pytest
import raw_asgi
import serving
import ticks
import trio
import trustme
import two_clocks
from trio.testing import MockClock
from trio_websocket import WebSocketRequest, serve_websocket
from wire import RawConnection, open_raw

from tsstream import App, FeedError, Request, Response, merge, serve, websocket_feed
from tsstream._asgi import Receive, Scope, Send
from tsstream._http.host import EXTENSION, Host
from tsstream.testing import TruncatedBodyError, open_client

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


@attrs.define(eq=False)
class Feeds:
    """The tutorial's two feeds, faster, and a count of the readers that have left."""

    urls: list[str] = attrs.field(factory=list)
    left: trio.Semaphore = attrs.field(factory=lambda: trio.Semaphore(0))

    async def publish(self, topic: str, request: WebSocketRequest) -> None:
        await feeds.publish(topic, 0.01, request)
        self.left.release()


@pytest.fixture
async def two_feeds(nursery: trio.Nursery) -> Feeds:
    running = Feeds()
    for topic in ("news", "weather"):
        handler = partial(running.publish, topic)
        server = await nursery.start(serve_websocket, handler, "127.0.0.1", 0, None)
        running.urls.append(f"ws://127.0.0.1:{server.port}")
    return running


async def test_hello() -> None:
    async with open_client(hello.app) as client:
        assert (await client.get("/")).text == "Hello, world!\n"
        assert (await client.get("/hello/Ada")).text == "Hello, Ada!\n"


async def test_the_clock_stops_with_its_client(
    autojump_clock: MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    async with open_client(ticks.app) as client:
        async with client.stream("GET", "/ticks") as response:
            assert [await response.body.receive() for _ in range(3)] == [
                b"tick 1\n",
                b"tick 2\n",
                b"tick 3\n",
            ]
        assert capsys.readouterr().out.endswith("the clock stops\n")


async def test_two_clocks_as_in_the_tutorial(autojump_clock: MockClock) -> None:
    async with open_client(two_clocks.app) as client, client.stream("GET", "/clocks") as response:
        text = b""
        while text.count(b"\n") < 5:
            text += await response.body.receive()
    lines = text.decode().splitlines()
    assert sorted(lines[:2]) == ["TOCK 1", "tick 1"]
    assert lines[2:] == ["tick 2", "tick 3", "TOCK 2"]


async def test_news_and_weather_are_merged_and_left(
    two_feeds: Feeds, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(news_and_weather, "NEWS", two_feeds.urls[0])
    monkeypatch.setattr(news_and_weather, "WEATHER", two_feeds.urls[1])
    async with open_client(news_and_weather.app) as client:
        async with client.stream("GET", "/feed") as response:
            assert response.headers["content-type"] == "text/plain; charset=utf-8"
            text = b""
            while not (b"news 2\n" in text and b"weather 2\n" in text):
                text += await response.body.receive()
        await two_feeds.left.acquire()
        await two_feeds.left.acquire()
    said = capsys.readouterr().out.splitlines()
    assert sorted(said) == ["news: a reader has left", "weather: a reader has left"]


async def test_a_refused_feed_cuts_a_live_response(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(news_and_weather, "NEWS", "ws://127.0.0.1:9")
    monkeypatch.setattr(news_and_weather, "WEATHER", "ws://127.0.0.1:9")
    async with open_client(news_and_weather.app, raise_app_errors=False) as client:
        async with client.stream("GET", "/feed") as response:
            assert response.status_code == 200
            with pytest.raises(TruncatedBodyError):
                await response.body.receive()


async def test_a_refused_feed_is_a_status_without_live() -> None:
    app = App(errors={FeedError: 502})

    @app.get("/feed")
    async def feed(request: Request) -> Response:
        return Response(merge(websocket_feed("ws://127.0.0.1:9")))

    async with open_client(app, raise_app_errors=False) as client:
        assert (await client.get("/feed")).status_code == 502


async def test_events_in_a_browser(two_feeds: Feeds, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "NEWS", two_feeds.urls[0])
    monkeypatch.setattr(events, "WEATHER", "ws://127.0.0.1:9")  # refused, and dropped
    async with open_client(events.app) as client:
        assert 'new EventSource("/events")' in (await client.get("/")).text
        async with client.stream("GET", "/events") as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            text = b""
            while text.count(b"\n\n") < 2:
                text += await response.body.receive()
    assert text.startswith(b"data: news 1\ndata: \n\ndata: news 2\n")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/text", "café\n"),
        ("/bytes", "café\n"),
        ("/squares", "0\n1\n4\n9\n"),
        ("/count", "0\n1\n2\n3\n"),
        ("/generated", "0\n1\n2\n3\n"),
        ("/rows", '{"row":0}\n{"row":1}\n{"row":2}\n{"row":3}\n'),
        ("/readme", (ROOT / "README.md").read_text(encoding="utf-8")),
        ("/numbers", "0\n1\n2\n3\n"),
    ],
)
async def test_kinds_of_body(path: str, body: str) -> None:
    async with open_client(kinds_of_body.app) as client:
        response = await client.get(path)
    assert response.status_code == 200
    assert response.content.decode() == body


async def test_data_duplex_and_upload() -> None:
    async with open_client(kinds_of_body.app) as client:
        response = await client.post("/made")
        assert (response.status_code, response.text) == (201, "made\n")
        response = await client.get("/data?b=2")
        assert response.json() == {"path": "/data", "query": {"b": "2"}}
        response = await client.post("/upper", content=[b"one ", b"two"])
        assert response.text == "ONE TWO"
        response = await client.post("/sum", content=json.dumps([1, 2, 3]).encode())
        assert response.text == "6\n"


async def test_duplex_that_asks_for_the_body_too_late() -> None:
    """The response starts before a producer of a live response has begun (RQ-23)."""
    app = App()

    @app.post("/")
    @asynccontextmanager
    async def upper(request: Request) -> AsyncIterator[Response]:
        async def shout(send_channel: trio.MemorySendChannel[bytes]) -> None:
            async for chunk in request.body:
                await send_channel.send(chunk.upper())

        async with merge(shout) as chunks:
            yield Response(chunks, live=True)

    async with open_client(app) as client:
        with pytest.raises(trio.ClosedResourceError, match="before anybody had asked for it"):
            await client.post("/", content=[b"one"])


async def test_background_work_is_done_before_its_archive_closes(
    autojump_clock: MockClock,
) -> None:
    async with open_client(background.app) as client:
        start = trio.current_time()
        response = await client.post("/notes", content=b"first")
        assert (response.status_code, trio.current_time()) == (202, start)
        assert (await client.get("/notes")).text == "0 notes\n"
        await trio.sleep(3)
        assert (await client.get("/notes")).text == "1 notes\n"
        await client.post("/notes", content=b"last")
        archive = background.app.state
    assert archive.notes == ["first", "last"]
    assert not archive.open


async def test_endings(autojump_clock: MockClock, capsys: pytest.CaptureFixture[str]) -> None:
    async with open_client(endings.app, raise_app_errors=False) as client:
        assert (await client.get("/feeds/news")).status_code == 200
        response = await client.get("/feeds/gossip")
        assert response.status_code == 404
        assert response.text == "there is no feed of this name"
        assert (await client.get("/refused")).status_code == 502
        assert (await client.get("/slow")).status_code == 504
        with pytest.raises(TruncatedBodyError):
            await client.get("/cut")
        async with client.stream("GET", "/goodbye") as stream:
            await stream.body.receive()
    assert capsys.readouterr().out == "saved where I stopped\n"


async def test_a_stream_that_ends_itself_at_shutdown(autojump_clock: MockClock) -> None:
    host = Host()

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        extensions = {**scope.get("extensions", {}), EXTENSION: host}
        await endings.app({**scope, "extensions": extensions}, receive, send)

    async with open_client(guarded) as client, client.stream("GET", "/count") as stream:
        assert await stream.body.receive() == b"1\n"
        assert await stream.body.receive() == b"2\n"
        host.shutting_down.set()
        assert [chunk async for chunk in stream.body] == [b"that is all\n"]


async def test_inside_starlette() -> None:
    async with open_client(embed_starlette.app) as client:
        assert (await client.get("/")).text == "Starlette\n"
        assert (await client.get("/streams/where")).text == "/where under /streams\n"


async def test_under_the_dispatcher() -> None:
    async with open_client(embed_dispatcher.app) as client:
        assert (await client.get("/one/where")).text == "one, /where under /one\n"
        assert (await client.get("/two/where")).text == "two, /where under /two\n"


async def test_in_a_nursery(capsys: pytest.CaptureFixture[str]) -> None:
    await embed_nursery.main()
    assert re.fullmatch(r"serving at http://127\.0\.0\.1:\d+\n", capsys.readouterr().out)


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


async def test_serving_with_tls(nursery: trio.Nursery, tmp_path: Path) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    chain.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(key)
    start = partial(
        serving.serve_encrypted, bind=["127.0.0.1:0"], certfile=str(chain), keyfile=str(key)
    )
    [address] = await nursery.start(start)
    assert address.startswith("https://")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    async with open_raw(port_of(address)) as raw:
        tls = trio.SSLStream(raw.stream, context, server_hostname="127.0.0.1")
        await tls.send_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        data = b""
        while not data.endswith(b"Hello over https!\n"):
            data += await tls.receive_some()
    nursery.cancel_scope.cancel()


async def test_serving_with_a_config(capsys: pytest.CaptureFixture[str]) -> None:
    async with trio.open_nursery() as nursery:
        [address] = await nursery.start(partial(serving.serve_configured, bind=["127.0.0.1:0"]))
        async with open_raw(port_of(address)) as raw:
            await raw.request("GET", "/")
            assert (await raw.read_head())[0] == 200
            assert await raw.read_body() == b"Hello over http!\n"
        nursery.cancel_scope.cancel()
    assert '"GET / 1.1" 200 17' in capsys.readouterr().out


async def test_serving_until_a_signal() -> None:
    async with trio.open_nursery() as nursery:
        [address] = await nursery.start(partial(serving.serve_until_signal, bind=["127.0.0.1:0"]))
        async with open_raw(port_of(address)) as raw:
            await raw.request("GET", "/")
            assert (await raw.read_head())[0] == 200
        signal.raise_signal(signal.SIGTERM)


async def test_behind_a_proxy(nursery: trio.Nursery, tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    await nursery.start(partial(behind_proxy.serve_proxy, bind=[f"unix:{path}"]))
    raw = RawConnection(await trio.open_unix_socket(path))
    await raw.request("GET", "/", {"x-real-ip": "192.0.2.7", "x-forwarded-proto": "https"})
    await raw.read_head()
    assert await raw.read_body() == b"('192.0.2.7', 0) by https\n"
    raw.close()
    nursery.cancel_scope.cancel()


async def test_raw_asgi_ends_its_stream_when_the_server_is_to_end() -> None:
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        start = partial(serve, raw_asgi.app, bind=["127.0.0.1:0"], shutdown_trigger=stop.wait)
        [address] = await nursery.start(start)
        async with open_raw(port_of(address)) as raw:
            await raw.request("GET", "/")
            await raw.read_head()
            assert await raw.read_chunk() == b"tick\n"
            stop.set()
            assert await raw.read_body() == b"that is all\n"


async def test_raw_asgi_elsewhere_ends_when_its_client_leaves(autojump_clock: MockClock) -> None:
    ended: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await raw_asgi.app(scope, receive, send)
        finally:
            ended.append(scope["type"])

    async with open_client(app) as client:
        assert ended == ["lifespan"]  # it has none
        async with client.stream("GET", "/") as response:
            assert await response.body.receive() == b"tick\n"
            assert await response.body.receive() == b"tick\n"
        assert ended == ["lifespan", "http"]


def test_readme_shows_the_tutorials_program() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    [block] = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    program = (DOCS / "snippets" / "news_and_weather.py").read_text(encoding="utf-8")
    assert program.endswith(f"\n\n{block}")


def included() -> Iterator[str]:
    for page in DOCS.rglob("*.rst"):
        for name in re.findall(r"literalinclude:: (\S+)", page.read_text(encoding="utf-8")):
            yield Path(name).name


def test_every_snippet_is_shown_and_run() -> None:
    present = {path.name for path in (DOCS / "snippets").glob("*.py")}
    assert present <= set(included())
    tests = {path.name for path in (DOCS / "snippets").glob("test_*.py")}  # pytest runs these
    sources = [*Path(__file__).parent.glob("*.py"), *(DOCS / "snippets").glob("test_*.py")]
    imports = re.findall(
        r"^(?:import|from) (\w+)", "\n".join(path.read_text() for path in sources), re.MULTILINE
    )
    assert present - tests <= {f"{name}.py" for name in imports}
