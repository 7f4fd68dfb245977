"""The socket below a connection."""

from __future__ import annotations

import socket

import pytest
import trio
import trio.testing

from tsstream._server.transport import Transport


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="only Linux has this option")
@pytest.mark.parametrize(
    ("stall_timeout", "milliseconds"), [(None, 0), (1.0, 60_000), (60.0, 60_000), (90.0, 90_000)]
)
async def test_the_kernel_has_the_stall_limit_but_no_short_one(
    stall_timeout: float | None, milliseconds: int
) -> None:
    # HOST fault 5: for what the kernel still holds when nobody waits in a send any more.
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener, await trio.testing.open_stream_to_socket_listener(listener):
        transport = Transport(await listener.accept(), stall_timeout)
        limit = transport.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
        transport.close()
    assert limit == milliseconds
