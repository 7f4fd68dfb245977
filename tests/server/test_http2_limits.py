"""HTTP/2: what one client may ask for at once, and how a connection ends."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterable
from typing import Any

import h2.errors
import pytest
import trio
import trio.testing
from frames_h2 import START, Frame, Setting, Type, frame, get, parse, post, reset, settings
from guarded import DISCONNECT, answer, body, certificate, http, records, start
from leaks import assert_no_leaks
from probes import IN_TIME, PROMPT
from wire import H2Connection, RawConnection, Truncated, open_guarded, open_h2, open_raw

from tsstream._asgi import Receive, Send
from tsstream._server.output import BACKLOG, Output
from tsstream._server.transport import RECEIVE_SIZE

Codes = h2.errors.ErrorCodes
ENDING = (Type.DATA, Type.HEADERS)
LARGE = 2**14  # bytes: of a header value


class App:
    """Answers ``/`` at once, ``/upload`` never, and all else when it is told to.

    Attributes:
      waiting: set when one waits to be told.
      lost: set when the client of ``/upload`` has gone.
      running: calls that have not returned.
      most: of them, at any time.
      calls: ever.
    """

    def __init__(self) -> None:
        self.proceed = trio.Event()
        self.waiting = trio.Event()
        self.lost = trio.Event()
        self.running = self.most = self.calls = 0

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        self.calls += 1
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            if scope["path"] == "/upload":
                assert await receive() == DISCONNECT
                self.lost.set()
                return
            if scope["path"] != "/":
                self.waiting.set()
                await self.proceed.wait()
            await answer(send)
        finally:
            self.running -= 1


async def read(client: H2Connection, stream_id: int) -> bytes:
    with trio.fail_after(IN_TIME):
        assert (await client.read_head(stream_id))[0] == 200
        return await client.read_body(stream_id)


async def check_refused(client: H2Connection, stream_id: int) -> None:
    with trio.fail_after(IN_TIME), pytest.raises(Truncated) as caught:
        await client.read_head(stream_id)
    assert caught.value.error_code == Codes.REFUSED_STREAM


async def read_goaway(client: H2Connection, stream_id: int, *, within: float = IN_TIME) -> int:
    """Wait, on a stream that has ended, for the end of the connection; give its code."""
    with trio.fail_after(within), pytest.raises(Truncated) as caught:
        while await client.next_event(stream_id):
            pass
    assert caught.value.error_code is not None
    return caught.value.error_code


async def read_frames(raw: RawConnection) -> list[Frame]:
    """Read until the server has closed the connection."""
    with trio.fail_after(IN_TIME):
        frames, rest = parse(await raw.read_until_closed())
    assert rest == b""
    return frames


async def read_until_ended(raw: RawConnection, stream: int) -> list[Frame]:
    """Read up to the end of *stream*, clean or not; give all frames."""
    received = b""
    while True:
        frames, _ = parse(received)
        if stream in ended(frames) | resets(frames).keys():
            return frames
        received += await raw.stream.receive_some(65_536)


def ended(frames: Iterable[Frame]) -> set[int]:
    """Give the streams with a clean end."""
    return {item.stream for item in frames if item.flags & 1 and item.kind in ENDING}


def resets(frames: Iterable[Frame]) -> dict[int, int]:
    return {item.stream: item.code for item in frames if item.kind == Type.RST_STREAM}


def goaways(frames: Iterable[Frame]) -> list[int]:
    return [item.code for item in frames if item.kind == Type.GOAWAY]


@pytest.mark.parametrize("path", [b"/", b"/later"])
async def test_rapid_reset_ends_the_connection_and_runs_few_applications(
    path: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    # CVE-2023-44487
    caplog.set_level(logging.INFO, "tsstream.server")
    app = App()
    async with open_guarded(http(app)) as port, assert_no_leaks():
        async with open_raw(port) as raw:
            with trio.fail_after(IN_TIME):
                try:
                    await raw.send_all(START)
                    for stream in range(1, 2001, 2):
                        await raw.send_all(get(stream, path) + reset(stream))
                except trio.BrokenResourceError:
                    pass
                frames = await read_frames(raw)
            assert goaways(frames) == [Codes.ENHANCE_YOUR_CALM]
        app.proceed.set()
    assert app.most <= 100
    assert app.calls <= 250
    [record] = [text for text in records(caplog) if text.startswith("INFO connection of")]
    assert "waste" in record


async def test_a_client_may_reset_a_stream_now_and_then() -> None:
    async with open_guarded(http(App())) as port:
        async with open_raw(port) as raw:
            await raw.send_all(START + b"".join(get(n, b"/") + reset(n) for n in range(1, 201, 2)))
            await trio.testing.wait_all_tasks_blocked()
            await raw.send_all(get(201, b"/"))
            with trio.fail_after(IN_TIME):
                assert 201 in ended(await read_until_ended(raw, 201))


async def test_too_many_streams_are_refused_one_by_one() -> None:
    # RFC 9113 5.1.2; a client may open many before it has seen our SETTINGS.
    app = App()
    async with open_guarded(http(app), h2_max_concurrent_streams=3) as port, assert_no_leaks():
        async with open_raw(port) as raw:
            await raw.send_all(START + b"".join(get(n, b"/later") for n in range(1, 21, 2)))
            received = b""
            with trio.fail_after(IN_TIME):
                while received.count(b"\0\0\4\3") < 7:  # RST_STREAM
                    received += await raw.stream.receive_some(65_536)
                app.proceed.set()
                while len(ended(parse(received)[0])) < 3:
                    received += await raw.stream.receive_some(65_536)
                await raw.send_all(get(21))
                while 21 not in ended(parse(received)[0]):
                    received += await raw.stream.receive_some(65_536)
        frames, _ = parse(received)
        assert resets(frames) == dict.fromkeys(range(7, 21, 2), Codes.REFUSED_STREAM)
    assert app.most == 3


async def test_an_application_that_goes_on_after_a_reset_still_counts() -> None:
    app = App()
    async with open_guarded(http(app), h2_max_concurrent_streams=2) as port, assert_no_leaks():
        async with open_h2(port) as client:
            for _ in range(2):
                await client.reset(await client.request("GET", "/later"))
            await check_refused(client, await client.request("GET", "/"))
            app.proceed.set()
            await trio.testing.wait_all_tasks_blocked()
            assert await read(client, await client.request("GET", "/")) == b"ok"


async def test_settings_that_change_all_the_time_end_the_connection() -> None:
    async with open_guarded(http(App())) as port, assert_no_leaks():
        async with open_raw(port) as raw:
            change = settings((Setting.HEADER_TABLE_SIZE, 1)) + settings(
                (Setting.HEADER_TABLE_SIZE, 4096)
            )
            await raw.send_all(START + change * 200)
            assert goaways(await read_frames(raw)) == [Codes.ENHANCE_YOUR_CALM]


async def test_pings_whose_answers_nobody_reads_are_not_collected() -> None:
    # The reader stops, and with it the client; then it hears that the client has gone.
    ping = frame(Type.PING, bytes(8))
    async with open_guarded(http(App()), send_buffer=4096) as port, assert_no_leaks():
        async with open_raw(port, receive_buffer=4096) as raw, trio.open_nursery() as nursery:
            nursery.start_soon(raw.send_all, START + ping * 200_000)
            await trio.testing.wait_all_tasks_blocked(0.05)
            gc.collect()
            backlogs = [thing.backlog for thing in gc.get_objects() if type(thing) is Output]
            # What one read has brought is answered whole.
            assert BACKLOG < max(backlogs) < BACKLOG + 2 * RECEIVE_SIZE < 200_000 * len(ping)
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"a": "b" * LARGE}, 200),
        ({f"a{n}": "b" * LARGE for n in range(5)}, 431),
        ({f"a{n}": "b" for n in range(101)}, 431),
    ],
)
async def test_too_many_header_fields_are_answered_431(fields: dict[str, str], status: int) -> None:
    async with open_guarded(http(App())) as port, open_h2(port) as client:
        with trio.fail_after(IN_TIME):
            stream_id = await client.request("GET", "/", fields)
            assert (await client.read_head(stream_id))[0] == status
        assert await read(client, await client.request("GET", "/")) == b"ok"


async def test_a_connection_that_has_made_its_requests_ends_when_none_is_open() -> None:
    app = App()
    app.proceed.set()
    async with open_guarded(http(app), keep_alive_max_requests=3) as port, assert_no_leaks():
        async with open_raw(port) as raw:
            await raw.send_all(START + get(1) + get(3) + get(5))
            with trio.fail_after(IN_TIME):
                frames = await read_frames(raw)
        assert ended(frames) == {1, 3, 5}
        assert goaways(frames) == [Codes.NO_ERROR]


async def test_a_connection_on_which_always_one_is_open_ends_at_twice_its_requests() -> None:
    app = App()
    async with open_guarded(http(app), keep_alive_max_requests=3) as port, assert_no_leaks():
        async with open_raw(port) as raw:
            gets = [get(stream_id) for stream_id in range(3, 15, 2)]
            await raw.send_all(START + get(1, b"/later") + b"".join(gets))
            with trio.fail_after(IN_TIME):
                received = b""
                while not goaways(parse(received)[0]):
                    received += await raw.stream.receive_some(65_536)
                app.proceed.set()
                frames, _ = parse(received + await raw.read_until_closed())
        assert ended(frames) == {1, 3, 5, 7, 9, 11}
        assert goaways(frames) == [Codes.NO_ERROR]
        assert resets(frames) == {13: Codes.REFUSED_STREAM}


async def test_a_client_that_says_goodbye_gets_what_it_still_waits_for() -> None:
    app = App()
    async with open_guarded(http(app)) as port, assert_no_leaks():
        async with open_raw(port) as raw:
            await raw.send_all(START + get(1, b"/later") + frame(Type.GOAWAY, bytes(8)) + get(3))
            with trio.fail_after(IN_TIME):
                received = b""
                while not resets(parse(received)[0]):
                    received += await raw.stream.receive_some(65_536)
                app.proceed.set()
                frames, _ = parse(received + await raw.read_until_closed())
        assert ended(frames) == {1}
        assert resets(frames) == {3: Codes.REFUSED_STREAM}
        assert goaways(frames) == [Codes.NO_ERROR]


@pytest.mark.parametrize("half_close", [True, False])
async def test_a_fin_ends_what_it_cuts_and_the_rest_as_the_policy_says(half_close: bool) -> None:
    app = App()
    async with open_guarded(http(app), half_close=half_close) as port, assert_no_leaks():
        async with open_raw(port) as raw:
            await raw.send_all(START + get(1, b"/later") + post(3, b"/upload"))
            await raw.half_close()
            with trio.fail_after(IN_TIME):
                await app.lost.wait()
                app.proceed.set()
                frames, _ = parse(await raw.read_until_closed())
        assert ended(frames) == ({1} if half_close else set())


async def test_a_connection_without_streams_ends_after_the_keep_alive_timeout() -> None:
    async with open_guarded(http(App()), keep_alive_timeout=0.1) as port, assert_no_leaks():
        async with open_h2(port) as client:
            stream_id = await client.request("GET", "/")
            assert await read(client, stream_id) == b"ok"
            start_time = trio.current_time()
            assert await read_goaway(client, stream_id) == Codes.NO_ERROR
            assert trio.current_time() - start_time >= 0.08


async def test_a_connection_with_a_stream_is_not_idle() -> None:
    app = App()
    async with open_guarded(http(app), keep_alive_timeout=0.05) as port, assert_no_leaks():
        async with open_h2(port) as client:
            assert await read(client, await client.request("GET", "/")) == b"ok"
            stream_id = await client.request("GET", "/later")
            await trio.sleep(0.15)
            app.proceed.set()
            assert await read(client, stream_id) == b"ok"


async def test_a_connection_without_any_request_ends_after_the_header_timeout() -> None:
    async with open_guarded(http(App()), header_timeout=0.1) as port, assert_no_leaks():
        async with open_raw(port) as raw:
            await raw.send_all(START + get(1)[:-3])
            assert goaways(await read_frames(raw)) == [Codes.NO_ERROR]


async def test_a_shutdown_lets_streams_end_and_refuses_new_ones() -> None:
    app = App()
    trigger = trio.Event()
    async with open_guarded(
        http(app), shutdown_trigger=trigger.wait, graceful_timeout=IN_TIME
    ) as port:
        async with open_raw(port) as raw, open_h2(port) as idle:
            stream_id = await idle.request("GET", "/")
            assert await read(idle, stream_id) == b"ok"
            await raw.send_all(START + get(1, b"/later"))
            with trio.fail_after(IN_TIME):
                await app.waiting.wait()
                trigger.set()
                assert await read_goaway(idle, stream_id, within=PROMPT) == Codes.NO_ERROR
                await raw.send_all(get(3))
                received = b""
                while b"\0\0\4\3" not in received:
                    received += await raw.stream.receive_some(65_536)
                app.proceed.set()
                frames, _ = parse(received + await raw.read_until_closed())
    assert ended(frames) == {1}
    assert goaways(frames) == [Codes.NO_ERROR]


async def test_streams_that_outlast_the_graceful_timeout_are_reset() -> None:
    async def go_on(scope: Any, receive: Receive, send: Send) -> None:
        await send(start())
        await send(body(b"one"))
        await trio.sleep_forever()

    trigger = trio.Event()
    async with open_guarded(
        http(go_on), shutdown_trigger=trigger.wait, graceful_timeout=0.05
    ) as port:
        async with open_raw(port) as raw:
            await raw.send_all(START + get(1))
            received = b""
            with trio.fail_after(IN_TIME):
                while b"one" not in received:
                    received += await raw.stream.receive_some(65_536)
                trigger.set()
                frames, _ = parse(received + await raw.read_until_closed())
    assert ended(frames) == set()
    assert resets(frames) == {1: Codes.INTERNAL_ERROR}
    assert goaways(frames) == [Codes.NO_ERROR]


async def test_it_is_agreed_on_within_tls() -> None:
    cert = certificate()
    context = cert.client_context()
    context.set_alpn_protocols(["h2", "http/1.1"])
    async with (
        open_guarded(http(App()), certfile=cert.certfile, keyfile=cert.keyfile) as port,
        assert_no_leaks(),
    ):
        async with open_raw(port) as raw:
            tls = trio.SSLStream(raw.stream, context, server_hostname="127.0.0.1")
            received = b""
            with trio.fail_after(IN_TIME):
                await tls.send_all(START + get(1, b"/"))
                assert tls.selected_alpn_protocol() == "h2"
                while 1 not in ended(parse(received)[0]):
                    received += await tls.receive_some()
            frames, _ = parse(received)
    assert b"".join(item.payload for item in frames if item.kind == Type.DATA) == b"ok"


async def test_a_foreign_server_name_is_answered_404() -> None:
    async with open_guarded(http(App()), server_names=["example.org"]) as port:
        async with open_h2(port) as client:
            stream_id = await client.request("GET", "/")
            assert (await client.read_head(stream_id))[0] == 404
