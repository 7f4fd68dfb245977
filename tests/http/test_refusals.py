"""A refusal is the client's affair: whatever becomes of it, no error is logged (D2)."""

from __future__ import annotations

import logging

import pytest
import trio
from asgi import Server, make_app
from trio.testing import wait_all_tasks_blocked

from tsstream import HTTPError
from tsstream._asgi import Message


async def refuse(request: object) -> str:
    raise HTTPError(405)


async def stuck(message: Message) -> None:
    await trio.sleep_forever()


async def test_a_refusal_that_is_cancelled_while_it_is_sent_is_no_error(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    nursery.start_soon(Server(on_send=stuck).call, make_app(refuse))
    await wait_all_tasks_blocked()
    nursery.cancel_scope.cancel()
    await trio.lowlevel.cancel_shielded_checkpoint()
    with trio.CancelScope(shield=True):
        await wait_all_tasks_blocked()
    assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []
