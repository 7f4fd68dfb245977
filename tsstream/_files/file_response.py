"""A file as a response, of which a request may have the whole, a part or nothing."""

from __future__ import annotations

import mimetypes
import os
from functools import partial

from tsstream._http.policy import StreamPolicy
from tsstream._http.representation import Opened, Representation, Represented
from tsstream._http.response import HeadersLike, Response
from tsstream._sansio.headers import Headers, content_disposition
from tsstream._sansio.ranges import Span

from .below import open_below, open_file
from .file_reader import State, look, open_part, run_hop
from .tree import StrPath

# A file that is compressed is sent as what it is: a Content-Encoding would have it unpacked.
_COMPRESSED = {
    "gzip": "application/gzip",
    "bzip2": "application/x-bzip2",
    "xz": "application/x-xz",
    "compress": "application/x-compress",
    "br": "application/octet-stream",
}


def file_response(
    path: StrPath,
    *,
    root: StrPath | None = None,
    media_type: str | None = None,
    filename: str | None = None,
    headers: HeadersLike = None,
    policy: StreamPolicy | None = None,
) -> Response:
    """Answer with a file, or with what of it the client has not got.

    The response has a Content-Length, an ETag, a Last-Modified (once that is a second old), and
    answers conditions and ranges: 206, 304, 412 and 416. Without the file it is 404. Nothing is
    looked at before the handler has returned.

    The file is read in a worker thread, piece by piece, at the pace of the client; a client that
    stalls holds no thread. What is sent is one state of the file: if it changes meanwhile, the
    response is cut. Only a whole file that grows, as a log does, is sent as long as it was.

    Args:
      path: of the file. With *root*, a name from outside, below it.
      root: a directory. *path* is looked up in it and nowhere else: ``..`` and symbolic links in
        *path* lead nowhere, and are 404 like a name that there is not. *root* itself may be a link.
      media_type: the Content-Type; else what :func:`mimetypes.guess_type` says of the name.
      filename: what a browser saves the file as, instead of showing it.
      headers: further headers. An ``ETag`` or a ``Last-Modified`` here replaces ours; an
        ``Accept-Ranges: none`` is a response that gives no ranges.
      policy: the limits, instead of the app's.
    """
    given = Headers(headers)
    if filename is not None:
        given = given.set("content-disposition", content_disposition(filename))
    name = os.fspath(path)
    return Response(
        _File(name, None if root is None else os.fspath(root)),
        headers=given,
        media_type=media_type or _guess_type(filename or name),
        policy=policy,
    )


class _File(Represented):
    """A file that nobody has looked at yet."""

    def __init__(self, path: str, root: str | None) -> None:
        self._path = path
        self._open = partial(open_file, path) if root is None else partial(open_below, root, path)

    async def represent(self) -> Representation:
        state, settled = await run_hop(look, self._open)
        modified, changed = (
            time_ns // 10**9 for time_ns in (state.identity.mtime_ns, state.identity.ctime_ns)
        )
        return Representation(
            length=state.identity.size,
            etag=state.etag() if settled else None,
            last_modified=modified if settled else None,
            # Else somebody has set the date, or the name, and may give both to another file.
            dated=modified == changed,
            open_whole=partial(self._open_part, state, 0, state.identity.size),
            open_range=partial(self._open_part, state),
        )

    def _open_part(self, state: State, start: int, stop: int) -> Opened:
        return open_part(self._open, self._path, state, Span(start, stop))


def _guess_type(name: str) -> str:
    # With a slash, as it takes what is before a colon for the scheme of a URL.
    kind, coding = mimetypes.guess_type(f"./{name}")
    if coding is not None:
        return _COMPRESSED.get(coding, "application/octet-stream")
    return kind or "application/octet-stream"
