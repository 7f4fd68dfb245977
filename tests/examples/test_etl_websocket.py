"""examples/etl over sockets: objects that come over a WebSocket."""

from __future__ import annotations

import json
import struct
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote

import pytest
import trio
from etl_kit import (
    SHA256,
    Peer,
    Upper,
    build,
    node_url,
    open_etl,
    open_peer,
    open_target,
    whole,
)
from frames_ws import Op
from leaks import assert_no_leaks
from wire import RawConnection, open_guarded, open_raw
from ws_kit import Frames

MIB = 1024 * 1024
upper = whole(lambda data, path, etl_args: data.upper())


class Target:
    """The target's end of a WebSocket: pairs of messages go out, replies come back."""

    def __init__(self, frames: Frames) -> None:
        self.frames = frames

    async def send(self, data: bytes | None, **control: object) -> None:
        """Send a control message and, unless it is None, the object."""
        control = {"pipeline": "", "etl_args": "", "fqn": "", "path": "b/o", **control}
        await self.frames.raw.send_all(unmasked(json.dumps(control).encode()))
        if data is not None:
            await self.frames.raw.send_all(unmasked(data))

    async def reply(self) -> str | bytes:
        """Read one reply: str for text, bytes for binary."""
        op, payload = await self.frames.next()
        assert op in (Op.TEXT, Op.BINARY)
        if op == Op.TEXT:
            return payload.decode()
        return payload

    async def read_end(self) -> tuple[list[bytes], int, str]:
        """Read up to the close; give what else came, of any kind, the code and the reason."""
        messages: list[bytes] = []
        while True:
            op, payload = await self.frames.next()
            if op == Op.CLOSE:
                return messages, int.from_bytes(payload[:2], "big"), payload[2:].decode()
            messages.append(payload)


def unmasked(payload: bytes) -> bytes:
    """Build a client's frame of any size, in no time: its mask is of zeros."""
    size = len(payload)
    if size < 126:
        return struct.pack(">BBI", 0x82, 0x80 | size, 0) + payload
    if size < 2**16:
        return struct.pack(">BBHI", 0x82, 0x80 | 126, size, 0) + payload
    return struct.pack(">BBQI", 0x82, 0x80 | 127, size, 0) + payload


@asynccontextmanager
async def open_ws(port: int) -> AsyncIterator[Target]:
    async with open_raw(port) as raw:
        frames = Frames(raw)
        assert await frames.shake_hands(path=b"/ws") == 101
        yield Target(frames)


def show(data: bytes | str, path: str, etl_args: str) -> bytes:
    if data == b"fail":
        raise ValueError("as asked")
    return repr((data, path, etl_args)).encode()


async def test_each_object_has_its_reply_in_order() -> None:  # ET-44
    async def one_connection(port: int, count: int) -> None:
        async with open_ws(port) as ws, trio.open_nursery() as nursery:

            async def send() -> None:
                for number in range(count):
                    await ws.send(b"x%d" % number)

            nursery.start_soon(send)
            for number in range(count):
                assert await ws.reply() == b"X%d" % number

    async with open_etl(upper) as port:
        await one_connection(port, 1000)
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(one_connection, port, 100)


async def test_what_the_transform_is_given(tmp_path: Path) -> None:  # ET-44, ET-7
    (tmp_path / "obj").write_bytes(b"local")
    fqn = quote(str(tmp_path / "obj"), safe="")
    async with open_etl(whole(show), ETL_FQN_ROOTS=tmp_path) as port, open_ws(port) as ws:
        await ws.send(b"data", path="b/ñ", etl_args=" x ")
        assert await ws.reply() == repr((b"data", "b/ñ", "x")).encode()
        await ws.send(None, fqn=fqn, path=None, etl_args=None)
        assert await ws.reply() == repr((b"local", "", "")).encode()
        await ws.frames.send(Op.BINARY, b"{}")
        await ws.frames.send(Op.BINARY, b"")
        assert await ws.reply() == repr((b"", "", "")).encode()
    kind = whole(show)
    async with open_etl(kind, ETL_FQN_ROOTS=tmp_path, ETL_DIRECT_FQN="true") as port:
        async with open_ws(port) as ws:
            await ws.send(None, fqn=fqn)
            assert await ws.reply() == repr((str(tmp_path / "obj"), "b/o", "")).encode()


async def test_messages_may_be_large_and_fragmented() -> None:  # ET-45
    app = build(upper).app
    async with open_guarded(app, websocket_max_message_size=24 * MIB) as port:
        async with open_ws(port) as ws:
            data = b"large " * (20 * MIB // 6)
            await ws.send(data)
            assert await ws.reply() == data.upper()
            await ws.send(None)
            await ws.frames.send(Op.BINARY, b"in ", fin=False)
            await ws.frames.send(Op.CONTINUATION, b"three ", fin=False)
            await ws.frames.send(Op.PING)
            await ws.frames.send(Op.CONTINUATION, b"parts")
            assert await ws.frames.next() == (Op.PONG, b"")
            assert await ws.reply() == b"IN THREE PARTS"
            await ws.send(b"x" * (25 * MIB))
            assert (await ws.read_end())[1] == 1009


@pytest.mark.parametrize(
    ("control", "data", "reason"),
    [
        ({}, b"fail", "Processing error: as asked"),
        ({"pipeline": "http://a,,http://b"}, b"x", "Invalid pipeline: there is an empty entry"),
        ({"fqn": "/etc/hostname"}, None, "'/etc/hostname' is not below one of the ETL_FQN_ROOTS"),
        ({"pipeline": "http://127.0.0.1:9"}, b"x", "Direct put failed"),
    ],
)
async def test_an_error_closes_behind_the_replies_that_are_owed(  # ET-46
    control: dict[str, str], data: bytes | None, reason: str
) -> None:
    async with open_etl(whole(show)) as port, open_ws(port) as ws, assert_no_leaks():
        await ws.send(b"one")
        await ws.send(data, **control)
        await ws.send(b"three")
        messages, code, said = await ws.read_end()
    assert messages == [repr((b"one", "b/o", "")).encode()]
    assert code == 1011
    assert said.startswith(reason)


@pytest.mark.parametrize(
    ("op", "control"),
    [(Op.BINARY, b"no json"), (Op.BINARY, b"[]"), (Op.BINARY, b"\xff"), (Op.TEXT, b"{}")],
)
async def test_a_control_message_that_is_none_closes_with_an_error(  # ET-46
    op: Op, control: bytes
) -> None:
    async with open_etl(whole(show)) as port, open_ws(port) as ws:
        await ws.frames.send(op, control)
        messages, code, said = await ws.read_end()
    assert (messages, code) == ([], 1011)
    assert said


@pytest.mark.parametrize("name", ["pipeline", "etl_args", "fqn", "path"])
@pytest.mark.parametrize("value", [3, ["x"], {"x": 1}, True])
async def test_a_control_message_has_texts(name: str, value: object) -> None:  # ET-46
    async with open_etl(whole(show)) as port, open_ws(port) as ws:
        await ws.send(b"data", **{name: value})
        text = "a control message is a JSON object of texts, in a binary message"
        assert await ws.read_end() == ([], 1011, text)


async def test_a_text_is_no_object() -> None:  # ET-46
    async with open_etl(whole(show)) as port, open_ws(port) as ws:
        await ws.frames.send(Op.BINARY, b"{}")
        await ws.frames.send(Op.TEXT, b"data")
        assert (await ws.read_end())[:2] == ([], 1011)


async def test_a_long_reason_is_cut() -> None:
    def fail(data: bytes, path: str, etl_args: str) -> bytes:
        raise ValueError("ñ" * 200)

    async with open_etl(whole(fail)) as port, open_ws(port) as ws:
        await ws.send(b"x")
        _, code, reason = await ws.read_end()
    assert (code, reason) == (1011, "Processing error: " + "ñ" * 52)


async def test_errors_may_be_texts_for_who_wants_that() -> None:  # ET-46
    async with open_etl(whole(show), LEGACY_TEXT_ERRORS="true") as port, open_ws(port) as ws:
        await ws.send(b"fail")
        assert await ws.reply() == "Transform error: Processing error: as asked"
        await ws.send(b"two")
        assert await ws.reply() == repr((b"two", "b/o", "")).encode()


async def test_delivered_is_a_text_and_a_result_is_binary() -> None:  # ET-47
    async with open_target() as target, open_etl(SHA256) as stage, open_etl(upper) as port:
        async with open_ws(port) as ws:
            await ws.send(b"data", pipeline=f"{target.url}/store/it")
            assert await ws.reply() == "4"
            assert target.objects == {"store/it": b"DATA"}
            await ws.send(b"data", pipeline=node_url(stage))
            reply = await ws.reply()
            assert isinstance(reply, bytes)
            assert len(reply) == 64
            nodes = f"{node_url(stage)},{target.url}/store/other"
            await ws.send(b"data", pipeline=nodes)
            assert await ws.reply() == "64"
            assert target.objects["store/other"] == reply


async def test_a_status_of_the_next_node_is_an_error() -> None:  # ET-46, ET-47
    async def talk(peer: Peer, raw: RawConnection) -> None:
        await peer.read_request(raw)
        await raw.send_all(b"HTTP/1.1 507 Full\r\ncontent-length: 0\r\n\r\n")

    async with open_peer(talk) as peer, open_etl(upper) as port, open_ws(port) as ws:
        await ws.send(b"data", pipeline=f"{peer.url}/x")
        assert await ws.read_end() == ([], 1011, "The next node says 507.")


async def test_a_streaming_server_refuses_the_handshake() -> None:  # ET-48
    async with open_etl(Upper) as port:
        async with open_raw(port) as raw:
            assert await Frames(raw).shake_hands(path=b"/ws") == 501


async def test_no_more_is_read_before_the_reply_is_written() -> None:  # ET-49
    release = threading.Event()

    def wait(data: bytes, path: str, etl_args: str) -> bytes:
        release.wait(10)
        return b"done"

    sent = 0

    async def send(ws: Target) -> None:
        nonlocal sent
        for _ in range(40):
            await ws.send(b"x" * MIB)
            sent += 1

    async with open_etl(whole(wait)) as port, open_ws(port) as ws:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, ws)
            await trio.sleep(0.3)
            before = sent
            await trio.sleep(0.2)
            assert sent == before < 24
            release.set()
            for _ in range(40):
                assert await ws.reply() == b"done"


async def test_a_peer_that_leaves_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    async with open_etl(upper) as port, assert_no_leaks():
        async with open_ws(port) as ws:
            await ws.send(b"one")
            assert await ws.reply() == b"ONE"
            await ws.frames.send(Op.BINARY, b"{}")  # and never the object
    assert [r for r in caplog.records if r.levelname == "ERROR"] == []
