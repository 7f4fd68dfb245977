"""What goes beyond the standard library, where it is installed; None where it is not."""

from __future__ import annotations

import sys

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    try:
        from backports import zstd  # the extra "zstd"
    except ImportError:
        zstd = None  # type: ignore[assignment]

try:
    from isal import isal_zlib  # the extra "fast": zlib's API, several times as fast
except ImportError:
    isal_zlib = None  # type: ignore[assignment]

__all__ = ["isal_zlib", "zstd"]
