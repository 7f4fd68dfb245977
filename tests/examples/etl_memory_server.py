"""Serve examples.etl.upper, and say where: for the memory that it takes."""

from __future__ import annotations

import os
from functools import partial

import trio

os.environ["AIS_TARGET_URL"] = "http://127.0.0.1:9"

from examples.etl.upper import app
from tsstream import serve


async def main() -> None:
    async with trio.open_nursery() as nursery:
        [address] = await nursery.start(partial(serve, app, bind=["127.0.0.1:0"]))
        print(address, flush=True)  # noqa: T201 (to the test)


if __name__ == "__main__":
    trio.run(main)
