"""One request from its handler to its final message, and what happens when that fails."""

from __future__ import annotations

import math
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, TypeAlias

import attrs
import trio

from tsstream._asgi import Receive, Send
from tsstream._sansio.exchange import Exchange, ResponseEvent, ResponseState
from tsstream._util import unwrapping

from .breakage import is_breakage, without_breakage
from .cancellation import cancellation_within, error_within, stray_cancellation
from .content import Content, is_context_manager, is_small
from .ending import Ending, Reason, logger
from .errors import ErrorPages, timeout_error
from .given import Given, Transform, wait_returned
from .host import Host, host_of, sender_of
from .limits import BodyLimits
from .outcome import Outcome
from .policy import StreamPolicy
from .puller import make_source
from .request import Request
from .response import Response, consume
from .sender import Sender
from .source import Listeners
from .timer import Timer
from .watcher import LINGER
from .writer import Writer, has_body, raise_suppressed

Handler: TypeAlias = Callable[
    [Request[Any]],
    Awaitable[Response | Content]
    | AbstractAsyncContextManager[Response]
    | AsyncGenerator[object, None],
]
LAST_WORDS = 0.5  # seconds: for a failed body's last batch; a client that stalls gets no more
# What send() raises when there is nobody any more to send to: OSError by ASGI 2.4; Hypercorn lets
# Trio's own errors through, BusyResourceError while it closes the connection.
LOST_CONNECTION = (
    OSError,
    trio.BrokenResourceError,
    trio.BusyResourceError,
    trio.ClosedResourceError,
)


@attrs.frozen(kw_only=True)
class Settings:
    """What an app says about all its exchanges."""

    transforms: Sequence[Transform] = ()
    policy: StreamPolicy = attrs.field(factory=StreamPolicy)
    body_limits: BodyLimits = attrs.field(factory=BodyLimits)
    pages: ErrorPages = attrs.field(factory=ErrorPages)
    on_end: Callable[[Request[Any], Ending], None] | None = None
    hinted: set[int] = attrs.field(factory=set)  # handlers that give async generators (D31)


class Cycle:
    """One exchange: a nursery with the watcher, and the user's code in the task of the caller.

    All of the user's code, from the handler to the last context manager, runs in one task and one
    cancel scope. When that is left, nothing of the user's is running any more; what remains is to
    tell the client: the end of the response, an error, or nothing at all.
    """

    def __init__(
        self,
        handler: Handler,
        request: Request[Any],
        settings: Settings,
        receive: Receive,
        send: Send,
    ) -> None:
        self._handler = handler
        self._request = request
        self._settings = settings
        self._host = host_of(request.scope)
        self._exchange = Exchange()
        self._outcome = Outcome(request, settings.pages, self._host)
        self._given = Given(request, settings.transforms)
        self._timer = Timer(settings.policy, self._on_limit, self._on_silence)
        self._sender = Sender(
            send, self._timer, self._on_send_error, now=sender_of(request.scope, send)
        )
        listeners = Listeners(
            on_disconnect=self._on_disconnect,
            on_error=self._on_receive_error,
            on_strange=self._on_strange_message,
        )
        self._source = make_source(receive, self._exchange, request, listeners)
        self._writer = Writer(self._exchange, request, self._sender, self._timer, self._source)
        self._scope = trio.CancelScope()
        self._streamed = False

    async def run(self) -> None:
        """Answer the request, once.

        Raises:
          Exception: why the response was cut. The server, and whatever stands between, must not
            give it a clean end.
        """
        try:
            await self._run()
        finally:
            # They know one another: cycles that would hold the request, and what it has read.
            for part in (self._timer, self._outcome, self):
                vars(part).clear()

    async def _run(self) -> None:
        reason: Reason = "cancelled"
        try:
            with unwrapping():
                async with trio.open_nursery() as nursery:
                    self._source.start(nursery)
                    try:
                        await self._answer(nursery)
                    finally:
                        self._source.stop()
                    nursery.cancel_scope.cancel(reason="the exchange is over")
            reason = self._conclude()
        finally:
            self._given.discard_unused(streamed=self._streamed)
            self._outcome.report(
                reason,
                self._settings.on_end,
                status_code=self._writer.status_code,
                bytes_sent=self._sender.bytes_sent,
            )
        if reason in ("error", "timeout"):
            await self._let_server_close()
        error = self._outcome.error
        try:
            if error is not None and self._outcome.must_raise(answered=self._answered):
                raise error
        finally:
            del error  # its traceback refers to us

    async def _let_server_close(self) -> None:
        """Take what the server has still for us: Hypercorn cannot close before (HOST fault 6).

        Its queue fills again as we return, so it is emptied from the app's nursery, if there is
        one: Hypercorn always runs the lifespan. The guarded server needs no such help.
        """
        if self._answered or self._exchange.request_settled or self._host is not None:
            return
        nursery = self._request.app._nursery
        if nursery is None:
            await self._source.drop_rest()
        else:
            nursery.start_soon(self._source.drop_rest)

    async def _answer(self, nursery: trio.Nursery) -> None:
        outcome = self._outcome
        await self._attempt(self._handle, nursery)
        self._timer.stop()
        if outcome.reason is None:
            await self._attempt(self._finish, limit=self._timer.policy.send)
        if outcome.error is None or outcome.from_outside:
            return
        if self._exchange.can_answer_error:
            await self._attempt(
                self._answer_error,
                outcome.error,
                limit=self._timer.policy.send,
                on_error=outcome.fail_page,
            )
        elif outcome.reason == "error":
            # What was taken from the body before it failed is sent (D10).
            with trio.move_on_after(LAST_WORDS) as self._scope:
                await self._sender.wait_sent()

    async def _attempt(
        self,
        step: Callable[..., Awaitable[None]],
        *args: object,
        limit: float | None = None,
        on_error: Callable[[Exception], None] | None = None,
    ) -> None:
        """Run a step in a scope that a disconnect or a limit cancels, and keep its error.

        Args:
          limit: in seconds, for a step that is one send, and the LINGER before its end.
          on_error: is told the error; by default that is the exchange's.
        """
        fail = self._outcome.fail if on_error is None else on_error
        try:
            with trio.move_on_after(math.inf if limit is None else limit + LINGER) as self._scope:
                try:
                    await step(*args)
                except BaseException as error:
                    self._outcome.note_hidden(error)
                    raise
            over = self._scope.cancelled_caught and self._scope.deadline <= trio.current_time()
            if over and limit is not None:
                self._outcome.stall(limit)
        except Exception as error:
            fail(without_breakage(error))
        except BaseException as error:  # noqa: ASYNC103 (a stray Cancelled is an error, D39)
            found = error_within(error)
            if found is not None:
                fail(found)
            if trio.current_effective_deadline() == -math.inf:
                raise cancellation_within(error) from None  # noqa: ASYNC104 (a part of it)
            if found is None:
                fail(stray_cancellation(error))

    # The user's code, in the order in which a request meets it.

    async def _handle(self, nursery: trio.Nursery) -> None:
        if self._settings.policy.handler is not None:
            self._timer.start(nursery)
            self._timer.enter("handler")
        result = self._handler(self._request)
        if is_context_manager(result):
            await self._handle_duplex(result, nursery)  # type: ignore[arg-type]
        else:
            response = await self._accept(await wait_returned(result))
            self._source.close_body()
            # A small body needs no code of the user's any more, so it is sent after this.
            if has_body(self._request, response) and not is_small(response.content):
                await self._stream(response, nursery)

    async def _handle_duplex(
        self, manager: AbstractAsyncContextManager[object], nursery: trio.Nursery
    ) -> None:
        """Respond while the handler's context manager is open, and the request's body with it."""
        failure: BaseException | None = None
        early = trio.CancelScope()
        try:
            with early:
                async with manager as given:
                    try:
                        response = await self._accept(given)
                        if has_body(self._request, response):
                            await self._stream(response, nursery)
                        else:
                            early.cancel(reason="this request gets no body")
                    except BaseException as error:
                        failure = error
                        raise
        except Exception as error:
            if not (early.cancel_called and is_breakage(error)):
                raise
        if failure is not None:
            await raise_suppressed(failure)
        self._source.close_body()

    async def _accept(self, given: object) -> Response:
        response = await self._given.accept(given)
        self._timer.pause()  # the handler has kept its limit
        if isinstance(given, AsyncGenerator) and id(self._handler) not in self._settings.hinted:
            self._settings.hinted.add(id(self._handler))
            logger.debug("%s: an async generator is run in a task of its own", self._request)
        if response.policy is not None:
            self._timer.adopt(response.policy)
        return response

    async def _stream(self, response: Response, nursery: trio.Nursery) -> None:
        self._streamed = True
        self._timer.start(nursery)
        self._sender.start(nursery)
        await self._writer.write_stream(response, on_live=partial(self._on_live, nursery))

    # Telling the client.

    async def _finish(self) -> None:
        if self._outcome.shut_down:
            await self._writer.finish_early(self._given.response)
            return
        if self._streamed:
            await self._writer.finish_stream(self._given.response)
            return
        response = self._given.response
        if has_body(self._request, response):
            consume(response)
        await self._writer.write_whole(response)

    async def _answer_error(self, error: Exception) -> None:
        self._source.close_body()
        await self._writer.write_whole(self._settings.pages.response(error))

    @property
    def _answered(self) -> bool:
        return self._exchange.response is ResponseState.DONE

    def _conclude(self) -> Reason:
        if not self._answered:
            self._exchange.on_response(ResponseEvent.CUT)
        reason = self._outcome.conclude(answered=self._answered, bytes_sent=self._sender.bytes_sent)
        if reason in ("error", "timeout"):
            self._writer.warn_if_undetectable()
        return reason

    # The end of a live response at the server's shutdown (D23).

    def _on_live(self, nursery: trio.Nursery) -> None:
        if self._host is None:
            return  # nobody will tell us
        if self._host.shutting_down.is_set():
            self._shut_down()
        else:
            nursery.start_soon(self._wait_shutdown, self._host)

    async def _wait_shutdown(self, host: Host) -> None:
        await host.shutting_down.wait()
        await trio.sleep(random.uniform(0, host.farewell_spread))
        self._shut_down()

    def _shut_down(self) -> None:
        """End the body by cancellation, unless it is ending already."""
        if self._writer.leave_early():
            self._outcome.shut_down = True
            self._scope.cancel(reason="server shutdown")

    # What can come from the server at any time.

    def _on_disconnect(self) -> None:
        if self._interrupt("client disconnected"):
            self._outcome.reason = "disconnect"
        elif self._exchange.disconnect_matters:
            self._scope.cancel(reason="client disconnected")  # nobody reads the error page

    def _on_limit(self, limit: str, seconds: float) -> None:
        text = f"{limit} limit of {seconds:g} s"
        if self._interrupt(f"{text} reached"):
            self._outcome.reach_limit(
                limit, timeout_error(text, can_answer=self._exchange.can_answer_error)
            )

    def _on_send_error(self, error: Exception) -> None:
        if isinstance(error, LOST_CONNECTION):
            logger.debug("%s: the connection is lost: %r", self._request, error)
            self._request.disconnected.set()
            self._on_disconnect()
        elif self._interrupt(f"the server failed: {error!r}") or self._outcome.reason is None:
            self._outcome.blame_outside(error)

    def _on_receive_error(self, error: Exception) -> None:
        if self._interrupt(f"the server failed: {error!r}"):
            self._outcome.blame_outside(error)
        else:
            logger.warning("%s: the server failed at the end", self._request, exc_info=error)

    def _on_strange_message(self, error: Exception) -> None:
        if self._interrupt(str(error)):
            self._outcome.fail(error)
        else:
            logger.warning("%s: %s", self._request, error)

    def _on_silence(self) -> None:
        self._writer.send_heartbeat()

    def _interrupt(self, text: str) -> bool:
        """End the exchange early, if this is the first reason to, and it is not over."""
        if self._outcome.reason is not None or not self._exchange.disconnect_matters:
            return False
        self._scope.cancel(reason=text)
        return True
