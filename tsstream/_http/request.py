"""What a handler is told about its request."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import trio

from tsstream._asgi import Scope
from tsstream._errors import HTTPError

from .body import RequestBody
from .connection import Connection, StateT
from .forms import FormData, read_form
from .limits import BodyLimits
from .parts import Parts, open_parts

if TYPE_CHECKING:
    from .app import App


class Request(Connection[StateT]):
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
        path_params: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(app, scope, path=path, path_params=path_params)
        self.method: str = scope["method"]
        self.disconnected: trio.Event = trio.Event()
        self._body = RequestBody(app.body_limits, scope["headers"])
        self._body_wanted = False

    @property
    def body(self) -> RequestBody:
        """The body, chunk by chunk, at the pace at which it is read."""
        self._body_wanted = True
        return self._body

    @property
    def body_limits(self) -> BodyLimits:
        """How much of the body is taken, and how slowly; set it before you read."""
        return self._body.limits

    @body_limits.setter
    def body_limits(self, limits: BodyLimits) -> None:
        self._body.limits = limits

    async def read(self, *, limit: int | None = None, cache: bool = True) -> bytes:
        """Give the whole body; a second call gives the same bytes, whatever its limit.

        If it is cancelled, what it has received is lost, and the body with it.

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
        return f"{quote(self.method)} {self._quoted_path}"
