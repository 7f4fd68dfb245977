"""The parts of a request: one at a time, each a channel, and no end that is none."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from asgi import Server, chunk
from forms import CONTENT_TYPE, END, FORM, FORM_PARTS, ask, messages, part, pieces, post
from trio.testing import wait_all_tasks_blocked

from tsstream import BodyConsumed, BodyLimits, HTTPError, Request, Response
from tsstream._http.parts import Part, Parts
from tsstream._sansio.multipart import MultipartReader


async def read_all(request: Request[Any]) -> list[tuple[str, str | None, bytes]]:
    return [
        (part.name, part.filename, b"".join([data async for data in part.body]))
        async for part in request.parts()
    ]


def open_fed_parts(
    limits: BodyLimits | None = None,
) -> tuple[trio.MemorySendChannel[bytes], Parts]:
    """Give parts without a request, and the channel that feeds them."""
    send_channel, receive_channel = trio.open_memory_channel[bytes](0)
    reader = MultipartReader(CONTENT_TYPE, max_parts=10, max_part_header=1000)
    return send_channel, Parts(receive_channel, reader, limits or BodyLimits())


async def test_parts_in_the_order_of_the_body() -> None:
    asked = await ask(read_all, *messages(FORM))
    assert asked.found == FORM_PARTS
    assert asked.server.ok


async def test_chunks_of_any_size_give_the_same_parts() -> None:
    # BK-29
    for size in range(1, len(FORM) + 1):
        asked = await ask(read_all, *messages(*pieces(FORM, size)))
        assert asked.found == FORM_PARTS


async def test_a_body_cut_in_two_anywhere_gives_the_same_parts() -> None:
    # BK-29
    for cut in range(1, len(FORM)):
        asked = await ask(read_all, *messages(FORM[:cut], FORM[cut:]))
        assert asked.found == FORM_PARTS


async def test_what_a_part_tells_of_itself() -> None:
    async def look(request: Request[Any]) -> list[Part]:
        return [part async for part in request.parts()]

    title, photo, empty = (await ask(look, *messages(FORM))).found
    assert (title.name, title.filename, title.content_type) == ("title", None, None)
    assert photo.filename == "../../etc/passwd"  # BK-30: as it was sent, and never a path
    assert photo.content_type == "image/png"
    assert photo.headers["content-type"] == "image/png"
    assert empty.filename == ""
    assert repr(photo) == "<Part name='photo' filename='../../etc/passwd'>"


async def test_a_part_is_read_no_faster_than_its_reader_reads() -> None:
    # RQ-1: of 100 chunks, never more than one ahead
    ahead: list[int] = []
    body = part("a", b"x" * 100)
    head, data = body[:-102], body[-102:]
    server = Server(*messages(head, *pieces(data[:100], 1), data[100:] + END))

    async def handler(request: Request[Any]) -> Response:
        number = 0
        async for one in request.parts():
            async for data in one.body:
                assert data == b"x"
                number += 1
                await wait_all_tasks_blocked()
                ahead.append(server.reads - 1 - number)
        return Response(b"ok")

    await post(server, handler)
    assert server.ok
    assert len(ahead) == 100
    assert max(ahead) <= 1


async def test_asking_for_the_next_part_drops_the_rest_of_this_one() -> None:
    async def look(request: Request[Any]) -> list[bytes]:
        parts = request.parts()
        first = await parts.receive()
        assert await first.body.receive() == b"1"
        second = await parts.receive()
        with pytest.raises(trio.ClosedResourceError, match="before you ask for the next one"):
            await first.body.receive()
        data = [data async for data in second.body]
        with pytest.raises(trio.EndOfChannel):
            await parts.receive()
        with pytest.raises(trio.EndOfChannel):  # it was read to its end, and stays so
            await second.body.receive()
        return data

    head, rest = part("a", b"1").removesuffix(b"\r\n"), b"23\r\n" + part("b", b"4") + END
    asked = await ask(look, *messages(head, b"23", rest))
    assert asked.found == [b"4"]


async def test_parts_that_nobody_reads_are_skipped() -> None:
    async def look(request: Request[Any]) -> list[str]:
        return [part.name async for part in request.parts()]

    assert (await ask(look, *messages(*pieces(FORM, 5)))).found == ["title", "photo", "empty"]


async def test_the_end_of_the_parts_stays_the_end() -> None:
    async def look(request: Request[Any]) -> None:
        parts = request.parts()
        async for _ in parts:
            pass
        for _ in range(2):
            with pytest.raises(trio.EndOfChannel):
                await parts.receive()

    assert (await ask(look, *messages(FORM))).server.ok


async def test_what_follows_the_last_boundary_is_dropped() -> None:
    asked = await ask(read_all, *messages(FORM, b"epilogue", b"x" * 1000))
    assert asked.found == FORM_PARTS


@pytest.mark.parametrize("content_type", [None, "text/plain", "multipart/mixed; boundary=x"])
async def test_another_content_type_is_415(content_type: str | None) -> None:
    asked = await ask(read_all, *messages(FORM), content_type=content_type)
    assert asked.status == 415


async def test_a_missing_boundary_is_400() -> None:
    asked = await ask(read_all, *messages(FORM), content_type="multipart/form-data")
    assert asked.status == 400
    assert b"no boundary" in asked.server.body


async def test_a_malformed_body_is_400() -> None:
    asked = await ask(read_all, *messages(b"--frontier\r\nrubbish\r\n\r\n" + END))
    assert asked.status == 400
    assert asked.server.body.startswith(b"The multipart body is malformed: ")


async def test_a_body_that_breaks_off_is_400_and_never_a_part_s_end() -> None:
    # BK-41: the request is complete, its last boundary is not
    for size in range(1, FORM.index(END) + len(END) - 2):
        asked = await ask(read_all, *messages(FORM[:size]))
        assert asked.status == 400, size
        assert b"ends before its final boundary" in asked.server.body


@pytest.mark.parametrize(
    "limits", [BodyLimits(max_parts=2), BodyLimits(max_part_header=40), BodyLimits(max_stream=99)]
)
async def test_a_limit_that_is_crossed_is_413(limits: BodyLimits) -> None:
    asked = await ask(read_all, *messages(*pieces(FORM, 7)), limits=limits)
    assert asked.status == 413


async def test_limits_of_one_request() -> None:
    async def look(request: Request[Any]) -> list[str]:
        request.body_limits = BodyLimits(max_parts=2)
        return [part.name async for part in request.parts()]

    assert (await ask(look, *messages(FORM))).status == 413


async def test_errors_stay_errors() -> None:
    # RQ-13
    async def look(request: Request[Any]) -> list[tuple[int, str]]:
        parts = request.parts()
        one = await parts.receive()
        found = []
        for ask_for in [one.body.receive, one.body.receive, parts.receive, parts.receive]:
            with pytest.raises(HTTPError) as caught:
                await ask_for()
            found.append((caught.value.status_code, caught.value.detail))
        with pytest.raises(trio.ClosedResourceError):
            await one.body.receive()
        return found

    asked = await ask(look, *messages(part("a", b"").removesuffix(b"\r\n")))
    assert len(asked.found) == 4
    assert len(set(asked.found)) == 1
    assert asked.found[0][0] == 400


async def test_a_silent_client_is_408(autojump_clock: trio.testing.MockClock) -> None:
    # RQ-14
    start = chunk(part("a", b"")[:-2])
    asked = await ask(read_all, start, limits=BodyLimits(timeout=10))
    assert asked.status == 408


async def test_two_tasks_cannot_read_parts_at_once() -> None:
    # RQ-18
    send_channel, parts = open_fed_parts()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_channel.send, part("a", b"")[:-2])
        one = await parts.receive()
        nursery.start_soon(one.body.receive)
        await wait_all_tasks_blocked()
        for ask_for in (parts.receive, one.body.receive, one.read):
            with pytest.raises(trio.BusyResourceError, match="let one task read them"):
                await ask_for()
        await send_channel.send(b"data")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(parts.receive)
        await wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError, match="let one task read them"):
            await parts.receive()
        await send_channel.send(b"\r\n" + part("b", b"") + END)


async def test_cancelling_a_reader_loses_nothing(autojump_clock: trio.testing.MockClock) -> None:
    send_channel, parts = open_fed_parts()
    got = []

    async def feed() -> None:
        with send_channel:
            for data in pieces(part("a", b"0123456789") + part("b", b"x") + END, 3):
                await trio.sleep(1)
                await send_channel.send(data)

    async def patiently(receive: Any) -> Any:
        while True:
            with trio.move_on_after(0.3):
                return await receive()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(feed)
        for _ in range(2):
            one = await patiently(parts.receive)
            with pytest.raises(trio.EndOfChannel):
                while True:
                    got.append(await patiently(one.body.receive))
        with pytest.raises(trio.EndOfChannel):
            await patiently(parts.receive)
    assert b"".join(got) == b"0123456789x"


async def test_a_cancelled_reader_takes_nothing_that_is_there() -> None:
    send_channel, parts = open_fed_parts()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_channel.send, part("a", b"1") + part("b", b"2") + END)
        one = await parts.receive()
    for receive in (one.body.receive, parts.receive):
        with trio.CancelScope() as scope:
            scope.cancel()
            await receive()
        assert scope.cancelled_caught
    assert await one.body.receive() == b"1"


async def test_every_read_lets_others_run() -> None:
    send_channel, parts = open_fed_parts()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_channel.send, part("a", b"1") + part("b", b"2") + END)
        one = await parts.receive()
        with trio.testing.assert_checkpoints():
            await one.body.receive()
        for _ in range(2):
            with trio.testing.assert_checkpoints(), pytest.raises(trio.EndOfChannel):
                await one.body.receive()
        with trio.testing.assert_checkpoints():
            await parts.receive()


async def test_parts_can_be_asked_for_once() -> None:
    async def look(request: Request[Any]) -> None:
        request.parts()
        with pytest.raises(BodyConsumed, match="read it once and pass on the result"):
            request.parts()

    assert (await ask(look, *messages(FORM))).server.ok


async def test_parts_of_a_body_that_was_received() -> None:
    async def look(request: Request[Any]) -> None:
        await request.body.receive()
        with pytest.raises(BodyConsumed, match="read it once and pass on the result"):
            request.parts()

    assert (await ask(look, *messages(*pieces(FORM, 50)))).server.ok


async def test_parts_of_a_body_that_was_read_and_kept() -> None:
    # RQ-17
    async def look(request: Request[Any]) -> Any:
        assert await request.read() == FORM
        return await read_all(request)

    assert (await ask(look, *messages(FORM))).found == FORM_PARTS


async def test_closing_a_part_drops_its_rest() -> None:
    async def look(request: Request[Any]) -> list[str]:
        names = []
        async for one in request.parts():
            async with one.body:
                names.append(one.name)
            with pytest.raises(trio.ClosedResourceError, match="closed by its reader"):
                await one.body.receive()
        return names

    assert (await ask(look, *messages(FORM))).found == ["title", "photo", "empty"]


async def test_closing_the_parts_closes_the_body() -> None:
    async def look(request: Request[Any]) -> None:
        async with request.parts() as parts:
            one = await parts.receive()
        for receive in (parts.receive, one.body.receive):
            with pytest.raises(trio.ClosedResourceError, match="parts of this request were closed"):
                await receive()
        with pytest.raises(trio.ClosedResourceError):
            await request.body.receive()

    assert (await ask(look, *messages(FORM))).server.ok


async def test_reading_when_the_handler_has_returned_tells_what_to_do() -> None:
    async def items(one: Part) -> AsyncIterator[bytes]:
        yield b"x"
        async for data in one.body:
            yield data

    async def handler(request: Request[Any]) -> Response:
        return Response(items(await request.parts().receive()))

    server = Server(*messages(part("a", b"")[:-2], b"data\r\n" + END))
    await post(server, handler)
    assert isinstance(server.error, trio.ClosedResourceError)
    assert "@asynccontextmanager" in str(server.error)


async def test_a_part_can_be_streamed_back() -> None:
    @asynccontextmanager
    async def handler(request: Request[Any]) -> AsyncIterator[Response]:
        yield Response((await request.parts().receive()).body)

    server = Server(*messages(*pieces(FORM, 7)))
    await post(server, handler)
    assert server.ok
    assert server.body == b"a photo"


async def test_a_reader_is_cancelled_when_the_client_leaves() -> None:
    # RQ-27
    reasons: list[str | None] = []

    async def handler(request: Request[Any]) -> Response:
        one = await request.parts().receive()
        try:
            await one.body.receive()
        except trio.Cancelled as cancelled:
            reasons.append(cancelled.reason)
            raise
        raise AssertionError

    server = Server(chunk(part("a", b"")[:-2]))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(post, server, handler)
        await wait_all_tasks_blocked()
        server.leave()
    assert reasons == ["client disconnected"]


async def test_a_shielded_reader_never_takes_a_disconnect_for_the_end() -> None:
    # RQ-19, BK-41
    seen: list[Exception] = []

    async def handler(request: Request[Any]) -> Response:
        with trio.CancelScope(shield=True):  # noqa: ASYNC912
            try:
                await read_all(request)
            except Exception as error:
                seen.append(error)
        return Response(b"")

    server = Server(chunk(FORM[:-5]))
    server.leave()
    await post(server, handler)
    assert isinstance(seen[0], trio.BrokenResourceError)


async def test_read_gives_all_of_a_part_again_and_again() -> None:
    # RQ-15
    async def look(request: Request[Any]) -> Any:
        one = await request.parts().receive()
        return await one.read(), await one.text(), await one.read()

    asked = await ask(look, *messages(*pieces(FORM, 3)))
    assert asked.found == (b"a photo", "a photo", b"a photo")


async def test_read_is_limited() -> None:
    async def look(request: Request[Any]) -> Any:
        parts = request.parts()
        one = await parts.receive()
        for limit in (3, 1000):  # RQ-13: once over the limit it stays an error
            with pytest.raises(HTTPError, match="larger than 3 bytes") as caught:
                await one.read(limit=limit)
            assert caught.value.status_code == 413
        return (await parts.receive()).name

    assert (await ask(look, *messages(*pieces(FORM, 3)))).found == "photo"


@pytest.mark.parametrize(("limit", "status"), [(None, 413), (7, 200), (6, 413)])
async def test_limit_of_a_read_stands_for_max_field(limit: int | None, status: int) -> None:
    async def look(request: Request[Any]) -> Any:
        return await (await request.parts().receive()).text(limit=limit)

    asked = await ask(look, *messages(FORM), limits=BodyLimits(max_field=5))
    assert asked.status == status


async def test_a_part_is_taken_in_one_way_only() -> None:
    async def look(request: Request[Any]) -> None:
        parts = request.parts()
        first = await parts.receive()
        await first.body.receive()
        with pytest.raises(BodyConsumed, match="a piece of this part was received before"):
            await first.read()
        second = await parts.receive()
        await second.read()
        with pytest.raises(BodyConsumed, match="call it once and pass on its result"):
            await second.body.receive()
        with pytest.raises(BodyConsumed, match="call it once and pass on its result"):
            await second.save("never")

    assert (await ask(look, *messages(FORM))).server.ok


async def test_a_read_that_was_cancelled_before_it_had_anything_can_be_repeated(
    autojump_clock: trio.testing.MockClock,
) -> None:
    send_channel, parts = open_fed_parts()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_channel.send, part("a", b"")[:-2])
        one = await parts.receive()
        with trio.move_on_after(1):
            await one.read()
        nursery.start_soon(send_channel.send, b"data\r\n" + END)
        assert await one.read() == b"data"


@pytest.mark.parametrize(
    ("data", "charset", "text"),
    [
        ("é€".encode(), None, "é€"),
        ("é€".encode(), "UTF-8", "é€"),
        ("é".encode("latin-1"), "iso-8859-1", "é"),
        ("€".encode("cp1252"), "windows-1252", "€"),
        ("日本".encode("shift_jis"), "shift_jis", "日本"),
        ("é€".encode("utf-16"), "utf-16", "é€"),
        (b"\xff", None, None),
        (b"\xff", "us-ascii", None),
        (b"x", "klingon", None),
        (b"x", "zlib", None),
        (b"x", "idna", None),
        (b"x", "rot13", None),
        (b"x", "\x80", None),
    ],
)
async def test_text_of_a_part(data: bytes, charset: str | None, text: str | None) -> None:
    async def look(request: Request[Any]) -> str:
        return await (await request.parts().receive()).text()

    fields = [] if charset is None else [f"Content-Type: text/plain; charset={charset}"]
    asked = await ask(look, *messages(part("a", data, None, *fields) + END))
    assert asked.found == text
    assert asked.status == (400 if text is None else 200)
