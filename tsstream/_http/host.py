"""What the guarded server tells the apps that it serves, through the ASGI scope."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, Final, Protocol, Self

import attrs
import trio

from tsstream._asgi import Scope, Send

EXTENSION = "tsstream.host"  # the key in scope["extensions"] of every scope
CLIENT = "tsstream.client"  # and that of a request's own


# What a receive() that is interrupted gives.
INTERRUPTED: Final = {"type": "tsstream.interrupted"}


class Inbox(Protocol):
    """What waits for the app, and where the app waits for it."""

    @property
    def ready(self) -> bool:
        """A ``receive()`` need not wait."""
        ...

    def interrupt(self) -> None:
        """Let a ``receive()`` that waits give :data:`INTERRUPTED`."""
        ...

    def discard(self) -> None:
        """Drop the body, what waits of it and what still comes; interrupt who waits for it."""
        ...

    async def receive(self) -> Any:
        """Give the next message; cancelling it loses nothing."""
        ...


@attrs.frozen(eq=False)
class Host:
    """What the guarded server tells the apps that it serves.

    An app that finds one knows that it is on that server: unread request bodies are drained for
    it, a cut is always visible, and it is told at once when the server begins to shut down.

    Attributes:
      shutting_down: set by the server, and by nobody else.
      farewell_spread: in seconds; live responses end at random times within it.
      endings: what the apps say: how many requests a shutdown has ended, by ``Ending.reason``.
    """

    shutting_down: trio.Event = attrs.field(factory=trio.Event)
    farewell_spread: float = 0.0
    endings: Counter[str] = attrs.field(factory=Counter, init=False)

    def __deepcopy__(self, memo: object) -> Self:
        """Give itself: a middleware that copies the scope (Hypercorn's does) speaks of us."""
        return self


@attrs.define(eq=False)
class Client:
    """The client of one request: its leaving, told past all that still waits to be received.

    ``http.disconnect`` overtakes what the server has queued, but not the chunk that an app has
    taken and nobody has read yet.

    Attributes:
      inbox: whose ``receive()`` the app is called with.
      send: the ``send()`` that the app is called with.
      send_now: sends a chunk of a body that has begun, unless it would have to wait before that;
        gives how many bytes the client has not taken yet, or None if nothing was sent.
      on_leave: called at most once, when the client has gone before the exchange was over.
      on_timed: called when ``times_body`` is set.
      left: the client has gone.
      times_body: the app minds itself how long the body may be silent.
    """

    inbox: Inbox | None = None
    send: Send | None = None
    send_now: Callable[[bytes], int | None] | None = None
    on_leave: Callable[[], None] | None = None
    on_timed: Callable[[], None] | None = None
    left: bool = False
    times_body: bool = False

    def __deepcopy__(self, memo: object) -> Self:
        """Give itself: a copy would never hear of the client."""
        return self

    def leave(self) -> None:
        """Say that the client has gone."""
        self.left = True
        on_leave, self.on_leave = self.on_leave, None
        if on_leave is not None:
            on_leave()

    def time_body(self) -> None:
        """Say that the app minds itself how long the body may be silent."""
        self.times_body = True
        if self.on_timed is not None:
            self.on_timed()


def host_of(scope: Scope) -> Host | None:
    """Give the guarded server that made *scope*, or None if another one did."""
    host = (scope.get("extensions") or {}).get(EXTENSION)
    return host if isinstance(host, Host) else None


def client_of(scope: Scope) -> Client | None:
    """Give the client of a request that the guarded server serves, or None on another server."""
    client = (scope.get("extensions") or {}).get(CLIENT)
    return client if isinstance(client, Client) else None


def sender_of(scope: Scope, send: Send) -> Callable[[bytes], int | None] | None:
    """Give what sends without waiting; None if *send* is not the guarded server's own."""
    client = client_of(scope)
    return client.send_now if client is not None and client.send == send else None
