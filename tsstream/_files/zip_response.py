"""Files and directories as a zip archive that is made while it is sent."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from functools import partial
from typing import IO, Literal

import trio

from tsstream._http.policy import StreamPolicy
from tsstream._http.representation import Representation, Represented
from tsstream._http.response import HeadersLike, Response
from tsstream._sansio.headers import Headers, content_disposition
from tsstream._sansio.ziplayout import measure_zip
from tsstream._streams.threads import open_thread_producer

from .file_reader import run_hop
from .tree import Opener, Root, StrPath, to_roots
from .zip import Member, ZipOptions, find_members, write_zip

CHECK_EVERY = 256  # members: often enough to notice a client that has left
LEVEL = 1  # of deflate: by far the fastest, and what it leaves to the others is little


def zip_response(
    paths: Iterable[StrPath] | StrPath,
    *,
    arcname: str | Sequence[str] | None = None,
    compression: Literal["deflate"] | None = None,
    level: int | None = None,
    filename: str | None = None,
    deterministic: bool = False,
    opener: Opener = os.open,
    media_type: str | None = None,
    headers: HeadersLike = None,
    policy: StreamPolicy | None = None,
) -> Response:
    """Answer with files and directories as a zip archive, which every desktop can open.

    It is made in a worker thread while it is sent, at the pace of the client, and never on the
    disk. What is neither a file nor a directory is left out with a warning in the log, and so are
    names that zip has no way to write: such that are not UTF-8, or have a backslash. A file that
    has grown since it was found is sent as long as it was then; one that has become shorter, or
    has gone, cuts the response. Archives and members of any size are possible (Zip64).

    Without *compression* the response has its Content-Length, so that a browser can show how much
    is left. All files are found before the first byte is sent. In any case some 700 bytes of memory
    are held for each file: a zip archive ends with a list of all that is in it.

    Args:
      paths: of files and directories; one, or several. A path that is a symbolic link is followed,
        what is below a directory is not.
      arcname: the name of the one in the archive, or one name for each; else the last component
        of each path.
      compression: ``"deflate"``; what it does not make smaller is not compressed. ``None`` stores.
      level: of the compression, 1 to 9; 1 if not given.
      filename: what a browser saves the archive as.
      deterministic: the same tree gives the same bytes: no dates, and permissions 755 or 644.
      opener: opens each file; as that of :func:`open`.
      media_type: the Content-Type, instead of ``application/zip``.
      headers: further headers.
      policy: the limits, instead of the app's.

    Raises:
      ValueError: *arcname*, *compression* or *level* is none that is possible.
    """
    _check_compression(compression, level)
    if compression is not None and level is None:
        level = LEVEL
    options = ZipOptions(level=level, deterministic=deterministic, opener=opener)
    roots = to_roots(paths, arcname)
    given = Headers(headers)
    if filename is not None:
        given = given.set("content-disposition", content_disposition(filename))
    return Response(
        _StoredZip(roots, options)
        if compression is None
        else open_thread_producer(_find_and_write, roots, options),
        headers=given,
        media_type=media_type or "application/zip",
        policy=policy,
    )


def _check_compression(compression: str | None, level: int | None) -> None:
    if compression not in (None, "deflate"):
        raise ValueError(f"a zip archive's compression is 'deflate' or None, not {compression!r}")
    if level is not None and compression is None:
        raise ValueError("a level is of a compression; give compression='deflate', too")
    if level is not None and not 1 <= level <= 9:
        raise ValueError(f"a level of deflate is 1 to 9, not {level!r}")


def _find_and_write(file: IO[bytes], roots: Sequence[Root], options: ZipOptions) -> None:
    write_zip(file, find_members(roots, options), options)


class _StoredZip(Represented):
    """An archive whose length is known when all that goes into it has been found."""

    def __init__(self, roots: Sequence[Root], options: ZipOptions) -> None:
        self._roots = roots
        self._options = options

    async def represent(self) -> Representation:
        members, length = await run_hop(self._find)
        # No part of it can be had without reading all: the checksums stand at its end.
        return Representation(
            length=length,
            open_whole=partial(open_thread_producer, write_zip, members, self._options),
        )

    def _find(self) -> tuple[list[Member], int]:
        members: list[Member] = []
        for member in find_members(self._roots, self._options):
            if not len(members) % CHECK_EVERY:
                trio.from_thread.check_cancelled()
            members.append(member)
        return members, measure_zip((info.filename, info.file_size) for _, info in members)
