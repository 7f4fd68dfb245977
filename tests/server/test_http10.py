"""HTTP/1.0: where the end of the connection is the end of the body, a failure is a reset."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
import trio.testing
from guarded import answer, body, http, open_guarded_on, start
from leaks import assert_no_leaks
from probes import IN_TIME, PROMPT
from wire import RawConnection, Truncated, open_guarded, open_raw

from tsstream import App, Request
from tsstream._asgi import Receive, Send


async def serve_paths(scope: Any, receive: Receive, send: Send) -> None:
    """Answer as the path says; ``/whole`` is the only one that is complete."""
    path = scope["path"]
    if path == "/unstarted":
        raise LookupError("no response")
    await send(start(content_length="100") if path == "/length" else start())
    await send(body(b"first"))
    await trio.testing.wait_all_tasks_blocked(0.01)  # what is still on its way a reset may drop
    if path == "/cancelled":
        with trio.CancelScope() as scope_of_send:
            scope_of_send.cancel()
            await send(body(b"lost"))
    elif path == "/raises" or path == "/length":
        raise LookupError("no more")
    elif path == "/whole":
        await send(body(b" last", more=False))


async def ask(raw: RawConnection, path: str, *headers: str) -> dict[str, str]:
    await raw.send_all("\r\n".join([f"GET {path} HTTP/1.0", *headers, "", ""]).encode())
    status, fields = await raw.read_head()
    assert status == 200
    return fields


async def test_a_complete_response_ends_with_a_fin() -> None:
    async with open_guarded(http(serve_paths)) as port, assert_no_leaks(), open_raw(port) as raw:
        headers = await ask(raw, "/whole")
        assert "transfer-encoding" not in headers
        with trio.fail_after(PROMPT):
            assert await raw.read_body() == b"first last"
    assert raw.ended == "fin"


@pytest.mark.parametrize("path", ["/raises", "/returns", "/cancelled", "/length"])
async def test_a_response_that_fails_ends_with_a_reset(path: str) -> None:
    # HOST fault 12: with a FIN the part would be taken for the whole.
    async with open_guarded(http(serve_paths)) as port, assert_no_leaks(), open_raw(port) as raw:
        await ask(raw, path)
        with trio.fail_after(PROMPT), pytest.raises(Truncated) as caught:
            await raw.read_body()
    assert caught.value.body.startswith(b"first")
    assert raw.ended == "reset" or path == "/length"


async def test_a_complete_response_over_tls_ends_with_close_notify_and_a_failed_one_not() -> None:
    async with open_guarded_on("tls", http(serve_paths)) as connect:
        async with connect() as raw:
            await ask(raw, "/whole")
            assert await raw.read_body() == b"first last"
        async with connect() as raw:
            await ask(raw, "/raises")
            with pytest.raises(Truncated):
                await raw.read_body()


async def test_an_app_that_fails_before_its_response_is_a_whole_500() -> None:
    async with open_guarded(http(serve_paths)) as port, open_raw(port) as raw:
        await raw.send_all(b"GET /unstarted HTTP/1.0\r\n\r\n")
        assert (await raw.read_head())[0] == 500
        await raw.read_body()
    assert raw.ended in ("open", "fin")


async def test_a_large_response_is_whole_before_its_fin() -> None:
    data = b"x" * 10_000_000

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await send(start())
        await send(body(data, more=False))

    async with open_guarded(http(app)) as port, open_raw(port, receive_buffer=4096) as raw:
        await ask(raw, "/")
        with trio.fail_after(IN_TIME):
            assert await raw.read_body() == data


async def test_no_keep_alive_is_promised() -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await answer(send)

    async with open_guarded(http(app)) as port, open_raw(port) as raw:
        headers = await ask(raw, "/", "connection: keep-alive")
        assert headers["connection"] == "close"
        assert await raw.read_body() == b"ok"
        with trio.fail_after(PROMPT):
            assert await raw.read_until_closed() == b""
    assert raw.ended == "fin"


@pytest.mark.parametrize("fail", [False, True])
async def test_a_tsstream_response_that_fails_ends_with_a_reset_and_a_whole_one_with_a_fin(
    fail: bool,
) -> None:
    app: App[Any] = App()

    @app.get("/")
    async def handler(request: Request) -> AsyncIterator[bytes]:
        async def chunks() -> AsyncIterator[bytes]:
            yield b"first"
            await trio.testing.wait_all_tasks_blocked(0.01)
            if fail:
                raise LookupError("no more")

        return chunks()

    async with open_guarded(app) as port, assert_no_leaks(), open_raw(port) as raw:
        await ask(raw, "/")
        if fail:
            with pytest.raises(Truncated):
                await raw.read_body()
        else:
            assert await raw.read_body() == b"first"
    assert raw.ended == ("reset" if fail else "fin")
