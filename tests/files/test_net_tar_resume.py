"""A tar archive whose download is cut again and again comes out whole, with real clients."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any, cast

import pytest
import trio
from probes import IN_TIME
from tars import make_tree, to_plan, write
from tools import tool
from wire import HOST, RawConnection, Truncated, open_guarded, open_raw

from tsstream import App, Request, Response
from tsstream._files.snapshot import Snapshot
from tsstream._files.tar_response import tar_response

MIB = 2**20
SIZE = 1024 * MIB  # bytes: of the archive at least
CUTS = 10
RECEIVE_SIZE = 256 * 1024  # bytes


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Make a tree that is nearly all holes, which take no place on the disk."""
    root = make_tree(tmp_path / "tree")
    for number in range(8):
        path = root / "holes" / str(number)
        write(path, os.urandom(MIB))
        os.truncate(path, SIZE // 8)
    return root


@asynccontextmanager
async def open_cutting_server(tree: Path, cuts: Sequence[int]) -> AsyncIterator[int]:
    """Serve the archive of *tree*; the connections break after as many bytes as *cuts* says."""
    app = App()

    @app.get("/tree.tar")
    async def download(request: Request) -> Response:
        return tar_response(tree, arcname="tree", filename="tree.tar")

    async with open_guarded(app) as port, trio.open_nursery() as nursery:
        relay = partial(relay_up_to, port, iter(cuts))
        listeners: list[trio.SocketListener] = await nursery.start(
            partial(trio.serve_tcp, relay, 0, host=HOST)
        )
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def relay_up_to(port: int, cuts: Any, client: trio.SocketStream) -> None:
    left = next(cuts, 2 * SIZE)
    request = await client.receive_some(RECEIVE_SIZE)
    async with await trio.open_tcp_stream(HOST, port) as server:
        await server.send_all(request)
        while left and (data := await server.receive_some(min(left, RECEIVE_SIZE))):
            left -= len(data)
            try:
                await client.send_all(data)
            except trio.BrokenResourceError:
                return  # it has all that it wanted
    RawConnection(client).abort()


def make_cuts() -> list[int]:
    """Choose ten lengths that leave something for the last connection."""
    chosen = random.Random(5)
    return [chosen.randrange(1000, SIZE // 12) for _ in range(CUTS)]


def digest_of_uncut(tree: Path) -> str:
    class Digest:
        def __init__(self) -> None:
            self.hash = hashlib.sha256()

        def write(self, data: bytes) -> int:
            self.hash.update(data)
            return len(data)

    snapshot, file = Snapshot(to_plan(tree)), Digest()
    snapshot.write(cast("IO[bytes]", file), 0, snapshot.layout.length)
    return file.hash.hexdigest()


async def test_browser_like_client_resumes_after_ten_cuts(tree: Path) -> None:
    # RFC 9110 14.2 and 13.1.5, as Chromium and Firefox ask when a download is resumed
    digest, got, etag, length, heads = hashlib.sha256(), 0, "", 1, []
    cuts = make_cuts()
    async with open_cutting_server(tree, cuts) as port:
        while got < length:
            async with open_raw(port) as raw:
                wanted = {"range": f"bytes={got}-", "if-range": etag} if etag else {}
                await raw.request("GET", "/tree.tar", wanted)
                try:
                    status, headers = await raw.read_head()
                    heads.append(status)
                    if not etag:
                        etag, length = headers["etag"], int(headers["content-length"])
                    else:
                        expected = f"bytes {got}-{length - 1}/{length}"
                        assert headers["content-range"] == expected
                    while (chunk := await raw.read_chunk()) is not None:
                        digest.update(chunk)
                        got += len(chunk)
                except Truncated:
                    pass
    assert heads == [200, *[206] * CUTS]
    assert got == length > SIZE
    assert digest.hexdigest() == await trio.to_thread.run_sync(digest_of_uncut, tree)


async def test_curl_resumes_after_ten_cuts(tree: Path, tmp_path: Path) -> None:
    result = tmp_path / "result.tar"
    codes: list[int] = []
    async with open_cutting_server(tree, make_cuts()) as port:
        url = f"http://{HOST}:{port}/tree.tar"
        command = [tool("curl"), "--silent", "--continue-at", "-", "--output", str(result), url]
        while not codes or codes[-1]:
            with trio.fail_after(4 * IN_TIME):
                done = await trio.run_process(command, check=False, stderr=subprocess.DEVNULL)
            codes.append(done.returncode)
            assert len(codes) <= CUTS + 1
    assert len(codes) == CUTS + 1
    assert result.stat().st_size > SIZE
    result_digest = await trio.to_thread.run_sync(digest_of_file, result)
    result.unlink()  # pytest would keep it
    assert result_digest == await trio.to_thread.run_sync(digest_of_uncut, tree)


def digest_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
