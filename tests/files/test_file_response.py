"""A file as a response: what is said of it, and what becomes of one that changes."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial
from pathlib import Path

import pytest
import trio
from leaks import assert_no_leaks

from tsstream import App, Request, Response
from tsstream._files.below import open_file
from tsstream._files.file_reader import PIECE_SIZE, THREADS, FileReader, State, look, open_part
from tsstream._files.file_response import file_response
from tsstream._files.identity import TICK
from tsstream._http.representation import Represented
from tsstream._sansio.ranges import Span
from tsstream.testing import TruncatedBodyError, open_client

LONG_AGO = 1_000_000_000


def write(folder: Path, content: bytes, name: str = "a.txt") -> Path:
    """Write a file that is dated long ago."""
    path = folder / name
    path.write_bytes(content)
    os.utime(path, (LONG_AGO, LONG_AGO))
    return path


def make_app(give: Callable[[], Response]) -> App[None]:
    app = App()

    @app.route("/", methods=["GET", "POST"])
    async def handler(request: Request) -> Response:
        return give()

    return app


# What is said of it


@pytest.mark.parametrize(
    ("name", "content_type"),
    [
        ("a.html", "text/html; charset=utf-8"),
        ("a.PNG", "image/png"),
        ("a.mp4", "video/mp4"),
        ("a", "application/octet-stream"),
        ("a.unheardof", "application/octet-stream"),
        ("a.tar", "application/x-tar"),
        ("a.tar.gz", "application/gzip"),
        ("a.tgz", "application/gzip"),
        ("a.tar.bz2", "application/x-bzip2"),
        ("a.tar.xz", "application/x-xz"),
        ("data:text/html,x", "application/octet-stream"),
        ("http://a/b.png", "image/png"),
    ],
)
async def test_content_type(name: str, content_type: str) -> None:
    response = file_response(name)
    assert response.media_type is not None
    assert content_type.startswith(response.media_type)


async def test_a_whole_file(tmp_path: Path) -> None:
    path = write(tmp_path, b"abc")
    app = make_app(lambda: file_response(path, filename="é.txt", headers={"x-mine": "1"}))
    async with open_client(app) as client:
        response = await client.get("/")
    assert (response.status_code, response.content) == (200, b"abc")
    etag = response.headers["etag"]
    assert dict(response.headers) == {
        "x-mine": "1",
        "content-disposition": "attachment; filename*=utf-8''%C3%A9.txt",
        "etag": etag,
        "last-modified": "Sun, 09 Sep 2001 01:46:40 GMT",
        "accept-ranges": "bytes",
        "content-length": "3",
        "content-type": "text/plain; charset=utf-8",
    }
    assert len(etag) == 34


async def test_parts_of_a_file(tmp_path: Path) -> None:
    app = make_app(partial(file_response, write(tmp_path, bytes(range(100)))))
    async with open_client(app) as client:
        one = await client.get("/", headers={"range": "bytes=90-"})
        two = await client.get("/", headers={"range": "bytes=0-1,98-"})
        none = await client.get("/", headers={"range": "bytes=100-"})
    assert (one.status_code, one.content) == (206, bytes(range(90, 100)))
    assert two.status_code == 206
    assert bytes([98, 99]) in two.content
    assert (none.status_code, none.headers["content-range"]) == (416, "bytes */100")


async def test_conditions_on_a_file(tmp_path: Path) -> None:
    path = write(tmp_path, b"abc")
    async with open_client(make_app(partial(file_response, path))) as client:
        etag = (await client.get("/")).headers["etag"]
        assert (await client.get("/", headers={"if-none-match": etag})).status_code == 304
        assert (await client.get("/", headers={"if-match": etag})).status_code == 200
        headers = {"range": "bytes=1-1", "if-range": etag}
        assert (await client.get("/", headers=headers)).content == b"b"
        write(tmp_path, b"xyz")
        assert (await client.get("/", headers={"if-match": etag})).status_code == 412
        changed = await client.get("/", headers=headers)
        assert (changed.status_code, changed.content) == (200, b"xyz")


async def test_another_file_with_the_same_date_is_no_part_of_the_first(tmp_path: Path) -> None:
    # RFC 9110 8.8.2.2: a date that a file was given says little, as after a reproducible build
    path = write(tmp_path, b"abc")
    async with open_client(make_app(partial(file_response, path))) as client:
        date = (await client.get("/")).headers["last-modified"]
        os.rename(write(tmp_path, b"xyz", "new.txt"), path)
        response = await client.get("/", headers={"range": "bytes=1-", "if-range": date})
    assert (response.status_code, response.content) == (200, b"xyz")


async def test_the_date_of_a_file_is_good_for_ranges_unless_it_was_set(tmp_path: Path) -> None:
    # RFC 9110 13.1.5, 8.8.2.2
    path = tmp_path / "new.txt"
    path.write_bytes(b"abc")
    content = file_response(path).content
    assert isinstance(content, Represented)
    assert (await content.represent()).dated
    os.utime(path, (1, 1))
    assert not (await content.represent()).dated


async def test_head_of_a_file(tmp_path: Path) -> None:
    app = make_app(partial(file_response, write(tmp_path, b"abc")))
    async with open_client(app) as client:
        got, headed = await client.get("/"), await client.head("/")
    assert dict(headed.headers) == dict(got.headers)
    assert headed.content == b""


async def test_an_empty_file(tmp_path: Path) -> None:
    app = make_app(partial(file_response, write(tmp_path, b"")))
    async with open_client(app) as client:
        response = await client.get("/")
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["content-length"] == "0"


async def test_a_name_from_outside(tmp_path: Path) -> None:
    write(tmp_path, b"secret", "secret.txt")
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    write(root / "sub", b"b", "b.txt")
    app = App()

    @app.get("/files/{name:path}")
    async def files(request: Request) -> Response:
        return file_response(request.path_params["name"], root=root)

    async with open_client(app) as client:
        assert (await client.get("/files/sub/b.txt")).content == b"b"
        for name in ("../secret.txt", "%2e%2e/secret.txt", "..%2fsecret.txt", "sub", ""):
            response = await client.get(f"/files/{name}")
            assert (response.status_code, response.content) == (404, b"Not Found"), name


async def test_a_file_of_many_pieces(tmp_path: Path) -> None:
    content = os.urandom(3 * PIECE_SIZE + 1)
    path = write(tmp_path, content)
    response = file_response(path)
    async with response as chunks:
        pieces = [piece async for piece in chunks]
    assert b"".join(pieces) == content
    assert list(map(len, pieces)) == [PIECE_SIZE] * 3 + [1]


def test_nothing_is_looked_at_when_a_response_is_built(tmp_path: Path) -> None:
    # AC-2
    file_response(tmp_path / "none")
    file_response("none", root=tmp_path / "none")


# A file that changes


@pytest.mark.parametrize("change", ["content", "mtime", "size", "inode", "ctime"])
def test_another_state_has_another_etag(tmp_path: Path, change: str) -> None:
    path = write(tmp_path, b"abc")
    before = look(partial(open_file, path))
    if change in ("content", "inode"):
        if change == "inode":
            os.rename(path, tmp_path / "old")
        write(tmp_path, b"xyz")
    elif change == "mtime":
        os.utime(path, (LONG_AGO, LONG_AGO + 1))
    elif change == "size":
        write(tmp_path, b"abcd")
    else:
        path.chmod(0o600)
    after = look(partial(open_file, path))
    assert before[1]
    assert after[1]
    assert before[0].etag() != after[0].etag()


def test_the_same_state_has_the_same_etag(tmp_path: Path) -> None:
    path = write(tmp_path, b"abc")
    first, second = (look(partial(open_file, path))[0].etag() for _ in "ab")
    assert first == second


def test_two_changes_in_one_tick_of_the_clock_are_told_apart(tmp_path: Path) -> None:
    # "racy git": the second write may leave the very times of the first
    path = tmp_path / "a.txt"
    for content in (b"abc", b"xyz"):
        seen = set()
        path.write_bytes(content)
        seen.add(look(partial(open_file, path))[0].etag())
        path.write_bytes(content[::-1])
        seen.add(look(partial(open_file, path))[0].etag())
        assert len(seen) == 2


def test_of_a_file_that_is_always_changing_no_etag_is_given(tmp_path: Path) -> None:
    path = write(tmp_path, b"abc")
    state, settled = look(partial(open_file, path), now=lambda: path.stat().st_ctime_ns + 1)
    assert state.identity.size == 3
    assert not settled


def test_the_clock_is_read_before_the_file_is_looked_at(tmp_path: Path) -> None:
    # else a thread that is held up in between takes what is new for old
    path = write(tmp_path, b"abc")
    times: list[int] = []

    def now() -> int:
        if not times:
            path.write_bytes(b"xyz!")
        times.append(path.stat().st_ctime_ns + len(times) * TICK * 9)
        return times[-1]

    assert look(partial(open_file, path), now=now)[0].identity.size == 4
    assert len(times) > 2  # a second look was needed


Change = Callable[[Path], object]


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"other")


def replace(path: Path) -> None:
    os.rename(write(path.parent, b"another", "new.txt"), path)


CONTENT = bytes(2 * PIECE_SIZE)


async def fetch_while(
    path: Path, change: Change, headers: dict[str, str] | None = None
) -> tuple[int, bytes]:
    """Get a file that is changed when the first piece has come."""
    async with (
        open_client(make_app(partial(file_response, path))) as client,
        client.stream("GET", "/", headers=headers) as response,
    ):
        body = await response.body.receive()
        await trio.to_thread.run_sync(change, path)
        async for chunk in response.body:
            body += chunk
    return response.status_code, body


@pytest.mark.parametrize("change", [overwrite, partial(os.truncate, length=9), os.utime])
async def test_a_change_cuts(tmp_path: Path, change: Change) -> None:
    # BK-18: and before the client has all of the Content-Length
    path = write(tmp_path, CONTENT)
    with pytest.raises((OSError, TruncatedBodyError)):
        await fetch_while(path, change)


async def test_a_whole_file_that_grows_is_sent_as_it_was(tmp_path: Path) -> None:
    # BK-17
    path = write(tmp_path, CONTENT)
    assert await fetch_while(path, append) == (200, CONTENT)


async def test_a_part_of_a_file_that_grows_is_cut(tmp_path: Path) -> None:
    path = write(tmp_path, CONTENT)
    with pytest.raises((OSError, TruncatedBodyError)):
        await fetch_while(path, append, {"range": "bytes=1-"})


@pytest.mark.parametrize("change", [replace, os.unlink])
async def test_a_file_that_another_takes_the_place_of_is_sent(
    tmp_path: Path, change: Change
) -> None:
    path = write(tmp_path, CONTENT)
    assert await fetch_while(path, change) == (200, CONTENT)


@pytest.mark.parametrize(("change", "status"), [(replace, 503), (overwrite, 503), (os.unlink, 404)])
async def test_a_change_before_the_first_byte_is_answered(
    tmp_path: Path, change: Change, status: int
) -> None:
    path = write(tmp_path, CONTENT)

    def change_it(request: object, response: Response) -> Response:
        change(path)
        return response

    app = App(transforms=[change_it])

    @app.get("/")
    async def handler(request: Request) -> Response:
        return file_response(path)

    async with open_client(app, raise_app_errors=False) as client:
        response = await client.get("/")
    assert response.status_code == status
    assert ("retry-after" in response.headers) is (status == 503)


# Threads and descriptors


async def test_a_client_that_stalls_holds_no_thread(tmp_path: Path) -> None:
    # BK-9
    path = write(tmp_path, CONTENT)
    async with AsyncExitStack() as stalled:
        for _ in range(THREADS + 20):
            chunks = await stalled.enter_async_context(file_response(path))
            await chunks.receive()
        with trio.fail_after(1):
            async with file_response(path) as other:
                assert b"".join([piece async for piece in other]) == CONTENT


@pytest.mark.parametrize("pieces", [0, 1, 2, 3])
async def test_leaving_early_closes_the_file(tmp_path: Path, pieces: int) -> None:
    path = write(tmp_path, CONTENT + b"end")
    async with assert_no_leaks(), file_response(path) as chunks:
        for _ in range(pieces):
            await chunks.receive()


class Gate:
    """An opener whose file cannot be read before it is told so: a disk that hangs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.reached, self.open = threading.Event(), threading.Event()

    def __call__(self) -> int:
        descriptor = os.open(self.path, os.O_RDONLY)
        self.reached.set()
        assert self.open.wait(5)
        return descriptor


def open_gated(gate: Gate) -> AbstractAsyncContextManager[trio.abc.ReceiveChannel[bytes]]:
    descriptor = os.open(gate.path, os.O_RDONLY)
    try:
        state = State.of(descriptor)
    finally:
        os.close(descriptor)
    return open_part(gate, str(gate.path), state, Span(0, state.identity.size))


async def test_a_read_that_hangs_is_left_behind(tmp_path: Path) -> None:
    gate = Gate(write(tmp_path, CONTENT))
    async with assert_no_leaks():
        async with trio.open_nursery() as nursery:

            async def read() -> None:
                async with open_gated(gate) as chunks:
                    await chunks.receive()

            nursery.start_soon(read)
            await trio.to_thread.run_sync(gate.reached.wait)
            with trio.fail_after(1):
                nursery.cancel_scope.cancel()
                await trio.lowlevel.checkpoint_if_cancelled()
        gate.open.set()  # and the descriptor is closed all the same


async def test_a_read_that_comes_too_late_opens_nothing(tmp_path: Path) -> None:
    # it was left behind while it waited for a thread
    gate = Gate(write(tmp_path, CONTENT))
    reader = FileReader(gate, str(gate.path), look(partial(open_file, gate.path))[0], Span(0, 9))
    reader.close()
    with pytest.raises(trio.ClosedResourceError):
        reader.read(0)
    assert not gate.reached.is_set()


async def test_a_receive_that_is_cancelled_loses_nothing(tmp_path: Path) -> None:
    content = os.urandom(3 * PIECE_SIZE)
    gate = Gate(write(tmp_path, content))
    async with open_gated(gate) as chunks:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(chunks.receive)
                await trio.to_thread.run_sync(gate.reached.wait)
                scope.cancel()
        gate.open.set()
        assert b"".join([piece async for piece in chunks]) == content
