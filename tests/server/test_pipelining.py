"""Requests that come before their turn are answered in order, one at a time, each once."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing
from guarded import TRANSPORTS, Transport, answer, body, http, open_guarded_on, read_request, start
from leaks import assert_no_leaks
from probes import IN_TIME, Life, get
from wire import RawConnection, Truncated, open_guarded, open_raw

from tsstream import App, Request, merge
from tsstream._asgi import Receive, Send
from tsstream._http.content import Content


async def read_answer(raw: RawConnection) -> bytes:
    assert (await raw.read_head())[0] == 200
    return await raw.read_body()


def requests(*paths: str, data: bytes = b"") -> bytes:
    head = b"POST %s HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n"
    return b"".join(head % (path.encode(), len(data)) + data for path in paths)


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_pipelined_requests_are_answered_in_order_each_once(transport: Transport) -> None:
    paths = [f"/{number}" for number in range(100)]
    seen: list[str] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        seen.append(scope["path"])
        await answer(send, scope["path"].encode() + await read_request(receive))

    async with open_guarded_on(transport, http(app)) as connect, connect() as raw:
        await raw.send_all(requests(*paths, data=b" body"))
        answers = [await read_answer(raw) for _ in paths]
    assert answers == [path.encode() + b" body" for path in paths]
    assert seen == paths


async def test_a_pipelined_request_is_not_begun_before_the_one_before_is_answered() -> None:
    life = Life()
    finish = trio.Event()

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        with life.of(scope["path"]):
            await send(start())
            await send(body(b"first "))
            await finish.wait()
        await send(body(b"last", more=False))

    async with open_guarded(http(app)) as port, open_raw(port) as raw:
        await raw.send_all(requests("/one", "/two"))
        await life.wait_running(1)
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert life.events == ["/one in"]
        finish.set()
        for _ in range(2):
            assert await read_answer(raw) == b"first last"
    assert life.events == ["/one in", "/one out", "/two in", "/two out"]


async def test_a_pipelined_request_behind_an_unread_body_is_answered() -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await answer(send, scope["path"].encode())

    async with open_guarded(http(app)) as port, open_raw(port) as raw:
        await raw.send_all(requests("/one", "/two", data=b"x" * 200_000))
        assert await read_answer(raw) == b"/one"
        assert await read_answer(raw) == b"/two"


async def test_requests_behind_one_that_fails_are_not_begun() -> None:
    seen: list[str] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        seen.append(scope["path"])
        await send(start())
        await send(body(b"first"))
        raise LookupError("no more")

    async with open_guarded(http(app)) as port, assert_no_leaks(), open_raw(port) as raw:
        await raw.send_all(requests("/one", "/two"))
        with trio.fail_after(IN_TIME), pytest.raises(Truncated):
            await read_answer(raw)
    assert seen == ["/one"]


async def test_requests_behind_connection_close_are_not_begun() -> None:
    seen: list[str] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        seen.append(scope["path"])
        await answer(send)

    async with open_guarded(http(app)) as port, assert_no_leaks(), open_raw(port) as raw:
        await raw.request("GET", "/one", {"connection": "close"})
        await raw.request("GET", "/two")
        assert await read_answer(raw) == b"ok"
        with trio.fail_after(IN_TIME):
            assert await raw.read_until_closed() == b""
    assert seen == ["/one"]


async def test_a_broken_pipelined_request_is_400_behind_the_answer_before_it() -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await answer(send)

    async with open_guarded(http(app)) as port, assert_no_leaks(), open_raw(port) as raw:
        await raw.send_all(requests("/one") + b"what is this?\r\n\r\n")
        assert await read_answer(raw) == b"ok"
        with trio.fail_after(IN_TIME):
            assert (await raw.read_head())[0] == 400
            await raw.read_body()
            assert await raw.read_until_closed() == b""


@pytest.mark.parametrize("lines", [b"\r\n", b"\r\n\r\n", b"\n"])
@pytest.mark.parametrize("together", [True, False])
async def test_empty_lines_before_a_request_are_nothing(lines: bytes, together: bool) -> None:
    # RFC 9112, 2.2: old clients end a body with one.
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await answer(send, await read_request(receive))

    async with open_guarded(http(app)) as port, open_raw(port) as raw:
        pieces = [piece for _ in range(3) for piece in (lines, requests("/", data=b"body"))]
        await raw.send_all(pieces.pop(0))  # a connection can begin with one, too
        await trio.testing.wait_all_tasks_blocked(0.01)
        for data in [b"".join(pieces)] if together else pieces:
            await raw.send_all(data)
            await trio.testing.wait_all_tasks_blocked(0.01)
        for _ in range(3):
            assert await read_answer(raw) == b"body"


async def test_empty_lines_without_end_are_400() -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await answer(send)

    async with open_guarded(http(app)) as port, assert_no_leaks(), open_raw(port) as raw:
        await raw.send_all(b"\r\n" * 1000)
        with trio.fail_after(IN_TIME):
            assert (await raw.read_head())[0] == 400


async def test_a_connection_serves_as_many_requests_as_it_may_and_says_which_is_the_last() -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await answer(send)

    said: list[str | None] = []
    async with open_guarded(http(app), keep_alive_max_requests=3) as port, open_raw(port) as raw:
        await raw.send_all(requests(*["/"] * 5))
        for _ in range(3):
            said.append((await raw.read_head())[1].get("connection"))
            assert await raw.read_body() == b"ok"
        with trio.fail_after(IN_TIME):
            assert await raw.read_until_closed() == b""
    assert said == [None, None, "close"]


async def test_a_target_with_a_host_is_a_path_and_that_host() -> None:
    # RFC 9112, 3.2.2: the Host field is ignored.
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        parts = scope["raw_path"], scope["query_string"], *hosts
        await answer(send, b" ".join(parts))

    async with open_guarded(http(app)) as port, open_raw(port) as raw:
        await raw.request("GET", "http://other:80?next=/admin")
        assert await read_answer(raw) == b"/ next=/admin other:80"
        await raw.request("GET", "/a?b")
        assert await read_answer(raw) == b"/a b 127.0.0.1"


async def test_the_client_may_send_without_end_while_it_is_answered_and_no_memory_is_used() -> None:
    # What is not this request's turn stays with the client.
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await send(start())
        await send(body(b"first"))
        await trio.sleep_forever()

    sent = 0
    async with open_guarded(http(app)) as port, open_raw(port) as raw:
        assert await get(raw) == 200
        with trio.move_on_after(0.5) as scope:
            for _ in range(1000):
                await raw.send_all(requests("/more", data=b"x" * 64 * 1024))
                sent += 64 * 1024
        assert scope.cancelled_caught
        assert sent < 16 * 1024 * 1024  # the kernels' buffers


async def test_an_early_answer_before_a_pipelined_request_keeps_the_order() -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        if scope["path"] == "/read":
            await read_request(receive)
        await answer(send, scope["path"].encode())

    async with open_guarded(http(app)) as port, open_raw(port) as raw:
        await raw.send_all(requests("/unread", "/read", "/unread", "/read", data=b"x" * 100_000))
        for path in (b"/unread", b"/read") * 2:
            assert await read_answer(raw) == path


async def test_pipelined_requests_to_a_tsstream_app_are_answered_in_order() -> None:
    app: App[Any] = App()

    @app.post("/{name}")
    async def handler(request: Request) -> Content:
        async def produce(send_channel: trio.MemorySendChannel[str]) -> None:
            for _ in range(3):
                await send_channel.send(request.path_params["name"])

        return merge(produce)

    names = [f"n{number}" for number in range(20)]
    async with open_guarded(app) as port, open_raw(port) as raw:
        await raw.send_all(requests(*[f"/{name}" for name in names], data=b"unread"))
        for name in names:
            assert await read_answer(raw) == name.encode() * 3
