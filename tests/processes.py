"""A server in a process of its own, whose memory can be read."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Literal

import attrs
import trio


@attrs.frozen
class Server:
    """A server that runs: where it listens, and its process."""

    port: int
    pid: int

    def read_memory(self, what: Literal["VmHWM", "VmRSS"]) -> int:
        """Give the bytes that the process has had resident at most, or has now (Linux)."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(rf"^{what}:\s+(\d+) kB$", status, re.MULTILINE)
        assert found is not None
        return int(found[1]) * 1024


@asynccontextmanager
async def open_process(script: str) -> AsyncIterator[Server]:
    """Run the Python file *script*, which prints a line that ends with ``:PORT``."""
    run = partial(
        trio.run_process,
        [sys.executable, script],
        stdout=subprocess.PIPE,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    async with trio.open_nursery() as nursery:
        process = await nursery.start(run)
        line = b""
        with trio.fail_after(20):
            while not line.endswith(b"\n"):
                line += await process.stdout.receive_some()
        yield Server(int(line.decode().rpartition(":")[2]), process.pid)
        nursery.cancel_scope.cancel()
