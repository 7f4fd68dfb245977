"""A server that is told where, how and until when to serve."""

import signal
from functools import partial

import trio
from hypercorn.config import Config

from tsstream import App, Request, serve

app = App()


@app.get("/")
async def hello(request: Request) -> str:
    return f"Hello over {request.scheme}!\n"


# [tls]
serve_encrypted = partial(
    serve,
    app,
    bind=["0.0.0.0:443", "[::]:443"],
    certfile="chain.pem",
    keyfile="key.pem",
)

# [config]
config = Config()
config.keep_alive_timeout = 75.0
config.websocket_ping_interval = 20.0
config.accesslog = "-"  # standard output

serve_configured = partial(serve, app, config, max_connections=10_000)


# [stop]
async def wait_for_signal() -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            return


serve_until_signal = partial(
    serve,
    app,
    graceful_timeout=10.0,
    farewell_spread=5.0,
    shutdown_trigger=wait_for_signal,
)
