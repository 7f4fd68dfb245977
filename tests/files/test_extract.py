"""extract_tar(): what is unpacked, what it replaces, and what is told meanwhile."""

from __future__ import annotations

import io
import os
import random
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO

import pytest
import trio
from leaks import assert_no_leaks
from tar_kit import CODINGS, directory, dribble, files_of, make_tar, member, nothing, read_tree

from tsstream._errors import HTTPError
from tsstream._files.extract import PROGRESS_SIZE, Extracted, ExtractLimits, extract_tar
from tsstream._streams.threads import run_thread_consumer

MIB = 1024 * 1024
NOISE = random.Random(37).randbytes(3 * MIB)
ARCHIVE = make_tar(
    directory("tree"),
    member("tree/a", b"alpha", mode=0o640),
    directory("tree/inner", mode=0o750, mtime=1_500_000_000),
    member("tree/inner/noise", NOISE[:100_001], mtime=1_400_000_000.25),
)
FILES = {"tree/a": b"alpha", "tree/inner/noise": NOISE[:100_001]}


def unpack_into(destination: Path, data: bytes) -> Extracted:
    return extract_tar(io.BytesIO(data), destination, sync=nothing)


# What is unpacked


@pytest.mark.parametrize(
    "tar_format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT]
)
def test_every_format_is_unpacked(tar_format: int, tmp_path: Path) -> None:
    names = ["short", "x" * 150 + "/" + "y" * 90]
    if tar_format != tarfile.USTAR_FORMAT:
        names += ["d/" * 90 + "z", "é" * 120, "n" * 255]
    archive = make_tar(*(member(name, name.encode()) for name in names), tar_format=tar_format)
    unpack_into(tmp_path, archive)
    assert files_of(tmp_path) == {name: name.encode() for name in names}


@pytest.mark.parametrize("coding", CODINGS)
def test_compressed_archive_is_unpacked(coding: str, tmp_path: Path) -> None:
    assert unpack_into(tmp_path, CODINGS[coding](ARCHIVE)).members == 4
    assert files_of(tmp_path) == FILES


@pytest.mark.parametrize("coding", CODINGS)
def test_streams_one_after_another_are_one(coding: str, tmp_path: Path) -> None:
    compress = CODINGS[coding]
    data = compress(ARCHIVE[:70_000]) + compress(b"") + compress(ARCHIVE[70_000:]) + bytes(1024)
    unpack_into(tmp_path, data)
    assert files_of(tmp_path) == FILES


@pytest.mark.parametrize("coding", ["none", *CODINGS])
@pytest.mark.parametrize("size", [1, 511, 65_536])
def test_pieces_may_have_any_size(coding: str, size: int, tmp_path: Path) -> None:
    archive = make_tar(directory("tree"), member("tree/a", b"alpha" * 200))
    data = archive if coding == "none" else CODINGS[coding](archive)
    file = dribble(data[start : start + size] for start in range(0, len(data), size))
    extract_tar(file, tmp_path, sync=nothing)
    assert files_of(tmp_path) == {"tree/a": b"alpha" * 200}


def test_times_and_permissions_are_kept(tmp_path: Path) -> None:
    unpack_into(tmp_path, ARCHIVE)
    modes = [mode for mode, _ in read_tree(tmp_path).values()]
    assert modes == [0o755, 0o640, 0o750, 0o644]
    assert (tmp_path / "tree").stat().st_mtime == 1_600_000_000
    assert (tmp_path / "tree/inner").stat().st_mtime == 1_500_000_000
    assert (tmp_path / "tree/inner/noise").stat().st_mtime_ns == 1_400_000_000_250_000_000


def test_time_of_a_directory_is_kept_in_any_order(tmp_path: Path) -> None:
    unpack_into(
        tmp_path,
        make_tar(
            member("a/x/1"), directory("a/x"), directory("a"), member("a/x/2"), member("a/y/z/3")
        ),
    )
    for name in ("a", "a/x"):
        assert (tmp_path / name).stat().st_mtime == 1_600_000_000


@pytest.mark.parametrize(("seconds", "kept"), [(-5, -5), (2**40, 2**34 - 1), (-(2**40), -(2**31))])
def test_time_beyond_what_a_disk_keeps_is_the_nearest(
    seconds: int, kept: int, tmp_path: Path
) -> None:
    unpack_into(tmp_path, make_tar(member("a", pax_headers={"mtime": f"{seconds}"})))
    found = (tmp_path / "a").stat().st_mtime
    assert found == kept or kept > 2**33  # which some do not keep either


def test_directory_stays_open_to_its_owner(tmp_path: Path) -> None:
    unpack_into(tmp_path, make_tar(directory("a", mode=0), member("a/b", b"x", mode=0)))
    assert read_tree(tmp_path) == {"a": (0o700, None), "a/b": (0o600, b"x")}


def test_last_of_a_name_wins(tmp_path: Path) -> None:
    archive = make_tar(
        *(member("a", b"1"), member("a", b"2")),
        *(member("b", b"1"), member("b/c", b"2")),
        *(member("d/e/f", b"1"), member("d/e", b"2"), member("d/g", b"3")),
        *(directory("h"), member("h", b"1"), directory("h")),
    )
    unpack_into(tmp_path, archive)
    assert files_of(tmp_path) == {"a": b"2", "b/c": b"2", "d/e": b"2", "d/g": b"3"}
    assert (tmp_path / "h").is_dir()


@pytest.mark.parametrize("top", ["./", "././", ".//", "./."])
def test_what_leads_nowhere_is_dropped_from_names(top: str, tmp_path: Path) -> None:
    names = (f"{top}/{name}" for name in ("a/b", "a//c", "a/./d"))
    result = unpack_into(tmp_path, make_tar(directory(top), *(member(name) for name in names)))
    assert files_of(tmp_path) == {"a/b": b"", "a/c": b"", "a/d": b""}
    assert (result.members, result.skipped) == (4, 0)


def test_file_with_a_slash_at_its_end_is_a_directory(tmp_path: Path) -> None:
    for kind in (tarfile.REGTYPE, tarfile.AREGTYPE):
        unpack_into(tmp_path, make_tar(member("a/", type=kind), member("b", b"x")))
        assert (tmp_path / "a").is_dir()


def test_global_header_is_no_member(tmp_path: Path) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", pax_headers={"comment": "x" * 700}) as archive:
        archive.addfile(member("a")[0])
    assert unpack_into(tmp_path, file.getvalue()) == Extracted(1, 0, 0, "a")


# What it replaces. BK-33, BK-37

PAIRS = ((".anthias", "anthias_assets"), (".screenly", "screenly_assets"))


@pytest.mark.parametrize(
    ("names", "taken"),
    [
        ([], None),
        ([".anthias"], None),
        (["anthias_assets"], None),
        ([".anthias", "screenly_assets"], None),
        ([".anthias", "anthias_assets"], PAIRS[0]),
        ([".screenly", "screenly_assets"], PAIRS[1]),
        ([".screenly", "screenly_assets", ".anthias"], PAIRS[1]),
        ([*PAIRS[1], *PAIRS[0]], PAIRS[0]),
    ],
)
def test_required_trees(names: list[str], taken: tuple[str, ...] | None, tmp_path: Path) -> None:
    archive = make_tar(*(member(f"{name}/file", b"new") for name in names), member("other/x"))
    file, before = io.BytesIO(archive), read_tree(tmp_path)
    if taken is None:
        with pytest.raises(HTTPError, match="400 The archive lacks"):
            extract_tar(file, tmp_path, required=PAIRS, sync=nothing)
        assert read_tree(tmp_path) == before
    else:
        extract_tar(file, tmp_path, required=PAIRS, sync=nothing)
        assert files_of(tmp_path) == {f"{name}/file": b"new" for name in taken}


@pytest.mark.parametrize("required", [["a/b"], [""], [["a", ".."]]])
def test_required_is_names_at_the_top(
    required: list[str] | list[list[str]], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="no name of a directory"):
        extract_tar(io.BytesIO(ARCHIVE), tmp_path, required=required)


def test_required_is_no_string(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="put it in a tuple"):
        extract_tar(io.BytesIO(ARCHIVE), tmp_path, required="tree")


def test_tree_is_replaced_and_others_stay(tmp_path: Path) -> None:
    (tmp_path / "tree/gone").mkdir(parents=True)
    (tmp_path / "other").write_bytes(b"stays")
    unpack_into(tmp_path, ARCHIVE)
    assert files_of(tmp_path) == {**FILES, "other": b"stays"}
    assert len(os.listdir(tmp_path)) == 2


def test_empty_archive_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"stays")
    assert unpack_into(tmp_path, make_tar()) == Extracted()
    assert files_of(tmp_path) == {"other": b"stays"}


def test_destination_has_to_exist(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        unpack_into(tmp_path / "missing", ARCHIVE)


def test_nothing_is_replaced_before_it_is_on_the_disk(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    seen = []
    extract_tar(
        io.BytesIO(ARCHIVE), tmp_path, sync=lambda: seen.append(os.listdir(tmp_path / "tree"))
    )
    assert seen == [[]]


# What is told meanwhile. BK-40


def test_progress_is_told_after_each_member_and_within_large_ones(tmp_path: Path) -> None:
    steps: list[Extracted] = []
    archive = make_tar(member("a", b"1"), member("../b", b"2"), member("c", NOISE))
    extract_tar(io.BytesIO(archive), tmp_path, progress=steps.append, sync=nothing)
    assert steps[:2] == [Extracted(1, 1, 0, "a"), Extracted(1, 1, 1, "../b")]
    assert steps[-1] == Extracted(2, 1 + len(NOISE), 1, "c")
    sizes = [step.size for step in steps[1:]]
    assert len(sizes) == 2 + len(NOISE) // PROGRESS_SIZE - 1
    assert sizes == sorted(sizes)


def test_member_is_told_before_the_next_has_come(tmp_path: Path) -> None:
    steps: list[Extracted] = []

    archive = make_tar(member("a", b"1"), member("b", b"2"))

    def pieces() -> Iterator[bytes]:
        yield archive[:1024]
        assert [step.name for step in steps] == ["a"]
        yield archive[1024:]

    extract_tar(dribble(pieces()), tmp_path, progress=steps.append, sync=nothing)
    assert len(steps) == 2


def test_error_of_progress_changes_nothing(tmp_path: Path) -> None:
    def fail(step: Extracted) -> None:
        if step.members == 3:
            raise LookupError

    with pytest.raises(LookupError):
        extract_tar(io.BytesIO(ARCHIVE), tmp_path, progress=fail, sync=nothing)
    assert read_tree(tmp_path) == {}


def test_limits_have_their_defaults() -> None:
    assert ExtractLimits() == ExtractLimits(max_members=1_000_000, max_size=None, max_member=None)


# In a thread


async def test_upload_is_unpacked_while_it_arrives(tmp_path: Path) -> None:
    unpack = partial(extract_tar, destination=tmp_path, sync=nothing)
    send_channel, receive_channel = trio.open_memory_channel[bytes](0)
    results: list[Extracted] = []

    async def consume() -> None:
        results.append(await run_thread_consumer(unpack, receive_channel))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(consume)
        with send_channel:
            for start in range(0, len(ARCHIVE), 5000):
                await send_channel.send(ARCHIVE[start : start + 5000])
    assert results[0].members == 4
    assert files_of(tmp_path) == FILES


async def test_nothing_changes_if_the_upload_is_cancelled(tmp_path: Path) -> None:
    arrived = trio.Event()
    token = trio.lowlevel.current_trio_token()

    def unpack(file: IO[bytes]) -> None:
        tell = lambda step: token.run_sync_soon(arrived.set)  # noqa: E731
        extract_tar(file, tmp_path, progress=tell, sync=nothing)

    send_channel, receive_channel = trio.open_memory_channel[bytes](1)
    await send_channel.send(ARCHIVE[:5000])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_thread_consumer, unpack, receive_channel)
        await arrived.wait()
        nursery.cancel_scope.cancel()
    assert read_tree(tmp_path) == {}


async def test_nothing_changes_if_it_is_cancelled_at_the_last_moment(tmp_path: Path) -> None:
    before_swap, cancelled = trio.Event(), threading.Event()
    token = trio.lowlevel.current_trio_token()

    def sync() -> None:
        token.run_sync_soon(before_swap.set)
        assert cancelled.wait(10)

    async with trio.open_nursery() as nursery:
        unpack = partial(extract_tar, destination=tmp_path, sync=sync)
        nursery.start_soon(run_thread_consumer, unpack, one_chunk(ARCHIVE))
        await before_swap.wait()
        nursery.cancel_scope.cancel()
        # Set when run_thread_consumer() has been told of it, and waits for the thread.
        token.run_sync_soon(token.run_sync_soon, cancelled.set)
    assert read_tree(tmp_path) == {}


async def test_cancelled_at_any_moment_it_is_all_or_nothing(tmp_path: Path) -> None:
    rng = random.Random(37)
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "old").write_bytes(b"")
    unpack = partial(extract_tar, destination=tmp_path, sync=nothing)
    before = {"tree/old": b""}
    ends = []
    async with assert_no_leaks():
        for _ in range(60):
            with trio.move_on_after(rng.uniform(0, 0.004)):
                await run_thread_consumer(unpack, one_chunk(ARCHIVE))
            ends.append(files_of(tmp_path))
            assert os.listdir(tmp_path) == ["tree"]
    assert all(end in (before, FILES) for end in ends)


def one_chunk(data: bytes) -> trio.MemoryReceiveChannel[bytes]:
    send_channel, receive_channel = trio.open_memory_channel[bytes](1)
    with send_channel:
        send_channel.send_nowait(data)
    return receive_channel
