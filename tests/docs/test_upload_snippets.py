"""What "Take uploads" says of its listings, and of limits and refusals."""

from __future__ import annotations

from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path

import pytest
import trio
import uploads
from probes import IN_TIME
from trio.testing import MockClock
from wire import open_guarded, open_raw

from tsstream import App, Request, Response
from tsstream.testing import open_client

CHECKSUM = sha256(b"one two").hexdigest() + "\n"
FORM = {"content-type": "multipart/form-data; boundary=b"}


def part(what: str, data: bytes) -> bytes:
    return b"--b\r\nContent-Disposition: form-data; %s\r\n\r\n%s\r\n" % (what.encode(), data)


async def test_whole_and_streamed() -> None:
    async with open_client(uploads.app) as client:
        response = await client.post("/orders", content=b'{"items": ["tea", "milk"]}')
        assert (response.status_code, response.json()) == (201, {"ordered": 2})
        assert (await client.post("/orders", content=b"tea")).status_code == 400
        assert (await client.post("/checksum", content=[b"one ", b"two"])).text == CHECKSUM


async def test_a_whole_body_is_limited_and_a_streamed_one_is_not() -> None:
    async with open_client(uploads.app) as client:
        data = bytes(1024 * 1024 + 1)
        response = await client.post("/orders", content=data)
        assert response.status_code == 413
        assert response.text == "The request body is larger than 1048576 bytes."
        assert (await client.post("/checksum", content=data)).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "limit"), [("POST", "/checksum", 20), ("PUT", "/backup", 300)]
)
async def test_silence_is_408(
    method: str, path: str, limit: float, autojump_clock: MockClock
) -> None:
    async def pause() -> AsyncIterator[bytes]:
        yield b"one "
        await trio.sleep_forever()

    async with open_client(uploads.app) as client:
        start = trio.current_time()
        async with client.stream(method, path, content=pause()) as response:
            assert response.status_code == 408
            assert trio.current_time() - start == limit


async def test_a_declared_length_over_max_stream_is_413_before_it_is_sent() -> None:
    async with open_guarded(uploads.app) as port, open_raw(port) as raw:
        await raw.request("PUT", "/backup", {"content-length": str(21 * 2**30)})
        with trio.fail_after(IN_TIME):
            assert (await raw.read_head())[0] == 413


async def test_a_refusal_reaches_a_client_that_waits_for_100_before_it_sends() -> None:
    async with open_guarded(uploads.app) as port:
        for token, status in ((b"sesame", 100), (b"please", 401)):
            async with open_raw(port) as raw:
                await raw.request(
                    "PUT",
                    "/private",
                    {
                        "authorization": f"Bearer {token.decode()}",
                        "content-length": "7",
                        "expect": "100-continue",
                    },
                )
                with trio.fail_after(IN_TIME):
                    assert (await raw.read_head())[0] == status
                    if status == 100:
                        await raw.send_all(b"one two")
                        assert (await raw.read_head())[0] == 200
                        assert (await raw.read_body()).decode() == CHECKSUM


async def test_forms() -> None:
    async with open_client(uploads.app) as client:
        urlencoded = {"content-type": "application/x-www-form-urlencoded"}
        response = await client.post(
            "/contact", headers=urlencoded, content=b"name=Ada&topic=looms&topic=engines"
        )
        assert response.text == "Ada asks about looms, engines\n"
        data = part('name="name"', b"Ada") + part('name="topic"', b"looms") + b"--b--\r\n"
        response = await client.post("/contact", headers=FORM, content=data)
        assert response.text == "Ada asks about looms\n"
        assert (await client.post("/contact", content=b"x")).status_code == 415


async def test_photos_are_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "FOLDER", tmp_path)
    data = part('name="photo"; filename="../cat.jpg"', b"miaow")
    async with open_client(uploads.app) as client:
        response = await client.post("/photos", headers=FORM, content=data[:-4])
        assert response.status_code == 400  # it breaks off, and leaves nothing
        response = await client.post("/photos", headers=FORM, content=data + b"--b--\r\n")
    saved = response.json()["../cat.jpg"]
    assert saved["size"] == 5
    [path] = await trio.Path(tmp_path).iterdir()
    assert saved["path"] == str(path)
    assert await path.read_bytes() == b"miaow"


async def test_a_thread_reads_the_upload() -> None:
    async with open_client(uploads.app) as client:
        content = [b"name,weight\r\ncat,4", b".5\r\ndog,8\r\n"]
        assert (await client.post("/sum/weight", content=content)).text == "12.5\n"


async def test_lines_are_numbered_as_they_come() -> None:
    async with open_client(uploads.app) as client:
        async with client.open_request("POST", "/numbered") as request:
            await request.body.send(b"once\nupon")
            response = await request.response()
            assert await response.body.receive() == b"1 once\n"
            await request.body.send(b" a time\n")
            assert await response.body.receive() == b"2 upon a time\n"
            request.body.close()
            assert [chunk async for chunk in response.body] == []


async def test_an_upload_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    upstream = App()

    @upstream.post("/objects")
    async def take(request: Request) -> Response:
        return Response(await request.read(), 201)

    async with open_guarded(upstream) as port, open_client(uploads.app) as client:
        monkeypatch.setattr(uploads, "UPSTREAM", f"http://127.0.0.1:{port}/objects")
        response = await client.post("/forward", content=[b"one ", b"two"])
        assert (response.status_code, response.content) == (201, b"one two")
