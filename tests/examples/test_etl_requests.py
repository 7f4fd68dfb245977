"""examples/etl over sockets: routes, framing, statuses."""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import threading
from collections.abc import Callable, Iterator
from io import BufferedIOBase
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import trio
from etl_kit import SHA256, Gunzip, Upper, ask, build, open_etl, open_target, streaming, whole
from leaks import assert_no_leaks
from wire import Truncated, open_guarded, open_raw

from examples.etl.server import ETLServer


def show(data: bytes | str, path: str, etl_args: str) -> bytes:
    """Say what a transform is given."""
    return repr((data, path, etl_args)).encode()


class Both(ETLServer):
    def transform(self, data: bytes | str, path: str, etl_args: str) -> bytes:
        return b"whole"

    def transform_stream(self, reader: BufferedIOBase, path: str, etl_args: str) -> Iterator[bytes]:
        yield b"streamed"


async def test_health() -> None:  # ET-1
    async with open_etl(Upper) as port:
        status, headers, body = await ask(port, "GET", "/health")
        assert (status, headers["content-length"], body) == (200, "7", b"Running")
        for method in ("PUT", "POST", "DELETE", "PATCH"):
            status, headers, _ = await ask(port, method, "/health", body=b"an object")
            assert (status, headers["allow"]) == (405, "GET, HEAD")


async def test_other_methods_are_not_allowed() -> None:  # ET-2
    async with open_etl(Upper) as port:
        for method in ("POST", "DELETE", "PATCH", "OPTIONS"):
            status, headers, _ = await ask(port, method, "/bck/obj")
            assert (status, headers["allow"]) == (405, "GET, HEAD, PUT")


async def test_the_shortest_path_is_one_like_others() -> None:  # ET-2
    async with open_target() as target, open_etl(Upper, target.url) as port:
        assert (await ask(port, "PUT", "/", body=b"x"))[::2] == (200, b"X")
        status, headers, _ = await ask(port, "DELETE", "/")
        assert (status, headers["allow"]) == (405, "GET, HEAD, PUT")
        target.objects[""] = b"root"
        assert (await ask(port, "GET", "/"))[::2] == (200, b"ROOT")


async def test_head_runs_no_transform() -> None:  # ET-2
    def fail(data: bytes, path: str, etl_args: str) -> bytes:
        raise AssertionError

    async with open_target(obj=b"data") as target, open_etl(whole(fail), target.url) as port:
        status, headers, body = await ask(port, "HEAD", "/obj")
        assert (status, headers["content-type"]) == (200, "application/octet-stream")
        assert body == b""
        assert "content-length" not in headers
        assert target.opened == 0


async def test_the_target_is_asked_for_the_same_path() -> None:  # ET-3
    path = quote("/ais/@ns/mybucket/path with ñ/obj")
    async with open_target() as target, open_etl(Upper, target.url) as port:
        await ask(port, "GET", path)
        assert target.seen[0][:2] == (
            "GET",
            "/ais%2F@ns%2Fmybucket%2Fpath%20with%20%C3%B1%2Fobj",
        )


@pytest.mark.parametrize(
    ("path", "given"),
    [
        ("/bck/obj", (b"data", "bck/obj", "")),
        ("/bck/obj?etl_args=%20a%2Fb%20", (b"data", "bck/obj", "a/b")),
        ("/ais%2F@ns%2F%C3%B1?etl_args=x&etl_args=y", (b"data", "ais/@ns/ñ", "y")),
    ],
)
async def test_what_a_transform_is_given(path: str, given: tuple[Any, ...]) -> None:  # ET-4
    async with open_etl(whole(show)) as port:
        assert await ask(port, "PUT", path, body=b"data") == (
            200,
            {**(await ask(port, "PUT", path, body=b"data"))[1]},
            repr(given).encode(),
        )


async def test_a_whole_result_has_a_length_and_a_stream_has_none() -> None:  # ET-8
    async with open_etl(SHA256) as port:
        status, headers, body = await ask(port, "PUT", "/b/o", body=b"data")
        assert (status, headers["content-length"]) == (200, "64")
        assert headers["content-type"].startswith("text/plain")
        assert body.decode() == hashlib.sha256(b"data").hexdigest()
    async with open_etl(Upper) as port:
        status, headers, body = await ask(port, "PUT", "/b/o", body=b"data")
        assert (status, headers["transfer-encoding"], body) == (200, "chunked", b"DATA")
        assert headers["content-type"] == "application/octet-stream"
        assert "content-length" not in headers


@pytest.mark.parametrize("kind", [Upper, whole(lambda data, path, etl_args: data.upper())])
async def test_a_chunked_request_is_an_object(kind: type[ETLServer]) -> None:  # ET-9
    async with open_etl(kind) as port, open_raw(port) as raw:
        await raw.request("PUT", "/b/o", {"transfer-encoding": "chunked"})
        await raw.send_all(b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n")
        assert (await raw.read_head())[0] == 200
        assert await raw.read_body() == b"HELLO"


@pytest.mark.parametrize("end", ["close", "abort", "half_close"])
@pytest.mark.parametrize("streamed", [True, False])
async def test_a_short_object_is_never_an_end(  # ET-10
    end: str, streamed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    read: list[bytes] = []

    def read_all(reader: BufferedIOBase, path: str, etl_args: str) -> Iterator[bytes]:
        while chunk := reader.read1():
            read.append(chunk)
        read.append(b"END")
        yield b"done"

    def take(data: bytes, path: str, etl_args: str) -> bytes:
        read.append(data)
        return b"done"

    async with open_etl(streaming(read_all) if streamed else whole(take)) as port:
        async with assert_no_leaks():
            async with open_raw(port) as raw:
                await raw.request("PUT", "/b/o", {"content-length": "1000"})
                await raw.send_all(b"x" * 400)
                await trio.sleep(0.05)  # the 400 bytes are being read
                if end == "half_close":
                    await raw.half_close()
                    assert not (await raw.read_until_closed()).startswith(b"HTTP/1.1 200")
                else:
                    getattr(raw, end)()
    assert b"END" not in read
    assert [r.getMessage() for r in caplog.records if r.levelname == "ERROR"] == []
    assert len(b"".join(read)) in ((400,) if streamed else (0,))


async def test_transform_wins_over_transform_stream() -> None:  # ET-11
    async with open_etl(Both) as port:
        assert (await ask(port, "PUT", "/b/o", body=b"x"))[2] == b"whole"


def local(kind: type[ETLServer], root: Path, direct: object = "") -> Any:
    return open_etl(kind, ETL_FQN_ROOTS=root, ETL_DIRECT_FQN=direct)


@pytest.mark.parametrize("method", ["GET", "PUT"])
async def test_a_local_object_is_read_from_its_path(method: str, tmp_path: Path) -> None:  # ET-5
    path = tmp_path / "obj ñ"
    path.write_bytes(b"local " * 100_000)
    async with local(Upper, tmp_path) as port:
        query = quote(quote(str(path), safe=""), safe="")  # as the Go target does
        status, _, body = await ask(port, method, f"/b/o?etl_fqn={query}")
    assert (status, body) == (200, b"LOCAL " * 100_000)


async def test_a_path_outside_the_roots_is_forbidden(tmp_path: Path) -> None:  # ET-6
    (tmp_path / "link").symlink_to("/etc")
    for kind in (Upper, SHA256):
        for direct in ("false", "true"):
            async with local(kind, tmp_path, direct=direct) as port:
                for fqn in ("/etc/hostname", f"{tmp_path}/../x", f"{tmp_path}/link/hostname"):
                    status, _, body = await ask(port, "PUT", f"/b/o?etl_fqn={quote(fqn)}")
                    assert status == 403
                    assert b"ETL_FQN_ROOTS" in body


@pytest.mark.parametrize("name", ["none", "none/obj", "directory", "fifo", "x" * 300, "obj/obj"])
@pytest.mark.parametrize(("kind", "direct"), [(Upper, ""), (SHA256, ""), (SHA256, "true")])
async def test_a_local_object_that_is_not_there_is_404(  # ET-19
    name: str, kind: type[ETLServer], direct: str, tmp_path: Path
) -> None:
    """Nor is anything else than a file an object. Opening a pipe would wait for its writer."""
    (tmp_path / "directory").mkdir()
    (tmp_path / "obj").write_bytes(b"data")
    os.mkfifo(tmp_path / "fifo")
    path = tmp_path / name
    async with local(kind, tmp_path, direct=direct) as port, assert_no_leaks():
        with trio.fail_after(2):
            for method in ("GET", "PUT"):
                answer = await ask(port, method, f"/b/o?etl_fqn={quote(str(path))}")
                text = f"Error processing object 'b/o': file not found at {str(path)!r}."
                assert (answer[0], answer[2].decode()) == (404, text)


async def test_a_local_object_that_goes_is_404(tmp_path: Path) -> None:  # ET-19
    path = tmp_path / "obj"
    began, go_on = threading.Event(), threading.Event()

    def wait(reader: BufferedIOBase, path: str, etl_args: str) -> Iterator[bytes]:
        began.set()
        assert go_on.wait(5)
        yield reader.read()

    path.write_bytes(b"data")
    query = f"etl_fqn={quote(str(path))}"
    statuses: list[int] = []

    async def get(port: int) -> None:
        statuses.append((await ask(port, "GET", f"/b/o?{query}"))[0])

    server = build(streaming(wait), ETL_FQN_ROOTS=tmp_path, MAX_TRANSFORMS=1)
    async with open_guarded(server.app) as port, trio.open_nursery() as nursery:
        nursery.start_soon(get, port)
        await trio.to_thread.run_sync(began.wait, 5)
        nursery.start_soon(get, port)  # it is there, but there is no place for the transform
        await trio.sleep(0.05)
        path.unlink()
        go_on.set()
    assert sorted(statuses) == [200, 404]


async def test_a_direct_fqn_is_given_as_a_path(tmp_path: Path) -> None:  # ET-7
    path = tmp_path / "obj"
    path.write_bytes(b"data")
    query = f"/b/o?etl_fqn={quote(str(path))}"
    async with local(whole(show), tmp_path, direct="true") as port:
        assert (await ask(port, "PUT", query))[2] == repr((str(path), "b/o", "")).encode()
        assert (await ask(port, "GET", query))[2] == repr((str(path), "b/o", "")).encode()
        assert (await ask(port, "PUT", "/b/o", body=b"x"))[2] == repr((b"x", "b/o", "")).encode()
    async with local(whole(show), tmp_path) as port:
        assert (await ask(port, "PUT", query))[2] == repr((b"data", "b/o", "")).encode()
    async with local(Upper, tmp_path, direct="true") as port:
        assert (await ask(port, "PUT", query))[2] == b"DATA"


async def test_a_big_object_is_the_same_streamed_and_whole() -> None:  # ET-17
    def in_small_reads(reader: BufferedIOBase, path: str, etl_args: str) -> Iterator[bytes]:
        while chunk := reader.read(4096):
            yield chunk.upper()

    data = bytes(range(256)) * 4096
    upper = whole(lambda data, path, etl_args: data.upper())
    for kind in (streaming(in_small_reads), upper):
        async with open_etl(kind) as port:
            assert (await ask(port, "PUT", "/b/o", body=data))[2] == data.upper()


async def test_gunzip_streams_and_fails_visibly_at_a_missing_end() -> None:
    packed = gzip.compress(bytes(range(256)) * 4096)
    async with open_etl(Gunzip) as port:
        status, _, body = await ask(port, "PUT", "/b/o", body=packed)
        assert (status, body) == (200, bytes(range(256)) * 4096)
        with pytest.raises(Truncated):
            await ask(port, "PUT", "/b/o", body=packed[:-100])
        status, _, body = await ask(port, "PUT", "/b/o", body=b"plain")
        assert (status, body[:17]) == (500, b"Processing error:")


async def test_a_transform_may_read_all_before_it_answers() -> None:  # ET-18
    def count(reader: BufferedIOBase, path: str, etl_args: str) -> Iterator[bytes]:
        yield str(len(reader.read())).encode()

    async with open_etl(streaming(count)) as port:
        assert (await ask(port, "PUT", "/b/o", body=b"x" * 3_000_000))[2] == b"3000000"


@pytest.mark.parametrize("chunks", [[], [b""], [b"", b""]])
async def test_a_transform_that_gives_nothing_is_an_empty_200(chunks: list[bytes]) -> None:  # ET-18
    async with open_etl(streaming(lambda reader, path, etl_args: iter(chunks))) as port:
        status, headers, body = await ask(port, "PUT", "/b/o", body=b"x")
    assert (status, headers["transfer-encoding"], body) == (200, "chunked", b"")


def missing() -> bytes:
    return Path("/nowhere/model.bin").read_bytes()


def wrong() -> bytes:
    raise ValueError("not a picture")


@pytest.mark.parametrize(
    ("act", "status", "text"),
    [
        (
            missing,
            404,
            "Error processing object 'b/o': file not found at '/nowhere/model.bin'.",
        ),
        (wrong, 500, "Processing error: not a picture"),
    ],
)
@pytest.mark.parametrize("streamed", [True, False])
async def test_an_error_before_the_first_chunk_has_its_status(  # ET-19
    act: Callable[[], bytes], status: int, text: str, streamed: bool
) -> None:
    def generate(reader: BufferedIOBase, path: str, etl_args: str) -> Iterator[bytes]:
        act()
        yield b""

    kind = streaming(generate) if streamed else whole(lambda data, path, etl_args: act())
    async with open_etl(kind) as port:
        answer = await ask(port, "PUT", "/b/o", body=b"x")
    assert (answer[0], answer[2].decode()) == (status, text)


async def test_an_invalid_pipeline_is_400() -> None:  # ET-19
    async with open_etl(Upper) as port:
        for value in (
            ",",
            "http://a,,http://b",
            "no url",
            "http://a/b c",
            "http://[::1",
            "http://a:99999",
        ):
            status, _, body = await ask(port, "PUT", "/b/o", {"ais-node-url": value}, b"x")
            assert status == 400
            assert re.match(b"Invalid pipeline", body)


async def test_several_pipeline_fields_are_one_list() -> None:  # RFC 9110, 5.3
    async with open_target() as target, open_etl(Upper) as port, open_raw(port) as raw:
        nodes = f"ais-node-url: {target.url}\r\nais-node-url: http://b:2, http://c:3"
        head = f"PUT /b/o HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n{nodes}\r\n\r\n"
        await raw.send_all(head.encode() + b"x")
        assert (await raw.read_head())[0] == 204
        assert target.seen[0][2]["ais-node-url"] == "http://b:2,http://c:3"


async def test_an_error_after_the_first_chunk_cuts_the_response() -> None:  # ET-20
    def fail(reader: BufferedIOBase, path: str, etl_args: str) -> Iterator[bytes]:
        yield b"A" * 10
        raise RuntimeError("in the middle")

    async with open_guarded(build(streaming(fail)).app) as port, open_raw(port) as raw:
        await raw.request("PUT", "/b/o", body=b"x")
        assert (await raw.read_head())[0] == 200
        with pytest.raises(Truncated) as caught:
            await raw.read_body()
        assert caught.value.body == b"A" * 10
