"""When no more connections can be had, or are wanted, the server goes on, and says so once."""

from __future__ import annotations

import errno
import os
from typing import Any, cast

import pytest
import trio
import trio.testing
from guarded import answer, http, records
from hypercorn.config import Config
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.utils import wrap_app
from probes import IN_TIME, get
from wire import RawConnection, open_guarded, open_raw

from tsstream._asgi import Receive, Send
from tsstream._http.host import Host
from tsstream._server.limits import Limits
from tsstream._server.server import EXHAUSTED, Server


async def fine(scope: Any, receive: Receive, send: Send) -> None:
    await answer(send)


class Listener:
    """A listener whose first calls of ``accept()`` fail."""

    def __init__(self, listener: trio.SocketListener, *errors: int) -> None:
        self.errors = list(errors)
        self._listener = listener

    async def accept(self) -> trio.SocketStream:
        await trio.lowlevel.checkpoint()
        if self.errors:
            number = self.errors.pop(0)
            raise OSError(number, os.strerror(number))
        return await self._listener.accept()


def make_server() -> Server:
    app = wrap_app(cast(Any, http(fine)), 0, "asgi")
    return Server(app, Config(), Limits(), WorkerContext(None), Host())


@pytest.mark.parametrize("number", EXHAUSTED)
async def test_running_out_of_descriptors_is_waited_for_and_logged_once(
    number: int, caplog: pytest.LogCaptureFixture
) -> None:
    (inner,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    listener = Listener(inner, number, number)
    server = make_server()
    async with inner, trio.open_nursery() as nursery:
        await nursery.start(server.hangups.run_watch)
        nursery.start_soon(server.accept, cast(Any, listener), None, nursery)
        async with await trio.testing.open_stream_to_socket_listener(inner) as stream:
            with trio.fail_after(IN_TIME):
                assert await get(RawConnection(stream)) == 200
        nursery.cancel_scope.cancel()
    assert listener.errors == []
    (record,) = records(caplog)
    assert record.startswith("WARNING ")
    assert os.strerror(number) in record


async def test_any_other_error_of_a_listener_is_not_swallowed() -> None:
    (inner,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with inner, trio.open_nursery() as nursery:
        with pytest.raises(OSError, match=os.strerror(errno.EBADF)), trio.fail_after(IN_TIME):
            listener = cast(Any, Listener(inner, errno.EBADF))
            await make_server().accept(listener, None, nursery)


async def test_a_flood_of_connections_that_are_too_many_is_one_record(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with open_guarded(http(fine), max_connections=1) as port, open_raw(port) as first:
        assert await get(first) == 200
        for _ in range(20):
            async with open_raw(port) as raw:
                assert (await raw.read_head())[0] == 503
    (record,) = records(caplog)
    assert record.startswith("WARNING ")
