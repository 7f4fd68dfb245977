"""Multipart uploads through sockets: whole files, or none; and never all of one in memory."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
from forms import CONTENT_TYPE, END, FORM, FORM_PARTS, part, pieces
from leaks import assert_no_leaks
from probes import IDLE, IN_TIME, WAYS_TO_LEAVE, leave
from processes import open_process
from wire import RawConnection, open_h2, open_raw, open_server

from tsstream import App, BodyLimits, Request, serve

MIB = 1024 * 1024
DATA = os.urandom(5 * MIB)
UPLOAD = part("name", b"a backup") + part("upload", DATA, "../backup.bin") + END
CHUNKED = {"transfer-encoding": "chunked", "content-type": CONTENT_TYPE}


def declared(size: int) -> dict[str, str]:
    return {"content-length": str(size), "content-type": CONTENT_TYPE}


def http_chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def make_app(directory: Path, limits: BodyLimits | None = None) -> App:
    """Give an app that saves every file to *directory* under the field's name."""
    app = App(body_limits=limits)

    @app.post("/")
    async def save(request: Request) -> str:
        found: list[tuple[str, str | None, int]] = []
        async for one in request.parts():
            if one.filename is None:
                found.append((one.name, None, len(await one.text())))
            else:
                found.append((one.name, one.filename, await one.save(directory / one.name)))
        return json.dumps(found)

    @app.post("/parts")
    async def echo(request: Request) -> str:
        return json.dumps(
            [
                (one.name, one.filename, (await one.read()).decode("latin-1"))
                async for one in request.parts()
            ]
        )

    @app.post("/form")
    async def form(request: Request) -> str:
        return json.dumps(list(await request.form()))

    return app


async def wait_until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(IN_TIME):  # noqa: ASYNC912
        while not condition():  # noqa: ASYNC110 (the disk has no event)
            await trio.sleep(0.005)


def bytes_in(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.iterdir())


def as_json(parts: list[tuple[str, str | None, bytes]]) -> list[list[str | None]]:
    return [[name, filename, data.decode("latin-1")] for name, filename, data in parts]


@asynccontextmanager
async def open_upload(app: App) -> AsyncIterator[RawConnection]:
    async with open_server(app, keep_alive_timeout=IDLE) as port, assert_no_leaks():
        async with open_raw(port) as raw:
            yield raw


@pytest.mark.usefixtures("each_host")
@pytest.mark.parametrize("coding", ["declared", "chunked"])
async def test_a_file_arrives_as_it_was_sent(tmp_path: Path, coding: str) -> None:
    # BK-28, BK-29, BK-30
    async with open_upload(make_app(tmp_path)) as raw:
        if coding == "declared":
            await raw.request("POST", "/", declared(len(UPLOAD)))
            for data in pieces(UPLOAD, 99_991):
                await raw.send_all(data)
        else:
            await raw.request("POST", "/", CHUNKED)
            for data in pieces(UPLOAD, 99_991):
                await raw.send_all(http_chunk(data))
            await raw.send_all(b"0\r\n\r\n")
        status, _ = await raw.read_head()
        body = await raw.read_body()
    assert status == 200
    assert json.loads(body) == [["name", None, 8], ["upload", "../backup.bin", len(DATA)]]
    assert os.listdir(tmp_path) == ["upload"]
    assert (tmp_path / "upload").read_bytes() == DATA


@pytest.mark.usefixtures("each_host")
async def test_a_body_that_comes_byte_by_byte(tmp_path: Path) -> None:
    # BK-29
    async with open_upload(make_app(tmp_path)) as raw:
        await raw.request("POST", "/parts", CHUNKED)
        for data in pieces(FORM, 1):
            await raw.send_all(http_chunk(data))
        await raw.send_all(b"0\r\n\r\n")
        assert (await raw.read_head())[0] == 200
        assert json.loads(await raw.read_body()) == as_json(FORM_PARTS)


@pytest.mark.usefixtures("each_host")
async def test_a_file_arrives_over_http2(tmp_path: Path) -> None:
    async with open_server(make_app(tmp_path)) as port, open_h2(port) as h2:
        stream = await h2.request("POST", "/", {"content-type": CONTENT_TYPE}, end_stream=False)
        for data in pieces(UPLOAD, 99_991):
            await h2.send_data(stream, data)
        await h2.send_data(stream, b"", end_stream=True)
        assert (await h2.read_head(stream))[0] == 200
        await h2.read_body(stream)
    assert (tmp_path / "upload").read_bytes() == DATA


@pytest.mark.usefixtures("each_host")
async def test_a_file_is_written_as_it_arrives(tmp_path: Path) -> None:
    # BK-28
    async with open_upload(make_app(tmp_path)) as raw:
        await raw.request("POST", "/", declared(len(UPLOAD)))
        await raw.send_all(UPLOAD[: 4 * MIB])
        await wait_until(lambda: bytes_in(tmp_path) > 3 * MIB)
        assert not (tmp_path / "upload").exists()
        await raw.send_all(UPLOAD[4 * MIB :])
        assert (await raw.read_head())[0] == 200
        await raw.read_body()
    assert (tmp_path / "upload").read_bytes() == DATA


@pytest.mark.usefixtures("each_host")
@pytest.mark.parametrize("way", WAYS_TO_LEAVE)
@pytest.mark.parametrize("coding", ["declared", "chunked"])
async def test_a_client_that_leaves_leaves_no_file(tmp_path: Path, way: str, coding: str) -> None:
    # BK-38, BK-41: not even if the last boundary is all that lacks
    (tmp_path / "upload").write_bytes(b"old")
    for size in (MIB, len(UPLOAD) - len(END)):
        async with open_upload(make_app(tmp_path)) as raw:
            if coding == "declared":
                await raw.request("POST", "/", declared(len(UPLOAD)))
                await raw.send_all(UPLOAD[:size])
            else:
                await raw.request("POST", "/", CHUNKED)
                await raw.send_all(http_chunk(UPLOAD[:size]))
            await wait_until(lambda: len(os.listdir(tmp_path)) == 2)
            await leave(raw, way)
            await wait_until(lambda: len(os.listdir(tmp_path)) == 1)
        assert (tmp_path / "upload").read_bytes() == b"old"


@pytest.mark.usefixtures("each_host")
@pytest.mark.parametrize(
    ("path", "headers", "body", "status"),
    [
        ("/parts", {}, UPLOAD, 413),  # a field of 5 MiB
        ("/form", {}, UPLOAD, 413),
        ("/parts", {}, FORM[:-9], 400),
        ("/parts", {}, b"--frontier\r\nrubbish\r\n" + UPLOAD, 400),
        ("/parts", {"content-type": "text/plain"}, UPLOAD, 415),
        ("/parts", {"content-type": "multipart/form-data"}, UPLOAD, 400),
        ("/form", {}, FORM, 200),
    ],
)
async def test_errors_arrive_at_a_client_that_writes_first(
    tmp_path: Path, path: str, headers: dict[str, str], body: bytes, status: int
) -> None:
    # RQ-26
    app = make_app(tmp_path, BodyLimits(max_body=4 * MIB))
    async with open_upload(app) as raw:
        with trio.fail_after(IN_TIME):
            await raw.request("POST", path, {**declared(len(body)), **headers})
            await raw.send_all(body)
            assert (await raw.read_head())[0] == status
            await raw.read_body()


MEMORY_APP = make_app(Path(os.environ.get("UPLOADS", ".")))


async def main() -> None:
    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(partial(serve, MEMORY_APP, bind=["127.0.0.1:0"]))
        sys.stdout.write(address + "\n")
        sys.stdout.flush()


async def upload_blocks(raw: RawConnection, block: bytes, count: int) -> str:
    """Upload *count* times *block* as one file; give its sha256."""
    start, end = part("upload", b"", "f")[:-2], b"\r\n" + END
    digest = hashlib.sha256()
    await raw.request("POST", "/", declared(len(start) + len(block) * count + len(end)))
    await raw.send_all(start)
    for _ in range(count):
        await raw.send_all(block)
        digest.update(block)
    await raw.send_all(end)
    assert (await raw.read_head())[0] == 200
    await raw.read_body()
    return digest.hexdigest()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
async def test_memory_of_a_large_upload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # BK-28: at most 16 MiB
    monkeypatch.setenv("UPLOADS", str(tmp_path))
    block = os.urandom(MIB)
    async with open_process(__file__) as server, open_raw(server.port) as raw:
        await upload_blocks(raw, block, 8)
        before = server.read_memory("VmHWM")
        expected = await upload_blocks(raw, block, 256)
        assert server.read_memory("VmHWM") - before <= 8 * MIB
    with (tmp_path / "upload").open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == expected


if __name__ == "__main__":
    trio.run(main)
