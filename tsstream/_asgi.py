"""The ASGI types, loose enough to fit every server's and every framework's own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Protocol, TypeAlias

# asgiref's, Hypercorn's and Starlette's types are not assignable to one another;
# these are assignable to and from all three.
Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Any]]
Send: TypeAlias = Callable[[Any], Awaitable[None]]


class ASGIApp(Protocol):
    """Anything a server can call: an :class:`App`, or a foreign application or middleware."""

    def __call__(self, scope: Any, receive: Receive, send: Send, /) -> Awaitable[None]:
        """Serve one connection scope (ASGI 3.0)."""
        ...
