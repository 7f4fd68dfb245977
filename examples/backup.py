"""Backups as Anthias has them: downloaded while they are made, restored while they arrive.

``python -m examples.backup`` or ``tsstream run examples.backup:app``. What is backed up are
``.anthias`` and ``anthias_assets`` in the directory that the environment variable ``HOME`` names.
"""

from __future__ import annotations

import argparse
import hmac
import logging
import os
import re
import shutil
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import IO, Literal, TypeAlias
from uuid import uuid4

import attrs
import trio

from examples.restoring import TREES, Restorer, home, receive_upload
from tsstream import (
    App,
    HTTPError,
    Request,
    Response,
    file_response,
    json_response,
    ndjson_response,
    run_thread_consumer,
    serve,
    tar_response,
)

Compression: TypeAlias = Literal["gzip", "zstd"] | None

# What ?compression= may be: how tar_response() calls it, the end of the name, the media type.
COMPRESSIONS: dict[str, tuple[Compression, str, str]] = {
    "gzip": ("gzip", ".tar.gz", "application/x-tgz"),
    "zstd": ("zstd", ".tar.zst", "application/zstd"),
    "none": (None, ".tar", "application/x-tar"),
}
STATIC = "anthias/staticfiles"  # in HOME: where backups are kept
NOT_IN_NAMES = re.compile(r"[^\w-]+")
NAME_LENGTH = 50  # characters: of which the bytes, four at most, fit into a name of a file
MEDIA_TYPE = re.compile(r"[\w!#$&^.+-]+/[\w!#$&^.+-]+", re.ASCII)


@attrs.define
class State:
    """What the requests share.

    Attributes:
      restorer: restores one backup at a time.
      opener: opens the files of a backup.
    """

    restorer: Restorer = attrs.field(factory=Restorer)
    opener: Callable[[str, int], int] = os.open


@asynccontextmanager
async def lifespan(app: App[State]) -> AsyncIterator[State]:
    yield State()


app = App(lifespan=lifespan)


def check_auth(request: Request[State]) -> None:
    """Raise HTTPError unless the client knows the ``user:password`` of ``BACKUP_AUTH``, if any."""
    wanted = os.environ.get("BACKUP_AUTH")
    if wanted:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        expected = b64encode(wanted.encode())
        known = hmac.compare_digest(given.strip().encode(), expected)
        if not (known and scheme.lower() == "basic"):
            raise HTTPError(401, headers={"www-authenticate": 'Basic realm="Anthias"'})


def backup_archive_name(player_name: str, suffix: str = ".tar.gz", *, now: datetime) -> str:
    """Name an archive, as ``lobby-2016-07-19T12-42-12.tar.gz``; in UTC."""
    time = now.astimezone(UTC)
    return f"{player_name or 'anthias-backup'}-{time:%Y-%m-%dT%H-%M-%S}{suffix}"


def open_backup(request: Request[State], player_name: str, compression: str = "gzip") -> Response:
    """Give the response that is a backup, made while it is sent.

    Raises:
      HTTPError: 400, there is no such compression.
    """
    if compression not in COMPRESSIONS:
        raise HTTPError(400, f"compression is one of {', '.join(COMPRESSIONS)}\n")
    coding, suffix, media_type = COMPRESSIONS[compression]
    return tar_response(
        [home() / name for name in TREES],
        arcname=TREES,
        compression=coding,
        filename=backup_archive_name(player_name, suffix, now=datetime.now(UTC)),
        opener=request.state.opener,
        media_type=media_type,
    )


@app.post("/settings/backup/")
async def download(request: Request[State]) -> Response:
    check_auth(request)
    query = request.query_params
    return open_backup(request, query.get("name", ""), query.get("compression", "gzip"))


@app.get("/settings/backup.tar")
async def download_resumable(request: Request[State]) -> Response:
    check_auth(request)
    # Its length and ETag are known before a file has been opened, so a client can go on in the
    # middle; of what is compressed they are not.
    return open_backup(request, request.query_params.get("name", ""), "none")


@app.post("/api/v2/backup")
async def stage(request: Request[State]) -> Response:
    check_auth(request)
    # Here the name is that of a file, and it has an end.
    player_name = NOT_IN_NAMES.sub("_", request.query_params.get("name", ""))[:NAME_LENGTH]
    name = backup_archive_name(player_name, now=datetime.now(UTC))
    async with open_backup(request, player_name) as chunks:
        await run_thread_consumer(write_file, chunks, home() / STATIC / name)
    return json_response(name, 201)


def write_file(file: IO[bytes], path: Path) -> None:
    """Copy *file* to *path*, where it appears when it is whole. For a thread."""
    path.parent.mkdir(parents=True, exist_ok=True)
    incomplete = path.with_name(f".{uuid4().hex}.incomplete")
    try:
        with incomplete.open("xb") as copy:
            shutil.copyfileobj(file, copy, 256 * 1024)
        incomplete.replace(path)
    except BaseException:
        incomplete.unlink(missing_ok=True)
        raise


@app.get("/static_with_mime/{name}")
async def static_with_mime(request: Request[State]) -> Response:
    check_auth(request)
    name = request.path_params["name"]
    media_type = request.query_params.get("mime")
    if media_type is not None and not MEDIA_TYPE.fullmatch(media_type):
        raise HTTPError(400, "mime is a media type, such as application/x-tgz\n")
    # As an attachment, since the client says what it is: this is no place for web pages.
    return file_response(
        f"{STATIC}/{name}",
        root=home(),
        media_type=media_type,
        filename=name,
        headers={"x-content-type-options": "nosniff"},
    )


@app.post("/api/v2/recover")
async def recover(request: Request[State]) -> Response:
    check_auth(request)
    await request.state.restorer.run(await receive_upload(request))
    return json_response("Recovery successful.")


@app.post("/api/v2/recover/progress")
@asynccontextmanager
async def recover_and_tell(request: Request[State]) -> AsyncIterator[Response]:
    check_auth(request)
    part = await receive_upload(request)
    # yield, so that the upload can be read while the response is sent.
    yield ndjson_response(request.state.restorer.open_steps(part))


@app.get("/health")
async def health(request: Request[State]) -> Response:
    return json_response({"status": "ok"})


async def main(bind: str | None) -> None:
    async with trio.open_nursery() as nursery:
        [address] = await nursery.start(partial(serve, app, bind=[bind] if bind else None))
        print(f"Backups are at {address}/settings/backup.tar", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m examples.backup", description=__doc__)
    parser.add_argument("--bind", metavar="HOST:PORT", help="127.0.0.1:8000 if not given")
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        trio.run(main, parser.parse_args().bind)
    except* KeyboardInterrupt:
        pass
