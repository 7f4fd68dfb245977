"""An application that believes the proxy in front of it."""

from functools import partial
from typing import Any

from tsstream import App, ASGIApp, Request, serve

app = App()


@app.get("/")
async def who(request: Request) -> str:
    return f"{request.client} by {request.scheme}\n"


# [middleware]
def believe_proxy(app: ASGIApp) -> ASGIApp:
    async def with_its_word(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            said = dict(scope["headers"])
            scope = {
                **scope,
                "client": (said[b"x-real-ip"].decode(), 0),
                "scheme": said[b"x-forwarded-proto"].decode(),
            }
        await app(scope, receive, send)

    return with_its_word


serve_proxy = partial(serve, believe_proxy(app), bind=["unix:/run/app/http.sock"])
