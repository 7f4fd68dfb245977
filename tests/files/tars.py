"""Trees for the tests of tar archives, and what is to come of them."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

from tsstream._files.tar import Filter, Plan
from tsstream._files.tree import Opener, to_roots

OLD = 1_600_000_000.25  # seconds: a time with a fraction, which archives do not have


def make_tree(root: Path) -> Path:
    """Make files of many sizes, with names of many kinds, changed long ago."""
    sizes = {"empty": 0, "one": 1, "block": 512, "piece": 64 * 1024, "large": 300_001}
    for name, size in sizes.items():
        write(root / "sizes" / name, os.urandom(size))
    write(root / "names" / "é漢", b"not ASCII")
    write(root / "names" / ("long" * 40), b"no room in a ustar header")
    write(root / "names" / os.fsdecode(b"\xff\xfe"), b"no UTF-8")
    (root / "nothing").mkdir()
    (root / "sizes" / "one").chmod(0o755)
    for directory, _, names in os.walk(root, topdown=False):
        for name in (*names, ""):
            os.utime(os.path.join(directory, name), (OLD, OLD))
    return root


def write(path: Path, data: bytes) -> None:
    """Write a file, and make the directories that it is in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def to_plan(
    root: Path,
    *,
    format: int = tarfile.PAX_FORMAT,  # noqa: A002 (as tarfile's)
    filter: Filter | None = None,  # noqa: A002 (as tarfile's)
    deterministic: bool = False,
    opener: Opener = os.open,
) -> Plan:
    """Plan the archive of one tree, which is called ``tree``."""
    return Plan(
        roots=to_roots(root, "tree"),
        format=format,
        filter=filter,
        deterministic=deterministic,
        opener=opener,
    )


def by_tarfile(
    root: Path,
    *,
    format: int = tarfile.PAX_FORMAT,  # noqa: A002 (as tarfile's)
    filter: Filter | None = None,  # noqa: A002 (as tarfile's)
) -> bytes:
    """Archive a tree as tarfile does, but for the fractions of its times."""

    def shorten(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
        info.mtime = int(info.mtime)
        return info if filter is None else filter(info)

    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w|", format=format) as archive:
        archive.add(root, arcname="tree", filter=shorten)
    return file.getvalue()
