"""How long a zip archive of stored members is, before any of it is written."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable

# APPNOTE.TXT 4.3: bytes of each record, without names and extra fields.
LOCAL_HEADER = 30
DESCRIPTOR = 16
DESCRIPTOR_64 = 24
LOCAL_EXTRA_64 = 20  # two sizes of 8, and 4 of their own head
CENTRAL_HEADER = 46
END = 22
END_64 = 56 + 20  # the record and its locator


def needs_zip64(size: int) -> bool:
    """Say whether a member of *size* bytes is announced with sizes of 64 bits.

    It is zipfile's own rule, which leaves deflate room to make a member larger; saying it to
    zipfile keeps the two from ever differing.
    """
    return size * 1.05 > zipfile.ZIP64_LIMIT


def measure_zip(members: Iterable[tuple[str, int]]) -> int:
    """Give the length of what zipfile writes, in bytes, to a file that cannot seek.

    Args:
      members: names and sizes in bytes. That of a directory ends with a slash, and its size is 0.
    """
    position = directory = count = 0
    for name, size in members:
        name_length = len(name.encode())
        directory += CENTRAL_HEADER + name_length + _central_extra(size, position)
        position += LOCAL_HEADER + name_length
        if not name.endswith("/"):
            position += size
            position += LOCAL_EXTRA_64 + DESCRIPTOR_64 if needs_zip64(size) else DESCRIPTOR
        count += 1
    large = (
        count > zipfile.ZIP_FILECOUNT_LIMIT
        or position > zipfile.ZIP64_LIMIT
        or directory > zipfile.ZIP64_LIMIT
    )
    return position + directory + END + (END_64 if large else 0)


def _central_extra(size: int, position: int) -> int:
    limit = zipfile.ZIP64_LIMIT
    numbers = 2 * (size > limit) + (position > limit)
    return 4 + 8 * numbers if numbers else 0
