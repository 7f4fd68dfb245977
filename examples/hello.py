"""The smallest application: ``python -m tsstream run examples.hello:app``."""

from __future__ import annotations

from tsstream import App, Request

app = App()


@app.get("/")
async def hello(request: Request) -> str:
    return "Hello, world!\n"
