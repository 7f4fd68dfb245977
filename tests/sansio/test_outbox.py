"""What a response has still to send: order, batches, copies, and the declared length."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsstream._sansio.encoders import BYTES, NDJSON, TEXT
from tsstream._sansio.outbox import BATCH_SIZE, LengthMismatch, Outbox

K = 1024


def drain(outbox: Outbox) -> list[bytes]:
    batches = []
    while outbox.size:
        batches.append(outbox.take())
    return batches


@pytest.mark.parametrize(
    ("items", "sizes"),
    [
        ([], []),
        ([b""], []),  # AC-27
        ([b"", b"a", b""], [1]),
        ([b"a", b"bc"], [3]),
        ([b"a" * 64 * K], [64 * K]),
        ([b"a" * (64 * K + 1)], [64 * K, 1]),  # D34
        ([b"a" * 64 * K, b"b"], [64 * K, 1]),
        ([b"a", b"b" * 64 * K], [64 * K, 1]),
        ([b"a" * 200 * K], [64 * K, 64 * K, 64 * K, 8 * K]),
        ([b"a" * 40 * K] * 3, [64 * K, 56 * K]),
    ],
)
def test_batches(items: list[bytes], sizes: list[int]) -> None:
    outbox = Outbox(BYTES)
    for item in items:
        outbox.put(item)
    assert [len(batch) for batch in drain(outbox)] == sizes


@pytest.mark.parametrize(
    ("size", "full"), [(0, False), (BATCH_SIZE - 1, False), (BATCH_SIZE, True), (200 * K, True)]
)
def test_full_when_a_whole_batch_waits(size: int, full: bool) -> None:
    outbox = Outbox(BYTES)
    outbox.put(bytes(size))
    assert outbox.full is full


def test_nothing_is_taken_from_an_empty_outbox() -> None:
    assert Outbox(BYTES).take() == b""


def test_items_are_encoded() -> None:
    outbox = Outbox(NDJSON)
    outbox.put({"a": 1})
    outbox.put("é")
    assert outbox.take() == '{"a":1}\n"é"\n'.encode()


def test_an_item_that_cannot_be_encoded_leaves_the_others() -> None:
    # D10
    outbox = Outbox(TEXT)
    outbox.put("a")
    with pytest.raises(TypeError):
        outbox.put(1)
    assert outbox.take() == b"a"


pieces = st.lists(
    st.one_of(
        st.binary(max_size=20),
        st.text(max_size=20),
        st.integers(0, 3 * BATCH_SIZE).map(bytes),
        st.binary(max_size=20).map(lambda data: memoryview(data)),
        st.binary(max_size=20).map(bytearray),
    )
)


@given(pieces, st.data())
def test_what_goes_in_comes_out_in_order_and_in_batches(
    items: list[object], data: st.DataObject
) -> None:
    outbox = Outbox(BYTES)
    expected, out = b"", b""
    for item in items:
        outbox.put(item)
        expected += item.encode() if isinstance(item, str) else bytes(item)  # type: ignore[call-overload]
        assert outbox.size == len(expected) - len(out)
        if data.draw(st.booleans()):
            batch = outbox.take()
            assert len(batch) == min(BATCH_SIZE, len(expected) - len(out))
            out += batch
    assert out + b"".join(drain(outbox)) == expected
    assert outbox.size == 0


def test_a_mutable_buffer_is_copied_at_once() -> None:
    # AC-29
    outbox = Outbox(BYTES)
    buffer = bytearray(b"abc")
    outbox.put(buffer)
    outbox.put(memoryview(buffer))
    buffer[:] = b"xyz"
    assert outbox.take() == b"abcabc"


@pytest.mark.parametrize("kind", [bytes, memoryview])
def test_a_huge_immutable_item_is_never_copied_as_a_whole(kind: type) -> None:
    # AC-28
    item = kind(bytes(128 * K * K))
    outbox = Outbox(BYTES)
    tracemalloc.start()
    try:
        outbox.put(item)
        total = 0
        while outbox.size:
            total += len(outbox.take())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert total == 128 * K * K
    assert peak <= K * K


@pytest.mark.parametrize("declared", [None, 0, 3])
def test_a_body_of_the_declared_length_is_complete(declared: int | None) -> None:
    outbox = Outbox(BYTES, declared=declared)
    outbox.put(b"abc"[: declared or 0])
    outbox.check_complete()


def test_an_item_beyond_the_declared_length_is_refused_and_those_before_are_kept() -> None:
    # D37
    outbox = Outbox(BYTES, declared=5)
    outbox.put(b"abc")
    with pytest.raises(LengthMismatch, match=r"declared .* 5 bytes.*at least 6"):
        outbox.put(b"def")
    assert outbox.take() == b"abc"


def test_an_empty_item_after_the_declared_length_is_nothing() -> None:
    outbox = Outbox(BYTES, declared=1)
    outbox.put(b"a")
    outbox.put(b"")
    outbox.check_complete()


def test_a_body_shorter_than_declared_is_not_complete() -> None:
    # D38
    outbox = Outbox(BYTES, declared=5)
    outbox.put(b"abc")
    outbox.take()
    with pytest.raises(LengthMismatch, match=r"declared .* 5 bytes, and its body ended after 3"):
        outbox.check_complete()


@given(st.lists(st.binary(max_size=5)), st.integers(0, 40))
def test_never_more_than_declared_comes_out(items: list[bytes], declared: int) -> None:
    outbox = Outbox(BYTES, declared=declared)
    for item in items:
        try:
            outbox.put(item)
        except LengthMismatch:
            break
    assert len(outbox.take()) <= declared
