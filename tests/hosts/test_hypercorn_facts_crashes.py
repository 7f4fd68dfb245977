"""Facts about the stock Hypercorn: what ends the whole server (HOST fault 1)."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
import trio
from hpack import Encoder
from hyperframe.frame import Frame, HeadersFrame, PriorityFrame, SettingsFrame
from probes import IN_TIME
from stock import (
    CONNECTION,
    GET,
    HTTP1,
    HTTP2,
    SUPERVISOR,
    UPGRADE,
    WEBSOCKET,
    Call,
    Handler,
    Stock,
    answer,
    cured,
    end_of_server,
    open_command,
    settle,
)
from wire import HOST, Truncated, open_h2, open_raw

H2C = {"connection": "Upgrade, HTTP2-Settings", "upgrade": "h2c"}
ATTEMPTS = 60  # at a race of two tasks that a fault wins every second time


def http11(headers: dict[str, str], rest: bytes = b"") -> bytes:
    lines = ["GET / HTTP/1.1", "host: a", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + rest


def http2(*frames: Frame) -> bytes:
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    return preface + b"".join(frame.serialize() for frame in (SettingsFrame(0), *frames))


def h2_request(**pseudo: bytes) -> bytes:
    """Give a GET whose pseudo-headers can be changed, or left out by giving b""."""
    fields = {"method": b"GET", "scheme": b"http", "authority": b"a", "path": b"/", **pseudo}
    headers = [(b":" + name.encode(), value) for name, value in fields.items() if value]
    return http2(HeadersFrame(1, Encoder().encode(headers), flags=["END_HEADERS", "END_STREAM"]))


def priorities(count: int) -> Iterator[Frame]:
    return (PriorityFrame(2 * n + 1, depends_on=0, stream_weight=1) for n in range(count))


async def accept(call: Call) -> None:
    await call.accept()
    await call.run()


async def refuse(call: Call) -> None:
    await call.receive()
    await call.send({"type": "websocket.close"})
    await call.run()


@attrs.frozen
class Hostile:
    """What one client sends, in pieces; the server is given time to answer between them."""

    what: str
    pieces: tuple[bytes, ...]
    guard: str
    handler: Handler = answer


HOSTILE = [
    Hostile(
        "HTTP/2 CONNECT without :path",
        (h2_request(method=b"CONNECT", scheme=b"", path=b""),),
        HTTP2,
    ),
    Hostile("an HTTP/2 :path that is not ASCII", (h2_request(path=b"/\xe9"),), HTTP2),
    Hostile("an HTTP/2 :method that is not ASCII", (h2_request(method=b"G\xcbT"),), HTTP2),
    Hostile("1,100 PRIORITY frames", (http2(*priorities(1100)),), HTTP2),
    Hostile("h2c settings cut short", (http11({**H2C, "http2-settings": "AAMAAA"}),), HTTP1),
    Hostile("h2c settings out of range", (http11({**H2C, "http2-settings": "AAX_____"}),), HTTP1),
    Hostile("an upgrade and one byte", (http11(UPGRADE, b"x"),), WEBSOCKET, accept),
    Hostile(
        "an upgrade with a body",
        (http11({**UPGRADE, "content-length": "5"}, b"12345"),),
        WEBSOCKET,
        accept,
    ),
    Hostile("a byte after a refused upgrade", (http11(UPGRADE), b"x"), WEBSOCKET, refuse),
    *(
        Hostile(f"a {name} that is not ASCII", (http11({**UPGRADE, name: "\xe9"}),), WEBSOCKET)
        for name in ("sec-websocket-protocol", "sec-websocket-extensions")
    ),
]


async def send_pieces(stock: Stock, hostile: Hostile) -> None:
    async with open_raw(stock.port) as raw:
        for piece in hostile.pieces:
            await raw.send_all(piece)
            await settle()


@pytest.mark.parametrize("hostile", HOSTILE, ids=[hostile.what for hostile in HOSTILE])
async def test_one_client_ends_the_server(hostile: Hostile) -> None:
    async def talk(stock: Stock) -> None:
        await send_pieces(stock, hostile)

    errors = await end_of_server(talk, hostile.handler)
    assert errors, cured(f"{hostile.what} no longer ends the server", hostile.guard, CONNECTION)


async def test_http2_data_after_an_early_answer_ends_the_server() -> None:
    """Not even an attack: an upload that is answered before all of it was sent."""

    async def talk(stock: Stock) -> None:
        async with open_h2(stock.port) as h2:
            stream_id = await h2.request("POST", "/", end_stream=False)
            with trio.fail_after(IN_TIME):
                await h2.read_head(stream_id)
                await h2.read_body(stream_id)
            await h2.send_data(stream_id, b"more")
            await settle()

    errors = await end_of_server(talk, answer)
    assert errors, cured("DATA after the response no longer ends the server", HTTP2, CONNECTION)


async def test_an_app_that_fails_while_the_server_closes_ends_the_server() -> None:
    """The 500 that Hypercorn sends for the app meets its own closing of the connection."""

    async def fail_while_closing(stock: Stock) -> None:
        async with open_raw(stock.port) as raw:
            upload = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nx"
            call = await stock.ask(raw, upload)
            await settle()
        call.finish()

    for _ in range(ATTEMPTS):
        if errors := await end_of_server(fail_while_closing):
            break
    assert [type(error) for error in errors] == [trio.BusyResourceError], cured(
        "a failing app and a client that leaves no longer end the server together", CONNECTION
    )


async def test_the_connections_of_all_others_end_with_the_server() -> None:
    """A response that was going on elsewhere is cut, and nobody accepts connections any more."""
    hostile = HOSTILE[0]

    async def talk(stock: Stock) -> None:
        async with trio.open_nursery() as nursery:
            async with open_raw(stock.port) as bystander:
                call = await stock.ask(bystander, GET)
                await call.start()
                await call.body(b"half")
                await bystander.read_head()
                nursery.start_soon(send_pieces, stock, hostile)
                with trio.CancelScope(shield=True), trio.fail_after(IN_TIME):
                    with pytest.raises(Truncated):
                        await bystander.read_body()
                cut.append(stock.port)

    cut: list[int] = []
    await end_of_server(talk)
    assert cut, cured("a crash of one connection leaves the others alone", CONNECTION)
    assert refuses(cut[0]), cured("a crash does not end the whole server", CONNECTION)


def refuses(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex((HOST, port)) == errno.ECONNREFUSED


ANSWER = """
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        raise NotImplementedError
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})
"""


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_one_client_ends_every_worker_of_the_command(tmp_path: Path, workers: str) -> None:
    """Hypercorn's supervisor gives up when a worker has failed, instead of starting another."""
    async with open_command(tmp_path, ANSWER, "--workers", workers) as (process, port):
        async with open_raw(port) as raw:
            await raw.send_all(HOSTILE[0].pieces[0])
            with trio.move_on_after(IN_TIME):
                await process.wait()
        ended = process.returncode is not None
        assert ended, cured("the command survives a crash of a worker", CONNECTION, SUPERVISOR)
        assert refuses(port)


async def test_the_command_ends_with_success_after_a_crash(tmp_path: Path) -> None:
    """So whoever watches it and starts again what has failed does not start it again."""
    async with open_command(tmp_path, ANSWER) as (process, port), open_raw(port) as raw:
        await raw.send_all(HOSTILE[0].pieces[0])
        with trio.fail_after(IN_TIME):
            status = await process.wait()
    assert status == 0, cured("the command tells a crash by its exit status", SUPERVISOR)
