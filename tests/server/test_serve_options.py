"""What ``serve()`` is told: limits that make sense, and those that do not."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from guarded import answer, http, read_request
from hypercorn.config import Config
from probes import IN_TIME
from wire import open_raw

from tsstream import serve
from tsstream._asgi import Receive, Send

LOCAL = "127.0.0.1:0"


@http
async def app(scope: Any, receive: Receive, send: Send) -> None:
    await answer(send, await read_request(receive))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"stall_timeout": 0}, "stall_timeout must be a positive number"),
        ({"header_timeout": -1.0}, "header_timeout must be a positive number"),
        ({"max_connections": 0}, "max_connections must be a positive number"),
        ({"farewell_spread": -1.0}, "farewell_spread must be a number of seconds"),
        ({"farewell_spread": 2.0, "graceful_timeout": 1.0}, "not be more than graceful_timeout"),
        ({"graceful_timeout": -1.0}, "graceful_timeout must be a number of seconds"),
        ({"graceful_timeout": float("inf")}, "graceful_timeout must be a number of seconds"),
        ({"config": Config.from_mapping(insecure_bind=[LOCAL])}, "insecure_bind is for servers"),
    ],
)
async def test_what_makes_no_sense_is_named(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        await serve(app, **{"bind": [LOCAL], **options})


async def test_a_log_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    config = Config.from_mapping(errorlog=str(tmp_path / "none" / "a.log"))
    with pytest.raises(OSError, match=r"cannot write .*a\.log"):
        await serve(app, config, bind=[LOCAL])


async def test_the_read_timeout_of_a_config_is_the_limit_of_silent_bodies() -> None:
    config = Config.from_mapping(read_timeout=0.1, errorlog=logging.getLogger("wire"))
    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(partial(serve, app, config, bind=[LOCAL]))
        async with open_raw(int(address.rpartition(":")[2])) as raw:
            await raw.request("POST", "/", {"content-length": "10"})
            with trio.fail_after(IN_TIME):
                assert (await raw.read_head())[0] == 408
        nursery.cancel_scope.cancel()
