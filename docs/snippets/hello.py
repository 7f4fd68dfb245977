"""The smallest application."""

from tsstream import App, Request

app = App()


@app.get("/")
async def hello(request: Request) -> str:
    return "Hello, world!\n"


@app.get("/hello/{name}")
async def hello_name(request: Request) -> str:
    return f"Hello, {request.path_params['name']}!\n"
