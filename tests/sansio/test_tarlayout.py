"""The layout of a tar archive is that of the archive which tarfile writes."""

from __future__ import annotations

import io
import tarfile
import tracemalloc
from collections.abc import Sequence
from copy import copy
from typing import Literal, cast

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsstream._sansio.tarlayout import Identity, Layout, end_mark, padding

FORMATS = [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]
SOME = Identity(0, 1, 2, 3, 4)

# Names of files are bytes: what is no UTF-8 comes as surrogates.
components = st.one_of(
    st.text("ab.-é漢\udcff\udc80", min_size=1, max_size=12),
    st.integers(90, 255).map("x".__mul__),
).filter(lambda text: text not in (".", ".."))
names = st.lists(components, min_size=1, max_size=4).map("/".join)
users = st.one_of(st.just("root"), st.text("uü", max_size=40))
numbers = st.one_of(st.integers(0, 70_000), st.sampled_from([8**7 - 1, 8**7, 2**32 - 1]))
times = st.one_of(
    st.integers(-2, 2**31),
    st.sampled_from([8**11 - 1, 8**11]),
    st.floats(0, 2**31),  # as a filter may give them
)


@st.composite
def members(draw: st.DrawFn) -> tarfile.TarInfo:
    info = tarfile.TarInfo(draw(names))
    info.type = draw(st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE]))
    if info.isreg():
        info.size = draw(st.integers(0, 2000))
    info.mode = draw(st.integers(0, 0o7777))
    info.mtime = draw(times)
    info.uid, info.gid = draw(numbers), draw(numbers)
    info.uname, info.gname = draw(users), draw(users)
    if draw(st.booleans()):
        info.pax_headers = {"comment": draw(st.text("cé", max_size=9))}
    return info


def content_of(info: tarfile.TarInfo) -> bytes:
    return b"c" * info.size


def to_layout(infos: Sequence[tarfile.TarInfo], format: int) -> Layout:  # noqa: A002 (tarfile's)
    layout = Layout(format=format)
    for info in infos:
        layout.add(info, SOME._replace(size=info.size), info.name)
    return layout


def by_tarfile(infos: Sequence[tarfile.TarInfo], format: int) -> bytes:  # noqa: A002 (tarfile's)
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w|", format=format, encoding="utf-8") as archive:
        for info in infos:
            archive.addfile(info, io.BytesIO(content_of(info)))
    return file.getvalue()


def of_tarfile(info: tarfile.TarInfo, format: int) -> bytes:  # noqa: A002 (tarfile's)
    return info.tobuf(cast("Literal[1, 2]", format), "utf-8")


@given(st.lists(members(), max_size=6), st.sampled_from(FORMATS))
def test_archive_is_that_of_tarfile(infos: list[tarfile.TarInfo], format: int) -> None:  # noqa: A002
    layout = to_layout(infos, format)
    pieces: list[bytes] = []
    for index, info in enumerate(infos):
        assert layout.span(index)[0] == len(b"".join(pieces))
        pieces += [layout.header(index), content_of(info), padding(info.size)]
    assert layout.content_end == len(b"".join(pieces))
    pieces.append(end_mark(layout.content_end))
    expected = by_tarfile(infos, format)
    assert b"".join(pieces) == expected
    assert layout.length == len(expected)


@pytest.mark.parametrize("size", [8**11 - 1, 8**11, 2**40])
@pytest.mark.parametrize("format", FORMATS)
def test_sizes_that_need_a_record_are_those_of_tarfile(size: int, format: int) -> None:  # noqa: A002
    info = tarfile.TarInfo("big")
    info.size = size
    layout = to_layout([info], format)
    header = of_tarfile(info, format)
    assert layout.header(0) == header
    assert layout.content_end == len(header) + size + -size % 512


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.DIRTYPE])
@pytest.mark.parametrize("length", range(98, 103))
def test_names_at_the_limit_are_those_of_tarfile(
    length: int,
    kind: bytes,
    format: int,  # noqa: A002 (tarfile's)
) -> None:
    info = tarfile.TarInfo("x" * length)
    info.type = kind
    layout = to_layout([info], format)
    assert layout.content_end == len(of_tarfile(info, format))
    assert layout.header(0) == of_tarfile(info, format)


@given(st.lists(members(), min_size=1, max_size=8), st.data())
def test_offset_is_found_in_the_member_that_it_is_in(
    infos: list[tarfile.TarInfo], data: st.DataObject
) -> None:
    layout = to_layout(infos, tarfile.PAX_FORMAT)
    offset = data.draw(st.integers(0, layout.length))
    index = layout.find(offset)
    if index == len(infos):
        assert offset >= layout.content_end
    else:
        start, stop = layout.span(index)
        assert start <= offset < stop


@given(members())
def test_member_is_given_as_it_was_added(info: tarfile.TarInfo) -> None:
    layout = Layout()
    kept = copy(info)
    layout.add(info, SOME._replace(size=info.size), "elsewhere")
    info.name, info.mtime = "used again", 0
    found = layout.info(0)
    assert found.get_info() == kept.get_info()
    assert found.pax_headers == kept.pax_headers
    assert layout.identity(0) == SOME._replace(size=info.size)
    assert layout.source(0) == "elsewhere"


@attrs.frozen
class Change:
    """A change of a member, and whether the archive has other bytes because of it."""

    name: str
    value: object


@pytest.mark.parametrize(
    "change",
    [
        Change("name", "ab"),
        Change("mode", 0o600),
        Change("mtime", 7),
        Change("mtime", 0.5),
        Change("uid", 7),
        Change("gid", 7),
        Change("uname", "seven"),
        Change("gname", "seven"),
        Change("type", tarfile.DIRTYPE),
        Change("pax_headers", {"comment": "c"}),
    ],
)
def test_etag_changes_with_every_field_of_a_header(change: Change) -> None:
    info = tarfile.TarInfo("a")
    info.uname, info.gname = "six", "six"
    before = to_layout([info], tarfile.PAX_FORMAT).etag()
    setattr(info, change.name, change.value)
    assert to_layout([info], tarfile.PAX_FORMAT).etag() != before


@pytest.mark.parametrize("field", Identity._fields)
def test_etag_changes_with_every_part_of_an_identity(field: str) -> None:
    # BK-17, RFC 9110 8.8.1: a strong one
    tags = set()
    for value in (8, 9):
        layout = Layout()
        layout.add(tarfile.TarInfo("a"), SOME._replace(**{field: value}), "a")
        tags.add(layout.etag())
    assert len(tags) == 2


def test_etag_tells_apart_names_that_are_cut_in_another_place() -> None:
    tags = set()
    for pair in (("ab", "c"), ("a", "bc")):
        tags.add(to_layout([tarfile.TarInfo(name) for name in pair], tarfile.PAX_FORMAT).etag())
    assert len(tags) == 2


def test_etag_tells_apart_users_that_come_at_the_same_place() -> None:
    tags = set()
    for user in ("six", "seven"):
        info = tarfile.TarInfo("a")
        info.uname = user
        tags.add(to_layout([info], tarfile.PAX_FORMAT).etag())
    assert len(tags) == 2


def test_etag_tells_apart_records_of_a_filter() -> None:
    tags = set()
    for comment in ("one", "two"):
        info = tarfile.TarInfo("a")
        info.pax_headers = {"comment": comment}
        tags.add(to_layout([info], tarfile.PAX_FORMAT).etag())
    assert len(tags) == 2


def test_etag_is_the_same_for_the_same_members() -> None:
    info = tarfile.TarInfo("ä" * 80)
    tags = {to_layout([info], tarfile.PAX_FORMAT).etag() for _ in range(2)}
    assert len(tags) == 1


def test_etag_differs_between_the_formats() -> None:
    assert len({to_layout([tarfile.TarInfo("a")], format_).etag() for format_ in FORMATS}) == 2


def test_members_take_little_memory() -> None:
    # 20,000 are to fit in 16 MiB with everything else (BK-4)
    layout = Layout()
    info = tarfile.TarInfo()
    tracemalloc.start()
    try:
        for number in range(5000):
            info.name = f"library/of/some/depth/with a longish name {number:08}.mp4"
            layout.add(info, SOME, info.name)
        assert tracemalloc.get_traced_memory()[0] < 5000 * 200
    finally:
        tracemalloc.stop()


def test_name_that_the_format_has_no_room_for_is_an_error() -> None:
    with pytest.raises(ValueError, match="too long"):
        to_layout([tarfile.TarInfo("x" * 300)], tarfile.USTAR_FORMAT)
