"""Nothing that a client sends ends the server, and each fault has its proper answer (HOST fault 1).

The corpus is in ``hostile.py``; each conversation says what must come back.
"""

from __future__ import annotations

import logging

import pytest
import trio
from conversation import Case, converse
from frames_h2 import START, Type, frame
from frames_ws import Op, upgrade, ws_frame
from hostile import CASES
from hostile_app import hostile_app
from hostile_http1 import HELLO
from leaks import assert_no_leaks
from wire import RawConnection, open_guarded, open_raw

LOGGER = "tsstream.server"
GRACE = 3.0  # seconds: to clean up after a hostile client, on a busy machine


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_hostile_input_has_its_answer_and_hurts_nobody(
    case: Case, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with open_guarded(hostile_app, **case.options) as port:
        async with assert_no_leaks(grace=GRACE), open_raw(port) as innocent:
            await check_innocent(innocent)
            answer = await converse(port, case.steps, case.complete)
            await check_innocent(innocent)
    said = f"{answer.ended} after {answer.data[:1000]!r}"
    assert case.check.holds(answer), f"expected {case.check.text}, not {said}"
    assert answer.ended != "open" or not case.must_close(answer), f"left open, {said}"
    records = [record for record in caplog.records if record.name == LOGGER]
    assert len(records) in case.allowed_records(answer), [r.getMessage() for r in records]
    assert not [r for r in caplog.records if r.exc_info or r.levelno > logging.INFO]


DEAF = {
    "pipelined requests": (b"", HELLO * 500),
    "HTTP/2 PINGs": (START, frame(Type.PING, bytes(8)) * 500),
    "WebSocket PINGs": (upgrade(), ws_frame(Op.PING, bytes(100)) * 500),
    "WebSocket messages": (upgrade(), ws_frame(Op.BINARY, bytes(1000)) * 50),
}
DEAF_LIMIT = 32 * 1024 * 1024  # bytes: what the kernel's buffers of both sides may hold, and more


@pytest.mark.parametrize("flood", DEAF)
async def test_client_that_only_talks_is_held_back_and_then_dropped(
    flood: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    first, again = DEAF[flood]
    said = 0
    async with open_guarded(hostile_app, stall_timeout=0.3, send_buffer=4096) as port:
        async with assert_no_leaks(grace=GRACE), open_raw(port) as innocent:
            async with open_raw(port, receive_buffer=4096) as deaf:
                await deaf.send_all(first)
                with trio.fail_after(20), pytest.raises(trio.BrokenResourceError):
                    while True:
                        await deaf.send_all(again)
                        said += len(again)
                        assert said < DEAF_LIMIT
            await check_innocent(innocent)
    assert len([record for record in caplog.records if record.name == LOGGER]) == 1
    assert not [r for r in caplog.records if r.exc_info or r.levelno > logging.INFO]


async def check_innocent(raw: RawConnection) -> None:
    """Somebody else's connection goes on as if nothing was."""
    await raw.request("GET", "/hello")
    assert (await raw.read_head())[0] == 200
    assert await raw.read_body() == b"hello"
