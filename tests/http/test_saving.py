"""A part becomes a file as a whole, or not at all."""

from __future__ import annotations

import errno
import os
import resource
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from asgi import Server, chunk
from forms import END, FORM, ask, messages, part, pieces, post
from trio.testing import wait_all_tasks_blocked

from tsstream import HTTPError, Request, Response
from tsstream._adapters import _stream_limiter
from tsstream._http.saving import BATCH_SIZE, save_chunks

DATA = os.urandom(300_000)
UPLOAD = part("upload", DATA, "upload.bin") + END

Receive = Callable[[], Any]


def receiver(chunks: AsyncIterator[bytes]) -> Receive:
    """Make a channel's receive() of an async generator."""

    async def receive() -> bytes:
        async for data in chunks:
            return data
        raise trio.EndOfChannel

    return receive


async def save_first(request: Request[Any], path: Path) -> int:
    return await (await request.parts().receive()).save(path)


@pytest.mark.parametrize("size", [7, 1000, 65536, 10**6])
async def test_save_writes_all_of_a_part(tmp_path: Path, size: int) -> None:
    path = tmp_path / "new"
    body = part("a", DATA[:5000]) + END if size < 1000 else UPLOAD

    async def look(request: Request[Any]) -> int:
        return await save_first(request, path)

    asked = await ask(look, *messages(*pieces(body, size)))
    assert asked.found == len(path.read_bytes())
    assert path.read_bytes() == DATA[: asked.found]
    assert os.listdir(tmp_path) == ["new"]


async def test_save_writes_an_empty_part(tmp_path: Path) -> None:
    async def look(request: Request[Any]) -> int:
        return await save_first(request, tmp_path / "new")

    asked = await ask(look, *messages(part("a", b"") + END))
    assert asked.found == 0
    assert (tmp_path / "new").read_bytes() == b""


async def test_save_takes_the_application_s_path_and_never_the_client_s(tmp_path: Path) -> None:
    # BK-30
    async def look(request: Request[Any]) -> None:
        async for one in request.parts():
            await one.save(tmp_path / one.name)

    assert (await ask(look, *messages(FORM))).server.ok
    assert sorted(os.listdir(tmp_path)) == ["empty", "photo", "title"]


async def test_save_to_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    async def items() -> AsyncIterator[bytes]:
        yield b"data"

    assert await save_chunks(receiver(items()), "new") == 4
    assert os.listdir() == ["new"]


async def test_a_file_has_the_mode_of_any_new_file(tmp_path: Path) -> None:
    async def items() -> AsyncIterator[bytes]:
        yield b"data"

    (tmp_path / "usual").touch()
    await save_chunks(receiver(items()), tmp_path / "new")
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "usual").stat().st_mode


async def test_the_old_file_is_there_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    synced: list[bytes] = []

    async def items() -> AsyncIterator[bytes]:
        for data in pieces(DATA, BATCH_SIZE):
            assert path.read_bytes() == b"old"
            yield data

    def sync(fd: int) -> None:
        assert path.read_bytes() == b"old"
        synced.append(Path(f"/proc/self/fd/{fd}").read_bytes())

    assert await save_chunks(receiver(items()), path, sync=sync) == len(DATA)
    assert synced == [DATA]  # on the disk before it is at its path
    assert path.read_bytes() == DATA


async def test_the_temporary_file_has_a_name_of_its_own_in_the_same_directory(
    tmp_path: Path,
) -> None:
    names: set[str] = set()

    async def items() -> AsyncIterator[bytes]:
        (name,) = {*os.listdir(tmp_path)} - {"file"}
        names.add(name)
        yield b"data"

    for _ in range(2):
        await save_chunks(receiver(items()), tmp_path / "file")
    assert len(names) == 2  # nobody can foresee it
    assert all(name.startswith(".") for name in names)


async def test_small_chunks_are_written_together(tmp_path: Path) -> None:
    sizes: set[int] = set()

    async def items() -> AsyncIterator[bytes]:
        for data in pieces(DATA * 3, 1000):
            (name,) = os.listdir(tmp_path)
            sizes.add((tmp_path / name).stat().st_size)
            yield data

    await save_chunks(receiver(items()), tmp_path / "file")
    assert len(sizes) == 4
    assert all(size % 1000 == 0 and size // BATCH_SIZE < 4 for size in sizes)
    assert min(sizes - {0}) >= BATCH_SIZE


async def test_a_part_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    # BK-38, BK-41
    (tmp_path / "file").write_bytes(b"old")

    async def look(request: Request[Any]) -> int:
        return await save_first(request, tmp_path / "file")

    for size in (100, 290_000, len(UPLOAD) - 20, len(UPLOAD) - 3):
        asked = await ask(look, *messages(*pieces(UPLOAD[:size], 65536)))
        assert asked.status == 400
        assert os.listdir(tmp_path) == ["file"]
        assert (tmp_path / "file").read_bytes() == b"old"


async def test_a_client_that_leaves_leaves_nothing(tmp_path: Path) -> None:
    # BK-38, BK-41
    (tmp_path / "file").write_bytes(b"old")

    async def handler(request: Request[Any]) -> Response:
        await save_first(request, tmp_path / "file")
        raise AssertionError

    for size in (100, 290_000, len(UPLOAD) - 20):
        server = Server(*(chunk(data) for data in pieces(UPLOAD[:size], 65536)))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(post, server, handler)
            await wait_all_tasks_blocked(0.01)
            assert len(os.listdir(tmp_path)) == 2
            server.leave()
        assert server.sent == []
        assert os.listdir(tmp_path) == ["file"]
        assert (tmp_path / "file").read_bytes() == b"old"


async def test_a_cancelled_save_leaves_nothing(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async def items() -> AsyncIterator[bytes]:
        while True:
            await trio.sleep(1)
            yield DATA

    with trio.move_on_after(5.5) as scope:
        await save_chunks(receiver(items()), tmp_path / "file")
    assert scope.cancelled_caught
    assert os.listdir(tmp_path) == []


async def test_a_save_cancelled_before_it_had_anything_can_be_repeated(tmp_path: Path) -> None:
    async def look(request: Request[Any]) -> int:
        one = await request.parts().receive()
        with pytest.raises(FileNotFoundError):
            await one.save(tmp_path / "nowhere" / "file")
        return await one.save(tmp_path / "file")

    assert (await ask(look, *messages(UPLOAD))).found == len(DATA)


async def test_cancelling_does_not_wait_for_a_slow_disk(tmp_path: Path) -> None:
    release, syncing = threading.Event(), trio.Event()

    def sync(fd: int) -> None:
        trio.from_thread.run_sync(syncing.set)
        release.wait(10)

    async def items() -> AsyncIterator[bytes]:
        yield b"data"

    async def save() -> None:
        await save_chunks(receiver(items()), tmp_path / "file", sync=sync)

    try:
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(save)
                await syncing.wait()
                nursery.cancel_scope.cancel()
        assert os.listdir(tmp_path) == []
    finally:
        release.set()


async def test_an_error_of_the_body_leaves_nothing(tmp_path: Path) -> None:
    async def items() -> AsyncIterator[bytes]:
        yield DATA
        raise HTTPError(408)

    with pytest.raises(HTTPError):
        await save_chunks(receiver(items()), tmp_path / "file")
    assert os.listdir(tmp_path) == []


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_disk_that_takes_no_more_raises_oserror_and_leaves_nothing(tmp_path: Path) -> None:
    # BK-36. A full disk cannot be had without being root; this fails at the same place.
    (tmp_path / "file").write_bytes(b"old")

    async def look(request: Request[Any]) -> int:
        with file_size_limit(290_000), pytest.raises(OSError, match="File too large") as caught:
            await save_first(request, tmp_path / "file")
        assert caught.value.errno is not None
        return caught.value.errno

    asked = await ask(look, *messages(*pieces(UPLOAD, 65536)))
    assert asked.found == errno.EFBIG
    assert os.listdir(tmp_path) == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"


async def test_a_directory_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    async def never() -> bytes:
        raise AssertionError

    with pytest.raises(IsADirectoryError, match="give the path of a file"):
        await save_chunks(never, tmp_path)
    assert os.listdir(tmp_path) == []


async def test_saving_takes_none_of_trio_s_own_threads(tmp_path: Path) -> None:
    # BK-9
    async def items() -> AsyncIterator[bytes]:
        yield b"data"

    limiter = trio.to_thread.current_default_thread_limiter()
    limiter.total_tokens = 1
    try:
        async with limiter:
            with trio.fail_after(5):
                assert await save_chunks(receiver(items()), tmp_path / "file") == 4
    finally:
        limiter.total_tokens = 40


async def test_cleaning_up_does_not_wait_for_threads_that_are_stuck(tmp_path: Path) -> None:
    limiter = _stream_limiter()

    async def receive() -> bytes:
        limiter.total_tokens = 1
        await limiter.acquire()
        raise HTTPError(408)

    try:
        with trio.fail_after(5), pytest.raises(HTTPError):
            await save_chunks(receive, tmp_path / "file")
    finally:
        limiter.total_tokens = 100
        limiter.release()
    assert os.listdir(tmp_path) == []
