"""A place with something precious in it, and archives that are unpacked over it."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import pytest
from tar_kit import directory, make_tar, member, nothing, read_tree

from tsstream._errors import HTTPError
from tsstream._files.extract import Extracted, extract_tar

NOISE = random.Random(32).randbytes(400_000)
SMALL = make_tar(directory("tree"), member("tree/a", b"alpha"), member("tree/b", b"beta" * 200))
LARGE = make_tar(
    directory("tree"), *(member(f"tree/{n}", NOISE[n * 10_000 :][: n * 900]) for n in range(30))
)


def make_home(path: Path) -> Path:
    """Make a directory with a tree that archives may replace, and a file that stays."""
    home = path / "home"
    (home / "tree").mkdir(parents=True)
    (home / "tree" / "old").write_bytes(b"precious")
    (home / "other").write_bytes(b"mine")
    return home


def unpack_into(home: Path, data: bytes, **options: Any) -> Extracted:
    """Unpack it."""
    return extract_tar(io.BytesIO(data), home, sync=nothing, **options)


def assert_refused(home: Path, data: bytes, status: int = 400, **options: Any) -> None:
    """Fail unless it is refused, and nothing has changed."""
    before = read_tree(home)
    with pytest.raises(HTTPError) as caught:
        unpack_into(home, data, **options)
    assert caught.value.status_code == status
    assert read_tree(home) == before
