"""What a test of a streaming application can see."""

import pytest
import trio
from endings import app
from trio.testing import MockClock

from tsstream.testing import TruncatedBodyError, open_client


# [whole]
async def test_unknown_feed() -> None:
    async with open_client(app) as client:
        response = await client.get("/feeds/gossip")
        assert response.status_code == 404
        assert "no feed of this name" in response.text


# [cut]
async def test_cut_body_is_an_error() -> None:
    async with open_client(app, raise_app_errors=False) as client:
        async with client.stream("GET", "/cut") as response:
            assert await response.body.receive() == b"so far, so good\n"
            with pytest.raises(TruncatedBodyError):
                await response.body.receive()


# [cause]
async def test_refused_feed() -> None:
    async with open_client(app) as client:
        with pytest.raises(ConnectionRefusedError):
            await client.get("/refused")
    async with open_client(app, raise_app_errors=False) as client:
        response = await client.get("/refused")
        assert response.status_code == 502


# [time]
async def test_slow_feed_gives_504(autojump_clock: MockClock) -> None:
    start = trio.current_time()
    async with open_client(app, raise_app_errors=False) as client:
        response = await client.get("/slow")
    assert response.status_code == 504
    assert trio.current_time() - start == pytest.approx(5)


# [leaving]
async def test_cleanup_is_done_when_the_client_leaves(
    autojump_clock: MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    async with open_client(app) as client:
        async with client.stream("GET", "/goodbye") as response:
            await response.body.receive()
        assert capsys.readouterr().out == "saved where I stopped\n"
