"""examples/upload.py: what each path does, over sockets."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path

import pytest
import trio
from leaks import assert_no_leaks
from probes import IDLE, IN_TIME, PROMPT
from uploading import (
    CHUNKED,
    LAST_CHUNK,
    Pump,
    chunk,
    post,
    post_json,
    read_stats,
    send_what_is_taken,
    wait_streams,
)
from wire import Truncated, open_guarded, open_h2, open_raw, open_server

from examples.upload import app

ROOT = Path(__file__).parents[2]

FIFTY_CHUNKS = chunk(b"x") * 50 + LAST_CHUNK

CHUNK = 512 * 1024  # bytes: what our server receives at a time, at most


@pytest.fixture
async def port() -> AsyncIterator[int]:
    async with open_guarded(app) as port:
        yield port


@pytest.mark.parametrize("size", [0, 10, 5_000_000])
async def test_count_takes_all(port: int, size: int) -> None:
    counted = await post_json(port, "/count", bytes(size))
    assert counted["bytes"] == size
    assert (counted["chunks"] == 0) is (size == 0)


async def test_count_gives_no_answer_to_a_part_of_a_body(port: int) -> None:
    # RQ-19
    async with open_raw(port) as raw:
        await raw.request("POST", "/count", {"content-length": "1000"})
        await raw.send_all(bytes(400))
        await wait_streams(port, 1)
        await raw.half_close()
        assert await raw.read_until_closed() == b""
        await wait_streams(port, 0, within=PROMPT)


async def test_slow_takes_so_many_chunks_a_second(port: int) -> None:
    start = trio.current_time()
    counted = await post_json(port, "/slow?rate=50", bytes(1_000_000))
    assert counted["bytes"] == 1_000_000
    assert trio.current_time() - start >= counted["chunks"] / 50


@pytest.mark.parametrize("rate", ["0", "-1", "x", "nan", "inf", "1e-320"])
async def test_a_rate_that_is_none_is_400(port: int, rate: str) -> None:
    status, answer = await post(port, f"/slow?rate={rate}", b"x")
    assert status == 400
    assert b"rate is a number of at least 0.001" in answer


@pytest.mark.usefixtures("each_host")
async def test_echo_gives_back_each_chunk_before_the_next_is_sent() -> None:
    async with open_server(app, keep_alive_timeout=IDLE) as port, assert_no_leaks():
        async with open_raw(port) as raw:
            await raw.request("POST", "/echo", {**CHUNKED, "content-type": "text/x-story"})
            with trio.fail_after(IN_TIME):
                await raw.send_all(chunk(b"once"))
                status, headers = await raw.read_head()
                assert (status, headers["content-type"]) == (200, "text/x-story")
                assert await raw.read_chunk() == b"once"
                for word in (b"upon", b"a", b"time"):
                    await raw.send_all(chunk(word))
                    assert await raw.read_chunk() == word
                await raw.send_all(LAST_CHUNK)
                assert await raw.read_chunk() is None


@pytest.mark.usefixtures("each_host")
async def test_echo_in_lockstep_on_http2() -> None:
    async with open_server(app) as port, open_h2(port) as client:
        stream_id = await client.request("POST", "/echo", end_stream=False)
        with trio.fail_after(IN_TIME):
            await client.send_data(stream_id, b"once")
            assert (await client.read_head(stream_id))[0] == 200
            assert await client.read_chunk(stream_id) == b"once"
            for word in (b"upon", b"a", b"time"):
                await client.send_data(stream_id, word)
                assert await client.read_chunk(stream_id) == word
            await client.send_data(stream_id, b"", end_stream=True)
            assert await client.read_chunk(stream_id) is None


async def test_echo_carries_what_is_larger_than_any_buffer(port: int) -> None:
    data = os.urandom(1024) * 20_000
    assert await post(port, "/echo", data) == (200, data)


async def test_echo_is_cut_if_its_client_breaks_off(port: int) -> None:
    # RQ-19: what is not whole is not ended as if it were.
    async with open_raw(port) as raw:
        await raw.request("POST", "/echo", CHUNKED)
        await raw.send_all(chunk(b"once upon"))
        await raw.read_head()
        assert await raw.read_chunk() == b"once upon"
        await raw.half_close()
        with pytest.raises(Truncated):
            await raw.read_chunk()
        await wait_streams(port, 0, within=PROMPT)


async def test_echo_that_nobody_reads_ends_when_its_client_resets() -> None:
    # RQ-24. (How long it may take where the server hides the reset: tests/http/test_net_duplex.py)
    async with open_guarded(app) as port, assert_no_leaks():
        async with open_raw(port, receive_buffer=4096) as raw, trio.open_nursery() as nursery:
            await raw.request("POST", "/echo", {"content-length": "50000000"})
            pump = Pump(raw)
            nursery.start_soon(pump.run, 50_000_000)
            await raw.read_head()
            await pump.wait_stuck()
            raw.abort()
            await wait_streams(port, 0, within=PROMPT)


@pytest.mark.usefixtures("each_host")
@pytest.mark.parametrize("size", [10, 100_000, 700_000, 5_000_000])
async def test_ignore_answers_whatever_is_sent(size: int) -> None:
    # RQ-21
    async with open_server(app, keep_alive_timeout=IDLE) as port, assert_no_leaks():
        start = trio.current_time()
        assert await post(port, "/ignore?sleep=0.1", bytes(size)) == (200, b"ok")
        assert 0.1 <= trio.current_time() - start < 1.1


@pytest.mark.usefixtures("each_host")
async def test_ignore_answers_fifty_chunks_of_a_byte() -> None:
    # RQ-21: those 300 bytes made a raw application on the stock server hang.
    async with open_server(app, keep_alive_timeout=IDLE) as port, assert_no_leaks():
        async with open_raw(port) as raw:
            await raw.request("POST", "/ignore?sleep=0.1", CHUNKED)
            await raw.send_all(FIFTY_CHUNKS)
            with trio.fail_after(1.1):
                assert (await raw.read_head())[0] == 200
                assert await raw.read_body() == b"ok"
        assert (await read_stats(port))["bytes_taken"] == 0


@pytest.mark.usefixtures("each_host")
async def test_ignore_stream_ticks_and_hears_its_client_leave_behind_an_unread_body() -> None:
    # RQ-22
    async with open_server(app) as port:
        before = await read_stats(port)
        async with open_raw(port) as raw, trio.open_nursery() as nursery:
            await raw.request("POST", "/ignore-stream", {"content-length": "5000000"})
            nursery.start_soon(send_what_is_taken, raw, bytes(4_999_999))
            status, headers = await raw.read_head()
            assert (status, headers["content-type"]) == (200, "text/plain; charset=utf-8")
            assert await raw.read_chunk() == b"tick\n"
            assert await raw.read_chunk() == b"tick\n"
            assert (await read_stats(port))["streams"] == 1
            raw.abort()
            await wait_streams(port, 0, within=PROMPT)
        with trio.fail_after(PROMPT):
            while (await read_stats(port))["tasks"] > before["tasks"]:
                pass


BOUNDARY = "frontier"
MULTIPART = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}


def make_form(*parts: tuple[str, bytes]) -> bytes:
    lines = [
        f"--{BOUNDARY}\r\nContent-Disposition: form-data; {what}\r\n\r\n".encode() + data + b"\r\n"
        for what, data in parts
    ]
    return b"".join(lines) + f"--{BOUNDARY}--\r\n".encode()


async def test_form_has_the_fields_and_a_fingerprint_of_each_file(port: int) -> None:
    picture = os.urandom(1024) * 3_000
    data = make_form(
        ('name="title"', "två rader".encode()),
        ('name="file"; filename="a.jpg"', picture),
        ('name="file"; filename="empty"', b""),
    )
    assert await post_json(port, "/form", data, **MULTIPART) == {
        "fields": {"title": "två rader"},
        "files": [
            {"name": "a.jpg", "size": len(picture), "sha256": sha256(picture).hexdigest()},
            {"name": "empty", "size": 0, "sha256": sha256().hexdigest()},
        ],
    }
    stats = await read_stats(port)
    assert stats["bytes_taken"] == len("två rader".encode()) + len(picture)
    assert stats["peak_buffered"] <= CHUNK + len("två rader".encode())


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"a=1", {"content-type": "application/x-www-form-urlencoded"}, 415),
        (make_form(('name="a"', b"1"))[:-8], MULTIPART, 400),
        (make_form(('name="a"', bytes(16 * 1024 + 1))), MULTIPART, 413),
        (make_form(*[('name="a"', b"1")] * 101), MULTIPART, 413),
    ],
)
async def test_form_refuses(port: int, body: bytes, headers: dict[str, str], status: int) -> None:
    assert (await post(port, "/form", body, headers))[0] == status


async def test_stats_of_an_idle_program(port: int) -> None:
    stats = await read_stats(port)
    assert stats.pop("tasks") > 0
    assert stats == {"bytes_taken": 0, "peak_buffered": 0, "streams": 0}


async def test_one_chunk_of_an_upload_is_held(port: int) -> None:
    # RQ-1
    counted = await post_json(port, "/count", bytes(5_000_000))
    stats = await read_stats(port)
    assert stats["bytes_taken"] == counted["bytes"]
    assert stats["peak_buffered"] <= CHUNK


def test_as_people_start_it_with_curl() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "examples.upload", "127.0.0.1:0"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().split()[-1]
            assert address.startswith("http://127.0.0.1:")
            if curl := shutil.which("curl"):  # the same with raw clients above
                path = str(ROOT / "README.md")
                size = Path(path).stat().st_size
                command = [curl, "--silent", "--show-error", "--max-time", "10"]
                for options in (["-X", "POST", "-T", path], ["--data-binary", f"@{path}"]):
                    output = subprocess.check_output([*command, *options, f"{address}/count"])
                    assert json.loads(output)["bytes"] == size
                command += ["-F", "title=README", "-F", f"file=@{path}", f"{address}/form"]
                answer = json.loads(subprocess.check_output(command))
                assert answer["fields"] == {"title": "README"}
                assert answer["files"][0]["sha256"] == sha256(Path(path).read_bytes()).hexdigest()
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=IN_TIME)
        finally:
            process.kill()
    assert (process.returncode, errors) == (0, "")
