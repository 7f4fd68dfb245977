"""The digest of a whole object: ``python -m tsstream run examples.etl.sha256:app``."""

from __future__ import annotations

import hashlib
from pathlib import Path

from .server import ETLServer


class SHA256(ETLServer):
    """Gives the SHA-256 of an object, in hexadecimal."""

    def transform(self, data: bytes | str, path: str, etl_args: str) -> bytes:
        """Give the digest of *data* or, if that is a path, of what is there."""
        content = Path(data).read_bytes() if isinstance(data, str) else data
        return hashlib.sha256(content).hexdigest().encode()

    def get_mime_type(self) -> str:
        """Give that of text."""
        return "text/plain"


app = SHA256().app
