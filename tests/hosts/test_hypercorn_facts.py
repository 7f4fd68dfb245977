"""Facts about the stock Hypercorn: its version, and what it does right.

The other files of this name state what it does wrong. All of them are about the host and nothing
of ours runs in them: when one fails, Hypercorn has changed, and its message says what can go.
"""

from __future__ import annotations

import importlib.metadata
import pkgutil
import re
import tomllib
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import hypercorn.trio
import pytest
import trio
from h11 import LocalProtocolError
from hypercorn.config import Config, Sockets
from hypercorn.trio.run import worker_serve
from hypercorn.utils import wrap_app
from packaging.requirements import Requirement
from probes import IN_TIME, PROMPT, WAYS_TO_LEAVE, leave
from stock import GUARDS, Stock, answer, lost, open_stock, returns
from wire import HOST, SERVER_LOG, Truncated, open_h2, open_raw

ROOT = Path(__file__).parents[2]
GUARDS_PAGE = ROOT / "docs" / "design" / "guards.rst"
GOAWAY = b"\0\0\x08\7\0\0\0\0\0" + bytes(8)  # an HTTP/2 frame: "NO_ERROR, and I am leaving"


def test_the_installed_hypercorn_is_the_one_that_the_facts_are_about() -> None:
    """The pin is ``dependencies`` in pyproject.toml; it must not reach beyond what is tested."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = [Requirement(text) for text in project["dependencies"]]
    (pin,) = [pin.specifier for pin in pins if pin.name == "hypercorn"]
    installed = importlib.metadata.version("hypercorn")
    assert installed in pin, (
        f"Hypercorn {installed} is installed and pyproject.toml pins hypercorn{pin}: run all of "
        "tests/hosts/test_hypercorn_facts*.py, then widen the pin"
    )
    assert not {"0.17", "0.19", "1.0"} & set(pin.filter(["0.17", "0.19", "1.0"])), (
        f"pyproject.toml pins hypercorn{pin}, and only 0.18's private classes are known here"
    )


@pytest.mark.parametrize("guard", GUARDS)
def test_every_guard_that_a_fact_names_is_there_and_explained(guard: str) -> None:
    module, _, name = guard.rpartition(".")
    assert pkgutil.resolve_name(guard)
    page = GUARDS_PAGE.read_text()
    assert module.removeprefix("tsstream.").replace(".", "/") in page
    assert name in page


def test_every_test_that_the_page_of_guards_names_is_there() -> None:
    named = set(re.findall(r"\btest_\w+(?=``)", GUARDS_PAGE.read_text()))
    assert named
    sources = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    defined = set(re.findall(r"def (test_\w+)", sources))
    modules = {path.stem for path in (ROOT / "tests").rglob("test_*.py")}
    assert named <= defined | modules, f"not there: {named - defined - modules}"


# What it does right, and our guarantees on a stock Hypercorn build upon.


@pytest.mark.parametrize("way", WAYS_TO_LEAVE)
async def test_an_idle_client_that_leaves_is_reported_at_once(way: str) -> None:
    async with open_stock() as stock, open_raw(stock.port) as raw:
        call = await stock.ask(raw)
        await call.receive()
        await leave(raw, way)
        with trio.move_on_after(PROMPT) as scope:
            assert await call.receive_type() == "http.disconnect"
    assert not scope.cancelled_caught, lost(f"no http.disconnect after a {way}")


@pytest.mark.parametrize("way", ["reset", "goaway", "close", "abort"])
async def test_an_idle_client_that_leaves_is_reported_at_once_on_http2(way: str) -> None:
    async with open_stock() as stock, open_h2(stock.port) as connection:
        stream_id = await connection.request("GET", "/")
        call = await stock.next_call()
        await call.receive()
        if way == "reset":
            await connection.reset(stream_id)
        elif way == "goaway":
            await connection.stream.send_all(GOAWAY)
        else:
            getattr(connection, way)()
        with trio.move_on_after(PROMPT) as scope:
            assert await call.receive_type() == "http.disconnect"
    assert not scope.cancelled_caught, lost(f"no http.disconnect after a {way} on HTTP/2")


@pytest.mark.parametrize("error", [None, ValueError("the source broke")])
async def test_a_response_that_is_not_finished_is_cut(error: Exception | None) -> None:
    async with open_stock() as stock, open_raw(stock.port) as raw:
        call = await stock.ask(raw)
        await call.start()
        await call.body(b"half")
        call.finish(error)
        complete = False
        with trio.fail_after(IN_TIME), suppress(Truncated):
            await raw.read_head()
            await raw.read_body()
            complete = True
    assert not complete, lost("what is incomplete has a clean end")


async def test_a_head_has_a_limit() -> None:
    """It is keep_alive_timeout, of which a request that has begun is no end yet."""
    async with open_stock(keep_alive_timeout=0.1) as stock, open_raw(stock.port) as raw:
        await raw.send_all(b"GET / HTTP/1.1\r\nhost: ")
        with trio.move_on_after(IN_TIME):
            await raw.read_until_closed()
    assert raw.ended != "open", lost("a head may take for ever")


async def test_an_upload_that_is_not_read_stops_its_client() -> None:
    """After some megabytes, nearly all of it in the kernel's buffers."""
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    async with open_stock() as stock, open_raw(stock.port) as raw:
        await stock.ask(raw, b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")

        async def upload() -> None:
            for _ in range(32 * 2**20 // len(chunk)):
                await raw.send_all(chunk)

        taken = await returns(upload)
    assert not taken, lost("an upload that nobody reads is taken into memory")


async def test_a_body_is_read_and_written_in_lockstep() -> None:
    async with open_stock() as stock, open_raw(stock.port) as raw:
        call = await stock.ask(raw, b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\n")
        await call.start()
        with trio.fail_after(IN_TIME):
            await raw.read_head()
            for byte in (b"a", b"b", b"c"):
                await raw.send_all(byte)
                assert (await call.receive())["body"] == byte, lost("no full duplex")
                await call.body(byte)
                assert await raw.read_chunk() == byte, lost("no full duplex")


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
async def test_the_body_of_a_response_that_has_none_is_dropped(method: str, status: int) -> None:
    async with open_stock() as stock, open_raw(stock.port) as raw:
        for _ in range(2):  # on the same connection: nothing was left in it
            await raw.request(method, "/")
            call = await stock.next_call()
            await call.start(status)
            await call.end(b"body")
            with trio.fail_after(IN_TIME):
                assert (await raw.read_head())[0] == status, lost(f"a body after {status}")
                assert await raw.read_body() == b""


@pytest.mark.parametrize("body", [b"more than five", b"less"])
async def test_a_body_of_another_length_than_declared_raises_in_send(body: bytes) -> None:
    async with open_stock() as stock, open_raw(stock.port) as raw:
        call = await stock.ask(raw)
        await call.start(headers=[(b"content-length", b"5")])
        with pytest.raises(LocalProtocolError):
            await call.end(body)


# Embedding.


def config(**settings: object) -> Config:
    return Config.from_mapping(
        {"accesslog": None, "errorlog": SERVER_LOG, "graceful_timeout": 0, **settings}
    )


async def serve_port_0(stock: Stock, nursery: trio.Nursery) -> list[str]:
    serve = partial(hypercorn.trio.serve, stock, config(bind=f"{HOST}:0"), mode="asgi")
    addresses: list[str] = await nursery.start(serve)
    return addresses


async def serve_sockets(stock: Stock, nursery: trio.Nursery) -> list[str]:
    sockets = Sockets(
        [], config(bind=[f"{HOST}:0", f"{HOST}:0"]).create_sockets().insecure_sockets, []
    )
    for sock in sockets.insecure_sockets:
        sock.listen()
    app = wrap_app(stock, 0, "asgi")
    addresses: list[str] = await nursery.start(
        partial(worker_serve, app, config(), sockets=sockets)
    )
    return addresses


@pytest.mark.parametrize("serve", [serve_port_0, serve_sockets])
async def test_start_gives_the_addresses(
    serve: Callable[[Stock, trio.Nursery], Awaitable[list[str]]],
) -> None:
    """Of free ports that Hypercorn has found, or of sockets that it was given."""
    async with trio.open_nursery() as nursery:
        addresses = await serve(Stock(answer), nursery)
        assert addresses
        for address in addresses:
            assert address.startswith(f"http://{HOST}:"), lost(f"an address is {address}")
            async with open_raw(int(address.rpartition(":")[2])) as raw:
                with trio.fail_after(IN_TIME):
                    await raw.request("GET", "/")
                    await raw.read_head()
                    assert await raw.read_body() == b"ok"
        nursery.cancel_scope.cancel()
