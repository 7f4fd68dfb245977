"""Upper case, as the object arrives: ``python -m tsstream run examples.etl.upper:app``."""

from __future__ import annotations

from collections.abc import Iterator
from io import BufferedIOBase

from .server import ETLServer

CHUNK_SIZE = 64 * 1024  # bytes


class Upper(ETLServer):
    """Makes ASCII letters upper case."""

    def transform_stream(self, reader: BufferedIOBase, path: str, etl_args: str) -> Iterator[bytes]:
        """Give each piece as soon as it has come."""
        while chunk := reader.read1(CHUNK_SIZE):
            yield chunk.upper()


app = Upper().app
