"""What a handler is told about its request."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Generic
from urllib.parse import quote

import trio

from tsstream._asgi import Scope
from tsstream._errors import HTTPError
from tsstream._sansio.headers import Headers
from tsstream._sansio.query import QueryParams

from .body import RequestBody
from .forms import FormData, read_form
from .limits import BodyLimits
from .parts import Parts, open_parts

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    from .app import App

    StateT = TypeVar("StateT", default=Any)
else:
    from typing import TypeVar

    StateT = TypeVar("StateT")

PATH_SAFE = "/:@!$&'()*+,;=~"  # RFC 3986, 3.3


class Request(Generic[StateT]):
    """One HTTP request.

    ``Request[State]`` tells a type checker what the app's lifespan yields.

    Attributes:
      app: the :class:`App` that serves it.
      scope: the ASGI connection scope, as the server gave it.
      method: in upper case.
      path: percent-decoded, without the prefix that this app is mounted under.
      root_path: that prefix, ``""`` if there is none.
      path_params: what the ``{names}`` of the route matched.
      disconnected: an event, set when the client has gone. The handler and its producers are
        cancelled then; nobody needs to ask (RQ-30).
    """

    def __init__(
        self,
        app: App[StateT],
        scope: Scope,
        *,
        path: str,
        path_params: dict[str, str] | None = None,
    ) -> None:
        self.app: App[StateT] = app
        self.scope: Scope = scope
        self.method: str = scope["method"]
        self.path: str = path
        self.root_path: str = scope.get("root_path", "")
        self.path_params: dict[str, str] = {} if path_params is None else path_params
        self.disconnected: trio.Event = trio.Event()
        self._headers: Headers | None = None
        self._body = RequestBody(app.body_limits, scope["headers"])
        self._body_opened = False

    @property
    def headers(self) -> Headers:
        """The request's header fields."""
        if self._headers is None:
            self._headers = Headers.from_wire(self.scope["headers"])
        return self._headers

    @property
    def query_params(self) -> QueryParams:
        """The query string's parameters, percent-decoded."""
        return QueryParams(self.scope.get("query_string", b""))

    @property
    def client(self) -> tuple[str, int] | None:
        """The peer's address and port, if the server knows them."""
        client = self.scope.get("client")
        return None if client is None else (client[0], client[1])

    @property
    def scheme(self) -> str:
        """``http`` or ``https``."""
        return str(self.scope.get("scheme", "http"))

    @property
    def http_version(self) -> str:
        """``1.0``, ``1.1``, ``2`` or ``3``."""
        return str(self.scope["http_version"])

    @property
    def state(self) -> StateT:
        """What the app's lifespan yielded."""
        return self.app.state

    @property
    def body(self) -> RequestBody:
        """The body, chunk by chunk, at the pace at which it is read."""
        self._body_opened = True
        return self._body

    @property
    def body_limits(self) -> BodyLimits:
        """How much of the body is taken, and how slowly; set it before you read."""
        return self._body.limits

    @body_limits.setter
    def body_limits(self, limits: BodyLimits) -> None:
        self._body.limits = limits

    async def read(self, *, limit: int | None = None, cache: bool = True) -> bytes:
        """Give the whole body; a second call gives the same bytes.

        Args:
          limit: of what is kept in memory, in bytes, instead of ``body_limits.max_body``.
          cache: keep the body for later calls, which fail otherwise.

        Raises:
          HTTPError: 413, the body is larger than *limit*; 408, it paused for too long. Every
            later read raises the same.
          BodyConsumed: it was received before, or a part of it.
        """
        limit = self.body_limits.max_body if limit is None else limit
        return await self.body.read(limit, cache=cache)

    async def text(self) -> str:
        """Give the whole body as text.

        Raises:
          HTTPError: 400, the body is not UTF-8; 413 and 408, as :meth:`read`.
        """
        try:
            return (await self.read()).decode()
        except UnicodeDecodeError as error:
            raise HTTPError(400, f"The request body is not valid UTF-8: {error}.") from None

    async def json(self) -> Any:
        """Give the whole body, parsed as JSON.

        Raises:
          HTTPError: 400, the body is not valid JSON; 413 and 408, as :meth:`read`.
        """
        try:
            return json.loads(await self.read())
        except ValueError as error:  # JSONDecodeError and UnicodeDecodeError
            raise HTTPError(400, f"The request body is not valid JSON: {error}.") from None
        except RecursionError:
            raise HTTPError(400, "The request body is JSON that is nested too deep.") from None

    async def form(self) -> FormData:
        """Give the whole form, urlencoded or multipart; big files go through :meth:`parts`.

        Raises:
          HTTPError: 415, the body is no form; 400, it is malformed; 413, one of the
            ``body_limits`` is crossed; 408, as :meth:`read`.
          BodyConsumed: the body was received before, or a part of it. A multipart form is not
            kept, so that a second call finds it consumed.
        """
        return await read_form(self)

    def parts(self) -> Parts:
        """Give the channel of the parts of a multipart form, as they arrive (RFC 7578).

        Each part's ``body`` is a channel in turn, so a file of any size takes little memory::

            async for part in request.parts():
                if part.filename is not None:
                    await part.save(folder / str(uuid4()))

        Raises:
          HTTPError: 415, the body is no multipart form; 400, its Content-Type has no boundary.
          BodyConsumed: the body was received before, or its parts were asked for.
        """
        return open_parts(self)

    def __str__(self) -> str:
        # Quoted, so that no client can write lines of its own into the log.
        path = quote(self.path, safe=PATH_SAFE, errors="replace")
        return f"{quote(self.method)} {path}"
