"""A library to back up, hooks into how it is read, and clients of examples/backup.py."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import os
import random
import shutil
import tarfile
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import attrs
import pytest
import trio
from forms import CONTENT_TYPE, END, part
from probes import IN_TIME
from uploading import send_what_is_taken
from wire import RawConnection, open_guarded, open_raw, open_server

from examples.backup import State, app

__all__ = [
    "BACKUP",
    "DONE",
    "FORM",
    "KIB",
    "LIBRARY",
    "MIB",
    "RESUMABLE",
    "TREES",
    "Answer",
    "Gate",
    "Hook",
    "app",
    "clear",
    "fail_with",
    "fetch",
    "fill",
    "form_of",
    "hash_tree",
    "home",
    "make_archive",
    "open_backup",
    "open_form",
    "open_site",
    "pack",
    "port",
    "read_answer",
    "read_some",
    "upload",
    "wait_for",
]

KIB = 1024  # bytes
MIB = 1024 * KIB
BACKUP = "/settings/backup/"
RESUMABLE = "/settings/backup.tar"
DONE = b'"Recovery successful."'
TREES = (".anthias", "anthias_assets")
FORM = {"content-type": CONTENT_TYPE}
LONG_NAME = (
    "a name that is longer than the hundred characters which the oldest format has " + "x" * 40
)

LIBRARY: dict[str, bytes] = {
    ".anthias/anthias.conf": b"[main]\nplayer_name = lobby\n",
    ".anthias/anthias.db": random.Random(1).randbytes(40_000),
    ".anthias/empty": b"",
    "anthias_assets/a.mp4": random.Random(2).randbytes(100_000),
    "anthias_assets/b.html": b"<p>Welcome</p>\n" * 5_000,
    f"anthias_assets/{LONG_NAME}": b"long",
    "anthias_assets/sub/två rader.txt": "två\nrader\n".encode(),
}


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


# The library


def fill(folder: Path, files: Mapping[str, bytes] = LIBRARY) -> None:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a HOME with a library in it."""
    folder = tmp_path / "home"
    fill(folder)
    (folder / "anthias_assets" / "nothing").mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.delenv("BACKUP_AUTH", raising=False)
    return folder


def clear(folder: Path) -> None:
    """Remove all that is in *folder*."""
    for path in folder.iterdir():
        shutil.rmtree(path)


def hash_tree(folder: Path) -> dict[str, str]:
    """Give each path below *folder*, with what is there."""
    return {str(path.relative_to(folder)): _hash(path) for path in sorted(folder.rglob("*"))}


def _hash(path: Path) -> str:
    if path.is_symlink():
        return f"-> {path.readlink()}"
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    return "directory" if path.is_dir() else "special"


# Archives


def pack(*members: tuple[tarfile.TarInfo, bytes], level: int = 1) -> bytes:
    """Make a gzipped tar of members as they are, sense or nonsense."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for info, data in members:
            info.size = info.size or len(data)
            archive.addfile(info, io.BytesIO(data) if data else None)
    return gzip.compress(file.getvalue(), level)


def make_archive(
    files: Mapping[str, bytes] = LIBRARY, *, folders: Iterable[str] = TREES, level: int = 1
) -> bytes:
    """Make a gzipped tar of *files*, whose trees are *folders*."""
    members = []
    for name in folders:
        info = tarfile.TarInfo(name)
        info.type, info.mode = tarfile.DIRTYPE, 0o755
        members.append((info, b""))
    members += [(tarfile.TarInfo(name), data) for name, data in files.items()]
    return pack(*members, level=level)


# Hooks into the thread that reads the library


class Gate:
    """Where a thread waits until the test lets it go on; every thread ends with the test."""

    def __init__(self) -> None:
        self.reached = trio.Event()
        self._released = threading.Event()
        self._token = trio.lowlevel.current_trio_token()

    def wait(self, *_: object) -> None:
        self._token.run_sync_soon(self.reached.set)
        assert self._released.wait(2 * IN_TIME)

    def release(self) -> None:
        self._released.set()


@attrs.define(eq=False)
class Hook:
    """Opens files, and does something before the one whose path has this end is opened.

    Attributes:
      then: is done when it is open.
      opened: the paths, in order.
      threads: that have opened files.
    """

    suffix: str = ""
    act: Callable[[str], object] = lambda path: None
    then: Callable[[str], object] = lambda path: None
    opened: list[str] = attrs.field(factory=list)
    threads: set[int] = attrs.field(factory=set)

    def __call__(self, path: str, flags: int) -> int:
        self.threads.add(threading.get_ident())
        self.opened.append(path)
        if not path.endswith(self.suffix):
            return os.open(path, flags)
        self.act(path)
        descriptor = os.open(path, flags)
        self.then(path)
        return descriptor


def fail_with(number: int) -> Callable[[str], None]:
    def fail(path: str) -> None:
        raise OSError(number, errno.errorcode[number], path)

    return fail


# Servers and clients


@pytest.fixture
async def port(home: Path) -> AsyncIterator[int]:
    async with open_guarded(app) as port:
        yield port


@asynccontextmanager
async def open_site(
    opener: Callable[[str, int], int] = os.open, **options: Any
) -> AsyncIterator[int]:
    """Serve the program on the host that the test is for, with this way to open files."""
    async with open_server(app, **options) as port:
        state: State = app.state
        state.opener = opener
        yield port


async def read_answer(raw: RawConnection) -> Answer:
    status, headers = await raw.read_head()
    return Answer(status, headers, await raw.read_body())


async def fetch(
    port: int, path: str = BACKUP, method: str = "POST", headers: Mapping[str, str] | None = None
) -> Answer:
    async with open_raw(port) as raw:
        await raw.request(method, path, headers)
        with trio.fail_after(2 * IN_TIME):
            return await read_answer(raw)


@asynccontextmanager
async def open_backup(
    port: int, path: str = BACKUP, *, receive_buffer: int | None = None
) -> AsyncIterator[RawConnection]:
    """Ask for a backup, and read the head of the answer."""
    async with open_raw(port, receive_buffer=receive_buffer) as raw:
        await raw.request("POST", path)
        with trio.fail_after(IN_TIME):
            assert (await raw.read_head())[0] == 200
        yield raw


async def read_some(raw: RawConnection, size: int) -> bytes:
    """Read at least *size* bytes of the body."""
    data = b""
    with trio.fail_after(IN_TIME):  # noqa: ASYNC912
        while len(data) < size:
            data += await raw.read_chunk() or b""
    return data


def form_of(
    archive: bytes, filename: str | None = "backup.tar.gz", *, name: str = "backup_upload"
) -> bytes:
    return part("csrfmiddlewaretoken", b"abc") + part(name, archive, filename) + END


async def upload(
    port: int,
    archive: bytes,
    filename: str | None = "backup.tar.gz",
    *,
    path: str = "/api/v2/recover",
) -> Answer:
    """Upload a backup, and read the answer meanwhile."""
    body = form_of(archive, filename)
    async with open_form(port, len(body), path) as raw, trio.open_nursery() as nursery:
        nursery.start_soon(send_what_is_taken, raw, body)
        with trio.fail_after(2 * IN_TIME):
            answer = await read_answer(raw)
        nursery.cancel_scope.cancel()
    return answer


@asynccontextmanager
async def open_form(
    port: int, size: int, path: str = "/api/v2/recover"
) -> AsyncIterator[RawConnection]:
    """Begin to upload a form of *size* bytes."""
    async with open_raw(port) as raw:
        await raw.request("POST", path, {**FORM, "content-length": str(size)})
        yield raw


async def wait_for(found: Callable[[], bool]) -> None:
    """Wait until *found* says so, for what is no event."""
    with trio.fail_after(IN_TIME):  # noqa: ASYNC912
        while not found():  # noqa: ASYNC110
            await trio.sleep(0.01)
