"""The files of Unix sockets: a server removes its own at its end, and nobody else's."""

from __future__ import annotations

import os
import signal
import socket
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
import trio
from commands import (
    TIMEOUT,
    read_address,
    read_log_until,
    read_pid,
    running,
    write_application,
)
from guarded import answer, http
from hypercorn.config import Config

from tsstream._asgi import Receive, Send
from tsstream._server.listen import listen
from tsstream._server.serve import serve


async def say_ok(scope: object, receive: Receive, send: Send) -> None:
    await answer(send)


async def test_the_socket_file_is_removed_with_its_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with ExitStack() as stack:
        await listen(["unix:socket"], Config(), stack)
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir("elsewhere")
        assert (tmp_path / "socket").is_socket()
    assert not (tmp_path / "socket").exists()


async def test_the_socket_file_of_a_call_that_fails_is_removed(tmp_path: Path) -> None:
    with ExitStack() as stack:
        with pytest.raises(OSError, match="cannot listen on unix:/no/such/place"):
            await listen([f"unix:{tmp_path}/socket", "unix:/no/such/place"], Config(), stack)
    assert os.listdir(tmp_path) == []


async def test_a_socket_file_that_another_server_has_put_there_stays(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with ExitStack() as stack, socket.socket(socket.AF_UNIX) as other:
        await listen([f"unix:{path}"], Config(), stack)
        path.unlink()
        other.bind(os.fspath(path))
        stack.close()
        assert path.is_socket()


async def test_a_socket_file_that_is_gone_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with ExitStack() as stack:
        await listen([f"unix:{path}"], Config(), stack)
        path.unlink()


async def test_the_socket_file_goes_as_soon_as_the_server_shuts_down(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    trigger, ending = trio.Event(), trio.Event()

    async def app(scope: object, receive: Receive, send: Send) -> None:
        for stage in ("startup", "shutdown"):
            await receive()
            if stage == "shutdown":
                assert not path.exists()
                ending.set()
            await send({"type": f"lifespan.{stage}.complete"})

    async with trio.open_nursery() as nursery:
        await nursery.start(
            partial(serve, app, bind=[f"unix:{path}"], shutdown_trigger=trigger.wait)
        )
        trigger.set()
    assert ending.is_set()


async def test_the_socket_file_goes_when_the_server_is_cancelled(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve, http(say_ok), bind=[f"unix:{path}"]))
        assert path.is_socket()
        nursery.cancel_scope.cancel()
    assert not path.exists()


def test_with_workers_the_socket_file_is_the_masters(tmp_path: Path) -> None:
    write_application(tmp_path)
    path = tmp_path / "socket"
    with running(tmp_path, "cliapp:app", "--bind", f"unix:{path}", "--workers", "1") as process:
        old = read_pid(process, "startup")
        read_address(process)
        process.send_signal(signal.SIGHUP)
        read_pid(process, "startup")
        assert read_pid(process, "shutdown") == old
        read_log_until(process, "the workers have been replaced")
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(os.fspath(path))
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT) == 0
    assert not path.exists()
