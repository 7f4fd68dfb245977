"""examples/etl over sockets: direct puts that fail, and which of them are tried again."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest
import trio
import trio.testing
from etl_kit import (
    IDLE_TIME,
    REASON,
    Peer,
    Talk,
    Upper,
    answer,
    ask,
    build,
    node_url,
    open_etl,
    open_peer,
    open_target,
    put_object,
    whole,
)
from leaks import assert_no_leaks
from probes import PROMPT
from trio.testing import MockClock
from wire import HOST, RawConnection, open_guarded, open_raw

from examples.etl.server import ETLServer

upper = whole(lambda data, path, etl_args: data.upper())


@pytest.fixture
def idle_clock() -> MockClock:
    """Jumps when nothing has happened for a while: sockets and threads take real time."""
    return MockClock(autojump_threshold=IDLE_TIME)


async def reset(peer: Peer, raw: RawConnection) -> None:
    await peer.read_head(raw)
    raw.abort()


async def close(peer: Peer, raw: RawConnection) -> None:
    await peer.read_request(raw)


async def talk_nonsense(peer: Peer, raw: RawConnection) -> None:
    await peer.read_head(raw)
    await raw.send_all(b"220 smtp.example ESMTP\r\n")


async def stop_early(peer: Peer, raw: RawConnection) -> None:
    """Say "delivered" before the end, and take no more."""
    await peer.read_head(raw)
    await raw.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")


async def bail(peer: Peer, raw: RawConnection) -> None:
    await peer.read_request(raw)
    head = f"HTTP/1.1 503 No\r\n{REASON}: direct-put-transient\r\ncontent-length: 0\r\n\r\n"
    await raw.send_all(head.encode())


async def test_a_node_that_closes_without_an_answer_is_said_to() -> None:
    async with open_peer(close) as peer, open_etl(Upper) as port:
        body = (await put_object(port, peer.url))[2]
    assert body == b"Direct put failed: the node has closed the connection without an answer"


TRANSIENT = [reset, close, talk_nonsense, bail]


@pytest.mark.parametrize(("talk", "kind"), [*((talk, Upper) for talk in TRANSIENT), (close, upper)])
async def test_a_replayable_object_is_tried_four_times(  # ET-39
    talk: Talk, kind: type[ETLServer], idle_clock: MockClock
) -> None:
    open_at: dict[float, int] = {}

    async with open_target(obj=b"data") as target, open_peer(talk) as peer:

        async def look(time: float) -> None:
            await trio.sleep_until(time)
            open_at[time] = target.open

        async with open_etl(kind, target.url) as port, trio.open_nursery() as nursery:
            start = trio.current_time()
            for time in (0.5, 2, 5):
                nursery.start_soon(look, start + time)
            status, headers, body = await ask(port, "GET", "/obj", {"ais-node-url": peer.url})
        assert [round(time - start) for time in peer.times] == [0, 1, 3, 7]
        assert status == 502
        assert REASON not in headers  # ET-40
        assert body.startswith(b"Direct put failed:")
        assert (target.opened, target.open) == (4, 0)
        assert set(open_at.values()) == {0}  # nothing is held open during the delays


@pytest.mark.parametrize("method", ["GET", "PUT"])
async def test_a_local_object_is_replayable(  # ET-39, ET-40
    method: str, tmp_path: Path, idle_clock: MockClock
) -> None:
    (tmp_path / "obj").write_bytes(b"data")
    async with open_peer(reset) as peer, open_etl(Upper, ETL_FQN_ROOTS=tmp_path) as port:
        path = f"/b/o?etl_fqn={quote(str(tmp_path))}/obj"
        status, headers, _ = await ask(port, method, path, {"ais-node-url": peer.url})
    assert (status, len(peer.times)) == (502, 4)
    assert REASON not in headers


async def test_a_later_try_may_succeed(idle_clock: MockClock) -> None:  # ET-39
    async def talk(peer: Peer, raw: RawConnection) -> None:
        await (reset if len(peer.times) < 3 else answer("204 No Content"))(peer, raw)

    async with open_target(obj=b"data") as target, open_peer(talk) as peer:
        async with open_etl(Upper, target.url) as port:
            answered = await ask(port, "GET", "/obj", {"ais-node-url": peer.url})
    assert (answered[0], answered[1]["ais-direct-put-length"]) == (204, "4")
    assert (len(peer.times), target.opened) == (3, 3)


async def test_a_node_that_accepts_nothing_is_given_up(idle_clock: MockClock) -> None:  # ET-39
    """A connection that is not answered is transient, as every timeout."""
    with open_full_listener() as port_of_nobody:
        async with open_etl(Upper, AIS_DIRECT_PUT_RETRIES=0) as port:
            start = trio.current_time()
            answered = await put_object(port, node_url(port_of_nobody))
            assert (answered[0], answered[1][REASON]) == (503, "direct-put-transient")
            assert 10 <= trio.current_time() - start <= 11


async def test_a_tls_handshake_that_is_not_answered_is_given_up(idle_clock: MockClock) -> None:
    async def talk(peer: Peer, raw: RawConnection) -> None:
        await trio.sleep_forever()

    async with open_peer(talk) as peer, open_etl(Upper) as port:
        start = trio.current_time()
        answered = await put_object(port, peer.url.replace("http:", "https:"))
        assert (answered[0], answered[1][REASON]) == (503, "direct-put-transient")
        assert 10 <= trio.current_time() - start <= 11


@contextmanager
def open_full_listener() -> Iterator[int]:
    """Listen, with no place left for connections that nobody accepts."""
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        listener.listen(0)
        waiting = []
        for _ in range(4):
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(listener.getsockname())
            waiting.append(sock)
        yield listener.getsockname()[1]
        for sock in waiting:
            sock.close()


@pytest.mark.parametrize("method", ["GET", "PUT"])
async def test_a_node_that_refuses_is_not_asked_again(method: str) -> None:  # ET-39
    async with open_target(obj=b"data") as target, open_etl(Upper, target.url) as port:
        start = trio.current_time()
        headers = {"ais-node-url": "http://127.0.0.1:9"}
        status, fields, _ = await ask(port, method, "/obj", headers, b"x" * (method == "PUT"))
        assert status == 502
        assert REASON not in fields
        assert trio.current_time() - start < 1
        assert target.opened == (method == "GET")


@pytest.mark.parametrize("talk", [*TRANSIENT, stop_early])
@pytest.mark.parametrize("kind", [Upper, upper])
@pytest.mark.parametrize("retries", [0, 3])
async def test_an_upload_is_tried_once(  # ET-40, ET-43
    talk: Talk, kind: type[ETLServer], retries: int
) -> None:
    async with open_peer(talk) as peer:
        async with open_etl(kind, AIS_DIRECT_PUT_RETRIES=retries) as port:
            status, headers, body = await put_object(port, peer.url, b"x" * 20_000_000)
    assert (status, headers[REASON]) == (503, "direct-put-transient")
    assert body.startswith(b"Direct put failed:")
    assert len(peer.times) == 1


async def test_without_retries_the_first_failure_is_final() -> None:  # ET-43
    async with open_target(obj=b"data") as target, open_peer(reset) as peer:
        async with open_etl(Upper, target.url, AIS_DIRECT_PUT_RETRIES=0) as port:
            status, headers, _ = await ask(port, "GET", "/obj", {"ais-node-url": peer.url})
    assert (status, len(peer.times), target.opened) == (502, 1, 1)
    assert REASON not in headers


async def test_a_client_that_leaves_ends_the_wait() -> None:  # ET-41
    failed = trio.Event()

    async def talk(peer: Peer, raw: RawConnection) -> None:
        await reset(peer, raw)
        failed.set()

    async with open_target(obj=b"data") as target, open_peer(talk) as peer:
        server = build(Upper, target.url, MAX_KEEPALIVE_CONN=0)
        async with open_guarded(server.app) as port, assert_no_leaks(grace=PROMPT):
            async with open_raw(port) as raw:
                await raw.request("GET", "/obj", {"ais-node-url": peer.url})
                await failed.wait()
                await trio.sleep(0.05)  # into the delay
        await trio.sleep(0.05)
    assert len(peer.times) == 1
