"""Whole forms in memory: both encodings, and their limits."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from forms import CONTENT_TYPE, END, FORM, ask, messages, part, pieces

from tsstream import BodyConsumed, BodyLimits, HTTPError, Request
from tsstream._http.forms import FormData, FormFile
from tsstream._sansio.headers import Headers

URLENCODED = "application/x-www-form-urlencoded"


async def read_form(request: Request[Any]) -> FormData:
    return await request.form()


def make_file(content: bytes = b"") -> FormFile:
    return FormFile(filename="f", content_type=None, headers=Headers(), content=content)


@pytest.mark.parametrize(
    ("body", "values"),
    [
        (b"", {}),
        (b"a=1&b=2&a=3", {"a": ["1", "3"], "b": ["2"]}),
        (b"a=&b", {"a": [""], "b": [""]}),
        (b"a+b=c%20d%2B", {"a b": ["c d+"]}),
        (b"a=caf%C3%A9&b=%ff", {"a": ["café"], "b": ["\ufffd"]}),
    ],
)
async def test_urlencoded(body: bytes, values: dict[str, list[str]]) -> None:
    for size in (1, 100):
        asked = await ask(
            read_form, *messages(*pieces(body, size)), content_type=URLENCODED + ";charset=utf-8"
        )
        assert {name: asked.found.getlist(name) for name in asked.found} == values


async def test_multipart_has_fields_as_text_and_files_as_files() -> None:
    form = (await ask(read_form, *messages(*pieces(FORM, 9)))).found
    assert list(form) == ["title", "photo", "empty"]
    assert form["title"] == "a photo"
    photo = form["photo"]
    assert (photo.filename, photo.content_type) == ("../../etc/passwd", "image/png")
    assert photo.content == b"\r\n--front\0\xff"
    assert photo.headers["content-type"] == "image/png"
    assert (form["empty"].filename, form["empty"].content) == ("", b"")


async def test_multipart_text_is_never_an_error() -> None:
    # as in a query, and in the urlencoded form
    body = (
        part("a", b"\xff")
        + part("a", b"\xe9", None, "Content-Type: text/plain; charset=latin-1")
        + part("\u20ac", "\u20ac".encode())
    )
    form = (await ask(read_form, *messages(body + END))).found
    assert form.getlist("a") == ["\ufffd", "\xe9"]
    assert form["\u20ac"] == "\u20ac"


async def test_a_form_is_a_mapping_with_each_last_value() -> None:
    file = make_file()
    form = FormData([("a", "1"), ("b", file), ("a", "2")])
    assert dict(form) == {"a": "2", "b": file}
    assert len(form) == 2
    assert form.getlist("a") == ["1", "2"]
    assert form.getlist("c") == []
    assert "c" not in form
    assert repr(FormData([("a", "1")])) == "FormData({'a': ['1']})"


async def test_forms_and_files_are_values() -> None:
    form = FormData([("a", make_file())])
    form.getlist("a").clear()
    assert len(form.getlist("a")) == 1
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        form._values = {}  # type: ignore[misc]  # what is tested
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        make_file().content = b""  # type: ignore[misc]  # what is tested


async def test_repr_of_a_file_leaves_its_content_out() -> None:
    assert "secret" not in repr(FormData([("a", make_file(b"secret"))]))


@pytest.mark.parametrize("content_type", [None, "application/json", "multipart/mixed; boundary=x"])
async def test_another_content_type_is_415(content_type: str | None) -> None:
    asked = await ask(read_form, *messages(b"{}"), content_type=content_type)
    assert asked.status == 415
    assert b"application/x-www-form-urlencoded" in asked.server.body


async def test_a_malformed_form_is_400() -> None:
    assert (await ask(read_form, *messages(FORM[:-9]))).status == 400
    asked = await ask(read_form, *messages(FORM), content_type="multipart/form-data")
    assert asked.status == 400


@pytest.mark.parametrize(
    ("limits", "status"),
    [
        (BodyLimits(), 200),
        (BodyLimits(max_field=6), 413),  # "a photo"
        (BodyLimits(max_field=7), 200),  # and the file of 11 bytes is no field
        (BodyLimits(max_parts=2), 413),
        (BodyLimits(max_parts=3), 200),
        (BodyLimits(max_part_header=40), 413),
        (BodyLimits(max_body=200), 413),
        (BodyLimits(max_stream=200), 413),
    ],
)
async def test_limits_of_multipart(limits: BodyLimits, status: int) -> None:
    assert (await ask(read_form, *messages(*pieces(FORM, 9)), limits=limits)).status == status


@pytest.mark.parametrize(
    ("limits", "status"),
    [
        (BodyLimits(), 200),
        (BodyLimits(max_field=4), 413),  # a=12345
        (BodyLimits(max_field=5), 200),
        (BodyLimits(max_parts=2), 413),
        (BodyLimits(max_parts=3), 200),
        (BodyLimits(max_body=14), 413),
        (BodyLimits(max_body=15), 200),
    ],
)
async def test_limits_of_urlencoded(limits: BodyLimits, status: int) -> None:
    asked = await ask(
        read_form, *messages(b"a=12345&b=1&c=2"), content_type=URLENCODED, limits=limits
    )
    assert asked.status == status


async def test_files_are_limited_all_together() -> None:
    body = b"".join(part(f"f{number}", b"x" * 1000, "f") for number in range(10)) + END
    limits = BodyLimits(max_field=1, max_body=10_000)
    asked = await ask(read_form, *messages(*pieces(body, 100)), limits=limits)
    assert asked.status == 413
    assert asked.server.body == b"The form is larger than 10000 bytes."
    limits = BodyLimits(max_field=1, max_body=11_000)
    assert (await ask(read_form, *messages(body), limits=limits)).status == 200


async def test_headers_count_as_what_is_kept() -> None:
    fields = ["X-Filling: " + "x" * 1000]
    body = b"".join(part("a", b"", None, *fields) for _ in range(10)) + END
    limits = BodyLimits(max_body=5000)
    assert (await ask(read_form, *messages(body), limits=limits)).status == 413


async def test_a_form_that_is_declared_too_large_is_refused_unread() -> None:
    # RQ-11
    for content_type in (CONTENT_TYPE, URLENCODED):
        asked = await ask(read_form, content_type=content_type, length=16 * 2**20 + 1)
        assert asked.status == 413


async def test_a_multipart_form_is_read_once() -> None:
    async def look(request: Request[Any]) -> None:
        await request.form()
        with pytest.raises(BodyConsumed):
            await request.form()

    assert (await ask(look, *messages(FORM))).server.ok


@pytest.mark.parametrize("length", [False, True])
async def test_a_multipart_form_is_as_large_as_it_is_encoded(length: bool) -> None:
    # however it is framed
    for limit, status in ((len(FORM), 200), (len(FORM) - 1, 413)):
        asked = await ask(
            read_form,
            *messages(FORM),
            limits=BodyLimits(max_body=limit),
            length=len(FORM) if length else None,
        )
        assert asked.status == status


async def test_a_form_that_was_too_large_stays_so() -> None:
    # RQ-13
    async def look(request: Request[Any]) -> None:
        for read in (request.form, request.form, request.read):
            with pytest.raises(HTTPError) as caught:
                await read()
            assert caught.value.status_code == 413

    limits = BodyLimits(max_body=20)
    assert (await ask(look, *messages(*pieces(FORM, 9)), limits=limits)).status == 200
