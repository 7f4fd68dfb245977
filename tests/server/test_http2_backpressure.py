"""HTTP/2: an application sends no faster than its client's window allows (HOST fault 2)."""

from __future__ import annotations

import sys
from collections import Counter
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import h2.errors
import h2.settings
import pytest
import trio
import trio.testing
from guarded import answer, body, http, start
from leaks import assert_no_leaks
from probes import IN_TIME, PROMPT
from processes import open_process
from wire import H2Connection, Truncated, open_guarded, open_h2
from wire_h2 import CONNECTION_WINDOW

from tsstream import serve
from tsstream._asgi import Receive, Send

KIB = 1024
MIB = 1024 * KIB
CHUNK = bytes(64 * KIB)
WINDOW = 65_535  # bytes: the protocol's default for a stream, and for a client's connection
FLOOD = 0.3  # seconds; the memory of a whole flood is measured in a process of its own
ACCEPTED = 256 * KIB  # bytes: the most that may be accepted for one stream


class Flood:
    """Answers ``/flood`` for ever, and anything else at once.

    Attributes:
      accepted: bytes of each stream that ``send()`` has taken, by query string.
      ended: what ``send()`` raised, by query string.
    """

    def __init__(self) -> None:
        self.accepted: Counter[str] = Counter()
        self.ended: dict[str, BaseException] = {}
        self.changed = trio.Event()

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["path"] != "/flood":
            await answer(send)
            return
        name = scope["query_string"].decode()
        await send(start())
        try:
            while True:
                await send(body(CHUNK))
                self.accepted[name] += len(CHUNK)
        except BaseException as error:
            self.ended[name] = error
            raise
        finally:
            self.changed.set()


async def open_flood(client: H2Connection, name: str = "") -> int:
    stream_id = await client.request("GET", f"/flood?{name}")
    assert (await client.read_head(stream_id))[0] == 200
    return stream_id


async def get(client: H2Connection, path: str = "/") -> bytes:
    """Ask for what is answered at once."""
    stream_id = await client.request("GET", path)
    assert (await client.read_head(stream_id))[0] == 200
    return await client.read_body(stream_id)


async def read_exactly(client: H2Connection, stream_id: int, size: int) -> None:
    while size:
        chunk = await client.read_chunk(stream_id)
        assert chunk is not None
        size -= len(chunk)
        assert size >= 0


async def test_a_flood_is_held_by_the_window_and_other_streams_go_on() -> None:
    app = Flood()
    async with open_guarded(http(app)) as port, assert_no_leaks():
        async with open_h2(port, credit=False) as client:
            for name in "abc":
                await open_flood(client, name)
            deadline = trio.current_time() + FLOOD
            while trio.current_time() < deadline:
                with trio.fail_after(PROMPT):
                    assert await get(client) == b"ok"
                    await client.ping()
    assert max(app.accepted.values(), default=0) <= ACCEPTED


async def test_an_empty_window_of_the_connection_holds_all_of_its_streams() -> None:
    app = Flood()
    async with open_guarded(http(app)) as port:
        async with open_h2(port, window=2 * CONNECTION_WINDOW, credit=False) as client:
            first = await open_flood(client, "a")
            with trio.fail_after(IN_TIME):
                await read_exactly(client, first, WINDOW + CONNECTION_WINDOW)
                second = await open_flood(client, "b")
                before = app.accepted["a"]
                await client.ping()
                assert (app.accepted["a"], app.accepted["b"]) == (before, 0)
                await client.grant(0, 1000)
                # To one of the two, as both wait for it.
                sizes: list[int] = []
                with trio.move_on_after(0.05):
                    async with trio.open_nursery() as nursery:
                        for stream_id in (first, second):
                            nursery.start_soon(count_chunks, client, stream_id, sizes)
                assert sum(sizes) == 1000


async def count_chunks(client: H2Connection, stream_id: int, sizes: list[int]) -> None:
    while (chunk := await client.read_chunk(stream_id)) is not None:
        sizes.append(len(chunk))


async def test_credit_is_used_at_once_and_no_more_is_sent_than_it_allows() -> None:
    async with open_guarded(http(Flood())) as port:
        async with open_h2(port, window=1000, credit=False) as client:
            stream_id = await open_flood(client)
            with trio.fail_after(IN_TIME):
                await read_exactly(client, stream_id, 1000)
                for size in (1, 20_000, 17):
                    await client.grant(stream_id, size)
                    await read_exactly(client, stream_id, size)
            with trio.move_on_after(0.02) as scope:
                await client.next_event(stream_id)
            assert scope.cancelled_caught


async def test_a_window_that_the_settings_make_smaller_and_larger_holds() -> None:
    # RFC 9113 6.9.2: it may become negative.
    async with open_guarded(http(Flood())) as port:
        async with open_h2(port, window=1000, credit=False) as client:
            stream_id = await open_flood(client)
            await read_exactly(client, stream_id, 1000)
            for window, more in ((400, 0), (1000, 0), (1500, 500)):
                client._h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window})
                await client._flush()
                with trio.fail_after(IN_TIME):
                    await client.ping()
                    await read_exactly(client, stream_id, more)
            with trio.move_on_after(0.02) as scope:
                await client.next_event(stream_id)
            assert scope.cancelled_caught


async def test_streams_that_flood_take_turns() -> None:
    app = Flood()
    got: Counter[int] = Counter()
    enough = trio.Event()
    async with open_guarded(http(app)) as port:
        async with open_h2(port, window=2**20) as client, trio.open_nursery() as nursery:

            async def read(stream_id: int) -> None:
                while True:
                    got[stream_id] += len(await client.read_chunk(stream_id) or b"")
                    if got.total() >= 6 * MIB:
                        enough.set()

            for name in "abc":
                nursery.start_soon(read, await open_flood(client, name))
            with trio.fail_after(IN_TIME):
                await enough.wait()
            nursery.cancel_scope.cancel()
    assert min(got.values()) > max(got.values()) / 3


async def test_a_stream_that_gets_no_credit_is_dropped_and_its_siblings_are_not() -> None:
    app = Flood()
    async with open_guarded(http(app), stall_timeout=0.1) as port, assert_no_leaks():
        async with open_h2(port, credit=False) as client:
            with trio.fail_after(IN_TIME):
                with pytest.raises(Truncated) as caught:
                    await client.read_body(await open_flood(client, "a"))
                assert caught.value.error_code == h2.errors.ErrorCodes.CANCEL
                await app.changed.wait()
                assert await get(client) == b"ok"
    assert isinstance(app.ended["a"], OSError)


async def test_a_client_that_gives_credit_now_and_then_is_not_dropped() -> None:
    app = Flood()
    async with open_guarded(http(app), stall_timeout=0.15) as port:
        async with open_h2(port, window=10, credit=False) as client:
            stream_id = await open_flood(client)
            await read_exactly(client, stream_id, 10)
            for _ in range(6):
                await trio.sleep(0.05)
                await client.grant(stream_id, 1)
                with trio.fail_after(IN_TIME):
                    await read_exactly(client, stream_id, 1)


# Memory, in a process of its own.


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize(("connections", "limit"), [(1, 8 * MIB), (100, 64 * MIB)])
async def test_the_memory_of_a_flood_is_bounded(connections: int, limit: int) -> None:
    async with open_process(__file__) as server, AsyncExitStack() as stack:
        async with open_h2(server.port) as client:
            assert await get(client) == b"ok"
        before = server.read_memory("VmRSS")
        clients = []
        for _ in range(connections):
            client = await stack.enter_async_context(open_h2(server.port, credit=False))
            await open_flood(client)
            clients.append(client)
        most = 0
        for _ in range(10):
            await trio.sleep(0.1)  # without backpressure this is hundreds of MiB
            most = max(most, server.read_memory("VmRSS"))
        with trio.fail_after(1):
            assert await get(clients[0]) == b"ok"
        assert most - before < limit


async def main() -> None:
    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(partial(serve, http(Flood()), bind=["127.0.0.1:0"]))
        sys.stdout.write(address + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    trio.run(main)
