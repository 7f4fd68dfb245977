"""What of a representation a request gets: the whole, parts, nothing, or a refusal."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from asgi import Server, make_app
from leaks import assert_no_leaks

from tsstream import HTTPError, Request, Response, ResponseConsumed
from tsstream._http.representation import Representation, Represented
from tsstream._sansio.conditions import format_date

DATA = bytes(range(256)) * 4
MODIFIED = 784111777.9
DATE = "Sun, 06 Nov 1994 08:49:37 GMT"
ETAG = '"v1"'


@attrs.define(eq=False)
class Memory(Represented):
    """Some bytes, and a log of what was done with them."""

    data: bytes = DATA
    etag: str | None = ETAG
    last_modified: float | None = MODIFIED
    ranged: bool = True
    error: Exception | None = None
    log: list[str] = attrs.field(factory=list)

    async def represent(self) -> Representation:
        await trio.lowlevel.checkpoint()
        self.log.append("look")
        if self.error is not None:
            raise self.error
        return Representation(
            length=len(self.data),
            etag=self.etag,
            last_modified=self.last_modified,
            open_whole=self._open_whole,
            open_range=self._open if self.ranged else None,
        )

    def _open_whole(self) -> Any:
        return self._open(0, len(self.data))

    @asynccontextmanager
    async def _open(self, start: int, stop: int) -> AsyncIterator[trio.MemoryReceiveChannel[bytes]]:
        self.log.append(f"open {start}-{stop}")
        send_channel, receive_channel = trio.open_memory_channel[bytes](2)
        with send_channel:
            middle = (start + stop) // 2
            for piece in (self.data[start:middle], self.data[middle:stop]):
                send_channel.send_nowait(piece)
        # A nursery, as that of a thread producer: it must not be left in another task.
        async with trio.open_nursery():
            yield receive_channel
        self.log.append("close")


async def fetch(
    content: Represented,
    method: str = "GET",
    *,
    response: dict[str, Any] | None = None,
    transforms: Any = (),
    headers: Mapping[str, str] | None = None,
    **more: str,
) -> Server:
    """Ask for *content* with these headers, whose names are written with underscores."""

    async def handler(request: Request) -> Response:
        return Response(content, **(response or {}))

    fields = {**(headers or {}), **more}
    raw = [(k.replace("_", "-").encode(), v.encode("latin-1")) for k, v in fields.items()]
    server = Server()
    await server.call(make_app(handler, transforms=transforms), method, headers=raw)
    assert server.complete
    return server


def fields_of(server: Server) -> dict[str, str]:
    return dict(server.headers)


# The whole


async def test_the_whole_has_a_length_and_validators() -> None:
    server = await fetch(Memory())
    assert (server.status, server.body) == (200, DATA)
    assert fields_of(server) == {
        "etag": ETAG,
        "last-modified": DATE,
        "accept-ranges": "bytes",
        "content-length": "1024",
        "content-type": "application/octet-stream",
    }


@pytest.mark.parametrize(
    "headers", [{}, {"range": "bytes=0-1"}, {"range": "bytes=2000-"}, {"if_range": ETAG}]
)
async def test_head_is_get_without_the_body(headers: dict[str, str]) -> None:
    # RFC 9110 9.3.2; 14.2: Range is for GET alone. D35: nothing is opened.
    memory = Memory()
    server = await fetch(memory, "HEAD", headers=headers)
    assert (server.status, server.body) == (200, b"")
    assert fields_of(server) == fields_of(await fetch(Memory()))
    assert memory.log == ["look"]


async def test_head_is_conditional() -> None:
    assert (await fetch(Memory(), "HEAD", if_none_match=ETAG)).status == 304
    assert (await fetch(Memory(), "HEAD", if_match='"v0"')).status == 412


async def test_other_methods_get_the_whole() -> None:
    # RFC 9110 13.2.1, 14.2
    server = await fetch(Memory(), "POST", range="bytes=0-1", if_none_match=ETAG, if_match='"v0"')
    assert (server.status, server.body) == (200, DATA)
    assert server.headers["etag"] == ETAG
    assert "accept-ranges" not in server.headers


async def test_a_status_of_its_own_is_no_selection() -> None:
    response = {"status_code": 404, "media_type": "text/html"}
    server = await fetch(Memory(), response=response, range="bytes=0-1", if_none_match=ETAG)
    assert (server.status, server.body) == (404, DATA)
    assert fields_of(server) == {
        "content-length": "1024",
        "content-type": "text/html; charset=utf-8",
    }


async def test_what_has_no_parts_is_sent_whole() -> None:
    server = await fetch(Memory(ranged=False), range="bytes=0-1")
    assert (server.status, server.body) == (200, DATA)
    assert "accept-ranges" not in server.headers
    assert (await fetch(Memory(ranged=False), if_none_match=ETAG)).status == 304


async def test_a_response_can_say_that_it_has_no_parts() -> None:
    response = {"headers": {"accept-ranges": "none"}}
    server = await fetch(Memory(), response=response, range="bytes=0-1")
    assert (server.status, server.body) == (200, DATA)
    assert server.headers["accept-ranges"] == "none"


async def test_validators_of_the_response_stand_instead() -> None:
    response = {"headers": {"etag": '"mine"', "last-modified": "Sun, 06 Nov 1994 00:00:00 GMT"}}
    server = await fetch(Memory(), response=response)
    assert server.headers.getlist("etag") == ['"mine"']
    assert server.headers["last-modified"] == "Sun, 06 Nov 1994 00:00:00 GMT"
    assert (await fetch(Memory(), response=response, if_none_match='"mine"')).status == 304
    assert (await fetch(Memory(), response=response, if_none_match=ETAG)).status == 200


@pytest.mark.parametrize("age", [0.0, -100.0])
async def test_no_date_is_sent_that_another_state_could_have(age: float) -> None:
    # RFC 9110 8.8.2.1, 8.8.2.2: in the second of a change, or in the future
    modified = time.time() - age
    server = await fetch(Memory(last_modified=modified))
    assert "last-modified" not in server.headers
    date = format_date(int(modified))
    memory = Memory(etag=None, last_modified=modified)
    assert (await fetch(memory, range="bytes=0-1", if_range=date)).status == 200


async def test_what_cannot_be_looked_at_is_answered_by_its_error() -> None:
    async def handler(request: Request) -> Response:
        return Response(Memory(error=HTTPError(404, "no such thing")))

    server = Server()
    await server.call(make_app(handler))
    assert (server.status, server.body) == (404, b"no such thing")


async def test_it_is_sent_once() -> None:
    # D42
    response = Response(Memory())

    async def handler(request: Request) -> Response:
        return response

    first, second = Server(), Server()
    await first.call(make_app(handler))
    await second.call(make_app(handler))
    assert first.ok
    assert second.status == 500


async def test_it_can_be_entered_without_a_request() -> None:
    # AC-9
    response = Response(Memory())
    async with response as chunks:
        assert b"".join([chunk async for chunk in chunks]) == DATA
    with pytest.raises(ResponseConsumed):
        async with response:
            pass


# Parts


@pytest.mark.parametrize(
    ("value", "start", "stop"),
    [("bytes=0-0", 0, 1), ("bytes=100-299", 100, 300), ("bytes=-4", 1020, 1024)],
)
async def test_one_part(value: str, start: int, stop: int) -> None:
    # RFC 9110 15.3.7.1
    memory = Memory()
    server = await fetch(memory, range=value)
    assert (server.status, server.body) == (206, DATA[start:stop])
    assert fields_of(server) == {
        "etag": ETAG,
        "last-modified": DATE,
        "accept-ranges": "bytes",
        "content-length": str(stop - start),
        "content-range": f"bytes {start}-{stop - 1}/1024",
        "content-type": "application/octet-stream",
    }
    assert memory.log == ["look", f"open {start}-{stop}", "close"]


async def test_several_parts() -> None:
    # RFC 9110 15.3.7.2
    memory = Memory()
    server = await fetch(memory, response={"media_type": "image/png"}, range="bytes=8-9,0-1")
    assert server.status == 206
    assert "content-range" not in server.headers
    assert int(server.headers["content-length"]) == len(server.body)
    kind = re.fullmatch(r"multipart/byteranges; boundary=(\w{32})", server.headers["content-type"])
    assert kind is not None
    first, second, third, last = server.body.split(f"\r\n--{kind[1]}".encode())
    head = b"\r\nContent-Type: image/png\r\nContent-Range: bytes %s/1024\r\n\r\n"
    assert first == b""
    assert second == head % b"8-9" + DATA[8:10]
    assert third == head % b"0-1" + DATA[0:2]
    assert last == b"--\r\n"
    assert memory.log == ["look", "open 8-10", "close", "open 0-2", "close"]


async def test_several_parts_have_a_new_boundary_each_time() -> None:
    kinds = {(await fetch(Memory(), range="bytes=0-0,9-9")).headers["content-type"] for _ in "ab"}
    assert len(kinds) == 2


async def test_parts_that_became_one_are_no_multipart() -> None:
    server = await fetch(Memory(), range="bytes=0-9,5-14")
    assert server.headers["content-range"] == "bytes 0-14/1024"
    assert server.body == DATA[:15]


async def test_several_parts_end_with_the_exchange() -> None:
    memory = Memory()
    response = Response(memory)
    left = trio.Event()

    def first_only(request: object, selected: Response) -> Response:
        @asynccontextmanager
        async def body() -> AsyncIterator[list[bytes]]:
            async with selected as chunks:
                yield [await chunks.receive()]
            left.set()

        headers = selected.headers.remove("content-length")
        return attrs.evolve(selected, content=body(), headers=headers)

    async def handler(request: Request) -> Response:
        return response

    server = Server()
    app = make_app(handler, transforms=[first_only])
    with trio.fail_after(1):
        await server.call(app, headers=[(b"range", b"bytes=0-1,8-9")])
    assert server.complete
    assert left.is_set()


async def select_two_parts() -> Any:
    async def handler(request: Request) -> Response:
        return Response(Memory())

    seen: list[Response] = []

    def keep(request: object, response: Response) -> Response:
        seen.append(response)
        return Response(b"")

    headers = [(b"range", b"bytes=0-1,8-9")]
    await Server().call(make_app(handler, transforms=[keep]), headers=headers)
    return seen[0].content  # as itself, and not as the body of a response, which cancels it


@pytest.mark.parametrize("chunks", [0, 1, 2, 3])
async def test_several_parts_may_be_left_early(chunks: int) -> None:
    async with assert_no_leaks(), await select_two_parts() as parts:
        for _ in range(chunks):
            await parts.receive()


async def test_an_error_of_who_reads_several_parts_leaves_as_itself() -> None:
    with pytest.raises(KeyError, match="mine"):
        async with await select_two_parts() as parts:
            await parts.receive()
            await trio.testing.wait_all_tasks_blocked()
            raise KeyError("mine")


async def test_what_cannot_be_satisfied_is_416() -> None:
    # RFC 9110 15.5.17; nothing that is true of the file only is said of the error
    memory = Memory()
    response = {
        "headers": {
            "cache-control": "max-age=9",
            "content-disposition": "attachment",
            "x-mine": "1",
        }
    }
    server = await fetch(memory, response=response, range="bytes=1024-")
    assert (server.status, server.body) == (416, b"Range Not Satisfiable")
    assert fields_of(server) == {
        "x-mine": "1",
        "content-range": "bytes */1024",
        "content-type": "text/plain; charset=utf-8",
        "content-length": "21",
    }
    assert memory.log == ["look"]


async def test_a_range_that_is_malformed_is_ignored() -> None:
    server = await fetch(Memory(), range="bytes=9-1")
    assert (server.status, server.body) == (200, DATA)


async def test_two_range_fields_are_ignored() -> None:
    async def handler(request: Request) -> Response:
        return Response(Memory())

    server = Server()
    raw = [(b"range", b"bytes=0-1"), (b"range", b"bytes=4-5")]
    await server.call(make_app(handler), headers=raw)
    assert server.status == 200


@pytest.mark.parametrize(
    ("if_range", "status"), [(ETAG, 206), (DATE, 200), ('"v0"', 200), (f"W/{ETAG}", 200)]
)
async def test_if_range_gives_the_part_of_the_same_or_the_whole_of_another(
    if_range: str, status: int
) -> None:
    server = await fetch(Memory(), range="bytes=8-9", if_range=if_range)
    assert (server.status, server.body) == (status, DATA[8:10] if status == 206 else DATA)


async def test_a_range_beyond_another_state_is_the_whole() -> None:
    server = await fetch(Memory(), range="bytes=5000-", if_range='"v0"')
    assert server.status == 200


async def test_nothing_is_sent_whole() -> None:
    assert (await fetch(Memory(data=b""))).status == 200
    assert (await fetch(Memory(data=b""), range="bytes=-1")).status == 200
    assert (await fetch(Memory(data=b""), range="bytes=0-")).status == 416


# Conditions


@pytest.mark.parametrize("headers", [{"if_none_match": ETAG}, {"if_modified_since": DATE}])
async def test_what_the_client_has_is_304(headers: dict[str, str]) -> None:
    # RFC 9110 15.4.5: what guides a cache stays, what describes the content goes
    memory = Memory()
    response = {
        "media_type": "image/png",
        "headers": {"cache-control": "max-age=9", "vary": "cookie", "content-language": "de"},
    }
    server = await fetch(memory, response=response, range="bytes=0-1", headers=headers)
    assert (server.status, server.body) == (304, b"")
    assert fields_of(server) == {
        "cache-control": "max-age=9",
        "vary": "cookie",
        "etag": ETAG,
        "last-modified": DATE,
    }
    assert memory.log == ["look"]


@pytest.mark.parametrize(
    "headers", [{"if_match": '"v0"'}, {"if_unmodified_since": "Sun, 06 Nov 1994 08:49:36 GMT"}]
)
async def test_what_is_not_what_the_client_means_is_412(headers: dict[str, str]) -> None:
    memory = Memory()
    server = await fetch(memory, range="bytes=0-1", headers=headers)
    assert (server.status, server.body) == (412, b"Precondition Failed")
    assert fields_of(server) == {
        "content-type": "text/plain; charset=utf-8",
        "content-length": "19",
    }
    assert memory.log == ["look"]


# With transforms


async def test_transforms_see_what_was_selected() -> None:
    seen: list[int] = []

    def note(request: object, response: Response) -> Response:
        seen.append(response.status_code)
        return attrs.evolve(response, headers=response.headers.set("x-mine", "1"))

    for headers in ({}, {"range": "bytes=0-1"}, {"range": "bytes=5000-"}, {"if_none_match": ETAG}):
        server = await fetch(Memory(), transforms=[note], headers=headers)
        assert server.headers["x-mine"] == "1"
    assert seen == [200, 206, 416, 304]
