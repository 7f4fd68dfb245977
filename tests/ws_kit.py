"""A WebSocket client that sees every frame, and an application that is one function."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio
from frames_ws import Op, upgrade, ws_frame
from probes import IN_TIME
from wire import RawConnection, open_raw

from tsstream._asgi import ASGIApp, Receive, Send

ACCEPT = {"type": "websocket.accept"}


class Talk:
    """An application whose WebSockets are one function, and what came of its calls.

    Attributes:
      heard: the messages that it received, ``websocket.connect`` left out.
      raised: what its calls raised.
      over: how many calls have ended.
    """

    def __init__(self, talk: ASGIApp) -> None:
        self.heard: list[Any] = []
        self.raised: list[BaseException] = []
        self.over = 0
        self._talk = talk
        self._changed = trio.lowlevel.ParkingLot()

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        async def note() -> Any:
            message = await receive()
            if message["type"] != "websocket.connect":
                self.heard.append(message)
                self._changed.unpark_all()
            return message

        if scope["type"] != "websocket":
            await _run_lifespan(receive, send)
            return
        try:
            await self._talk(scope, note, send)
        except BaseException as error:
            self.raised.append(error)
            raise
        finally:
            self.over += 1
            self._changed.unpark_all()

    async def wait_heard(self, count: int = 1) -> list[Any]:
        with trio.fail_after(IN_TIME):  # noqa: ASYNC912
            while len(self.heard) < count:
                await self._changed.park()
        return self.heard

    async def wait_over(self, count: int = 1) -> None:
        with trio.fail_after(IN_TIME):  # noqa: ASYNC912
            while self.over < count:
                await self._changed.park()


async def _run_lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


async def echo(scope: Any, receive: Receive, send: Send) -> None:
    await receive()
    await send(ACCEPT)
    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})


async def listen(scope: Any, receive: Receive, send: Send) -> None:
    """Accept and receive, and say nothing."""
    await receive()
    await send(ACCEPT)
    while (await receive())["type"] != "websocket.disconnect":
        pass


class Frames:
    """One WebSocket, frame by frame.

    Attributes:
      raw: its connection.
      head: of the server's answer to the handshake.
    """

    def __init__(self, raw: RawConnection) -> None:
        self.raw = raw
        self.head = b""
        self._buffer = bytearray()

    async def shake_hands(self, *extra: bytes, path: bytes = b"/", then: bytes = b"") -> int:
        """Send a handshake, and *then* right behind it; give the status of the answer."""
        await self.raw.send_all(upgrade(path, *extra) + then)
        return await self.read_status()

    async def read_status(self) -> int:
        with trio.fail_after(IN_TIME):  # noqa: ASYNC912
            while b"\r\n\r\n" not in self._buffer:
                await self._fill()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        self.head = bytes(head)
        return int(self.head.split(b" ")[1])

    async def send(self, op: int, payload: bytes = b"", **options: Any) -> None:
        await self.raw.send_all(ws_frame(op, payload, **options))

    async def send_text(self, text: str) -> None:
        await self.send(Op.TEXT, text.encode())

    async def send_close(self, code: int | None = 1000, reason: bytes = b"") -> None:
        await self.send(Op.CLOSE, b"" if code is None else code.to_bytes(2, "big") + reason)

    async def next(self) -> tuple[int, bytes]:
        """Give opcode and payload of the next frame; the server's are whole and not masked."""
        with trio.fail_after(IN_TIME):
            return await self._next()

    async def _next(self) -> tuple[int, bytes]:
        first, short = await self._take(2)
        assert first & 0x70 == 0, "a reserved bit is set"
        assert not short & 0x80, "a masked frame"
        size = {126: 2, 127: 8}.get(short, 0)
        length = int.from_bytes(await self._take(size), "big") if size else short
        return first & 0x0F, await self._take(length)

    async def next_text(self) -> str:
        op, payload = await self.next()
        assert op == Op.TEXT
        return payload.decode()

    async def next_close(self) -> tuple[int, str]:
        """Skip to the Close; give its code (1005 if it has none) and its reason."""
        while True:
            op, payload = await self.next()
            if op == Op.CLOSE:
                return int.from_bytes(payload[:2], "big") or 1005, payload[2:].decode()

    async def next_end(self) -> str:
        """Wait until the server ends the connection, with nothing more to say; give how."""
        with trio.fail_after(IN_TIME):
            rest = self._buffer + await self.raw.read_until_closed()
        assert rest == b""
        return self.raw.ended

    async def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            await self._fill()
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    async def _fill(self) -> None:
        data = await self.raw.stream.receive_some()
        assert data, "the server has ended the connection"
        self._buffer += data


@asynccontextmanager
async def open_frames(port: int, *extra: bytes) -> AsyncIterator[Frames]:
    """Open a WebSocket; leaving the block closes its connection, without a word."""
    async with open_raw(port) as raw:
        frames = Frames(raw)
        assert await frames.shake_hands(*extra) == 101
        yield frames
