"""How the tutorial's stream is tested."""

import pytest
import trio
from ticks import app
from trio.testing import MockClock

from tsstream.testing import open_client


async def test_the_clock_ticks_once_a_second(autojump_clock: MockClock) -> None:
    async with open_client(app) as client, client.stream("GET", "/ticks") as response:
        assert response.status_code == 200
        assert await response.body.receive() == b"tick 1\n"
        start = trio.current_time()
        assert await response.body.receive() == b"tick 2\n"
        assert trio.current_time() - start == pytest.approx(1)


async def test_the_clock_stops_when_the_client_leaves(capsys: pytest.CaptureFixture[str]) -> None:
    async with open_client(app) as client:
        async with client.stream("GET", "/ticks") as response:
            await response.body.receive()
        assert capsys.readouterr().out == "the clock starts\nthe clock stops\n"
