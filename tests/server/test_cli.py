"""The tsstream command: its messages, signals and exit codes, mostly in real processes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import tsstream
from tsstream._cli import Mistake, load

TIMEOUT = 20.0  # seconds: a limit for a process on a busy machine, not a wait

APPLICATION = """
import time

import trio

number = 4

class Inner:
    pass

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"first ", "more_body": True})
    if scope["path"] == "/wait":
        await trio.sleep_forever()
    await send({"type": "http.response.body", "body": b"last"})

async def lifespan(receive, send):
    for stage in ("startup", "shutdown"):
        await receive()
        print(stage, flush=True)
        await send({"type": f"lifespan.{stage}.complete"})

async def slow_start(scope, receive, send):
    print("starting", flush=True)
    await trio.sleep_forever()

async def no_start(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database"})

Inner.app = app
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "cliapp.py").write_text(APPLICATION)
    (tmp_path / "cliapp_broken.py").write_text("import nowhere_to_be_found\n")
    return tmp_path


def command(*args: str) -> list[str]:
    return [sys.executable, "-m", "tsstream", *args]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(tsstream.__file__).parents[1])}


@contextmanager
def running(directory: Path, *args: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        command("run", *args),
        cwd=directory,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().rstrip("\n")


def start_response(address: str, path: str) -> socket.socket:
    """Ask for *path* and wait for the first byte of the answer."""
    client = socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])), TIMEOUT)
    client.sendall(f"GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n".encode())
    assert client.recv(1) == b"H"
    return client


def read_rest(client: socket.socket) -> bytes:
    return b"".join(iter(lambda: client.recv(1000), b""))


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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_gracefully_with_exit_code_0(directory: Path, number: int) -> None:
    with running(directory, "cliapp:app", "--bind", "127.0.0.1:0") as process:
        assert read_line(process) == "startup"
        line = read_line(process)
        assert line.startswith("Running on http://127.0.0.1:")
        address = line.split()[2]
        assert line == f"Running on {address} (Ctrl-C to stop)"
        with start_response(address, "/") as client:
            assert read_rest(client).endswith(b"last\r\n0\r\n\r\n")
        process.send_signal(number)
        assert process.wait(TIMEOUT) == 0
        assert read_line(process) == "shutdown"


def test_open_responses_are_cut_after_the_graceful_timeout(directory: Path) -> None:
    args = ("cliapp", "--bind", "127.0.0.1:0", "--graceful-timeout", "0.1")
    with running(directory, *args) as process:
        assert read_line(process) == "startup"
        address = read_line(process).split()[2]
        with start_response(address, "/wait") as client:
            process.send_signal(signal.SIGTERM)
            assert process.wait(TIMEOUT) == 0
            assert read_rest(client).endswith(b"first \r\n")
        assert read_line(process) == "shutdown"


def test_a_second_signal_ends_it_at_once(directory: Path) -> None:
    args = ("cliapp:app", "--bind", "127.0.0.1:0", "--graceful-timeout", "1000")
    with running(directory, *args) as process:
        assert read_line(process) == "startup"
        address = read_line(process).split()[2]
        with start_response(address, "/wait"):
            process.send_signal(signal.SIGINT)
            assert process.stderr is not None
            assert "a second signal" in process.stderr.readline()
            process.send_signal(signal.SIGINT)
            assert process.wait(TIMEOUT) == -signal.SIGINT


def test_a_signal_while_the_lifespan_starts_ends_it(directory: Path) -> None:
    with running(directory, "cliapp:slow_start", "--bind", "127.0.0.1:0") as process:
        assert read_line(process) == "starting"
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT) == 0
        assert read_line(process) == ""


def test_an_address_in_use_is_named(directory: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        message = run_failing(directory, "run", "cliapp:app", "--bind", bind)
    assert message == f"tsstream: cannot listen on {bind}: Address already in use\n"


def test_an_address_that_is_none_is_one_line_that_says_how_to_write_it(directory: Path) -> None:
    message = run_failing(directory, "run", "cliapp:app", "--bind", "8000")
    assert message.startswith("tsstream: '8000' is not an address to listen on; write HOST:PORT")
    assert message.count("\n") == 1


def test_a_missing_module_is_one_line(directory: Path) -> None:
    message = run_failing(directory, "run", "no_such_module:app")
    assert message == (
        "tsstream: there is no module 'no_such_module' here or among what is installed\n"
    )


def test_an_import_error_inside_the_module_keeps_its_traceback(directory: Path) -> None:
    message = run_failing(directory, "run", "cliapp_broken:app")
    assert "No module named 'nowhere_to_be_found'" in message
    assert 'cliapp_broken.py", line 1' in message
    assert message.endswith("tsstream: importing 'cliapp_broken' failed; see the traceback above\n")


def test_a_lifespan_that_fails_to_start_is_exit_code_1(directory: Path) -> None:
    args = ("run", "cliapp:no_start", "--bind", "127.0.0.1:0")
    message = run_failing(directory, *args, code=1)
    assert message == "tsstream: Lifespan failure in startup. 'no database'\n"


def test_a_graceful_timeout_that_is_no_number_of_seconds_is_refused(directory: Path) -> None:
    for text in ("soon", "-1", "inf", "nan"):
        message = run_failing(directory, "run", "cliapp:app", f"--graceful-timeout={text}")
        assert "--graceful-timeout" in message


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("cliapp:nothing", "module 'cliapp' has no 'nothing'"),
        ("cliapp:app.nothing", "module 'cliapp' has no 'app.nothing'"),
        ("cliapp:number", "'number' in module 'cliapp' is of type int"),
        ("cliapp.inner:app", "there is no module 'cliapp.inner'"),
        ("cliapp.py:app", "is not module:app"),
        ("./cliapp:app", "is not module:app"),
        (":app", "is not module:app"),
    ],
)
def test_load_names_the_mistake(
    directory: Path, monkeypatch: pytest.MonkeyPatch, target: str, message: str
) -> None:
    monkeypatch.syspath_prepend(directory)
    with pytest.raises(Mistake) as caught:
        load(target)
    assert message in str(caught.value)


@pytest.mark.parametrize("target", ["cliapp", "cliapp:app", "cliapp:Inner.app"])
def test_load_gives_the_application(
    directory: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    monkeypatch.syspath_prepend(directory)
    assert callable(load(target))
