"""From a response to ASGI messages: wait for one item, take what else is ready, make one send."""

from __future__ import annotations

from collections.abc import Callable

import trio

from tsstream._asgi import Message
from tsstream._sansio.exchange import Exchange, ResponseEvent, ResponseState
from tsstream._sansio.outbox import Outbox

from .content import Items, is_whole
from .ending import logger
from .host import host_of
from .request import Request
from .response import BODILESS, Response, content_type, item_encoder, open_body
from .sender import Sender
from .source import BodySource
from .timer import Timer

GATHERED = 1000  # items in one batch: what is encoded without a look at anything else
# Items that are taken as soon as they are ready; a schedule point before a batch of a few large
# ones takes as long as sending it. So many small ones take some 0.3 ms to encode, and those that
# are waited for are always a schedule point.
ITEMS_PER_CHECKPOINT = 125
# What a producer's error takes from the end of its channel to whoever reads that: one for "async
# with send_channel", one for each nursery round it.
CHECKPOINTS_AT_END = 3
# RFC 9113, 8.2.2: an HTTP/2 message with one of these is malformed.
CONNECTION_HEADERS = ("connection", "keep-alive", "proxy-connection", "upgrade")


class Writer:
    """Write one response, whole or as a stream.

    A stream starts as late as is useful: with the first bytes of its body, so that every failure
    until then can still be given a proper status (D4 to D9). It ends when its owner says that
    every context manager has been left (:meth:`finish_stream`), because only then it is known
    to be complete.
    """

    def __init__(
        self,
        exchange: Exchange,
        request: Request,
        sender: Sender,
        timer: Timer,
        source: BodySource,
    ) -> None:
        self._exchange = exchange
        self._request = request
        self._sender = sender
        self._timer = timer
        self._source = source
        self._guarded = host_of(request.scope) is not None
        self._response: Response | None = None
        self._outbox: Outbox | None = None
        self._heartbeat: bytes | None = None
        self._flushing = False
        self._wants_items = False  # the body has been entered, and has not ended yet
        self._early = False
        self._unscheduled = ITEMS_PER_CHECKPOINT  # items since anything else could run
        self.status_code: int | None = None

    async def write_whole(self, response: Response) -> None:
        """Send a response whose content is all there, or not wanted, to its final message."""
        outbox = Outbox(item_encoder(response), declared=_declared(response))
        if has_body(self._request, response):
            outbox.put(response.content)
            outbox.check_complete()
        await self._sender.send(self._start(response))
        while outbox.full:
            await self._send_data(outbox.take())
        await self.finish(outbox.take())

    async def write_stream(self, response: Response, on_live: Callable[[], None]) -> None:
        """Enter the body, send its items as they come, leave the body.

        Args:
          response: has a body.
          on_live: called when the head of a live response is about to be sent, unless it
            declares a length, and so has an end of its own.

        Raises:
          Exception: whatever the body raised, on entering, while iterated or on leaving; also if
            its context manager suppressed it, since the body is incomplete all the same (D11).
        """
        self._response = response
        self._outbox = outbox = Outbox(item_encoder(response), declared=_declared(response))
        failure: BaseException | None = None
        self._timer.start_lifetime()
        self._timer.enter("first_item")
        try:
            async with open_body(response) as items:
                self._wants_items = True
                try:
                    if response.live:
                        start = self._start(response)
                        if "content-length" not in response.headers:
                            on_live()
                        await self._sender.send(start, _body(b""))
                    await self._pump(response, items, outbox)
                except BaseException as error:
                    failure = error
                    raise
                finally:
                    self._wants_items = False
                self._timer.enter("exit")
            if failure is not None:
                await raise_suppressed(failure)
        finally:
            del failure  # its traceback refers to us
        outbox.check_complete()

    def leave_early(self) -> bool:
        """Begin to leave the body; say whether that is early, and so needs a cancellation."""
        if not self._wants_items:
            return False
        self._wants_items, self._early = False, True
        self._timer.enter("exit")
        return True

    async def finish_stream(self, response: Response) -> None:
        """End a stream whose context managers have all been left without an error."""
        self._timer.stop()
        if self._exchange.response is ResponseState.IDLE:
            await self._sender.send(self._start(response))  # nothing was in it (D7)
        await self.finish()

    async def finish_early(self, response: Response) -> None:
        """End a stream that was left early, without an error."""
        assert self._outbox is not None, "nothing was streamed"
        self._source.close_body()
        while self._outbox.size:  # the rest of an item, of which some may have been sent
            await self._send_data(self._outbox.take())
        await self.finish(response.encoder.farewell or b"")

    async def finish(self, data: bytes = b"") -> None:
        """Send what is left, and the final message, when nothing stands in its way.

        A server that still has body for us may not be able to finish, and will close the
        connection if it is (HOST fault 6): so the rest of it is dropped first, within bounds.
        The guarded server does that itself.
        """
        unread = not self._exchange.request_settled and expects_body(self._request)
        if unread and not self._guarded:
            if data:
                await self._send_data(data)
                data = b""
            await self._source.wait_settled()
        self._exchange.on_response(ResponseEvent.FINISH)
        await self._sender.send(_body(data, more_body=False))
        if not self._sender.broken:
            self._exchange.on_response(ResponseEvent.DONE)

    def warn_if_undetectable(self) -> None:
        """Tell of a cut that its client must take for an end (D46, HOST fault 12)."""
        response = self._response
        if response is None or self._request.http_version != "1.0" or self._guarded:
            return
        if self.status_code is not None and "content-length" not in response.headers:
            text = "%s: undetectable truncation, as the client speaks HTTP/1.0"
            logger.warning(text, self._request)

    def send_heartbeat(self) -> None:
        """Show a sign of life, unless something is on its way, or an item half sent."""
        if self._heartbeat is None or self._flushing or self._sender.busy:
            return
        if self._exchange.response is ResponseState.BODY:
            self._exchange.on_response(ResponseEvent.DATA)
            self._sender.send_soon(_body(self._heartbeat))

    async def _pump(self, response: Response, items: Items, outbox: Outbox) -> None:
        receive_nowait = getattr(items.channel, "receive_nowait", None)
        while not items.ended:
            try:
                item = await self._receive(items, receive_nowait)
            except trio.EndOfChannel:
                items.ended = True
                break
            try:
                outbox.put(item)
                if receive_nowait is not None:
                    items.ended = self._gather(receive_nowait, outbox)
            except Exception:
                self._wants_items = False
                # What came before the bad item is sent (D10). If we are cancelled meanwhile, the
                # error is in the Cancelled's context, and logged from there.
                await self._flush(response, outbox)  # noqa: ASYNC120
                raise
            await self._flush(response, outbox)
        # A producer that has failed has closed its channel, too, and its nursery cancels us. If
        # that were too late, the context manager could suppress the error unseen (D11, AC-23).
        for _ in range(CHECKPOINTS_AT_END):
            await trio.lowlevel.checkpoint()

    async def _receive(self, items: Items, receive_nowait: Callable[[], object] | None) -> object:
        if receive_nowait is not None and self._unscheduled < ITEMS_PER_CHECKPOINT:
            self._unscheduled += 1
            try:
                return receive_nowait()
            except (trio.WouldBlock, trio.EndOfChannel):
                pass
        self._unscheduled = 0
        return await items.channel.receive()

    def _gather(self, receive_nowait: Callable[[], object], outbox: Outbox) -> bool:
        """Take what is ready without waiting, up to one batch; say whether the channel ended."""
        taken = 0
        try:
            while taken < GATHERED and not outbox.full:
                outbox.put(receive_nowait())
                taken += 1
        except trio.WouldBlock:
            return False
        except trio.EndOfChannel:
            return True
        finally:
            self._unscheduled += taken
        return False

    async def _flush(self, response: Response, outbox: Outbox) -> None:
        if not outbox.size:
            # An iterator that gives nothing but empty chunks must not hold the event loop.
            await trio.lowlevel.checkpoint()
            return
        self._flushing = True
        self._timer.pause()
        while outbox.size:
            if self._exchange.response is ResponseState.IDLE:
                await self._sender.send(self._start(response), _body(outbox.take()))
            else:
                await self._send_data(outbox.take())
        self._flushing = False
        if not self._early:
            self._timer.enter("idle")

    def _start(self, response: Response) -> Message:
        headers = wire_headers(self._request, response)  # can fail, so before the state moves
        self._exchange.on_response(ResponseEvent.START)
        self._source.close_unopened_body()
        if "content-length" not in response.headers:
            self._heartbeat = response.encoder.heartbeat
        self.status_code = response.status_code
        return {
            "type": "http.response.start",
            "status": response.status_code,
            "headers": headers,
        }

    async def _send_data(self, data: bytes) -> None:
        self._exchange.on_response(ResponseEvent.DATA)
        await self._sender.send_body(data)


async def raise_suppressed(failure: BaseException) -> None:
    if isinstance(failure, trio.Cancelled):
        await trio.lowlevel.checkpoint()  # if it is not over, it is raised again here
        raise RuntimeError(
            "the body's context manager ended the stream before its channel had ended: it "
            "suppressed a producer's error, or cancelled the stream itself; to end a stream "
            "well, close the send end of its channel"
        ) from failure
    failure.add_note("The body's context manager suppressed this error; the body is incomplete.")
    raise failure


def expects_body(request: Request) -> bool:
    """Say whether the request's head announces a body (RFC 9112, 6.3; RFC 9113, 8.1.1)."""
    headers = request.headers
    if "content-length" in headers:
        return headers["content-length"] != "0"
    if request.http_version in ("1.0", "1.1"):
        return "transfer-encoding" in headers
    return request.method not in ("GET", "HEAD")


def has_body(request: Request, response: Response) -> bool:
    """Say whether the client is sent a body: not after HEAD, nor with 204, 205, 304 (D35)."""
    return request.method != "HEAD" and response.status_code not in BODILESS


def wire_headers(request: Request, response: Response) -> list[tuple[bytes, bytes]]:
    """Give the header fields as ASGI wants them, with those that the response implies."""
    headers = response.headers
    for name, value in response.encoder.headers:
        headers = headers.setdefault(name, value)
    if response.status_code not in BODILESS:
        headers = headers.setdefault("content-type", content_type(response))
        if is_whole(response.content):
            headers = headers.setdefault("content-length", str(_length(response)))
    if request.http_version not in ("1.0", "1.1"):
        headers = headers.remove(*CONNECTION_HEADERS)
    return list(headers.raw)


def _length(response: Response) -> int:
    return len(item_encoder(response).encode(response.content))


def _declared(response: Response) -> int | None:
    """Give the Content-Length that the handler declared.

    Raises:
      ValueError: it is no number of bytes.
    """
    value = response.headers.get("content-length")
    if value is None:
        return None
    if not (value.isascii() and value.isdecimal()):
        raise ValueError(f"the Content-Length {value!r} is not a number of bytes")
    return int(value)


def _body(data: bytes, *, more_body: bool = True) -> dict[str, object]:
    return {"type": "http.response.body", "body": data, "more_body": more_body}
