"""examples/etl over sockets: the thread of a transform, its reader, its end, its limits."""

from __future__ import annotations

import csv
import io
import logging
import tarfile
import threading
import time
from collections.abc import Iterator
from io import BufferedIOBase
from pathlib import Path

import pytest
import trio
from etl_kit import (
    IDLE_TIME,
    Upper,
    ask,
    build,
    node_url,
    open_etl,
    open_peer,
    open_target,
    streaming,
    whole,
)
from leaks import assert_no_leaks
from probes import PROMPT
from processes import open_process
from trio.testing import MockClock
from wire import RawConnection, Truncated, open_guarded, open_raw

from examples.etl.server import ETLServer

MIB = 1024 * 1024


class Life:
    """What a transform sees of its own life, over threads."""

    def __init__(self) -> None:
        self.yields = 0
        self.events: list[str] = []
        self.threads: set[int] = set()
        self.begun = threading.Event()
        self.ended = threading.Event()

    def note(self, event: str) -> None:
        self.events.append(event)
        self.threads.add(threading.get_ident())
        self.begun.set()

    async def wait_ended(self, within: float) -> None:
        assert await trio.to_thread.run_sync(self.ended.wait, within)


class Watched(ETLServer):
    """Gives a chunk each 20 ms until it is closed, whatever it is sent."""

    def __init__(self) -> None:
        super().__init__()
        self.life = Life()

    def transform_stream(self, reader: BufferedIOBase, path: str, etl_args: str) -> Iterator[bytes]:
        life = self.life
        life.note("begin")
        close = reader.close

        def note_close() -> None:
            if not reader.closed:
                life.note("reader closed")
            close()
            life.ended.set()

        reader.close = note_close  # type: ignore[method-assign]
        try:
            while etl_args != "read" or reader.read1():
                life.yields += 1
                yield b"x" * 100
                time.sleep(0.02)
                if life.yields == 3 and etl_args == "fail":
                    raise ValueError("as asked")
                if life.yields == 3 and etl_args == "end":
                    break
        finally:
            life.note("generator closed")


@pytest.fixture
def idle_clock() -> MockClock:
    """Jumps when nothing has happened for a while: sockets and threads take real time."""
    return MockClock(autojump_threshold=IDLE_TIME)


async def test_a_transform_runs_in_a_worker_thread() -> None:  # ET-14
    def where(reader: BufferedIOBase, path: str, etl_args: str) -> Iterator[bytes]:
        yield str(threading.get_ident()).encode()

    async with open_etl(streaming(where)) as port:
        ident = (await ask(port, "PUT", "/b/o", body=b"x"))[2]
    assert int(ident) != threading.get_ident()


async def test_the_reader_is_a_file_for_the_standard_library() -> None:  # ET-14
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name in ("one", "two"):
            member = tarfile.TarInfo(f"{name}.csv")
            table = f"{name},1\n{name},2\n".encode()
            member.size = len(table)
            archive.addfile(member, io.BytesIO(table))

    def rows(reader: BufferedIOBase, path: str, etl_args: str) -> Iterator[bytes]:
        with tarfile.open(fileobj=reader, mode="r|*") as archive:
            for member in archive:
                file = archive.extractfile(member)
                assert file is not None
                for name, number in csv.reader(file.read().decode().splitlines()):
                    yield f"{number} {name}\n".encode()

    async with open_etl(streaming(rows)) as port:
        body = (await ask(port, "PUT", "/b/o", body=packed.getvalue()))[2]
    assert body == b"1 one\n2 one\n1 two\n2 two\n"


@pytest.mark.parametrize("size", [64 * 1024, 7])
async def test_output_starts_before_the_input_ends(size: int) -> None:  # ET-15
    async with open_etl(Upper) as port, open_raw(port) as raw:
        await raw.request("PUT", "/b/o", {"content-length": str(10 * size)})
        for number in range(10):
            await raw.send_all(bytes([97 + number]) * size)
            if number == 0:
                assert (await raw.read_head())[0] == 200
            received = b""
            with trio.fail_after(1):  # noqa: ASYNC912
                while len(received) < size:
                    received += await raw.read_chunk() or b""
            assert received == bytes([65 + number]) * size
        assert await raw.read_body() == b""


async def test_memory_is_flat() -> None:  # ET-16 (the benchmark has the whole GiB)
    async def send(raw: RawConnection, mib: int) -> None:
        chunk = b"a" * MIB
        for _ in range(mib):
            await raw.send_all(chunk)

    async def put(port: int, mib: int) -> None:
        async with open_raw(port) as raw, trio.open_nursery() as nursery:
            await raw.request("PUT", "/b/o", {"content-length": str(mib * MIB)})
            nursery.start_soon(send, raw, mib)
            await raw.read_head()
            size = 0
            while chunk := await raw.read_chunk():
                size += len(chunk)
            assert size == mib * MIB

    async with open_process(str(Path(__file__).with_name("etl_memory_server.py"))) as server:
        await put(server.port, 8)
        before = server.read_memory("VmHWM")
        await put(server.port, 160)
        assert server.read_memory("VmHWM") - before <= 16 * MIB


@pytest.mark.parametrize("way", ["close", "abort", "half_close"])
async def test_a_client_that_leaves_stops_the_transform(way: str) -> None:  # ET-21
    server = build(Watched)
    assert isinstance(server, Watched)
    async with open_guarded(server.app) as port, assert_no_leaks():
        async with open_raw(port) as raw:
            await raw.request("PUT", "/b/o", body=b"x")
            await raw.read_head()
            await raw.read_chunk()
            if way == "half_close":
                await raw.half_close()
            else:
                getattr(raw, way)()
            yields = server.life.yields
            await server.life.wait_ended(PROMPT + 0.05)
        assert server.life.yields <= yields + 2
        assert server.life.events == ["begin", "generator closed", "reader closed"]


@pytest.mark.parametrize("way", ["end", "fail", "leave", "leave reading"])
async def test_generator_and_reader_are_closed_once_in_their_thread(way: str) -> None:  # ET-22
    server = build(Watched)
    assert isinstance(server, Watched)
    async with open_guarded(server.app) as port, assert_no_leaks():
        async with open_raw(port) as raw:
            args = "read" if way == "leave reading" else way
            length = {"content-length": "5"} if way == "leave reading" else {}
            await raw.request("PUT", f"/b/o?etl_args={args}", {**length}, body=b"x")
            await raw.read_head()
            if way == "end":
                assert await raw.read_body() == b"x" * 300
            elif way == "fail":
                with pytest.raises(Truncated):
                    await raw.read_body()
            else:
                await raw.read_chunk()
        await server.life.wait_ended(1)
    assert server.life.events == ["begin", "generator closed", "reader closed"]
    assert len(server.life.threads) == 1
    assert server.life.threads != {threading.get_ident()}


async def test_a_transform_that_never_started_has_nothing_to_close() -> None:  # ET-22, ET-25
    life = Life()
    release = threading.Event()

    def wait(data: bytes, path: str, etl_args: str) -> bytes:
        life.note(path)
        release.wait(5)
        return b""

    async with open_etl(whole(wait), MAX_TRANSFORMS=1) as port, assert_no_leaks():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, port, "PUT", "/first", None, b"x")
            await trio.to_thread.run_sync(life.begun.wait, 1)
            async with open_raw(port) as raw:
                await raw.request("PUT", "/waiting", body=b"x")
                await trio.sleep(0.05)
            await trio.sleep(0.05)
            release.set()
        assert (await ask(port, "PUT", "/last", body=b"x"))[0] == 200
    assert life.events == ["first", "last"]


@pytest.mark.parametrize("size", [100_000, 5_000_000])
async def test_a_transform_may_stop_reading_early(size: int) -> None:  # ET-23
    def head(reader: BufferedIOBase, path: str, etl_args: str) -> Iterator[bytes]:
        yield reader.read(10)

    async with open_etl(streaming(head)) as port, assert_no_leaks():
        async with open_raw(port) as raw, trio.open_nursery() as nursery:
            nursery.start_soon(send_request, raw, size)
            assert (await raw.read_head())[0] == 200
            assert await raw.read_body() == b"x" * 10
            if size < MIB:  # as much is read and dropped, so that the connection can go on
                await raw.request("GET", "/health")
                assert (await raw.read_head())[0] == 200
        assert (await ask(port, "GET", "/health"))[0] == 200


async def send_request(raw: RawConnection, size: int) -> None:
    try:
        await raw.request("PUT", "/b/o", body=b"x" * size)
    except trio.BrokenResourceError:
        pass


async def test_a_busy_transform_does_not_hold_up_others() -> None:  # ET-24
    def compute(data: bytes, path: str, etl_args: str) -> bytes:
        end = time.monotonic() + 0.6
        while time.monotonic() < end:
            sum(range(1000))
        return b"done"

    async with open_etl(whole(compute)) as port, trio.open_nursery() as nursery:
        nursery.start_soon(ask, port, "PUT", "/b/o", None, b"x")
        await trio.sleep(0.1)
        times = []
        for _ in range(3):
            start = trio.current_time()
            assert (await ask(port, "GET", "/health"))[2] == b"Running"
            times.append(trio.current_time() - start)
        assert min(times) < PROMPT  # a machine that is busy otherwise may hold up one of them
        assert sum(times) < 0.5


@pytest.mark.parametrize("streamed", [True, False])
async def test_so_many_transforms_run_and_the_others_wait(streamed: bool) -> None:  # ET-25
    running, most, lock = 0, 0, threading.Lock()

    def work() -> bytes:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.1)
        with lock:
            running -= 1
        return b"done"

    def generate(reader: BufferedIOBase, path: str, etl_args: str) -> Iterator[bytes]:
        yield b"begun"
        yield work()

    kind = streaming(generate) if streamed else whole(lambda data, path, etl_args: work())
    async with open_etl(kind, MAX_TRANSFORMS=8) as port:
        start = trio.current_time()
        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(ask, port, "PUT", "/b/o", None, b"x")
        assert 1.25 <= trio.current_time() - start <= 2.5
    assert most == 8


async def test_an_object_that_takes_too_long_is_504_or_cut() -> None:  # ET-26
    def slow(reader: BufferedIOBase, path: str, etl_args: str) -> Iterator[bytes]:
        if path == "late":
            yield b"begun"
        while True:
            time.sleep(0.01)
            trio.from_thread.check_cancelled()

    async with open_etl(streaming(slow), OBJ_TIMEOUT=0.2) as port, assert_no_leaks():
        status, _, body = await ask(port, "PUT", "/early", body=b"x")
        assert (status, body) == (504, b"The object has taken more than 0.2 s.")
        with pytest.raises(Truncated) as caught:
            await ask(port, "PUT", "/late", body=b"x")
        assert caught.value.body == b"begun"


async def test_a_transform_that_hears_nothing_is_left_behind(  # ET-26
    caplog: pytest.LogCaptureFixture,
) -> None:
    release = threading.Event()

    def deaf(data: bytes, path: str, etl_args: str) -> bytes:
        release.wait(10)
        return b"done"

    async with open_etl(whole(deaf), OBJ_TIMEOUT=0.1) as port, assert_no_leaks():
        start = trio.current_time()
        assert (await ask(port, "PUT", "/b/o", body=b"x"))[0] == 504
        assert trio.current_time() - start < 1.5
        release.set()
    said = [(r.levelno, "abandoned" in r.getMessage()) for r in caplog.records]
    assert (logging.WARNING, True) in said
    assert (logging.ERROR, True) not in said  # that nobody reads its result any more


async def test_objects_wait_for_no_transform_of_a_later_stage() -> None:
    """Stages on one server, with one place: who has it must not wait for the next to get it."""
    async with open_etl(Upper, MAX_TRANSFORMS=1) as port:
        nodes = ",".join([node_url(port)] * 3)

        async def put() -> None:
            answer = await ask(port, "PUT", "/b/o", {"ais-node-url": nodes}, b"x" * 300_000)
            assert (answer[0], answer[2]) == (200, b"X" * 300_000)

        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                for _ in range(10):
                    nursery.start_soon(put)


async def test_a_transform_that_drops_an_error_of_its_reader_gives_no_whole_result() -> None:
    def tolerant(reader: BufferedIOBase, path: str, etl_args: str) -> Iterator[bytes]:
        try:
            while chunk := reader.read1():
                yield chunk
        except Exception:
            yield b" and so on"

    async def talk(peer: object, raw: RawConnection) -> None:
        await raw.stream.receive_some()
        await raw.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nhalf")

    async with open_peer(talk) as peer, open_etl(streaming(tolerant), peer.url) as port:
        with pytest.raises(Truncated):
            await ask(port, "GET", "/b/o")
        async with open_target() as target:
            headers = {"ais-node-url": f"{target.url}/new"}
            assert (await ask(port, "GET", "/b/o", headers))[0] == 502
            assert target.objects == {}


async def test_an_upload_that_is_silent_for_a_minute_is_no_whole_object(
    idle_clock: MockClock,
) -> None:
    def tolerant(reader: BufferedIOBase, path: str, etl_args: str) -> Iterator[bytes]:
        try:
            yield reader.read()
        except Exception:
            yield b"nothing"

    async with open_etl(streaming(tolerant)) as port, open_raw(port) as raw:
        await raw.request("PUT", "/b/o", {"content-length": "9"})
        await raw.send_all(b"half")
        assert (await raw.read_head())[0] == 200
        with pytest.raises(Truncated):
            await raw.read_body()


async def test_a_big_object_is_refused_whole_and_streamed_through(tmp_path: Path) -> None:
    upper = whole(lambda data, path, etl_args: data.upper())
    data = b"x" * 100_000
    async with open_target(obj=data) as target:
        async with open_etl(upper, target.url, MAX_BUFFERED=99_999) as port:
            assert (await ask(port, "PUT", "/b/o", body=data))[0] == 413
            assert (await ask(port, "GET", "/obj"))[0] == 413
        async with open_etl(Upper, target.url, MAX_BUFFERED=99_999) as port:
            assert (await ask(port, "PUT", "/b/o", body=data))[2] == data.upper()
