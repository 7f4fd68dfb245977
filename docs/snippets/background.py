"""State that all requests share, and work that goes on after the response."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import trio

from tsstream import App, Request, Response, text_response


@attrs.define
class Archive:
    notes: list[str] = attrs.field(factory=list)
    open: bool = True

    async def keep(self, note: str) -> None:
        await trio.sleep(2)
        assert self.open
        self.notes.append(note)


# [lifespan]
@asynccontextmanager
async def open_archive(app: App[Archive]) -> AsyncIterator[Archive]:
    archive = Archive()
    yield archive
    archive.open = False


app = App(lifespan=open_archive, background_grace=10.0)


@app.get("/notes")
async def notes(request: Request[Archive]) -> str:
    return f"{len(request.state.notes)} notes\n"


# [nursery]
@app.post("/notes")
async def keep(request: Request[Archive]) -> Response:
    note = await request.text()
    request.app.nursery.start_soon(request.state.keep, note)
    return text_response("accepted\n", 202)
