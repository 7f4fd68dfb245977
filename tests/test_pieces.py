"""Pieces that become one: all of them, in order, and without one object for each of many."""

from __future__ import annotations

import sys
import tracemalloc

import pytest

from tsstream._pieces import MANY, Pieces


@pytest.mark.parametrize("count", [0, 1, 2, MANY - 1, MANY, MANY + 1, 3 * MANY + 1])
def test_they_are_joined_in_order(count: int) -> None:
    pieces = Pieces()
    for number in range(count):
        piece = b"%d," % number
        pieces.add(memoryview(piece) if number % 2 else piece)
    whole = b"".join(b"%d," % number for number in range(count))
    assert pieces.size == len(whole)
    assert pieces.join() == whole


def test_one_piece_is_not_copied() -> None:
    pieces = Pieces()
    piece = bytes(100)
    pieces.add(piece)
    assert pieces.join() is piece


def test_small_pieces_take_the_memory_of_their_bytes() -> None:
    count = 200_000
    tracemalloc.start()
    try:
        pieces = Pieces()
        for number in range(count):
            pieces.add(number.to_bytes(4, sys.byteorder))
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken < 2 * pieces.size
