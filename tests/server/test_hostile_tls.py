"""What goes wrong below HTTP: bytes that are not TLS, or not whole, on a port that expects it."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable

import pytest
import trio
from conversation import BOUND, Answer, HangUp, Step, converse
from guarded import certificate, open_guarded_on, open_tls
from hostile_app import hostile_app
from leaks import assert_no_leaks
from test_hostile_inputs import GRACE, check_innocent
from wire import open_guarded


def client_hello() -> bytes:
    """Give the first words of a client."""
    outgoing = ssl.MemoryBIO()
    client = (
        certificate()
        .client_context()
        .wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="127.0.0.1")
    )
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def ended(answer: Answer) -> bool:
    return answer.ended != "open"


GREETINGS: dict[str, Callable[[bytes], tuple[Step, ...]]] = {
    "plain HTTP": lambda hello: (b"GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n",),
    "nonsense": lambda hello: (b"\xff" * 1000,),
    "a record that is too long": lambda hello: (b"\x16\x03\x01\xff\xff" + bytes(2**16),),
    "an alert": lambda hello: (b"\x15\x03\x01\x00\x02\x02\x28",),
    "half a hello": lambda hello: (hello[:100],),
    "half a hello and a FIN": lambda hello: (hello[:100], HangUp.FIN),
    "half a hello and a reset": lambda hello: (hello[:100], HangUp.RESET),
    "a hello and silence": lambda hello: (hello,),
    "a hello and a FIN": lambda hello: (hello, HangUp.FIN),
    "a hello and a reset": lambda hello: (hello, HangUp.RESET),
    "a hello and nonsense": lambda hello: (hello, b"\xff" * 1000),
    "two hellos": lambda hello: (hello, hello),
    "no common version": lambda hello: (hello.replace(b"\x03\x04\x03\x03", b"\x03\x00\x03\x01"),),
    **{
        f"a hello with byte {i} changed": lambda hello, i=i: (  # type: ignore[misc]  # mypy #4226
            hello[:i] + bytes([hello[i] ^ 0x55]) + hello[i + 1 :],
        )
        for i in range(0, 100, 7)
    },
}


@pytest.mark.parametrize("greeting", GREETINGS)
async def test_hostile_greeting_ends_its_own_connection(
    greeting: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    steps = GREETINGS[greeting](client_hello())
    pair = certificate()
    async with open_guarded(
        hostile_app, certfile=pair.certfile, keyfile=pair.keyfile, ssl_handshake_timeout=0.2
    ) as port:
        async with assert_no_leaks(grace=GRACE), open_tls(port) as innocent:
            await check_innocent(innocent)
            answer = await converse(port, steps, ended)
            await check_innocent(innocent)
    assert ended(answer), answer
    check_log(caplog)


@pytest.mark.parametrize("nonsense", [b"\x17\x03\x03\x00\x20" + bytes(32), b"\xff" * 100, b"\x17"])
async def test_nonsense_within_tls_ends_its_own_connection(
    nonsense: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with open_guarded_on("tls", hostile_app) as connect:
        async with assert_no_leaks(grace=GRACE), connect() as innocent, connect() as hostile:
            await check_innocent(innocent)
            await check_innocent(hostile)
            await hostile.stream.send_all(nonsense)
            await hostile.stream.send_eof()
            with trio.fail_after(BOUND):
                await hostile.read_until_closed()
            await check_innocent(innocent)
    assert hostile.ended != "open"
    check_log(caplog)


def check_log(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody is alarmed, and nothing is said twice."""
    records = [record for record in caplog.records if record.name == "tsstream.server"]
    assert len(records) <= 1
    assert not [r for r in caplog.records if r.exc_info or r.levelno > logging.INFO]
