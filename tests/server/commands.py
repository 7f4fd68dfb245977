"""The ``tsstream`` command as a process, and an application for it to run."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import tsstream

TIMEOUT = 20.0  # seconds: a limit for a process on a busy machine, not a wait
ANYWHERE = ("--bind", "127.0.0.1:0")

APPLICATION = '''
"""Says on standard output what its lifespan does, and in which process."""

import os
import time
from pathlib import Path

import trio

if Path("broken").exists():
    raise RuntimeError("broken on purpose")

number = 4

class Inner:
    pass

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"first ", "more_body": True})
    path = scope["path"]
    if path == "/wait":
        await trio.sleep_forever()
    elif path == "/die":
        os._exit(7)
    elif path == "/finish":  # when the test says so
        while not Path("finish").exists():
            await trio.sleep(0.01)
    elif path == "/block":
        wait_finish()
    elif path == "/thread":
        await trio.to_thread.run_sync(wait_finish)
    await send({"type": "http.response.body", "body": b"last"})

def wait_finish():
    while not Path("finish").exists():
        time.sleep(0.01)

async def lifespan(receive, send):
    for stage in ("startup", "shutdown"):
        await receive()
        print(stage, os.getpid(), flush=True)
        await send({"type": f"lifespan.{stage}.complete"})

async def slow_start(scope, receive, send):
    print("starting", flush=True)
    await trio.sleep_forever()

async def no_start(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database"})

Inner.app = app
'''


def write_application(directory: Path) -> None:
    (directory / "cliapp.py").write_text(APPLICATION)
    (directory / "cliapp_broken.py").write_text("import nowhere_to_be_found\n")


def command(*args: str) -> list[str]:
    return [sys.executable, "-m", "tsstream", *args]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(tsstream.__file__).parents[1])}


@contextmanager
def running(
    directory: Path,
    *args: str,
    prefix: Sequence[str] = (),
    stdout: int = subprocess.PIPE,
    start_new_session: bool = False,
) -> Iterator[subprocess.Popen[str]]:
    """Run ``tsstream run *args``, and kill it in the end.

    Args:
      prefix: a command that executes the one that follows it.
    """
    with subprocess.Popen(
        [*prefix, *command("run", *args)],
        cwd=directory,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=start_new_session,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().rstrip("\n")


def read_pid(process: subprocess.Popen[str], stage: str) -> int:
    """Read the line with which the lifespan says that it is in *stage*."""
    word, number = read_line(process).split()
    assert word == stage
    return int(number)


def read_address(process: subprocess.Popen[str]) -> str:
    words = read_line(process).split()
    assert words[:2] == ["Running", "on"]
    return words[2]


def read_log_until(process: subprocess.Popen[str], text: str) -> str:
    """Read standard error up to the line with *text* in it."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if text in line:
            return "".join(lines)
    raise AssertionError(f"{text!r} is not in {lines}")


def read_rest(process: subprocess.Popen[str]) -> str:
    """Read standard output to its end: that of the last process that writes there."""
    assert process.stdout is not None
    return process.stdout.read()


def start_response(address: str, path: str) -> socket.socket:
    """Ask for *path* and wait for the first byte of the answer."""
    client = socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])), TIMEOUT)
    client.sendall(f"GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n".encode())
    assert client.recv(1) == b"H"
    return client


def read_body(client: socket.socket | ssl.SSLSocket) -> bytes:
    return b"".join(iter(lambda: client.recv(1000), b""))


def get(address: str, path: str = "/") -> bytes:
    with start_response(address, path) as client:
        return read_body(client)


def run_failing(directory: Path, *args: str, code: int = 2) -> str:
    """Run a command that must exit with *code* in time; give its standard error."""
    done = subprocess.run(
        command(*args),
        cwd=directory,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == code
    assert done.stdout == ""
    return done.stderr
