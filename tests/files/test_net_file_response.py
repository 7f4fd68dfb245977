"""Files on a real connection: a client that resumes, conditions, and cuts that a client sees."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from leaks import assert_no_leaks
from probes import IDLE, IN_TIME
from tools import tool
from wire import HOST, Truncated, open_raw, open_server

from tsstream import App, Request, Response
from tsstream._files.file_response import file_response

pytestmark = pytest.mark.usefixtures("each_host")

LONG_AGO = 1_000_000_000
SIZE = 8_000_000  # bytes: more than what waits anywhere between
SMALL = 16 * 1024  # bytes: of the buffers of a connection that is to stall


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    (tmp_path / "secret.txt").write_bytes(b"secret")
    (folder / "big.bin").write_bytes(os.urandom(SIZE))
    (folder / "a.txt").write_bytes(b"0123456789")
    for path in folder.iterdir():
        os.utime(path, (LONG_AGO, LONG_AGO))
    return folder


@asynccontextmanager
async def open_files(root: Path, *, send_buffer: int | None = None) -> AsyncIterator[int]:
    app = App()

    @app.get("/{name:path}")
    async def files(request: Request) -> Response:
        return file_response(request.path_params["name"], root=root)

    with trio.fail_after(IN_TIME):
        async with open_server(app, send_buffer=send_buffer, keep_alive_timeout=IDLE) as port:
            yield port


async def test_one_connection_gets_the_whole_parts_and_nothing(root: Path) -> None:
    async with open_files(root) as port, assert_no_leaks(), open_raw(port) as raw:
        await raw.request("GET", "/a.txt")
        status, headers = await raw.read_head()
        assert (status, await raw.read_body()) == (200, b"0123456789")
        etag = headers["etag"]
        for method, sent, expected, body in (
            ("HEAD", {}, 200, b""),
            ("GET", {"range": "bytes=2-3"}, 206, b"23"),
            ("GET", {"range": "bytes=2-3", "if-range": etag}, 206, b"23"),
            ("GET", {"range": "bytes=2-3", "if-range": '"other"'}, 200, b"0123456789"),
            ("GET", {"range": "bytes=10-"}, 416, b"Range Not Satisfiable"),
            ("GET", {"if-none-match": etag}, 304, b""),
            ("HEAD", {"if-none-match": etag}, 304, b""),
            ("GET", {"if-match": '"other"'}, 412, b"Precondition Failed"),
            ("GET", {"if-modified-since": headers["last-modified"]}, 304, b""),
        ):
            await raw.request(method, "/a.txt", sent)
            assert (await raw.read_head())[0] == expected
            assert await raw.read_body() == body
        await raw.request("GET", "/a.txt", {"range": "bytes=0-0,9-9"})
        status, headers = await raw.read_head()
        assert status == 206
        assert len(await raw.read_body()) == int(headers["content-length"])


@pytest.mark.parametrize(
    "path",
    [
        *("/../secret.txt", "/%2e%2e/secret.txt", "/..%2fsecret.txt", "/a/../../secret.txt"),
        *("//etc/passwd", "/%2fetc%2fpasswd", "/a.txt%00", "/a.txt/", "/.", "/none"),
    ],
)
async def test_no_path_leads_out_of_the_root(root: Path, path: str) -> None:
    async with open_files(root) as port, open_raw(port) as raw:
        await raw.request("GET", path)
        status, _ = await raw.read_head()
        assert status in (400, 404)
        assert b"secret" not in await raw.read_body()


async def test_a_file_that_changes_is_cut(root: Path) -> None:
    # BK-18
    async with (
        open_files(root, send_buffer=SMALL) as port,
        open_raw(port, receive_buffer=SMALL) as raw,
    ):
        await raw.request("GET", "/big.bin")
        assert (await raw.read_head())[1]["content-length"] == str(SIZE)
        await raw.read_chunk()
        with (root / "big.bin").open("r+b") as file:
            file.write(b"another")
        with pytest.raises(Truncated):
            await raw.read_body()


@pytest.mark.parametrize("way", ["close", "abort"])
async def test_a_client_that_leaves_leaves_nothing(root: Path, way: str) -> None:
    async with open_files(root, send_buffer=SMALL) as port, assert_no_leaks():
        async with open_raw(port, receive_buffer=SMALL) as raw:
            await raw.request("GET", "/big.bin")
            await raw.read_head()
            await raw.read_chunk()
            getattr(raw, way)()


@pytest.mark.parametrize("there", [0, 1, 1_000_000, SIZE - 1])
async def test_curl_resumes(root: Path, tmp_path: Path, there: int) -> None:
    tool("curl")
    content = (root / "big.bin").read_bytes()
    target = tmp_path / "got.bin"
    target.write_bytes(content[:there])
    async with open_files(root) as port:
        url = f"http://{HOST}:{port}/big.bin"
        command = f"curl -s -f -C - -w %{{http_code}} -o {target} {url}".split()
        done = await trio.run_process(command, capture_stdout=True)
    assert done.stdout == (b"206" if there else b"200")
    assert target.read_bytes() == content
