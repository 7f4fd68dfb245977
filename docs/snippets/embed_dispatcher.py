"""Two applications side by side, under Hypercorn's dispatcher."""

from typing import Any, cast

from hypercorn.middleware.dispatcher import TrioDispatcherMiddleware

from tsstream import App, Request

one = App()
two = App()


@one.get("/where")
async def where_one(request: Request) -> str:
    return f"one, {request.path} under {request.root_path}\n"


@two.get("/where")
async def where_two(request: Request) -> str:
    return f"two, {request.path} under {request.root_path}\n"


app = TrioDispatcherMiddleware({"/one": cast("Any", one), "/two": cast("Any", two)})
