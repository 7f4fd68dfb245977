"""Files of the disk as responses."""

from pathlib import Path

from tsstream import App, Request, Response, file_response

MEDIA = Path("media")
REPORT = Path("report.pdf")

app = App()


# [file]
@app.get("/report")
async def report(request: Request) -> Response:
    return file_response(REPORT)


# [root]
@app.get("/media/{name:path}")
async def media(request: Request) -> Response:
    return file_response(request.path_params["name"], root=MEDIA)


# [download]
@app.get("/download/{name}")
async def download(request: Request) -> Response:
    name = request.path_params["name"]
    return file_response(name, root=MEDIA, filename=name)


# [cache]
FOREVER = {"cache-control": "public, max-age=31536000, immutable"}


@app.get("/assets/{name:path}")
async def assets(request: Request) -> Response:
    return file_response(request.path_params["name"], root=MEDIA, headers=FOREVER)
