"""What is in a gzip file: ``python -m tsstream run examples.etl.gunzip:app``."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from io import BufferedIOBase

from .server import ETLServer

CHUNK_SIZE = 64 * 1024  # bytes


class Gunzip(ETLServer):
    """Unpacks, with no more of either side in memory than a piece."""

    def transform_stream(self, reader: BufferedIOBase, path: str, etl_args: str) -> Iterator[bytes]:
        """Give what comes out, and fail if the object ends before the gzip stream does."""
        with gzip.GzipFile(fileobj=reader) as unpacked:
            while chunk := unpacked.read1(CHUNK_SIZE):
                yield chunk


app = Gunzip().app
