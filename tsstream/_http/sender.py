"""The task that talks to the server, apart from the one that holds the body."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import trio

from tsstream._asgi import Message, Send

from .timer import Timer

NOW_PER_CHECKPOINT = 8  # pieces of a body that are sent without a schedule point in between


class Sender:
    """Send ASGI messages, one at a time and in order.

    A server's ``send()`` may be stuck and deaf to cancellation while its client does not read
    (Hypercorn 0.18 shields it: HOST fault 5). Once started, ``send()`` is called in
    that task alone, so that cancelling whoever waits here frees the producers at once (D18).
    A hand-over from task to task is also a schedule point for every send, which some servers
    leave out once their client has gone (HOST fault 8).

    Args:
      send: the server's.
      timer: is told when a send begins and ends.
      on_error: told, once, what the server's ``send()`` raised; nothing is sent after that.
      now: sends a piece of a body if it need not wait for what was sent before, and gives how much
        is still on its way, in bytes; otherwise None. There is no hand-over if that is 0.
    """

    def __init__(
        self,
        send: Send,
        timer: Timer,
        on_error: Callable[[Exception], None],
        *,
        now: Callable[[bytes], int | None] | None = None,
    ) -> None:
        self._send = send
        self._timer = timer
        self._on_error = on_error
        self._queue: deque[Message] = deque()
        self._arrived = trio.lowlevel.ParkingLot()
        self._emptied = trio.lowlevel.ParkingLot()
        self._running = False
        self._now = now
        self._unscheduled = 0  # pieces that were sent since anything else could run
        self._underway = 0  # bytes of the piece that the next message waits for
        self.broken = False
        self.bytes_sent = 0  # of the body, taken by the server

    @property
    def busy(self) -> bool:
        """A message is on its way."""
        return bool(self._queue)

    def start(self, nursery: trio.Nursery) -> None:
        """Send from a task of its own from now on."""
        self._running = True
        nursery.start_soon(self._run)

    async def send(self, *messages: Message) -> None:
        """Hand messages over and wait until the server has taken them.

        They are on their way even if the wait is cancelled.
        """
        if not self._running:
            # A cancellation may have come while a shielded send() was deaf to it.
            await trio.lowlevel.checkpoint_if_cancelled()
            self._queue.extend(messages)
            await self._drain()
            if self.broken:
                await trio.lowlevel.checkpoint()  # on_error has cancelled who must not go on
            return
        self._queue.extend(messages)
        self._arrived.unpark()
        await self.wait_sent()

    async def send_body(self, data: bytes) -> None:
        """Send a piece of the body; not always a checkpoint."""
        self._unscheduled += 1
        left = None if self._unscheduled > NOW_PER_CHECKPOINT else self._send_now(data)
        if left == 0:
            self._timer.end_send()
            self.bytes_sent += len(data)
            return
        if left is not None:
            # The client is slow: an empty message waits for it, within the limit of a send.
            self._underway, data = len(data), b""
        self._unscheduled = 0
        await self.send({"type": "http.response.body", "body": data, "more_body": True})

    def _send_now(self, data: bytes) -> int | None:
        if self._now is None or self._queue or self.broken:
            return None
        try:
            return self._now(data)
        except Exception as error:
            self._break(error)
            return None

    async def wait_sent(self) -> None:
        """Wait until the server has taken all that was handed over."""
        while self._queue:
            await self._emptied.park()

    def send_soon(self, message: Message) -> None:
        """Hand one message over without waiting; for signs of life."""
        self._queue.append(message)
        self._arrived.unpark()

    async def _run(self) -> None:
        while True:
            while not self._queue:
                await self._arrived.park()
            await self._drain()
            self._emptied.unpark_all()

    async def _drain(self) -> None:
        while self._queue:
            if not self.broken:
                await self._send_one(self._queue[0])
            self._queue.popleft()

    async def _send_one(self, message: Message) -> None:
        self._timer.begin_send()
        try:
            await self._send(message)
        except Exception as error:
            self._break(error)
        else:
            self._timer.end_send()
            self.bytes_sent += self._underway + len(message.get("body", b""))
            self._underway = 0

    def _break(self, error: Exception) -> None:
        self.broken = True
        self._on_error(error)
