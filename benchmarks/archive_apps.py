"""What is measured in archives.py and archives_memory.py: any tree of this machine as a tar."""

from __future__ import annotations

from typing import Literal, cast

from tsstream import App, Request, Response
from tsstream._files.tar_response import tar_response

app = App()


@app.get("/hello")
async def say_hello(request: Request) -> bytes:
    return b"hello"


@app.get("/tar")
async def archive(request: Request) -> Response:
    query = request.query_params
    compression = cast('Literal["gzip", "zstd"] | None', query.get("compression"))
    level = query.get("level")
    return tar_response(
        query["path"],
        arcname="tree",
        compression=compression,
        level=None if level is None else int(level),
    )
