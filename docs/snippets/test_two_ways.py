"""How uploads, conversations and WebSockets are tested."""

import pytest
import trio
from trio.testing import MockClock
from two_ways import app, archive

from tsstream import WebSocketClosed
from tsstream.testing import WebSocketRejected, open_client


# [upload]
async def test_upload() -> None:
    async with open_client(app) as client:
        response = await client.put("/archive", content=(b"x" * 1024 for _ in range(64)))
        assert response.text == "65536 bytes\n"


# [duplex]
async def test_an_answer_to_each_chunk() -> None:
    async with open_client(app) as client, client.open_request("POST", "/upper") as request:
        await request.body.send(b"one")
        response = await request.response()
        assert await response.body.receive() == b"ONE"
        await request.body.send(b"two")
        assert await response.body.receive() == b"TWO"
        request.body.close()
        with pytest.raises(trio.EndOfChannel):
            await response.body.receive()


# [abort]
async def test_half_an_upload_is_not_kept() -> None:
    archive.clear()
    async with open_client(app) as client:
        async with client.open_request("PUT", "/archive") as request:
            await request.body.send(b"half")
            request.abort()
        assert archive == []


# [websocket]
async def test_countdown(autojump_clock: MockClock) -> None:
    start = trio.current_time()
    async with open_client(app) as client, client.websocket("/countdown") as websocket:
        await websocket.send("3")
        assert [message async for message in websocket] == ["3", "2", "1"]
        assert trio.current_time() - start == pytest.approx(3)
        with pytest.raises(WebSocketClosed) as closed:
            await websocket.receive()
        assert (closed.value.code, closed.value.reason) == (4000, "lift-off")


async def test_pages_of_other_sites_are_rejected() -> None:
    async with open_client(app) as client:
        with pytest.raises(WebSocketRejected) as rejected:
            async with client.websocket("/countdown", headers={"origin": "https://evil.example"}):
                pass
        assert rejected.value.response.status_code == 403


# [lost]
async def test_countdown_stops_when_the_client_is_lost(autojump_clock: MockClock) -> None:
    start = trio.current_time()
    async with open_client(app) as client:
        async with client.websocket("/countdown") as websocket:
            await websocket.send("1000")
            await websocket.receive()
            websocket.abort()
        assert trio.current_time() - start < 10
