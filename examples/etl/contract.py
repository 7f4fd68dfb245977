"""What an ETL server and the nodes of AIStore say to each other: names, URLs, answers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import quote, unquote_to_bytes, urlencode, urlsplit

from tsstream import HTTPError

NODE_URL = "ais-node-url"  # of a request: where the result goes, stage by stage
PUT_LENGTH = "ais-direct-put-length"  # of a 204: the bytes that arrived there
RETRY_REASON = "ais-etl-retry-reason"  # of a 503: send the object again
PUT_TRANSIENT = "direct-put-transient"

MAX_DELAY = 30.0  # seconds: between two attempts at a direct put


def source_url(target_url: str, raw_path: bytes) -> str:
    """Give where the target has the object that a request names, byte for byte."""
    return f"{target_url}/{quote(unquote_to_bytes(raw_path)[1:], safe='@')}"


def parse_pipeline(value: str | None) -> tuple[str, str]:
    """Give the first URL of an ``Ais-Node-Url`` and the list of the others; ``""`` for none.

    Raises:
      HTTPError: 400, an entry is empty, or is not the URL of a node.
    """
    urls = [url.strip() for url in (value or "").split(",")]
    if urls == [""]:
        return "", ""
    if not all(urls):
        raise HTTPError(400, "Invalid pipeline: there is an empty entry")
    for url in urls:
        if not names_node(url):
            raise HTTPError(400, f"Invalid pipeline: {url!r} is not the URL of a node")
    return urls[0], ",".join(urls[1:])


def names_node(url: str) -> bool:
    """Say whether that is a URL that requests can be sent to."""
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").encode("idna"), parts.port
    except ValueError:  # a UnicodeError is one
        return False
    # Without blanks and the like: it will be in the head of a request.
    is_plain = re.fullmatch("[!-~]+", url) is not None
    return is_plain and parts.scheme in ("http", "https") and host != b"" and port != 0


def put_url(node_url: str, target_url: str, path: str, etl_args: str) -> str:
    """Give the URL of a direct put.

    Args:
      node_url: of another stage, without a path: it is given the object's; or of a target's node,
        with one: the path of *target_url*, which has a secret in it, goes before that.
      target_url: this server's own target.
      path: the object's, decoded.
      etl_args: what the next stage is given as its own; an ``etl_args`` of the URL is dropped.
    """
    node = urlsplit(node_url)
    if node.path in ("", "/"):
        put_path = "/" + quote(path, safe="/@")
    else:
        put_path = urlsplit(target_url).path + node.path
    query = node.query
    if etl_args:
        kept = [part for part in query.split("&") if part and part.partition("=")[0] != "etl_args"]
        query = "&".join([*kept, urlencode({"etl_args": etl_args})])
    return node._replace(path=put_path, query=query, fragment="").geturl()


def says_delivered(status_code: int, headers: Mapping[str, str]) -> bool:
    """Say whether a reply means that the object has arrived; any other is to be passed on.

    Only an empty 200 that says that it is empty is a target's. A stage may stream an empty object.
    """
    return status_code == 204 or (status_code == 200 and headers.get("content-length") == "0")


def retry_delay(failures: int) -> float:
    """Give the seconds to wait after so many failed attempts: 1, 2, 4..."""
    return min(2.0 ** (failures - 1), MAX_DELAY)
