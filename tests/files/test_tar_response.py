"""tar_response(): its headers and ranges, what it sends, and how it ends."""

from __future__ import annotations

import errno
import gzip
import io
import logging
import os
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from leaks import assert_no_leaks
from probes import IN_TIME, logged
from tars import by_tarfile, make_tree, write
from wire import Truncated, open_raw, open_server

from tsstream import App, Request, Response
from tsstream._files.tar_response import tar_response
from tsstream.testing import TruncatedBodyError, open_client

MIB = 2**20


def make_app(make: Callable[[], Response]) -> App:
    app = App()

    @app.route("/", methods=["GET", "POST"])
    async def download(request: Request) -> Response:
        return make()

    return app


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_tree(tmp_path_factory.mktemp("response") / "tree")
    time.sleep(0.05)  # so that a change would be noticed, and one look is enough
    return root


async def test_headers_of_an_archive_that_can_be_resumed(tree: Path) -> None:
    async with open_client(make_app(partial(tar_response, tree))) as client:
        response = await client.get("/")
        head = await client.head("/")
    assert response.status_code == head.status_code == 200
    assert response.content == by_tarfile(tree)
    assert head.content == b""
    for headers in (response.headers, head.headers):
        assert headers["content-length"] == str(len(response.content))
        assert headers["content-type"] == "application/x-tar"
        assert headers["accept-ranges"] == "bytes"
        assert headers["etag"].startswith('"')
        assert "content-disposition" not in headers
    assert response.headers["etag"] == head.headers["etag"]


async def test_head_opens_no_file(tree: Path) -> None:
    def fail(path: str, flags: int) -> int:
        raise AssertionError

    async with open_client(make_app(partial(tar_response, tree, opener=fail))) as client:
        assert (await client.head("/")).status_code == 200


@pytest.mark.parametrize(("start", "stop"), [(0, 1), (700, 300_000), (150_000, 10**6)])
async def test_range_is_that_part_of_the_whole(tree: Path, start: int, stop: int) -> None:
    whole = by_tarfile(tree)
    async with open_client(make_app(partial(tar_response, tree))) as client:
        response = await client.get("/", headers={"range": f"bytes={start}-{stop - 1}"})
    assert response.status_code == 206
    assert response.content == whole[start:stop]
    last = min(stop, len(whole)) - 1
    assert response.headers["content-range"] == f"bytes {start}-{last}/{len(whole)}"


async def test_several_ranges_come_as_parts(tree: Path) -> None:
    whole = by_tarfile(tree)
    async with open_client(make_app(partial(tar_response, tree))) as client:
        response = await client.get("/", headers={"range": "bytes=10-19,200000-200009"})
    assert response.status_code == 206
    assert response.headers["content-type"].startswith("multipart/byteranges")
    assert response.headers["content-length"] == str(len(response.content))
    assert response.content.count(b"Content-Type: application/x-tar") == 2
    assert whole[10:20] in response.content
    assert whole[200_000:200_010] in response.content


async def test_whole_new_archive_is_sent_if_anything_has_changed(tmp_path: Path) -> None:
    # RFC 9110 13.1.5: never a mixture
    root = make_tree(tmp_path / "tree")
    async with open_client(make_app(partial(tar_response, root))) as client:
        etag = (await client.head("/")).headers["etag"]
        wanted = {"range": "bytes=100000-", "if-range": etag}
        assert (await client.get("/", headers=wanted)).status_code == 206
        write(root / "sizes" / "one", b"2")
        response = await client.get("/", headers=wanted)
    assert response.status_code == 200
    assert response.content == by_tarfile(root)
    assert response.headers["etag"] != etag


async def test_archive_that_the_client_has_is_not_sent(tree: Path) -> None:
    async with open_client(make_app(partial(tar_response, tree))) as client:
        etag = (await client.head("/")).headers["etag"]
        response = await client.get("/", headers={"if-none-match": etag})
    assert (response.status_code, response.content) == (304, b"")


async def test_range_behind_the_end_is_refused(tree: Path) -> None:
    size = len(by_tarfile(tree))
    async with open_client(make_app(partial(tar_response, tree))) as client:
        response = await client.get("/", headers={"range": f"bytes={size}-"})
    assert response.status_code == 416
    assert response.headers["content-range"] == f"bytes */{size}"


async def test_tree_that_changes_all_the_time_has_no_ranges(tmp_path: Path) -> None:
    log = tmp_path / "tree" / "log"
    write(log, b"0")

    def touch(info: tarfile.TarInfo) -> tarfile.TarInfo:
        if info.isdir():
            log.write_bytes(b"1")  # just before it is looked at
        return info

    make = partial(tar_response, tmp_path / "tree", filter=touch)
    async with open_client(make_app(make)) as client:
        response = await client.get("/", headers={"range": "bytes=0-9"})
    assert response.status_code == 200
    assert "etag" not in response.headers
    assert "accept-ranges" not in response.headers


async def test_post_gives_the_whole(tree: Path) -> None:
    async with open_client(make_app(partial(tar_response, tree))) as client:
        response = await client.post("/", headers={"range": "bytes=0-9"})
    assert response.status_code == 200
    assert response.content == by_tarfile(tree)


async def test_response_is_a_context_manager_of_the_whole(tree: Path) -> None:
    async with tar_response(tree) as chunks:
        assert b"".join([chunk async for chunk in chunks]) == by_tarfile(tree)


async def test_compressed_archive_has_no_length(tree: Path) -> None:
    # BK-11, BK-16
    make = partial(tar_response, tree, compression="gzip")
    async with open_client(make_app(make)) as client:
        response = await client.get("/", headers={"range": "bytes=0-9"})
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/gzip"
    assert not {"content-length", "etag", "accept-ranges"} & set(response.headers)
    assert gzip.decompress(response.content) == by_tarfile(tree)


async def test_zstd(tree: Path) -> None:
    zstd = pytest.importorskip("backports.zstd")
    async with open_client(make_app(partial(tar_response, tree, compression="zstd"))) as client:
        response = await client.get("/")
    assert response.headers["content-type"] == "application/zstd"
    assert zstd.decompress(response.content) == by_tarfile(tree)


async def test_names_and_headers_are_as_given(tree: Path) -> None:
    def make() -> Response:
        return tar_response(
            [tree / "nothing", tree / "names"],
            arcname=["a", "b/c"],
            compression="gzip",
            level=9,
            filename="Büro.tgz",
            media_type="application/x-tgz",
            headers={"x-made-by": "us"},
        )

    async with open_client(make_app(make)) as client:
        response = await client.get("/")
    with tarfile.open(fileobj=io.BytesIO(response.content)) as archive:
        assert archive.getnames()[:2] == ["a", "b/c"]
    named = "attachment; filename*=utf-8''B%C3%BCro.tgz"
    assert response.headers["content-disposition"] == named  # BK-15
    assert response.headers["content-type"] == "application/x-tgz"
    assert response.headers["x-made-by"] == "us"


@pytest.mark.parametrize("compression", [None, "gzip"])
async def test_deterministic_archive_is_the_same_after_a_touch(
    tmp_path: Path, compression: Any
) -> None:
    root = make_tree(tmp_path / "tree")
    make = partial(tar_response, root, deterministic=True, compression=compression)
    async with open_client(make_app(make)) as client:
        first = await client.get("/")
        os.utime(root / "sizes" / "one", (0, 10**9))
        assert (await client.get("/")).content == first.content


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"level": 3}, "a level is of a compression"),
        ({"compression": "bzip2"}, "compression must be 'gzip', 'zstd' or None"),
        ({"compression": "gzip", "level": 10}, "a level of gzip is 1 to 9"),
        ({"format": 7}, "format is one of tarfile's"),
        ({"arcname": ".."}, "it leads upwards"),
    ],
)
def test_options_that_cannot_be_are_refused_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tar_response("tree", **options)


@pytest.mark.parametrize("compression", [None, "gzip"])
@pytest.mark.usefixtures("each_host")
async def test_missing_path_is_a_clean_error(
    tree: Path, compression: Any, caplog: pytest.LogCaptureFixture
) -> None:
    # BK-20
    make = partial(
        tar_response, [tree, tree / "missing"], compression=compression, filename="a.tgz"
    )
    async with open_server(make_app(make)) as port, open_raw(port) as raw:
        await raw.request("GET", "/")
        status, headers = await raw.read_head()
        body = await raw.read_body()
    assert status == 500
    assert "content-disposition" not in headers
    assert headers["content-type"].startswith("text/plain")
    assert not body.startswith(b"\x1f\x8b")
    assert "missing" in "\n".join(logged(caplog, logging.ERROR)) + caplog.text


@pytest.mark.parametrize("compression", [None, "gzip"])
@pytest.mark.usefixtures("each_host")
async def test_failure_on_the_way_cuts_the_archive(
    tmp_path: Path, compression: Any, caplog: pytest.LogCaptureFixture
) -> None:
    # BK-18, BK-21, BK-22, BK-23
    def fail_at_last(path: str, flags: int) -> int:
        if path.endswith("last"):
            raise OSError(errno.EIO, "Input/output error")
        return os.open(path, flags)

    write(tmp_path / "tree" / "first", os.urandom(4 * MIB))
    write(tmp_path / "tree" / "last", b"x")
    make = partial(tar_response, tmp_path / "tree", compression=compression, opener=fail_at_last)
    async with open_server(make_app(make)) as port, open_raw(port) as raw:
        await raw.request("GET", "/")
        assert (await raw.read_head())[0] == 200
        with pytest.raises(Truncated) as caught:
            await raw.read_body()
    assert caught.value.body  # but for what the thread was ahead
    if compression:
        with pytest.raises(EOFError):
            gzip.decompress(caught.value.body)
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    (error,) = [record for record in errors if record.name == "tsstream"]
    assert error.exc_info is not None
    assert f"error: '{tmp_path}/tree/last'" in str(error.exc_info[1])


async def test_file_that_is_changed_while_a_range_is_sent_cuts_it(tmp_path: Path) -> None:
    # BK-17
    root = tmp_path / "tree"
    write(root / "log", b"x" * 4 * MIB)
    app = make_app(partial(tar_response, root))
    async with open_client(app) as client:
        await client.head("/")
        await trio.sleep(0.05)
        async with client.stream("GET", "/", headers={"range": "bytes=1-"}) as response:
            assert response.status_code == 206
            await response.body.receive()
            with (root / "log").open("ab") as file:
                file.write(b"more")
            with pytest.raises(TruncatedBodyError):
                async for _ in response.body:
                    pass


async def test_stuck_look_at_a_tree_does_not_hold_up_the_client_that_leaves(
    tree: Path,
) -> None:
    # BK-26, BK-27
    stuck, go_on = trio.Event(), threading.Event()
    token = trio.lowlevel.current_trio_token()

    def wait(info: tarfile.TarInfo) -> tarfile.TarInfo:
        token.run_sync_soon(stuck.set)
        assert go_on.wait(2 * IN_TIME)
        return info

    async def enter() -> None:
        async with tar_response(tree, filter=wait):
            raise AssertionError

    async with assert_no_leaks():
        with trio.fail_after(IN_TIME):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(enter)
                await stuck.wait()
                nursery.cancel_scope.cancel()
        go_on.set()


def iterate(paths: list[Path]) -> Iterator[Path]:
    yield from paths


async def test_paths_may_be_any_iterable(tree: Path) -> None:
    async with tar_response(iterate([tree / "nothing"])) as chunks:
        data = b"".join([chunk async for chunk in chunks])
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert archive.getnames() == ["nothing"]
