"""What is left to the garbage collector, because it lies in reference cycles."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Awaitable, Callable
from types import FrameType

import trio.testing


async def garbage_of(
    fn: Callable[[], Awaitable[object]], *, package: str, times: int = 10
) -> dict[str, int]:
    """Name the objects of *package* that lie in cycles after some calls of *fn*, and count them."""
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        for _ in range(times):
            await fn()
        await trio.testing.wait_all_tasks_blocked(0.01)
        gc.collect()
        counts = Counter(_name(item) for item in gc.garbage)
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    return {name: count for name, count in counts.items() if name.startswith(package)}


def _name(item: object) -> str:
    if isinstance(item, FrameType):
        return f"{item.f_globals.get('__name__')}.{item.f_code.co_qualname}()"
    return f"{type(item).__module__}.{type(item).__qualname__}"
