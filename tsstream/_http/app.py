"""The application: which scope is it, and which route?"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, Generic, NoReturn, TypeAlias, TypeVar, cast, overload

import trio

from tsstream._asgi import ASGIApp, Receive, Scope, Send
from tsstream._errors import HTTPError
from tsstream._sansio.routing import Found, Mounted, NotAllowed, Router
from tsstream._util import unwrapping

from .connection import StateT
from .cycle import Cycle, Handler, Settings
from .ending import Ending
from .errors import ErrorPages
from .given import Transform
from .host import Host, host_of
from .lifespan import AppNursery, serve_lifespan
from .limits import BodyLimits
from .paths import mounted_scope, route_path
from .policy import StreamPolicy
from .request import Request
from .websocket import WebSocket
from .websocket_cycle import WebSocketCycle, WebSocketHandler

HandlerT = TypeVar("HandlerT", bound=Handler)
WebSocketHandlerT = TypeVar("WebSocketHandlerT", bound=WebSocketHandler)
Lifespan: TypeAlias = "Callable[[App[StateT]], AbstractAsyncContextManager[StateT]]"


class App(Generic[StateT]):
    """An ASGI application made of routes.

    Args:
      lifespan: ``lifespan(app)`` gives an async context manager that is entered before the first
        request; what it yields is ``request.state``.
      transforms: each is called as ``transform(request, response)`` on what a handler gave, and
        gives the response that is sent; in this order, before the body is entered.
      policy: the limits of all streams.
      body_limits: the limits of all request bodies.
      errors: the status for exceptions that are not an :class:`HTTPError`, e.g.
        ``{ConnectionRefusedError: 502}``. Subclasses count; the most specific class decides.
      on_end: called as ``on_end(request, ending)`` once for each request, at its very end.
      background_grace: seconds that tasks in :attr:`nursery` are given at shutdown; 5 by default.
      debug: show tracebacks to clients.

    Raises:
      TypeError: *on_end* is an async function.
      ValueError: a status in *errors* is not an error's.
    """

    @overload
    def __init__(
        self: App[None],
        *,
        lifespan: None = None,
        transforms: Sequence[Transform] = ...,
        policy: StreamPolicy | None = ...,
        body_limits: BodyLimits | None = ...,
        errors: Mapping[type[Exception], int] | None = ...,
        on_end: Callable[[Request[Any], Ending], None] | None = ...,
        background_grace: float = ...,
        debug: bool = ...,
    ) -> None: ...

    @overload
    def __init__(
        self,
        *,
        lifespan: Callable[[App[StateT]], AbstractAsyncContextManager[StateT]],
        transforms: Sequence[Transform] = ...,
        policy: StreamPolicy | None = ...,
        body_limits: BodyLimits | None = ...,
        errors: Mapping[type[Exception], int] | None = ...,
        on_end: Callable[[Request[Any], Ending], None] | None = ...,
        background_grace: float = ...,
        debug: bool = ...,
    ) -> None: ...

    def __init__(
        self,
        *,
        lifespan: Callable[[App[StateT]], AbstractAsyncContextManager[StateT]] | None = None,
        transforms: Sequence[Transform] = (),
        policy: StreamPolicy | None = None,
        body_limits: BodyLimits | None = None,
        errors: Mapping[type[Exception], int] | None = None,
        on_end: Callable[[Request[Any], Ending], None] | None = None,
        background_grace: float = 5.0,
        debug: bool = False,
    ) -> None:
        if _is_async(on_end):
            raise TypeError("on_end is a plain function: it is called when nothing can wait")
        self._lifespan = lifespan
        self._background_grace = background_grace
        self._settings = Settings(
            transforms=tuple(transforms),
            policy=StreamPolicy() if policy is None else policy,
            body_limits=BodyLimits() if body_limits is None else body_limits,
            pages=ErrorPages({} if errors is None else {**errors}, debug=debug),
            on_end=on_end,
        )
        self._router: Router[Handler, ASGIApp] = Router()
        self._websockets: Router[WebSocketHandler, ASGIApp] = Router()
        self._mounted: list[App[Any]] = []
        self._lifespan_open = False
        self._nursery: AppNursery | None = None
        self._shutting_down = trio.Event()
        self._host: Host | None = None
        self._state: StateT | None = None

    def route(
        self, path: str, *, methods: Iterable[str] = ("GET",)
    ) -> Callable[[HandlerT], HandlerT]:
        """Register a handler for *path* and *methods*.

        ``{name}`` matches one segment and ``{name:path}`` the rest of the path; both arrive in
        ``request.path_params``. A route for GET answers HEAD too, without entering the body.

        Raises:
          ValueError: the pattern is malformed, or taken.
        """

        def register(handler: HandlerT) -> HandlerT:
            self._router.add(path, methods, handler)
            return handler

        return register

    def get(self, path: str) -> Callable[[HandlerT], HandlerT]:
        """Register a handler for GET, and so for HEAD."""
        return self.route(path, methods=["GET"])

    def post(self, path: str) -> Callable[[HandlerT], HandlerT]:
        """Register a handler for POST."""
        return self.route(path, methods=["POST"])

    def put(self, path: str) -> Callable[[HandlerT], HandlerT]:
        """Register a handler for PUT."""
        return self.route(path, methods=["PUT"])

    def patch(self, path: str) -> Callable[[HandlerT], HandlerT]:
        """Register a handler for PATCH."""
        return self.route(path, methods=["PATCH"])

    def delete(self, path: str) -> Callable[[HandlerT], HandlerT]:
        """Register a handler for DELETE."""
        return self.route(path, methods=["DELETE"])

    def websocket(self, path: str) -> Callable[[WebSocketHandlerT], WebSocketHandlerT]:
        """Register a handler for WebSockets: ``async def handler(websocket: WebSocket)``.

        The path may be that of a :meth:`route`, too. The handler returns when it is done, with
        ``None``, or with a :class:`Response` that refuses the handshake.

        Raises:
          ValueError: the pattern is malformed, or taken.
        """

        def register(handler: WebSocketHandlerT) -> WebSocketHandlerT:
            self._websockets.add(path, ["GET"], handler)
            return handler

        return register

    def mount(self, prefix: str, app: ASGIApp) -> None:
        """Hand everything below *prefix* to another ASGI application.

        It gets the whole path, and the prefix in ``root_path``, as ASGI has it. If it is an
        :class:`App`, its lifespan is part of this one's.

        Raises:
          ValueError: the prefix is malformed, or taken.
        """
        self._router.mount(prefix, app)
        self._websockets.mount(prefix, app)
        if isinstance(app, App) and app not in self._mounted:
            self._mounted.append(app)

    @property
    def policy(self) -> StreamPolicy:
        """The limits of all streams; ``attrs.evolve(app.policy, ...)`` changes some for one."""
        return self._settings.policy

    @property
    def body_limits(self) -> BodyLimits:
        """The limits of all request bodies; each request starts with them."""
        return self._settings.body_limits

    @property
    def nursery(self) -> AppNursery:
        """The nursery for work that must outlive its request; there once the lifespan has begun."""
        return self._running()

    @property
    def shutting_down(self) -> trio.Event:
        """An event for what would go on for ever, which tells it that the server shuts down.

        On the guarded server it is set as soon as that begins to shut down, so that there is time
        (the server's ``graceful_timeout``) for responses to end well. Live responses need not
        watch it: they are ended there. Other servers say nothing before the requests are over;
        there it is set when the lifespan ends, which is in time for tasks in :attr:`nursery`.

        Each lifespan has an event of its own, so ask for it where you wait for it.
        """
        return self._shutting_down if self._host is None else self._host.shutting_down

    @property
    def state(self) -> StateT:
        """What the lifespan yielded."""
        if self._lifespan is not None:
            self._running()
        return cast("StateT", self._state)

    def _running(self) -> AppNursery:
        if self._nursery is None and self._lifespan_open:
            raise RuntimeError(
                "app.nursery and app.state are there for requests: once the lifespan has yielded, "
                "and until it goes on; in the lifespan itself, open a nursery of its own"
            )
        if self._nursery is None:
            raise RuntimeError(
                "this app's lifespan is not running: the server, or the app that it is mounted "
                "in, does not run it; put 'async with app.open_lifespan()' round the server"
            )
        return self._nursery

    @asynccontextmanager
    async def open_lifespan(self) -> AsyncIterator[StateT]:
        """Run the app's lifespan, for where no server does (under Starlette's ``Mount``, say).

        Raises:
          RuntimeError: it is running already.
        """
        async with self._open_lifespan(None) as state:
            yield state

    @asynccontextmanager
    async def _open_lifespan(self, host: Host | None) -> AsyncIterator[StateT]:
        _require_trio()
        if self._lifespan_open:
            raise RuntimeError("this app's lifespan is running already")
        self._lifespan_open = True
        self._host = host
        if self._shutting_down.is_set():
            self._shutting_down = trio.Event()
        async with AsyncExitStack() as stack:
            stack.callback(self._forget_lifespan)
            for app in self._mounted:
                if app._lifespan_open:
                    continue  # mounted a second time, in another of our apps
                await stack.enter_async_context(app._open_lifespan(host))
            if self._lifespan is not None:
                self._state = await stack.enter_async_context(self._lifespan(self))
            # Inside the lifespan, so that what its tasks use is open for as long as they run.
            async with self._open_nursery():
                yield cast("StateT", self._state)

    @asynccontextmanager
    async def _open_nursery(self) -> AsyncIterator[None]:
        try:
            with unwrapping():
                async with trio.open_nursery() as nursery:
                    self._nursery = AppNursery(nursery)
                    try:
                        yield
                    finally:
                        self._begin_shutdown()
                        self._nursery._stop_following()
                    nursery.cancel_scope.deadline = trio.current_time() + self._background_grace
        finally:
            self._nursery = None

    def _begin_shutdown(self) -> None:
        if self._shutting_down.is_set():
            return
        self._shutting_down.set()
        for app in self._mounted:
            if app._lifespan_open:
                app._begin_shutdown()

    def _forget_lifespan(self) -> None:
        self._lifespan_open = False
        self._host = None
        self._state = None

    def _meet(self, host: Host) -> None:
        """Hear of a server from a request: it runs another app's lifespan, or none."""
        if self._host is None and self._nursery is not None:
            # Somebody may be waiting already for the event that was ours so far.
            self._nursery._follow(host, self._begin_shutdown)
        self._host = host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope: ``http``, ``websocket`` or ``lifespan``."""
        if scope["type"] == "lifespan":
            await serve_lifespan(self, scope, receive, send)
        elif scope["type"] == "http":
            await self._serve_http(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._serve_websocket(scope, receive, send)
        else:
            raise RuntimeError(f"tsstream does not serve the scope type {scope['type']!r}")

    async def _serve_http(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, params = self._enter(scope)
        match = self._router.match(scope["method"], path)
        if isinstance(match, Mounted):
            await match.endpoint(mounted_scope(scope, match.prefix), receive, send)
            return
        if isinstance(match, Found):
            handler = match.endpoint
            params |= match.path_params
        elif isinstance(match, NotAllowed):
            handler = _refuse(HTTPError(405, headers={"allow": ", ".join(match.allow)}))
        else:
            handler = _refuse(HTTPError(404))
        request = Request(self, scope, path=path, path_params=params)
        await Cycle(handler, request, self._settings, receive, send).run()

    async def _serve_websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, params = self._enter(scope)
        match = self._websockets.match("GET", path)
        if isinstance(match, Mounted):
            await match.endpoint(mounted_scope(scope, match.prefix), receive, send)
            return
        if isinstance(match, Found):
            handler = match.endpoint
            params |= match.path_params
        else:
            handler = _refuse(HTTPError(404))
        websocket = WebSocket(self, scope, path=path, path_params=params)
        await WebSocketCycle(handler, websocket, self._settings, receive, send).run()

    def _enter(self, scope: Scope) -> tuple[str, dict[str, str]]:
        """Give the path below this app, and the parameters of whatever mounted it."""
        _require_trio()
        host = host_of(scope)
        if host is not None and host is not self._host:
            self._meet(host)
        return route_path(scope), {**scope.get("path_params", {})}


def _is_async(fn: object) -> bool:
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(type(fn).__call__)


def _require_trio() -> None:
    if not trio.lowlevel.in_trio_run():
        raise RuntimeError("tsstream needs Trio: use 'tsstream run', or 'hypercorn -k trio'")


def _refuse(error: HTTPError) -> Callable[[object], NoReturn]:
    def handler(_: object) -> NoReturn:
        raise error

    return handler
