"""zip_response(): its headers, on a real connection its bytes, and its ends."""

from __future__ import annotations

import io
import logging
import os
import threading
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from leaks import assert_no_leaks
from probes import IDLE, IN_TIME, PROMPT, WAYS_TO_LEAVE, leave, logged
from tools import run_tool
from wire import Truncated, open_raw, open_server

from tsstream import App, Request, Response
from tsstream._files.zip_response import zip_response
from tsstream.testing import open_client

TEXT = b"Nobody expects the same line again. " * 1000
MIB = 2**20


def make_app(make: Callable[[], Response]) -> App:
    app = App()

    @app.get("/")
    async def download(request: Request) -> Response:
        return make()

    return app


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "sub").mkdir(parents=True)
    (root / "a.txt").write_bytes(TEXT)
    (root / "sub" / "noise").write_bytes(os.urandom(MIB))
    return root


class Gate:
    """An opener that waits before it opens a file, until the test lets it go on."""

    def __init__(self, name: str) -> None:
        self.reached = trio.Event()
        self._name = name
        self._released = threading.Event()
        self._token = trio.lowlevel.current_trio_token()

    def open(self, path: str, flags: int) -> int:
        if path.endswith(self._name):
            self._token.run_sync_soon(self.reached.set)
            assert self._released.wait(IN_TIME)
        return os.open(path, flags)

    def release(self) -> None:
        self._released.set()


async def test_a_stored_zip_has_its_length(tree: Path) -> None:
    async with open_client(make_app(partial(zip_response, tree))) as client:
        response = await client.get("/")
        assert response.status_code == 200
        assert int(response.headers["content-length"]) == len(response.content)
        assert response.headers["content-type"] == "application/zip"
        assert "content-disposition" not in response.headers
        assert "accept-ranges" not in response.headers
        head = await client.request("HEAD", "/")
        assert head.headers["content-length"] == response.headers["content-length"]
    with zipfile.ZipFile(io.BytesIO(response.content)) as archive:
        assert archive.read("tree/a.txt") == TEXT


async def test_a_part_of_a_zip_cannot_be_had(tree: Path) -> None:
    async with open_client(make_app(partial(zip_response, tree))) as client:
        response = await client.get("/", headers={"range": "bytes=0-9"})
    assert response.status_code == 200
    assert int(response.headers["content-length"]) == len(response.content) > MIB


async def test_a_deflated_zip_has_no_length(tree: Path) -> None:
    make = partial(zip_response, tree / "a.txt", compression="deflate")
    async with open_client(make_app(make)) as client:
        response = await client.get("/")
    assert "content-length" not in response.headers
    assert len(response.content) < len(TEXT) / 10
    with zipfile.ZipFile(io.BytesIO(response.content)) as archive:
        assert archive.read("a.txt") == TEXT


async def test_a_level_is_given_to_deflate(tree: Path) -> None:
    sizes = []
    for level in (None, 1, 9):
        make = partial(zip_response, tree / "a.txt", compression="deflate", level=level)
        async with open_client(make_app(make)) as client:
            sizes.append(len((await client.get("/")).content))
    assert sizes[0] == sizes[1] > sizes[2]


async def test_names_and_headers_are_as_given(tree: Path) -> None:
    def make() -> Response:
        return zip_response(
            [tree / "a.txt", tree / "sub"],
            arcname=["b.txt", "c/d"],
            filename="Fotos für dich.zip",
            media_type="application/x-own",
            headers={"x-made-by": "us"},
        )

    async with open_client(make_app(make)) as client:
        response = await client.get("/")
    with zipfile.ZipFile(io.BytesIO(response.content)) as archive:
        assert archive.namelist() == ["b.txt", "c/d/", "c/d/noise"]
    named = "attachment; filename*=utf-8''Fotos%20f%C3%BCr%20dich.zip"
    assert response.headers["content-disposition"] == named  # BK-15
    assert response.headers["content-type"] == "application/x-own"
    assert response.headers["x-made-by"] == "us"


@pytest.mark.parametrize("compression", [None, "deflate"])
async def test_a_deterministic_response_is_the_same_after_a_touch(
    tree: Path, compression: Any
) -> None:
    make = partial(zip_response, tree, deterministic=True, compression=compression)
    async with open_client(make_app(make)) as client:
        first = await client.get("/")
        os.utime(tree / "a.txt", (0, 10**9))
        assert (await client.get("/")).content == first.content


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compression": "gzip"}, "'deflate' or None, not 'gzip'"),
        ({"level": 3}, "give compression='deflate'"),
        ({"compression": "deflate", "level": 0}, "1 to 9, not 0"),
        ({"compression": "deflate", "level": 10}, "1 to 9, not 10"),
        ({"arcname": "../a"}, "leads upwards"),
        ({"arcname": ["a", "b"]}, "2 names for 1 paths"),
    ],
)
def test_what_is_not_possible_is_refused_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        zip_response("somewhere", **options)


@pytest.mark.usefixtures("each_host")
@pytest.mark.parametrize("compression", [None, "deflate"])
class TestOnARealConnection:
    async def test_unzip_takes_what_was_sent(
        self, tree: Path, tmp_path: Path, compression: Any
    ) -> None:
        app = make_app(partial(zip_response, tree, compression=compression))
        async with open_server(app, keep_alive_timeout=IDLE) as port, assert_no_leaks():
            async with open_raw(port) as raw:
                await raw.request("GET", "/")
                assert (await raw.read_head())[0] == 200
                (tmp_path / "x.zip").write_bytes(await raw.read_body())
        assert run_tool("unzip", "-tq", tmp_path / "x.zip")[0] == 0

    async def test_bytes_arrive_while_the_archive_is_made(
        self, tree: Path, compression: Any
    ) -> None:  # BK-1, BK-3
        gate = Gate("noise")
        app = make_app(partial(zip_response, tree, compression=compression, opener=gate.open))
        async with open_server(app, keep_alive_timeout=IDLE) as port, assert_no_leaks():
            async with open_raw(port) as raw:
                await raw.request("GET", "/")
                with trio.fail_after(IN_TIME):
                    await raw.read_head()
                    assert await raw.read_chunk()
                    await gate.reached.wait()
                gate.release()
                await raw.read_body()

    async def test_a_missing_path_is_a_500_without_the_headers_of_a_zip(
        self, tree: Path, compression: Any, caplog: pytest.LogCaptureFixture
    ) -> None:  # BK-20, BK-23
        paths = [tree, tree / "missing"]
        app = make_app(partial(zip_response, paths, filename="x.zip", compression=compression))
        async with open_server(app, keep_alive_timeout=IDLE) as port, assert_no_leaks():
            async with open_raw(port) as raw:
                await raw.request("GET", "/")
                status, headers = await raw.read_head()
                body = await raw.read_body()
        assert status == 500
        assert "content-disposition" not in headers
        assert "zip" not in headers["content-type"]
        assert not body.startswith(b"PK")
        assert len(logged(caplog, logging.ERROR)) == 1

    async def test_a_file_that_shrinks_cuts_the_response(
        self, tree: Path, compression: Any, caplog: pytest.LogCaptureFixture
    ) -> None:  # BK-18, BK-21, BK-23
        gate = Gate("noise")
        app = make_app(partial(zip_response, tree, compression=compression, opener=gate.open))
        async with open_server(app, keep_alive_timeout=IDLE) as port, assert_no_leaks():
            async with open_raw(port) as raw:
                await raw.request("GET", "/")
                with trio.fail_after(IN_TIME):
                    await raw.read_head()
                    await gate.reached.wait()
                os.truncate(tree / "sub" / "noise", MIB // 2)
                gate.release()
                with pytest.raises(Truncated) as cut:
                    await raw.read_body()
        assert b"PK\x05\x06" not in cut.value.body
        assert len(logged(caplog, logging.ERROR)) == 1
        assert "sub/noise" in caplog.text

    @pytest.mark.parametrize("way", WAYS_TO_LEAVE)
    async def test_a_client_that_leaves_stops_the_archive(
        self, tree: Path, compression: Any, way: str, caplog: pytest.LogCaptureFixture
    ) -> None:  # BK-23, BK-24
        with (tree / "sub" / "more").open("wb") as file:
            file.truncate(2**30)
        opened: list[int] = []

        def opener(path: str, flags: int) -> int:
            opened.append(os.open(path, flags))
            return opened[-1]

        app = make_app(partial(zip_response, tree / "sub", compression=compression, opener=opener))
        async with open_server(app, keep_alive_timeout=IDLE) as port:
            async with assert_no_leaks(grace=PROMPT), open_raw(port) as raw:
                await raw.request("GET", "/")
                await raw.read_head()
                await raw.read_chunk()
                await leave(raw, way)
        assert opened
        assert logged(caplog, logging.INFO) == []
