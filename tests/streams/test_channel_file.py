"""The file of run_thread_consumer(): every way to read it, and every wrapper (RQ-20)."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import random
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from typing import IO, Any, TypeVar

import pytest
import trio

from tsstream._errors import HTTPError
from tsstream._streams.channel_file import ChannelFile
from tsstream._streams.prefetch import Prefetch
from tsstream._streams.threads import run_thread_consumer

T = TypeVar("T")
CHUNKS = (b"abc", b"de", b"fghij")
LINES = (b"on", b"e\ntwo\n", b"\nth", b"re", b"e")


async def consume(
    fn: Callable[[IO[bytes]], T], chunks: Sequence[Any] = CHUNKS, **options: Any
) -> T:
    """Run *fn* over a channel of *chunks*."""
    send_channel, receive_channel = trio.open_memory_channel[Any](len(chunks))
    with send_channel:
        for chunk in chunks:
            send_channel.send_nowait(chunk)
    with trio.fail_after(5):
        return await run_thread_consumer(fn, receive_channel, **options)


def cut(data: bytes, seed: int = 1) -> list[bytes]:
    """Cut *data* into chunks of 1 to 3,000 bytes."""
    chance, chunks = random.Random(seed), []
    while data:
        size = chance.randint(1, 3000)
        chunks.append(data[:size])
        data = data[size:]
    return chunks


def read_into(file: IO[bytes], size: int) -> bytes:
    buffer = bytearray(size)
    return bytes(buffer[: file.readinto(buffer)])  # type: ignore[attr-defined]  # IO has none


def read1(file: IO[bytes], *args: int) -> bytes:
    data: bytes = file.read1(*args)  # type: ignore[attr-defined]  # IO has none
    return data


WAYS: dict[str, tuple[Callable[[IO[bytes]], object], object]] = {
    "read(n)": (
        lambda file: [file.read(size) for size in (2, 4, 3, 99, 1)],
        [b"ab", b"cdef", b"ghi", b"j", b""],
    ),
    "read()": (lambda file: [file.read(), file.read()], [b"abcdefghij", b""]),
    "read(-1)": (lambda file: [file.read(1), file.read(-1)], [b"a", b"bcdefghij"]),
    "read(None)": (lambda file: file.read(None), b"abcdefghij"),  # type: ignore[arg-type]
    "read(0)": (lambda file: [file.read(0), file.read(1)], [b"", b"a"]),
    "read1(n)": (
        lambda file: [read1(file, size) for size in (2, 4, 0, 9, 9, 9)],
        [b"ab", b"c", b"", b"de", b"fghij", b""],
    ),
    "read1()": (lambda file: [read1(file), read1(file, -1)], [b"abc", b"de"]),
    "readinto": (
        lambda file: [read_into(file, size) for size in (2, 4, 9, 4, 9, 9)],
        [b"ab", b"c", b"de", b"fghi", b"j", b""],
    ),
    "readline, without one": (lambda file: file.readline(), b"abcdefghij"),
}


@pytest.mark.parametrize("way", WAYS)
async def test_reads(way: str) -> None:
    # RQ-20
    fn, expected = WAYS[way]
    assert await consume(fn) == expected


LINE_WAYS: dict[str, tuple[Callable[[IO[bytes]], object], object]] = {
    "iteration": (list, [b"one\n", b"two\n", b"\n", b"three"]),
    "readline": (
        lambda file: [file.readline() for _ in range(5)],
        [b"one\n", b"two\n", b"\n", b"three", b""],
    ),
    "readline(n)": (
        lambda file: [file.readline(size) for size in (2, 9, 4, 0, 3, 9, 9)],
        [b"on", b"e\n", b"two\n", b"", b"\n", b"three", b""],
    ),
    "readlines": (lambda file: file.readlines(), [b"one\n", b"two\n", b"\n", b"three"]),
    "readlines(hint)": (
        lambda file: [file.readlines(5), file.readlines()],
        [[b"one\n", b"two\n"], [b"\n", b"three"]],
    ),
    "mixed": (
        lambda file: [file.read(1), file.readline(), file.read(2), next(file), file.read()],
        [b"o", b"ne\n", b"tw", b"o\n", b"\nthree"],
    ),
}


@pytest.mark.parametrize("way", LINE_WAYS)
async def test_lines(way: str) -> None:
    # RQ-20
    fn, expected = LINE_WAYS[way]
    assert await consume(fn, LINES) == expected


@pytest.mark.parametrize("seed", range(20))
async def test_any_mix_of_reads_gives_what_a_bytesio_gives(seed: int) -> None:
    # The same calls on both; of read1() and readinto() only that they lose nothing.
    chance = random.Random(seed)
    data = bytes(chance.choices(b"abc\n", k=3000))
    chunks = [data[i : i + 7] for i in range(0, len(data), 7)]

    def compare(file: IO[bytes]) -> None:
        expected = io.BytesIO(data)
        while expected.tell() < len(data):
            size = chance.randint(1, 40)
            match chance.randrange(5):
                case 0:
                    assert file.read(size) == expected.read(size)
                case 1:
                    assert file.readline() == expected.readline()
                case 2:
                    assert file.readline(size) == expected.readline(size)
                case 3:
                    got = read_into(file, size)
                    assert got
                    assert got == expected.read(len(got))
                case 4:
                    got = read1(file, size)
                    assert 0 < len(got) <= size
                    assert got == expected.read(len(got))
        assert file.read(1) == b""

    await consume(compare, chunks)


async def test_a_read_of_a_whole_chunk_does_not_copy_it() -> None:
    chunks = [bytes([65 + number]) * 1000 for number in range(4)]

    def read_all(file: IO[bytes]) -> list[bytes]:
        return [file.read(1000), read1(file), file.readline(1000), read1(file, 5000)]

    for got, chunk in zip(await consume(read_all, chunks), chunks, strict=True):
        assert got is chunk


async def test_empty_chunks_are_no_end() -> None:
    # RQ-6
    assert await consume(lambda file: [read1(file), read1(file)], [b"", b"a", b"", b"b"]) == [
        b"a",
        b"b",
    ]


async def test_chunks_may_be_any_bytes_and_are_copied_where_they_can_change() -> None:
    chunk = bytearray(b"abc")
    send_channel, receive_channel = trio.open_memory_channel[Any](2)
    send_channel.send_nowait(chunk)
    send_channel.send_nowait(memoryview(b"defg")[::2])

    def read(file: IO[bytes]) -> list[object]:
        first = file.read(1)
        chunk[:] = b"xyz"
        return [first, file.read(4)]

    with send_channel, trio.fail_after(5):
        assert await run_thread_consumer(read, receive_channel) == [b"a", b"bcdf"]


@pytest.mark.parametrize("chunk", ["text", 5, None])
async def test_a_chunk_that_is_no_bytes_is_an_error(chunk: object) -> None:
    with pytest.raises(TypeError, match="bytes-like"):
        await consume(lambda file: file.read(), [chunk])


# What it says of itself


async def test_it_says_what_it_is() -> None:
    def look(file: IO[bytes]) -> None:
        assert isinstance(file, io.BufferedIOBase)
        assert (file.readable(), file.writable(), file.seekable()) == (True, False, False)
        assert not file.isatty()
        assert not file.closed
        for refused in (file.tell, file.fileno, lambda: file.seek(0), lambda: file.write(b"")):
            with pytest.raises(io.UnsupportedOperation):
                refused()

    await consume(look)


async def test_seeking_is_refused_with_what_to_do_instead() -> None:
    def seek(file: IO[bytes]) -> None:
        file.seek(0)

    with pytest.raises(io.UnsupportedOperation, match="SpooledTemporaryFile"):
        await consume(seek)


async def test_a_closed_file_is_not_read() -> None:
    def close(file: IO[bytes]) -> None:
        with file:
            file.read(1)
        assert file.closed
        file.close()
        for read in (file.read, file.readline, file.readlines, lambda: next(file)):
            with pytest.raises(ValueError, match="closed file"):
                read()
        with pytest.raises(ValueError, match="closed file"):
            read1(file)

    await consume(close)


async def test_a_closed_file_is_not_read_though_the_loop_does_not_know_yet() -> None:
    file = ChannelFile(Prefetch(), max_read=None)
    file.close()
    with pytest.raises(ValueError, match="closed file"):
        file.read(0)


async def test_the_file_is_closed_once_the_function_has_returned() -> None:
    # ET-22
    file = await consume(lambda file: file)
    assert file.closed
    with pytest.raises(ValueError, match="closed file"):
        file.read(1)


# Limits


@pytest.mark.parametrize("size", [10, 11, None])
@pytest.mark.parametrize(
    "read",
    [lambda file: file.read(), lambda file: file.readline(), lambda file: file.readlines()[0]],
)
async def test_a_read_without_a_size_holds_up_to_max_read(
    read: Callable[[IO[bytes]], bytes], size: int | None
) -> None:
    # RQ-20: "read(-1) (capped)"
    assert await consume(read, max_read=size) == b"abcdefghij"


@pytest.mark.parametrize(
    "read",
    [
        lambda file: file.read(),
        lambda file: file.readline(),
        lambda file: file.readlines(),
        list,
    ],
)
async def test_a_read_without_a_size_that_would_hold_more_is_refused(
    read: Callable[[Any], object],
) -> None:
    # RQ-20, RQ-13: and the refusal stays one
    def read_twice(file: IO[bytes]) -> None:
        with pytest.raises(HTTPError) as first:
            read(file)
        assert first.value.status_code == 413
        file.read(1)

    with pytest.raises(HTTPError, match="413 More than 9 bytes"):
        await consume(read_twice, max_read=9)


async def test_the_limit_holds_under_a_wrapper() -> None:
    def read(file: Any) -> None:
        io.BufferedReader(file).read()

    with pytest.raises(HTTPError, match="413"):
        await consume(read, max_read=9)


async def test_a_read_with_a_size_is_not_limited() -> None:
    assert await consume(lambda file: file.read(99), max_read=1) == b"abcdefghij"


async def test_readlines_is_limited_as_a_whole() -> None:
    lines = [b"one\n", b"two\n", b"\n", b"three"]
    assert await consume(lambda file: file.readlines(), LINES, max_read=14) == lines
    with pytest.raises(HTTPError):
        await consume(lambda file: file.readlines(), LINES, max_read=13)
    assert await consume(lambda file: file.readlines(99), LINES, max_read=5) == lines


async def test_lines_are_limited_one_by_one() -> None:
    def count(file: IO[bytes]) -> int:
        return sum(len(line) for line in file)

    assert await consume(count, LINES, max_read=5) == 14
    with pytest.raises(HTTPError):
        await consume(count, LINES, max_read=4)


# Wrappers


async def test_under_a_buffered_reader() -> None:
    # RQ-20: aistore's reader has no readinto()
    def read(file: Any) -> list[bytes]:
        reader = io.BufferedReader(file)
        return [reader.read(2), reader.peek(1)[:1], reader.read(4), reader.read()]

    assert await consume(read) == [b"ab", b"c", b"cdef", b"ghij"]


async def test_under_a_text_wrapper() -> None:
    def read(file: Any) -> list[str]:
        return list(io.TextIOWrapper(file, "utf-8"))

    euro = "1 €\n2 €".encode()
    chunks = [euro[i : i + 1] for i in range(len(euro))]
    assert await consume(read, chunks) == ["1 €\n", "2 €"]


@pytest.mark.parametrize(
    "wrap", [io.TextIOWrapper, lambda f: io.TextIOWrapper(io.BufferedReader(f))]
)
async def test_a_wrapper_gives_a_line_as_soon_as_it_has_come(wrap: Callable[[Any], Any]) -> None:
    # ET-15: a client may wait for an answer to its line before it sends the next.
    ask, questions = trio.open_memory_channel[bytes](0)
    answer, answers = trio.open_memory_channel[str](0)

    def talk(file: IO[bytes]) -> None:
        for line in wrap(file):
            trio.from_thread.run(answer.send, line)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_thread_consumer, talk, questions)
        with ask, trio.fail_after(5):
            for number in range(3):
                await ask.send(b"%d\n" % number)
                assert await answers.receive() == f"{number}\n"


async def test_under_csv() -> None:
    def total(file: Any) -> int:
        return sum(int(row["n"]) for row in csv.DictReader(io.TextIOWrapper(file, newline="")))

    data = b"name,n\r\n" + b"".join(b'"a\r\n%d",%d\r\n' % (i, i) for i in range(1000))
    assert await consume(total, cut(data)) == 499500


async def test_under_gzip() -> None:
    # RQ-20; two members, as "cat a.gz b.gz" makes them
    data = random.Random(2).randbytes(100_000)

    def unpack(file: IO[bytes]) -> bytes:
        with gzip.GzipFile(fileobj=file) as unpacked:
            return unpacked.read()

    packed = gzip.compress(data) + gzip.compress(b"more")
    assert await consume(unpack, cut(packed)) == data + b"more"


@pytest.mark.parametrize("compression", ["", "gz", "bz2", "xz"])
async def test_under_tarfile(compression: str) -> None:
    # RQ-20
    members = {f"file{i}": random.Random(i).randbytes(i * 1000) for i in range(20)}
    archive = io.BytesIO()
    mode: Any = f"w|{compression}"
    with tarfile.open(fileobj=archive, mode=mode) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))

    def unpack(file: IO[bytes]) -> dict[str, bytes]:
        with tarfile.open(fileobj=file, mode="r|*") as tar:
            return {info.name: read_member(tar, info) for info in tar}

    assert await consume(unpack, cut(archive.getvalue())) == members


def read_member(tar: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    member = tar.extractfile(info)
    assert member is not None
    return member.read()


async def test_zipfile_says_that_it_has_to_seek() -> None:
    # "where possible"
    with pytest.raises(zipfile.BadZipFile) as caught:
        await consume(zipfile.ZipFile, cut(make_zip()))
    assert isinstance(caught.value.__context__, io.UnsupportedOperation)


async def test_zipfile_reads_a_spooled_copy() -> None:
    def unpack(file: IO[bytes]) -> bytes:
        with tempfile.SpooledTemporaryFile() as spooled:
            shutil.copyfileobj(file, spooled)
            with zipfile.ZipFile(spooled) as archive:
                return archive.read("name")

    assert await consume(unpack, cut(make_zip())) == b"content" * 1000


def make_zip() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("name", b"content" * 1000)
    return file.getvalue()


async def test_under_hashlib() -> None:
    data = random.Random(3).randbytes(100_000)

    def digest(file: Any) -> str:
        return hashlib.file_digest(file, "sha256").hexdigest()

    assert await consume(digest, cut(data)) == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("size", [1, 4096, 65536, 1_000_000])
async def test_a_megabyte_in_reads_of_any_size_is_exact(size: int) -> None:
    # ET-17: aistore's test reads 4 KB at a time
    data = random.Random(4).randbytes(20_000 if size == 1 else 1_000_000)

    def copy(file: IO[bytes]) -> bytes:
        return b"".join(iter(lambda: file.read(size), b""))

    assert await consume(copy, cut(data)) == data
