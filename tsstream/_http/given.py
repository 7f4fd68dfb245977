"""What a handler gave, and what the transforms made of it."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any, TypeAlias

from .content import discard
from .ending import logger
from .representation import Represented, select
from .request import Request
from .response import Response, body_entered, to_response

Transform: TypeAlias = Callable[[Request[Any], Response], Response]


async def wait_returned(result: object) -> object:
    """Give what a handler returned: a coroutine's result, or the async generator that it is.

    Raises:
      TypeError: it is a plain function.
    """
    if inspect.isawaitable(result):
        return await result
    if isinstance(result, AsyncGenerator):
        return result
    raise TypeError(
        f"the handler gave a {type(result).__name__} without being awaited; write it with "
        "'async def', and run blocking code with 'await trio.to_thread.run_sync(...)'"
    )


class Given:
    """The response of one exchange, before and after the transforms."""

    def __init__(self, request: Request[Any], transforms: Sequence[Transform]) -> None:
        self._request = request
        self._transforms = transforms
        self._responses: list[Response] = []

    @property
    def response(self) -> Response:
        """The one that is sent."""
        return self._responses[-1]

    async def accept(self, given: object) -> Response:
        """Make what the handler gave a response, choose what of it is sent, and transform that.

        Raises:
          TypeError: it is nothing that can be sent (D3), or a transform gave no Response.
          Exception: whatever looking at what it represents raises.
        """
        self._responses.append(to_response(given))
        if isinstance(self.response.content, Represented):
            self._responses.append(await select(self._request, self.response))
        for transform in self._transforms:
            response = transform(self._request, self.response)
            if not isinstance(response, Response):
                raise TypeError(
                    f"the transform {transform!r} returned {response!r}; it must return a Response"
                )
            self._responses.append(response)
        return self.response

    def discard_unused(self, *, streamed: bool) -> None:
        """Release what was opened for bodies that nobody has entered (D43).

        Args:
          streamed: the last one is sent as a stream; once entered, it may go on with the content
            of one that it replaced.
        """
        if streamed and body_entered(self.response):
            return
        for response in self._responses:
            if not body_entered(response):
                self._discard(response)

    def _discard(self, response: Response) -> None:
        try:
            discard(response.content)
        except Exception:
            logger.exception("%r: a body that was not used cannot be closed", response)
