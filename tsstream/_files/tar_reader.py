"""The members of a tar archive, one after another, as they arrive."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator

from tsstream._sansio.tarheader import Member, padding, read_member
from tsstream._sansio.tarsparse import Sparse, read_numbers, to_segments

# bytes: what may follow the end of the archive, all of it zeros; GNU tar fills up to 10 KiB, and
# to the size of a tape's record if asked to.
MAX_REST = 16 * 1024 * 1024


class TarReader:
    """The members in the pieces of an archive; of each first the headers, then the data.

    Nothing is kept of a member once the next has come.
    """

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._piece = memoryview(b"")
        self._left = self._padding = 0  # of the member's data
        self._sparse: Sparse | None = None
        self._lasting: dict[str, str] = {}

    def __iter__(self) -> Iterator[Member]:
        """Give each member, then read up to the end of the pieces.

        Raises:
          tarfile.ReadError: this is no tar archive, or it is damaged, or it ends too early: even
            between two members, where its end would have to be.
          whatever the pieces raise, as itself.
        """
        while (member := read_member(self._take, self._lasting)) is not None:
            self._left, self._padding = member.size, padding(member.size)
            self._sparse = member.sparse
            yield member
            for _ in self._read_some(self._left):
                pass
            self._take(self._padding)
        self._check_rest()

    def read_data(self) -> Iterator[memoryview | int]:
        """Give the data of the member that came last, piece by piece; each is valid till the next.

        A number is a hole of so many bytes.

        Raises:
          as the iteration does.
        """
        if self._sparse is None:
            yield from self._read_some(self._left)
            return
        size, numbers = self._sparse.size, self._sparse.numbers
        if numbers is None:
            numbers = read_numbers(self._take_data)
        position = 0
        for offset, length in to_segments(numbers, size=size, stored=self._left):
            if offset > position:
                yield offset - position
            yield from self._read_some(length)
            position = offset + length
        if size > position:
            yield size - position

    def _read_some(self, size: int) -> Iterator[memoryview]:
        stop = self._left - size
        while self._left > stop:
            piece = self._take_some(self._left - stop)
            self._left -= len(piece)
            yield piece

    def _take_data(self, size: int) -> bytes:
        if size > self._left:
            raise tarfile.ReadError("a damaged sparse file")
        self._left -= size
        return self._take(size)

    def _take(self, size: int) -> bytes:
        piece = self._take_some(size) if size else b""
        if len(piece) == size:
            return bytes(piece)
        pieces = bytearray(piece)
        while len(pieces) < size:
            pieces += self._take_some(size - len(pieces))
        return bytes(pieces)

    def _take_some(self, size: int) -> memoryview:
        while not self._piece:
            self._piece = memoryview(self._next())
        taken, self._piece = self._piece[:size], self._piece[size:]
        return taken

    def _next(self) -> bytes:
        for piece in self._pieces:
            return piece
        raise tarfile.ReadError("it is cut")

    def _check_rest(self) -> None:
        size = 0
        piece = bytes(self._piece)
        while True:
            size += len(piece)
            if piece.count(0) != len(piece) or size > MAX_REST:
                raise tarfile.ReadError("something follows its end")
            try:
                piece = next(self._pieces)
            except StopIteration:
                break
