"""Files and directories as a tar archive that is made while it is sent."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Literal

import trio

from tsstream._http.content import Content
from tsstream._http.policy import StreamPolicy
from tsstream._http.representation import Opened, Representation, Represented
from tsstream._http.response import HeadersLike, Response
from tsstream._sansio.headers import Headers, content_disposition
from tsstream._streams.threads import open_thread_producer

from .compression import check_compression, open_compressor
from .file_reader import run_hop
from .snapshot import Snapshot
from .tar import Filter, Plan, write_tar
from .tree import Opener, StrPath, to_roots

_FORMATS = (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT)
_MEDIA_TYPES = {None: "application/x-tar", "gzip": "application/gzip", "zstd": "application/zstd"}


def tar_response(
    paths: Iterable[StrPath] | StrPath,
    *,
    arcname: str | Sequence[str] | None = None,
    compression: Literal["gzip", "zstd"] | None = None,
    level: int | None = None,
    filename: str | None = None,
    filter: Filter | None = None,  # noqa: A002 (as TarFile.add's)
    deterministic: bool = False,
    format: int = tarfile.PAX_FORMAT,  # noqa: A002 (as TarFile's)
    opener: Opener = os.open,
    media_type: str | None = None,
    headers: HeadersLike = None,
    policy: StreamPolicy | None = None,
) -> Response:
    """Answer with files and directories as a tar archive.

    It is made in a worker thread while it is sent, at the pace of the client, and never on the
    disk. What is neither a file nor a directory is left out with a warning in the log. A file that
    has grown since it was found is sent as long as it was then; one that has become shorter, or
    has gone, cuts the response. A path that is missing is an error before anything is sent.

    Without *compression* the download can be resumed. All files are found, and none is read,
    before the first byte is sent, which takes a second for some 150,000, and 150 bytes of memory
    for each. So the response has its Content-Length, and an ETag made of the names, sizes and
    times of all files. It answers requests for ranges, reading only the files that are in them,
    and conditional ones. If anything has changed, who asks with ``If-Range``, as browsers do, gets
    the whole new archive. A file that is changed while it is sent cuts the response, except that
    one may grow while the whole archive is sent. While something is changing all the time there is
    no ETag, and no range.

    With *compression* the first bytes leave as soon as the first path was looked at.

    Args:
      paths: of files and directories; one, or several. A path that is a symbolic link is followed,
        what is below a directory is not.
      arcname: the name of the one in the archive, or one name for each; else the last component
        of each path.
      compression: ``"gzip"``; ``"zstd"``, for which Python before 3.14 needs ``tsstream[zstd]``.
      level: of the compression. If not given, a fast one.
      filename: what a browser saves the archive as.
      filter: called in the thread with the ``TarInfo`` of each member, as that of
        ``TarFile.add()``: gives it back, changed or not, or None to leave the member out, a
        directory with all that is in it. It may change anything but type and size.
      deterministic: the same tree gives the same bytes: no dates and no owners, and permissions
        755 or 644.
      format: one of the formats of ``tarfile``.
      opener: opens each file, in the thread; as that of :func:`open`.
      media_type: the Content-Type, instead of that of the kind of archive.
      headers: further headers.
      policy: the limits, instead of the app's.

    Raises:
      ValueError: *arcname*, *compression*, *level* or *format* is none that is possible.
      RuntimeError: *compression* is ``"zstd"``, and that is not installed.
    """
    if format not in _FORMATS:
        raise ValueError(f"format is one of tarfile's, such as tarfile.PAX_FORMAT, not {format!r}")
    plan = Plan(
        roots=to_roots(paths, arcname),
        format=format,
        filter=filter,
        deterministic=deterministic,
        opener=opener,
    )
    given = Headers(headers)
    if filename is not None:
        given = given.set("content-disposition", content_disposition(filename))
    return Response(
        _to_content(plan, compression, level),
        headers=given,
        media_type=media_type or _MEDIA_TYPES[compression],
        policy=policy,
    )


def _to_content(
    plan: Plan, compression: Literal["gzip", "zstd"] | None, level: int | None
) -> Content:
    if compression is None:
        if level is not None:
            raise ValueError("a level is of a compression; give compression='gzip', too")
        return _Tar(plan)
    check_compression(compression, level)
    return open_thread_producer(write_tar, plan, partial(open_compressor, compression, level=level))


class _Tar(Represented):
    """An archive whose every byte has its place before one is read."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    async def represent(self) -> Representation:
        snapshot = await run_hop(Snapshot, self._plan, trio.from_thread.check_cancelled)
        length = snapshot.layout.length
        return Representation(
            length=length,
            etag=snapshot.etag,
            open_whole=partial(open_thread_producer, snapshot.write, 0, length),
            # Without an ETag nobody could say whether two parts belong together.
            open_range=partial(_open_range, snapshot) if snapshot.etag else None,
        )


def _open_range(snapshot: Snapshot, start: int, stop: int) -> Opened:
    return open_thread_producer(snapshot.write, start, stop)
