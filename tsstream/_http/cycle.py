"""One request from its handler to its final message, and what happens when that fails."""

from __future__ import annotations

import inspect
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeAlias

import attrs
import trio

from tsstream._asgi import Receive, Send
from tsstream._sansio.exchange import Exchange, ResponseEvent, ResponseState
from tsstream._util import unwrapped, unwrapping

from .cancellation import (
    cancellation_within,
    error_within,
    hidden_errors,
    stray_cancellation,
)
from .content import Content, discard, is_breakage, is_context_manager, is_small
from .ending import Ending, Reason, logger
from .errors import ErrorPages, timeout_error
from .policy import StreamPolicy
from .request import Request
from .response import Response, body_entered, consume, to_response
from .sender import Sender
from .timer import Timer
from .watcher import Watcher
from .writer import LINGER, Writer, has_body, raise_suppressed

Handler: TypeAlias = Callable[
    [Request[Any]],
    Awaitable[Response | Content]
    | AbstractAsyncContextManager[Response]
    | AsyncGenerator[object, None],
]
Transform: TypeAlias = Callable[[Request[Any], Response], Response]

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
    pages: ErrorPages = attrs.field(factory=ErrorPages)
    on_end: Callable[[Request[Any], Ending], object] | None = None


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
        self._exchange = Exchange()
        self._sender = Sender(send, self._on_send_error)
        self._timer = Timer(settings.policy, self._on_limit, self._on_silence)
        self._watcher = Watcher(
            receive,
            self._exchange,
            request,
            on_disconnect=self._on_disconnect,
            on_error=self._on_receive_error,
            on_strange=self._on_strange_message,
        )
        self._writer = Writer(self._exchange, request, self._sender, self._timer, self._watcher)
        self._scope = trio.CancelScope()
        self._response: Response | None = None
        self._replaced: Response | None = None  # by a transform
        self._streamed = False
        self._reason: Reason | None = None  # why the exchange ends before its time
        self._limit: str | None = None
        self._error: Exception | None = None
        self._outside = False  # the error is the server's, or of a middleware round us
        self._began = trio.current_time()

    async def run(self) -> None:
        """Answer the request.

        Raises:
          Exception: why the response was cut. The server, and whatever stands between, must not
            give it a clean end.
        """
        reason: Reason = "cancelled"
        try:
            with unwrapping():
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._watcher.run)
                    await self._answer(nursery)
                    nursery.cancel_scope.cancel(reason="the exchange is over")
            reason = self._conclude()
            if self._error is not None and self._must_raise(reason):
                raise self._error
        finally:
            self._report(reason)

    async def _answer(self, nursery: trio.Nursery) -> None:
        await self._attempt(self._handle, nursery)
        self._timer.stop()
        if self._reason is None:
            await self._attempt(self._finish, limit=self._timer.policy.send)
        if self._error is None or self._outside:
            return
        if self._exchange.can_answer_error:
            await self._attempt(self._answer_error, self._error, limit=self._timer.policy.send)
        elif self._reason == "error":
            # What was taken from the body before it failed is sent (D10).
            with trio.move_on_after(LAST_WORDS) as self._scope:
                await self._sender.wait_sent()
        if self._exchange.response is not ResponseState.DONE:
            # Hypercorn cannot close while it has a queue of body for us (HOST fault 6).
            await self._watcher.wait_settled(LAST_WORDS)

    async def _attempt(
        self, step: Callable[..., Awaitable[None]], *args: object, limit: float | None = None
    ) -> None:
        """Run a step in a scope that a disconnect or a limit cancels, and keep its error.

        Args:
          limit: in seconds, for a step that is one send, and the LINGER before its end.
        """
        try:
            with trio.move_on_after(math.inf if limit is None else limit + LINGER) as self._scope:
                try:
                    await step(*args)
                except BaseException as error:
                    self._log_hidden(error)
                    raise
            if limit is not None and self._scope.cancelled_caught and self._reason is None:
                self._reason, self._limit = "timeout", "send"
                self._error = trio.TooSlowError(f"send limit of {limit:g} s reached")
        except Exception as error:
            self._fail(unwrapped(error))
        except BaseException as error:  # noqa: ASYNC103 (a stray Cancelled is an error, D39)
            found = error_within(error)
            if found is not None:
                self._fail(found)
            if trio.current_effective_deadline() == -math.inf:
                raise cancellation_within(error) from None  # noqa: ASYNC104 (a part of it)
            if found is None:
                self._fail(stray_cancellation(error))

    # The user's code, in the order in which a request meets it.

    async def _handle(self, nursery: trio.Nursery) -> None:
        if self._settings.policy.handler is not None:
            self._timer.start(nursery)
            self._timer.enter("handler")
        result = self._handler(self._request)
        if is_context_manager(result):
            await self._handle_duplex(result, nursery)  # type: ignore[arg-type]
        else:
            response = self._accept(await _returned(result))
            self._watcher.close_body()
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
                        response = self._accept(given)
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
        self._watcher.close_body()

    def _accept(self, given: object) -> Response:
        self._response = response = original = to_response(given)
        for transform in self._settings.transforms:
            response = transform(self._request, response)
            if not isinstance(response, Response):
                raise TypeError(
                    f"the transform {transform!r} returned {response!r}; it must return a Response"
                )
        self._response = response
        if response.content is not original.content:
            self._replaced = original
        if response.policy is not None:
            self._timer.adopt(response.policy)
        return response

    async def _stream(self, response: Response, nursery: trio.Nursery) -> None:
        self._streamed = True
        self._timer.start(nursery)
        self._sender.start(nursery)
        await self._writer.write_stream(response)

    # Telling the client.

    async def _finish(self) -> None:
        if self._streamed:
            await self._writer.finish_stream()
        else:
            assert self._response is not None
            if has_body(self._request, self._response):
                consume(self._response)
            await self._writer.write_whole(self._response)

    async def _answer_error(self, error: Exception) -> None:
        self._watcher.close_body()
        await self._writer.write_whole(self._settings.pages.response(error))

    # What can come from the server at any time.

    def _on_disconnect(self) -> None:
        self._interrupt("disconnect", "client disconnected")

    def _on_limit(self, limit: str, seconds: float) -> None:
        text = f"{limit} limit of {seconds:g} s"
        if self._interrupt("timeout", f"{text} reached"):
            self._limit = limit
            self._error = timeout_error(text, self._exchange)

    def _on_send_error(self, error: Exception) -> None:
        if isinstance(error, LOST_CONNECTION):
            self._on_disconnect()
        elif self._interrupt("error", f"the server failed: {error!r}") or self._reason is None:
            self._blame_outside(error)

    def _on_receive_error(self, error: Exception) -> None:
        if self._interrupt("error", f"the server failed: {error!r}"):
            self._blame_outside(error)

    def _blame_outside(self, error: Exception) -> None:
        """End with an error of ``receive`` or ``send``: it goes back to whoever gave us these."""
        self._reason = "error"
        self._error = error
        self._outside = True

    def _on_strange_message(self, error: Exception) -> None:
        if self._interrupt("error", str(error)):
            self._error = error
        else:
            logger.warning("%s: %s", self, error)

    def _on_silence(self) -> None:
        self._writer.send_heartbeat()

    def _interrupt(self, reason: Reason, text: str) -> bool:
        """End the exchange early, unless it is over already; the first reason holds."""
        if not self._exchange.disconnect_matters:
            return False
        self._scope.cancel(reason=text)
        if self._reason is not None:
            return False
        self._reason = reason
        return True

    # How it ended.

    def _fail(self, error: Exception) -> None:
        if self._reason is None:
            self._reason = "error"
            self._error = error
        elif self._reason != "error" and not is_breakage(error):
            logger.error("%s failed while it was being cancelled (D14)", self, exc_info=error)

    def _log_hidden(self, error: BaseException) -> None:
        """Tell of an error that a cancellation replaced while it was on its way up."""
        for hidden in hidden_errors(error):
            logger.warning("%s: a cancellation replaced this error", self, exc_info=hidden)

    def _conclude(self) -> Reason:
        """Say how the exchange ended, and log it as section D says."""
        answered = self._exchange.response is ResponseState.DONE
        if not answered:
            self._exchange.on_response(ResponseEvent.CUT)
            if self._request.disconnected.is_set() and self._reason == "error":
                if self._error_status() >= 500:
                    logger.error("%s failed, and the client has gone", self, exc_info=self._error)
                self._reason = "disconnect"
        reason: Reason = self._reason or ("complete" if answered else "disconnect")
        sent = self._sender.bytes_sent
        if reason == "timeout":
            logger.warning("%s: %s after %d bytes", self, self._error, sent)
        elif reason == "disconnect":
            logger.debug("%s: client disconnected after %d bytes", self, sent)
        elif reason == "error" and not answered and not self._is_refusal_from_outside():
            logger.error("%s: stream failed after %d bytes", self, sent, exc_info=self._error)
            self._warn_if_undetectable()
        elif reason == "error" and self._error_status() >= 500:
            logger.error("%s: answered %d", self, self._error_status(), exc_info=self._error)
        return "complete" if reason == "error" and answered else reason

    def _is_refusal_from_outside(self) -> bool:
        """Say whether a middleware ended this with a 4xx of its own, which it will answer."""
        return self._outside and getattr(self._error, "status_code", 500) < 500

    def _warn_if_undetectable(self) -> None:
        declared = self._response is not None and "content-length" in self._response.headers
        if self._request.http_version == "1.0" and not declared:
            logger.warning("%s: undetectable truncation, as the client speaks HTTP/1.0", self)

    def _error_status(self) -> int:
        assert self._error is not None
        return self._settings.pages.http_error(self._error).status_code

    def _must_raise(self, reason: Reason) -> bool:
        """A cut must be raised; an error that was answered only for those who ask (tests)."""
        if self._exchange.response is not ResponseState.DONE:
            return reason in ("error", "timeout")
        extensions = self._request.scope.get("extensions") or {}
        return "tsstream.raise_errors" in extensions and self._error_status() >= 500

    def _report(self, reason: Reason) -> None:
        """Release what was never entered, and call the app's hook; the very last step."""
        if reason == "cancelled" and self._error is not None:
            logger.error("%s failed, and was cancelled", self, exc_info=self._error)
        self._request._body.close()
        self._discard_unused()
        if self._settings.on_end is None:
            return
        ending = Ending(
            reason=reason,
            status_code=self._writer.status_code,
            bytes_sent=self._sender.bytes_sent,
            duration=trio.current_time() - self._began,
            error=self._error,
            limit=self._limit,
        )
        try:
            self._settings.on_end(self._request, ending)
        except Exception:
            logger.exception("%s: the on_end hook failed", self)

    def _discard_unused(self) -> None:
        """Release what was opened for a body that nobody has entered (D43)."""
        unused = [self._response] if self._response and not body_entered(self._response) else []
        # A body that was streamed may go on with the content of the one that it replaced.
        if self._replaced and (unused or not self._streamed) and not body_entered(self._replaced):
            unused.append(self._replaced)
        for response in unused:
            try:
                discard(response.content)
            except Exception:
                logger.exception("%s: a body that was not used cannot be closed", self)

    def __str__(self) -> str:
        return f"{self._request.method} {self._request.path}"


async def _returned(result: object) -> object:
    if inspect.isawaitable(result):
        return await result
    if isinstance(result, AsyncGenerator):
        return result
    raise TypeError(
        f"the handler gave a {type(result).__name__} without being awaited; write it with "
        "'async def', and run blocking code with 'await trio.to_thread.run_sync(...)'"
    )
