"""What examples/backup.py does with an upload: the archive is unpacked while it arrives."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from mimetypes import MimeTypes
from pathlib import Path
from typing import Any, TypeAlias

import attrs
import trio

from tsstream import (
    ExtractLimits,
    HTTPError,
    Part,
    Request,
    extract_tar,
    run_thread_consumer,
)

Step: TypeAlias = dict[str, Any]
Tell: TypeAlias = Callable[[Any], object]  # gets what extract_tar() has unpacked so far

FIELD = "backup_upload"  # of the form
TREES = (".anthias", "anthias_assets")
LEGACY_TREES = (".screenly", "screenly_assets")
PLAY_TIME = 1.0  # seconds: what a viewer that hangs may hold up
STEP_MEMBERS = 50  # so many members of an archive are a step that is told
STEP_TIME = 0.5  # seconds: and so is what has been unpacked since
BACKLOG = 64  # steps: a client that does not read misses some, and does not stop the restore

types = MimeTypes()
types.encodings_map.setdefault(".zst", "zstd")  # Python knows it from 3.14

logger = logging.getLogger("examples.backup")


def home() -> Path:
    """Give the directory that the trees are in."""
    return Path(os.environ["HOME"])


class Viewer:
    """What is on the screen, which must not read files that are about to be replaced."""

    async def send(self, command: str) -> None:
        """Tell the viewer to ``stop`` or to ``play``."""
        logger.info("viewer: %s", command)


@attrs.define
class Restorer:
    """Puts archives in the place of the trees, one after the other.

    Attributes:
      viewer: is stopped meanwhile.
      limits: what an archive may unpack to.
    """

    viewer: Viewer = attrs.field(factory=Viewer)
    limits: ExtractLimits = attrs.field(factory=ExtractLimits)
    _lock: trio.Lock = attrs.field(factory=trio.Lock)

    async def run(self, part: Part, tell: Tell | None = None) -> None:
        """Restore what is uploaded as *part*, all or nothing.

        Raises:
          HTTPError: 400, it is no whole backup; 413 and 507, it does not fit.
        """
        extract = partial(
            extract_tar,
            destination=home(),
            required=[TREES, LEGACY_TREES],
            limits=self.limits,
            progress=tell,
        )
        async with self._lock, self._stopped_viewer():
            try:
                await run_thread_consumer(extract, part.body)
            except HTTPError as error:
                if error.status_code != 400:
                    raise
                logger.warning("a backup was not restored: %s", error.detail)
                raise Refusal("Invalid backup archive.") from error

    @asynccontextmanager
    async def _stopped_viewer(self) -> AsyncIterator[None]:
        try:
            await self.viewer.send("stop")
            yield
        finally:
            # Also if the client has left, which cancels us.
            with trio.move_on_after(PLAY_TIME, shield=True):
                await self.viewer.send("play")

    @asynccontextmanager
    async def open_steps(self, part: Part) -> AsyncIterator[trio.MemoryReceiveChannel[Step]]:
        """Restore, and give a channel of what happens; the last step says how it ended."""
        send_channel, receive_channel = trio.open_memory_channel[Step](BACKLOG)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tell_steps, part, send_channel)
            with receive_channel:
                yield receive_channel
            nursery.cancel_scope.cancel()

    async def _tell_steps(self, part: Part, send_channel: trio.MemorySendChannel[Step]) -> None:
        with send_channel:
            await send_channel.send({"step": "start", "name": part.filename})
            try:
                await self.run(part, Steps(send_channel).tell)
            except Exception as error:
                # The status has been sent, so this line is all that can tell the client.
                await send_channel.send(failed_step(error))
            else:
                await send_channel.send({"step": "done", "message": "Recovery successful."})


@attrs.define
class Steps:
    """Says now and then how far the thread is that unpacks."""

    send_channel: trio.MemorySendChannel[Step]
    next_members: int = 1
    next_time: float = 0.0

    def tell(self, extracted: Any) -> None:
        """Send a step if one is due. For the thread."""
        now = time.monotonic()
        if extracted.members >= self.next_members or now >= self.next_time:
            self.next_members = extracted.members + STEP_MEMBERS
            self.next_time = now + STEP_TIME
            trio.from_thread.run_sync(
                self.offer,
                {
                    "step": "extract",
                    "members": extracted.members,
                    "bytes": extracted.size,
                    "name": extracted.name,
                },
            )

    def offer(self, step: Step) -> None:
        """Send *step* unless nobody takes it."""
        try:
            self.send_channel.send_nowait(step)
        except (trio.WouldBlock, trio.BrokenResourceError, trio.ClosedResourceError):
            pass


def failed_step(error: Exception) -> Step:
    """Give the last step of a restore that has failed."""
    if isinstance(error, HTTPError):
        status_code, message = error.status_code, getattr(error, "message", error.detail)
    else:
        logger.error("a restore has failed", exc_info=error)
        status_code, message = 500, "Internal Server Error"
    return {"step": "error", "status": status_code, "message": message}


class Refusal(HTTPError):
    """400, with a body such as Anthias gives."""

    def __init__(self, message: str) -> None:
        self.message = message
        super().__init__(400, json.dumps({FIELD: message}), {"content-type": "application/json"})


async def receive_upload(request: Request[Any]) -> Part:
    """Wait for the archive in a form; give it, unread.

    Raises:
      HTTPError: 400, there is none, or it is not called a tar archive.
    """
    part = await find_upload(request)
    if part is None:
        raise Refusal("No backup file uploaded.")
    # All that the client's name of the file is good for (BK-30).
    if types.guess_type(part.filename or "")[0] != "application/x-tar":
        raise Refusal("Incorrect file extension.")
    return part


async def find_upload(request: Request[Any]) -> Part | None:
    try:
        async for part in request.parts():
            if part.name == FIELD and part.filename:
                return part
    except HTTPError as error:
        if error.status_code not in (400, 415):
            raise
    return None
