"""What an ETL server and the nodes of AIStore say to each other: names, URLs, answers."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote, unquote_to_bytes, urlencode, urlsplit

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
      ValueError: an entry is empty, or the first one is no URL.
    """
    urls = [url.strip() for url in (value or "").split(",")]
    if urls == [""]:
        return "", ""
    if not all(urls):
        raise ValueError("Invalid pipeline: there is an empty entry")
    first = urlsplit(urls[0])
    if first.scheme not in ("http", "https") or not first.hostname or first.port == 0:
        raise ValueError(f"Invalid pipeline: {urls[0]!r} is not the URL of a node")
    return urls[0], ",".join(urls[1:])


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


def delivered_length(status_code: int, headers: Mapping[str, str], sent: int) -> str | None:
    """Give the number of bytes that have arrived, or None for a reply that is to be passed on.

    Only an empty 200 that says that it is empty is a target's. A stage may stream an empty object.
    """
    if status_code == 204:
        return headers.get(PUT_LENGTH, str(sent))
    if status_code == 200 and headers.get("content-length") == "0":
        return str(sent)
    return None


def retry_delay(failures: int) -> float:
    """Give the seconds to wait after so many failed attempts: 1, 2, 4..."""
    return min(2.0 ** (failures - 1), MAX_DELAY)
