"""The sole reader of a WebSocket's ``receive()``: it is one message ahead, and hears the end."""

from __future__ import annotations

from collections.abc import Callable

import trio

from tsstream._asgi import Message, Receive
from tsstream._sansio.websocket import LOST

DROPS_PER_CHECKPOINT = 8  # a receive() need not ever wait


class Mailbox:
    """Read what the server tells of one WebSocket, for as long as its handler runs (RQ-2, RQ-31).

    One message waits for whoever receives, so a handler that reads slowly slows the client; and
    the end behind that message is heard when it has been taken, or when somebody who knows of the
    end from elsewhere calls :meth:`hurry`.

    Args:
      receive: the server's.
      on_end: called once, with the close code and the reason, when nothing more will come.
      on_error: called once, with what ``receive()`` raised, or about a message that has no place
        in a WebSocket.
    """

    def __init__(
        self,
        receive: Receive,
        on_end: Callable[[int, str], None],
        on_error: Callable[[Exception], None],
    ) -> None:
        self._receive = receive
        self._on_end = on_end
        self._on_error = on_error
        self._held: str | bytes | None = None  # read, and not taken yet
        self._handed: str | bytes | None = None  # on its way to the task that waits for it
        self._receiver: trio.lowlevel.Task | None = None  # that waits
        self._busy = False  # a receive() is under way
        self._hurried = False
        self._dropping = False
        self._dropped = 0  # messages
        self._ended = False
        self._moved = trio.lowlevel.ParkingLot()  # where run() waits for the held message to go

    async def run(self) -> None:
        """Read until the end, or until cancelled."""
        try:
            failure = await self._read()
            # Not in an "except": see Watcher.run().
            if failure is not None:
                self._on_error(failure)
        finally:
            del self._on_end, self._on_error  # they know who knows us: nothing for the GC

    async def receive(self) -> str | bytes | None:
        """Give the next message, or None if none will come.

        Cancelling it loses nothing.

        Raises:
          trio.BusyResourceError: another task is receiving.
        """
        if self._busy:
            raise trio.BusyResourceError("another task is receiving from this WebSocket")
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._held is not None:
            held, self._held = self._held, None
            self._moved.unpark()
            return held
        if self._ended:
            await trio.lowlevel.checkpoint()
            return None
        self._busy = True
        try:
            self._receiver = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._forget_receiver)
            handed, self._handed = self._handed, None
            return handed
        finally:
            self._busy = False

    @property
    def holding(self) -> bool:
        """A message waits to be received."""
        return self._held is not None

    def hurry(self) -> None:
        """Read on, although a message waits: the server has nothing left but the end."""
        self._hurried = True
        self._moved.unpark()

    def drop(self) -> None:
        """Drop what waits, and all that comes: nobody wants it."""
        self._dropping = True
        self._held = None
        self._moved.unpark()

    def end(self) -> None:
        """Let nobody wait any more: the WebSocket is over."""
        self._ended = True
        if self._receiver is not None:
            self._hand_over(None)

    async def _read(self) -> Exception | None:
        while True:  # noqa: ASYNC913 (receive() is one)
            try:
                event = await self._receive()
            except Exception as error:
                return error
            kind = event.get("type")
            if kind == "websocket.receive":
                message = _message(event)
                if message is None:
                    return RuntimeError("the server sent a message with neither text nor bytes")
                if self._receiver is not None:
                    self._hand_over(message)
                else:
                    await self._hold(message)
            elif kind == "websocket.disconnect":
                self.end()
                self._on_end(*_end(event))
                return None
            else:
                return RuntimeError(f"the server sent {kind!r} within a WebSocket")

    async def _hold(self, message: str | bytes) -> None:
        while self._held is not None and not self._dropping:
            await self._moved.park()  # hurried in vain
        if self._dropping:
            self._dropped += 1
            if self._dropped % DROPS_PER_CHECKPOINT == 0:
                await trio.lowlevel.checkpoint()
            return
        self._held = message
        while self._held is not None and not self._hurried:
            await self._moved.park()
        self._hurried = False

    def _hand_over(self, message: str | bytes | None) -> None:
        # Like a memory channel: once rescheduled, the receiver gets it even if it is cancelled.
        assert self._receiver is not None, "nobody waits"
        receiver, self._receiver = self._receiver, None
        self._handed = message
        trio.lowlevel.reschedule(receiver)

    def _forget_receiver(self, _: object) -> trio.lowlevel.Abort:
        self._receiver = None
        return trio.lowlevel.Abort.SUCCEEDED


def _message(event: Message) -> str | bytes | None:
    """Give the message, which may be empty (RQ-36); the key of the other kind may be missing."""
    text: str | None = event.get("text")
    data: bytes | None = event.get("bytes")
    return data if text is None else text


def _end(event: Message) -> tuple[int, str]:
    code = event.get("code")
    return LOST if code is None else int(code), event.get("reason") or ""
