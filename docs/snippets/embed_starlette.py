"""A tsstream application inside a Starlette one."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.requests import Request as StarletteRequest
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from tsstream import App, Request

streams = App()


@streams.get("/where")
async def where(request: Request) -> str:
    return f"{request.path} under {request.root_path}\n"


async def index(request: StarletteRequest) -> PlainTextResponse:
    return PlainTextResponse("Starlette\n")


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    async with streams.open_lifespan():
        yield


app = Starlette(
    routes=[Route("/", index), Mount("/streams", streams)],
    lifespan=lifespan,
)
