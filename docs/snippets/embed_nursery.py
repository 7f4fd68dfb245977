"""A server among the other tasks of a Trio program."""

from functools import partial

import trio

from tsstream import App, Request, serve

app = App()


@app.get("/")
async def hello(request: Request) -> str:
    return "Hello from a nursery!\n"


async def main() -> None:
    async with trio.open_nursery() as nursery:
        [address] = await nursery.start(partial(serve, app, bind=["127.0.0.1:0"]))
        print(f"serving at {address}")
        # ...whatever else the program does; then, when it has had enough:
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
