"""What the handlers of requests and of WebSockets are told alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Generic
from urllib.parse import quote

from tsstream._asgi import Scope
from tsstream._sansio.headers import Headers
from tsstream._sansio.query import QueryParams

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    from .app import App

    StateT = TypeVar("StateT", default=Any)
else:
    from typing import TypeVar

    StateT = TypeVar("StateT")

PATH_SAFE = "/:@!$&'()*+,;=~"  # RFC 3986, 3.3


class Connection(Generic[StateT]):
    """One ASGI connection scope, in the words of HTTP."""

    def __init__(
        self,
        app: App[StateT],
        scope: Scope,
        *,
        path: str,
        path_params: Mapping[str, str] | None = None,
    ) -> None:
        self.app: App[StateT] = app
        self.scope: Scope = scope
        self.path: str = path
        self.root_path: str = scope.get("root_path", "")
        self.path_params: dict[str, str] = {} if path_params is None else {**path_params}
        self._headers: Headers | None = None

    @property
    def headers(self) -> Headers:
        """The header fields of the request, be it a handshake."""
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
        """``http`` or ``https``, of a WebSocket ``ws`` or ``wss``."""
        return str(self.scope.get("scheme", "ws" if self.scope["type"] == "websocket" else "http"))

    @property
    def http_version(self) -> str:
        """``1.0``, ``1.1``, ``2`` or ``3``."""
        return str(self.scope.get("http_version", "1.1"))

    @property
    def state(self) -> StateT:
        """What the app's lifespan yielded."""
        return self.app.state

    @property
    def _quoted_path(self) -> str:
        """The path, so that no client can write lines of its own into the log."""
        return quote(self.path, safe=PATH_SAFE, errors="replace")
