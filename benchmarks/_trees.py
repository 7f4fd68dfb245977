"""A tree to archive: small files and large ones, every other one text, the rest random bytes.

``python -m benchmarks._trees DIRECTORY`` makes the tree that the figures are of.
"""

from __future__ import annotations

import argparse
import os
import random
import string
from pathlib import Path

import attrs

KIB, MIB = 1024, 1024 * 1024  # bytes
WORDS = 4000
BLOCK = MIB  # bytes: of text that is made at once
LETTERS_PER_WORD = 6  # on average, with the space


@attrs.frozen(kw_only=True)
class Shape:
    """How many files there are, and how large: sizes in bytes.

    Attributes:
      small: how many files of sizes between *least* and *most*.
      large: how many files of *size*.
      sparse: the large ones are holes, which take no room on the disk and no time to make.
    """

    small: int = 20_000
    least: int = KIB
    most: int = 20 * KIB
    large: int = 50
    size: int = 20 * MIB
    sparse: bool = False


def make_tree(root: Path, shape: Shape) -> None:
    """Make the tree, the same for the same shape; *root* must not exist."""
    maker = Maker()
    for number in range(shape.small):
        folder = root / "small" / f"{number % 100:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        size = maker.random.randint(shape.least, shape.most)
        maker.write(folder / f"{number:05d}", size, text=number % 2 == 1)
    (root / "large").mkdir(parents=True)
    for number in range(shape.large):
        path = root / "large" / f"{number:02d}"
        if shape.sparse:
            path.touch()
            os.truncate(path, shape.size)
        else:
            maker.write(path, shape.size, text=number % 2 == 1)


class Maker:
    """Writes files; their text is of words that do not mean anything."""

    def __init__(self) -> None:
        self.random = random.Random(5)
        self._words = [
            "".join(self.random.choices(string.ascii_lowercase, k=self.random.randint(2, 9)))
            for _ in range(WORDS)
        ]

    def write(self, path: Path, size: int, *, text: bool) -> None:
        with path.open("wb") as file:
            while left := size - file.tell():
                size_now = min(left, BLOCK)
                file.write(self._text(size_now) if text else self.random.randbytes(size_now))

    def _text(self, size: int) -> bytes:
        words = self.random.choices(self._words, k=size // LETTERS_PER_WORD * 2 + 10)
        return " ".join(words)[:size].encode()


def read_tree(root: Path) -> int:
    """Read all files, so that the kernel has them in memory; give their size."""
    size = 0
    for path in root.rglob("*"):
        if path.is_file() and not path.is_symlink():
            size += len(path.read_bytes())
    return size


def add_shape(parser: argparse.ArgumentParser) -> None:
    """Add options for what a tree is like."""
    default = Shape()
    parser.add_argument("--small", type=int, default=default.small, help="files of 1 to 20 KiB")
    parser.add_argument("--large", type=int, default=default.large, help="files of --size")
    parser.add_argument("--size", type=int, default=default.size // MIB, help="in MiB")


def to_shape(options: argparse.Namespace) -> Shape:
    return Shape(small=options.small, large=options.large, size=options.size * MIB)


def main() -> None:
    """Make a tree."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    add_shape(parser)
    options = parser.parse_args()
    make_tree(options.directory, to_shape(options))


if __name__ == "__main__":
    main()
