"""Compressors: what others make of their streams, and what they do not compress in vain."""

from __future__ import annotations

import gzip
import io
import random
import sys
import tarfile
import zlib
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tools import run_tool

from tsstream._files.compression import (
    Coding,
    Compressor,
    ZstdCompressor,
    check_compression,
    open_compressor,
)
from tsstream._files.gzip import STRETCH, TRUSTED, GzipCompressor

KIB, MIB = 1024, 1024 * 1024
HEADER_SIZE, TRAILER_SIZE = 10, 8  # bytes: of a gzip member
TEXT = b"".join(b"%d bottles of beer on the wall, %x\n" % (n, n * n) for n in range(60_000))
NOISE = random.Random(5).randbytes(4 * MIB)

GZIP_LEVELS = [None, 1, 6, 9]
CODINGS = [("gzip", level) for level in GZIP_LEVELS] + [
    ("zstd", level) for level in (None, 1, 3, -5)
]
PACKAGE = Path(__file__).parents[2] / "tsstream"
KINDS = {
    "nothing": b"",
    "a byte": b"x",
    "text": TEXT,
    "noise": NOISE,
    "both": b"".join(
        NOISE[n : n + 300 * KIB] + TEXT[n : n + 200 * KIB] for n in range(0, MIB, 200 * KIB)
    ),
    "noise again and again": NOISE[: 20 * KIB] * 200,
    "noise, and then again": NOISE[: 2 * MIB] + NOISE[MIB : MIB + 20 * KIB] * 100,
}


def compress(compressor: Compressor, data: bytes, size: int = 64 * KIB) -> bytes:
    pieces = [compressor.compress(data[n : n + size]) for n in range(0, len(data), size)]
    return b"".join([*pieces, compressor.finish()])


def unpack(coding: str, data: bytes) -> bytes:
    code, unpacked = run_tool(coding, "-dcq", data=data)
    assert code == 0
    return unpacked


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("coding", "level"), CODINGS)
def test_others_can_read_it(coding: Coding, level: int | None, kind: str) -> None:  # BK-11, BK-12
    data = KINDS[kind]
    packed = compress(open_compressor(coding, level=level), data)
    assert unpack(coding, packed) == data


@pytest.mark.parametrize("level", GZIP_LEVELS)
@pytest.mark.parametrize("kind", KINDS)
def test_gzip_is_one_member(kind: str, level: int | None) -> None:  # BK-11
    engine = zlib.decompressobj(wbits=31)
    assert engine.decompress(compress(GzipCompressor(level), KINDS[kind])) == KINDS[kind]
    assert engine.eof
    assert not engine.unused_data


@given(
    pieces=st.lists(
        st.tuples(
            st.sampled_from([TEXT, NOISE]),
            st.integers(0, MIB),
            st.integers(0, 5 * STRETCH),
            st.sampled_from(["go on", "flush"]),
        ),
        max_size=8,
    ),
    level=st.sampled_from([None, 1]),
)
@example(pieces=[(NOISE, 0, 3 * STRETCH, "flush"), (NOISE, STRETCH, STRETCH, "go on")], level=None)
@example(pieces=[(NOISE, 0, STRETCH, "go on"), (TEXT, 0, 10, "flush")], level=1)
def test_what_was_flushed_can_be_read(
    pieces: list[tuple[bytes, int, int, str]], level: int | None
) -> None:  # BK-3
    compressor, engine = GzipCompressor(level), zlib.decompressobj(wbits=31)
    given = taken = b""
    for kind, start, size, then in pieces:
        given += kind[start : start + size]
        taken += engine.decompress(compressor.compress(kind[start : start + size]))
        if then == "flush":
            taken += engine.decompress(compressor.flush())
            assert taken == given
    taken += engine.decompress(compressor.finish())
    assert (taken, engine.eof) == (given, True)


def test_zstd_can_be_read_as_far_as_it_was_flushed() -> None:  # BK-3
    compressor = open_compressor("zstd")
    flushed = compressor.compress(TEXT[:1000]) + compressor.flush()
    code, unpacked = run_tool("zstd", "-dcq", data=flushed)
    assert code  # it has no end
    assert unpacked == TEXT[:1000]


@pytest.mark.parametrize("level", GZIP_LEVELS)
@pytest.mark.parametrize("kind", ["noise", "both", "noise again and again", "text"])
def test_gzip_is_about_as_small_as_zlib_makes_it(kind: str, level: int | None) -> None:  # BK-11
    packed = compress(GzipCompressor(level), KINDS[kind])
    # What repeats unseen by samples is tried stretch by stretch, with a flush at each end.
    allowed = len(KINDS[kind]) / 400
    assert len(packed) < 1.03 * len(zlib.compress(KINDS[kind], level or 1)) + allowed


@pytest.mark.parametrize("level", GZIP_LEVELS)
def test_noise_hardly_grows(level: int | None) -> None:
    packed = compress(GzipCompressor(level), NOISE)
    blocks = len(NOISE) / STRETCH * 2 * 5  # bytes: heads of stored blocks of at most 65,535
    assert len(packed) < len(NOISE) + HEADER_SIZE + TRAILER_SIZE + blocks + 100


def test_noise_is_stored() -> None:
    packed = compress(GzipCompressor(1), NOISE)
    assert NOISE[STRETCH : STRETCH + 60 * KIB] in packed


def test_text_behind_noise_is_compressed_at_once() -> None:
    data = NOISE[: 3 * STRETCH] + TEXT[: 3 * STRETCH]
    packed = compress(GzipCompressor(1), data)
    assert len(packed) < 3.5 * STRETCH + len(zlib.compress(TEXT[: 2 * STRETCH], 1))


def test_what_repeats_behind_noise_is_compressed_soon() -> None:
    noise = NOISE[: 2 * STRETCH]
    repeated = NOISE[: 20 * KIB] * 150  # which a sample does not see
    packed = compress(GzipCompressor(1), noise + repeated)
    assert len(packed) < len(noise) + (TRUSTED + 2) * STRETCH + len(zlib.compress(repeated, 1))


@pytest.mark.parametrize("level", [None, 1])
def test_what_was_stored_is_remembered(level: int | None) -> None:
    stored = NOISE[: (TRUSTED + 1) * STRETCH]
    repeated = stored[-20 * KIB :] * 3
    packed = compress(GzipCompressor(level), stored + repeated + bytes(STRETCH))
    assert len(packed) < len(stored) + 8 * KIB


# RFC 1952 2.3.1: 4 is "fastest", 2 "slowest".
@pytest.mark.parametrize(("level", "extra"), [(None, 4), (1, 4), (6, 0), (9, 2)])
def test_gzip_says_no_time_and_no_name(level: int | None, extra: int) -> None:
    head = compress(GzipCompressor(level), TEXT)[:HEADER_SIZE]
    assert head == b"\x1f\x8b\x08\x00\0\0\0\0%c\xff" % extra


@pytest.mark.parametrize(("coding", "level"), CODINGS)
def test_without_its_end_it_is_not_whole(coding: Coding, level: int | None) -> None:  # BK-21
    compressor = open_compressor(coding, level=level)
    packed = compressor.compress(TEXT) + compressor.compress(NOISE) + compressor.flush()
    assert run_tool(coding, "-tq", data=packed)[0]


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
def test_a_changed_byte_is_noticed(coding: Coding) -> None:
    packed = bytearray(compress(open_compressor(coding), NOISE[:MIB]))
    packed[MIB // 2] ^= 1
    assert run_tool(coding, "-tq", data=bytes(packed))[0]


def test_the_same_gives_the_same_bytes() -> None:
    assert compress(GzipCompressor(), TEXT, 1000) == compress(GzipCompressor(), TEXT, 70_000)


def test_tarfile_reads_it_as_a_stream() -> None:  # BK-11
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w|") as archive:
        for name, data in KINDS.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    packed = compress(GzipCompressor(), plain.getvalue(), 10_240)
    with tarfile.open(fileobj=io.BytesIO(packed), mode="r|gz") as archive:
        for info, (name, data) in zip(archive, KINDS.items(), strict=True):
            file = archive.extractfile(info)
            assert file is not None
            assert (info.name, file.read()) == (name, data)


@pytest.mark.parametrize(("coding", "level"), [("gzip", 0), ("gzip", 10), ("zstd", 23)])
def test_a_level_that_is_none_is_refused(coding: Coding, level: int) -> None:
    with pytest.raises(ValueError, match=f"a level of {coding} is .* to .*, not {level}"):
        check_compression(coding, level)


def test_a_coding_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="'gzip', 'zstd' or None, not 'br'"):
        check_compression("br", None)  # type: ignore[arg-type]


def run_without(modules: str, code: str) -> str:
    """Run *code* in a process where *modules* are not installed."""
    hide = f"import sys; sys.modules.update(dict.fromkeys({modules.split()}));"
    head = "from tsstream._files.compression import check_compression, open_compressor;"
    path = f"import sys; sys.path[:] = {sys.path};"
    _, printed = run_tool(sys.executable, "-c", path + hide + head + code)
    return printed.decode()


def test_gzip_needs_nothing_else() -> None:
    code = (
        "c = open_compressor('gzip'); data = c.compress(bytes(300_000)) + c.finish();"
        "sys.stdout.buffer.write(data.hex().encode())"
    )
    packed = bytes.fromhex(run_without("isal isal.isal_zlib", code))
    assert gzip.decompress(packed) == bytes(300_000)


def test_zstd_that_is_not_installed_is_said_before_anything_begins() -> None:
    code = """
try:
    check_compression('zstd', None)
except RuntimeError as error:
    print(error)
"""
    message = run_without("backports backports.zstd compression compression.zstd", "\n" + code)
    assert "install tsstream[zstd]" in message


def test_isal_is_used_if_it_is_there() -> None:
    pytest.importorskip("isal")
    assert compress(GzipCompressor(), TEXT) != compress(GzipCompressor(1), TEXT)


def test_the_default_of_zstd_is_about_as_small_as_gzip_6() -> None:
    source = b"".join(path.read_bytes() for path in sorted(PACKAGE.rglob("*.py")))
    for data in (source, TEXT):
        assert len(compress(ZstdCompressor(), data)) < 1.03 * len(zlib.compress(data, 6))
