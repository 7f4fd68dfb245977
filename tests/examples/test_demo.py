"""examples/demo.py, as people start it: in a process of its own, ended by Ctrl-C."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import pytest

ROOT = Path(__file__).parents[2]
TIMEOUT = 20.0  # seconds: a limit for a process on a busy machine, not a wait


@contextmanager
def running_demo(*args: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start the demo; give its process and its address."""
    with subprocess.Popen(
        [sys.executable, "-m", "examples.demo", *args],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("The merged feeds are live at http://127.0.0.1:")
            address = line.split()[-1].rstrip("/")
            assert f"curl -N {address}/feed\n" in process.stdout.readline()
            yield process, address
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_page_is_served_the_feeds_flow_and_a_signal_ends_it_cleanly(number: int) -> None:
    with running_demo("--bind", "127.0.0.1:0") as (process, address):
        with urlopen(f"{address}/", timeout=TIMEOUT) as response:
            assert b"EventSource" in response.read()
        with urlopen(f"{address}/feed", timeout=TIMEOUT) as response:
            kinds: set[bytes] = set()
            while kinds != {b"news", b"weather"}:
                kinds.add(response.readline().partition(b":")[0])
            process.send_signal(number)  # with a stream open
            _, errors = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0
    assert errors == ""


def test_the_next_port_is_taken_if_8000_is_in_use() -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            other.bind(("127.0.0.1", 8000))
            other.listen()
        except OSError:
            pass  # taken already: all the better
        with running_demo() as (_, address):
            assert int(address.rpartition(":")[2]) in range(8001, 8020)


def test_an_address_in_use_is_named_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        done = subprocess.run(
            [sys.executable, "-m", "examples.demo", "--bind", bind],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
    assert done.returncode == 1
    assert (
        done.stderr
        == f"demo: [Errno {errno.EADDRINUSE}] cannot listen on {bind}: Address already in use\n"
    )
