"""An HTTP client that calls an ASGI application in the test's own tasks, and really streams."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

from tsstream._asgi import ASGIApp

from ._exchange import Exchange
from ._lifespan import Lifespan
from ._nursery import open_plain_nursery
from ._request import HeadersInit, build_http_scope, build_websocket_scope
from ._response import Body, ClientResponse, RequestBody, StreamedRequest, StreamedResponse
from ._upload import Content
from ._websocket import ClientWebSocket, WebSocketRejected
from ._websocket_exchange import WebSocketExchange
from ._websocket_messages import Accept


@asynccontextmanager
async def open_client(
    app: ASGIApp, *, raise_app_errors: bool = True, root_path: str = ""
) -> AsyncIterator[Client]:
    """Run the lifespan of any ASGI application and give a client for it.

    The application runs in tasks below this block, under the clock of the test: with
    ``autojump_clock`` no real time passes. Entering waits for the application's startup, leaving
    for its shutdown; a block that raises cancels it instead. An application that raises on the
    ``lifespan`` scope before it has started is taken to have no lifespan, as the specification
    says. ::

        async with open_client(app) as client:
            response = await client.get("/health")
            assert response.text == "ok"

    Args:
      app: an :class:`tsstream.App` or any other ASGI application.
      raise_app_errors: whether what the application raises comes out of the client. If not,
        the client sees what one on the network would: a 500, or a cut body.
      root_path: where the application is mounted; requests give the whole path.

    Raises:
      RuntimeError: the application's startup or shutdown failed, and it raised nothing itself;
        or it, or the block, raised a Cancelled that belonged to no scope any more.
      AssertionError: the application broke the ASGI specification. It is cancelled then, and the
        error comes out of the client even if it has caught it.
    """
    lifespan = Lifespan(app)
    async with open_plain_nursery() as nursery:
        nursery.start_soon(lifespan.run, name="lifespan of the application under test")
        await lifespan.startup()
        client = Client(app, lifespan.state, raise_app_errors, root_path)
        yield client
        client._closed = True
        await lifespan.shutdown()


class Client:
    """Makes requests; :func:`open_client` gives it."""

    def __init__(
        self, app: ASGIApp, state: dict[str, Any], raise_app_errors: bool, root_path: str
    ) -> None:
        self._app = app
        self._state = state
        self._raise_app_errors = raise_app_errors
        self._root_path = root_path
        self._closed = False

    async def request(
        self, method: str, path: str, *, headers: HeadersInit = None, content: Content = b""
    ) -> ClientResponse:
        """Make a request and read the whole body; the application has returned then.

        Args:
          method: such as ``"GET"``.
          path: from ``/``, with the query string if there is one. What may not stand in a URL is
            percent-encoded as UTF-8.
          headers: of the request. ``host`` and the framing are added.
          content: the body. An iterable, an async iterable or a receive channel of bytes is an
            upload: a task takes one item for each ``receive()`` of the application. A channel, or
            an async generator, is closed when the body is complete or not wanted any more, so
            that whoever sends to the channel gets :exc:`trio.BrokenResourceError` and does not
            wait for ever.

        Raises:
          TruncatedBodyError: the body was cut.
          whatever the content raised; the application is cancelled then.
          whatever the application raised, as itself, unless ``raise_app_errors`` is false.
        """
        async with self._open_exchange(method, path, headers, content) as exchange:
            status_code, fields = await exchange.wait_started()
            data = bytearray()
            while (chunk := await exchange.next_chunk()) is not None:
                data += chunk
            if not exchange.raises_problem:  # else it comes out when this block is left
                exchange.check_complete()
        return ClientResponse(status_code, fields, bytes(data))

    async def get(self, path: str, *, headers: HeadersInit = None) -> ClientResponse:
        """Make a GET request; see :meth:`request`."""
        return await self.request("GET", path, headers=headers)

    async def head(self, path: str, *, headers: HeadersInit = None) -> ClientResponse:
        """Make a HEAD request; see :meth:`request`."""
        return await self.request("HEAD", path, headers=headers)

    async def post(
        self, path: str, *, headers: HeadersInit = None, content: Content = b""
    ) -> ClientResponse:
        """Make a POST request; see :meth:`request`."""
        return await self.request("POST", path, headers=headers, content=content)

    async def put(
        self, path: str, *, headers: HeadersInit = None, content: Content = b""
    ) -> ClientResponse:
        """Make a PUT request; see :meth:`request`."""
        return await self.request("PUT", path, headers=headers, content=content)

    async def patch(
        self, path: str, *, headers: HeadersInit = None, content: Content = b""
    ) -> ClientResponse:
        """Make a PATCH request; see :meth:`request`."""
        return await self.request("PATCH", path, headers=headers, content=content)

    async def delete(self, path: str, *, headers: HeadersInit = None) -> ClientResponse:
        """Make a DELETE request; see :meth:`request`."""
        return await self.request("DELETE", path, headers=headers)

    @asynccontextmanager
    async def stream(
        self, method: str, path: str, *, headers: HeadersInit = None, content: Content = b""
    ) -> AsyncIterator[StreamedResponse]:
        """Make a request and give the response as soon as its head is there.

        Leaving the block is the client leaving: from then on the application receives
        ``http.disconnect``, and what it sends goes nowhere. The block waits until the
        application has returned, so what it cleans up is cleaned up in the next line. If the
        block raises, or is cancelled, the application is cancelled too, so a failing test does
        not hang. ::

            async with client.stream("GET", "/feed") as response:
                assert await response.body.receive() == b"first"

        An application that reads before it responds must find its body in *content*; a test that
        sends it piece by piece from this very task uses :meth:`open_request`.

        Args: as for :meth:`request`.

        Raises:
          whatever the application raised, unless ``raise_app_errors`` is false: on entering, if
          it had not started a response, and else on leaving, if no
          :exc:`TruncatedBodyError` has shown it as its cause.
        """
        async with self._open_exchange(method, path, headers, content) as exchange:
            status_code, fields = await exchange.wait_started()
            yield StreamedResponse(status_code, fields, Body(exchange))

    @asynccontextmanager
    async def open_request(
        self,
        method: str,
        path: str,
        *,
        headers: HeadersInit = None,
        content: Content | None = None,
    ) -> AsyncIterator[StreamedRequest]:
        """Begin a request, to be made step by step: the body first, or the head of the response.

        ``stream()`` waits for the response, and so cannot be entered by the test that has yet to
        send what the application waits for. Here nothing is waited for::

            async with client.open_request("POST", "/sum") as request:
                await request.body.send(b"1 2 ")
                await request.body.send(b"3")
                request.body.close()
                response = await request.response()
                assert await response.body.receive() == b"6"

        Leaving the block is the client leaving, as with :meth:`stream`; in the middle of the body
        if that was not closed.

        Args:
          content: the body, if it is not the test that sends it through ``request.body``.

        Other arguments: as for :meth:`request`.

        Raises:
          whatever the application raised, unless ``raise_app_errors`` is false: out of
            ``response()``, or else on leaving.
        """
        async with self._open_exchange(method, path, headers, content) as exchange:
            yield StreamedRequest(RequestBody(exchange, closed=content is not None), exchange)

    @asynccontextmanager
    async def websocket(
        self, path: str, *, headers: HeadersInit = None, subprotocols: Iterable[str] = ()
    ) -> AsyncIterator[ClientWebSocket]:
        """Open a WebSocket; entering waits until the application accepts it.

        Leaving the block closes it with 1000, if nobody has, and waits until the application has
        returned. If the block raises, or is cancelled, the application is cancelled too. ::

            async with client.websocket("/echo") as websocket:
                await websocket.send("hello")
                assert await websocket.receive() == "hello"

        Args:
          path: as for :meth:`request`.
          headers: of the handshake, such as ``origin``. ``host`` and the handshake's own are added.
          subprotocols: what is offered, the best first.

        Raises:
          WebSocketRejected: the application has answered otherwise; it has returned.
          whatever the application raised, unless ``raise_app_errors`` is false: on entering, if
            it had not accepted; out of ``receive()`` and ``send()``; or else on leaving.
        """
        scope = build_websocket_scope(path, headers, subprotocols)
        self._prepare(scope)
        exchange = WebSocketExchange(self._app, scope, raises_errors=self._raise_app_errors)
        async with open_plain_nursery() as nursery:
            exchange.start(nursery)
            try:
                decision = await exchange.wait_decided()
                if isinstance(decision, Accept):
                    yield ClientWebSocket(decision, exchange)
            finally:
                exchange.leave(1000, "")
        if isinstance(decision, ClientResponse):
            raise WebSocketRejected(decision)

    @asynccontextmanager
    async def _open_exchange(
        self, method: str, path: str, headers: HeadersInit, content: Content | None
    ) -> AsyncIterator[Exchange]:
        scope = build_http_scope(method, path, headers, content)
        self._prepare(scope)
        exchange = Exchange(self._app, scope, content, raises_errors=self._raise_app_errors)
        async with open_plain_nursery() as nursery:
            exchange.start(nursery)
            try:
                yield exchange
            finally:
                exchange.leave()

    def _prepare(self, scope: MutableMapping[str, Any]) -> None:
        if self._closed:
            raise RuntimeError(
                "the client is closed and the application has shut down; make all requests "
                "inside the 'async with open_client(app)' block"
            )
        scope["root_path"] = self._root_path
        scope["state"] = self._state.copy()
        if self._raise_app_errors:
            scope["extensions"]["tsstream.raise_errors"] = {}
