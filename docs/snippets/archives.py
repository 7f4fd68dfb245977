"""Archives: made while they are sent, taken up where they broke off, unpacked as they arrive."""

import gzip
import sqlite3
import tarfile
from contextlib import closing
from functools import partial
from pathlib import Path
from tempfile import gettempdir
from typing import IO

from tsstream import (
    App,
    ExtractLimits,
    Request,
    Response,
    extract_tar,
    json_response,
    open_thread_producer,
    run_thread_consumer,
    tar_response,
    zip_response,
)

FOLDER = Path(gettempdir()) / "photos"
DATABASE = Path(gettempdir()) / "photos.sqlite"

app = App()


# [tar]
@app.get("/photos.tar")
async def photos(request: Request) -> Response:
    return tar_response(FOLDER, filename="photos.tar")


# [gzip]
@app.get("/photos.tar.gz")
async def photos_compressed(request: Request) -> Response:
    return tar_response(FOLDER, compression="gzip", filename="photos.tar.gz")


# [filter]
def leave_out_thumbnails(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if info.name.endswith("/thumbnails") else info


@app.get("/originals.tar")
async def originals(request: Request) -> Response:
    return tar_response(
        [FOLDER, DATABASE],
        arcname=["originals", "index.sqlite"],
        filter=leave_out_thumbnails,
        deterministic=True,
    )


# [zip]
@app.get("/photos.zip")
async def photos_zipped(request: Request) -> Response:
    return zip_response(FOLDER, filename="photos.zip")


# [producer]
def write_dump(file: IO[bytes], path: Path) -> None:
    with closing(sqlite3.connect(path)) as database, gzip.open(file, "wt") as dump:
        for line in database.iterdump():
            dump.write(f"{line}\n")


@app.get("/photos.sql.gz")
async def database_dump(request: Request) -> Response:
    return Response(open_thread_producer(write_dump, DATABASE), media_type="application/gzip")


# [extract]
@app.put("/photos.tar.gz")
async def restore(request: Request) -> Response:
    extract = partial(
        extract_tar,
        destination=FOLDER.parent,
        required=[FOLDER.name],
        limits=ExtractLimits(max_members=100_000, max_size=50 * 2**30),
    )
    done = await run_thread_consumer(extract, request.body)
    return json_response({"members": done.members, "bytes": done.size})
