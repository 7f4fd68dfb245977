"""The public names, written out: a new one is a decision, not an accident."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from types import ModuleType

import pytest

import tsstream
import tsstream.testing

REFERENCE = Path(__file__).parent.parent / "docs" / "reference"
BUDGET = 36  # names in tsstream: what one can still know by heart

NAMES = {
    "ASGIApp",
    "App",
    "BYTES",
    "BodyConsumed",
    "BodyLimits",
    "Encoder",
    "Ending",
    "FeedError",
    "HTTPError",
    "Headers",
    "NDJSON",
    "Part",
    "Request",
    "Response",
    "ResponseConsumed",
    "SSE",
    "ServerSentEvent",
    "StreamPolicy",
    "TEXT",
    "WebSocket",
    "WebSocketClosed",
    "content_disposition",
    "json_response",
    "merge",
    "ndjson_response",
    "open_thread_producer",
    "run_thread_consumer",
    "serve",
    "sse_response",
    "text_response",
    "ExtractLimits",
    "extract_tar",
    "file_response",
    "tar_response",
    "zip_response",
    "websocket_feed",
}
TESTING_NAMES = {
    "Client",
    "ClientResponse",
    "ClientWebSocket",
    "StreamedRequest",
    "StreamedResponse",
    "TruncatedBodyError",
    "WebSocketRejected",
    "open_client",
}

ALL = [(tsstream, name) for name in sorted(NAMES)]
ALL += [(tsstream.testing, name) for name in sorted(TESTING_NAMES)]
every_name = pytest.mark.parametrize(
    ("module", "name"), ALL, ids=[f"{module.__name__}.{name}" for module, name in ALL]
)


@pytest.mark.parametrize(
    ("module", "names"), [(tsstream, NAMES), (tsstream.testing, TESTING_NAMES)]
)
def test_dunder_all_is_the_list(module: ModuleType, names: set[str]) -> None:
    assert sorted(module.__all__) == sorted(names)
    assert len(module.__all__) == len(set(module.__all__))


@pytest.mark.parametrize("module", [tsstream, tsstream.testing])
def test_nothing_else_looks_public(module: ModuleType) -> None:
    visible = {
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert visible - {"annotations"} == set(module.__all__)


def test_the_names_stay_within_the_budget() -> None:
    assert len(NAMES) <= BUDGET


@every_name
def test_public_object_has_a_docstring(module: ModuleType, name: str) -> None:
    value = getattr(module, name)
    if inspect.isclass(value) or inspect.isroutine(value):
        assert inspect.getdoc(value)
        assert not (value.__doc__ or "").startswith(f"{name}(")  # a generated signature is none


@every_name
def test_public_methods_have_docstrings(module: ModuleType, name: str) -> None:
    value = getattr(module, name)
    if inspect.isclass(value):
        bare = [
            attribute
            for attribute, method in vars(value).items()
            if not attribute.startswith("_")
            and (inspect.isroutine(method) or isinstance(method, property))
            and not inspect.getdoc(getattr(value, attribute))
        ]
        assert bare == []


@every_name
def test_public_object_is_in_the_reference(module: ModuleType, name: str) -> None:
    pages = "\n".join(page.read_text(encoding="utf-8") for page in REFERENCE.glob("*.rst"))
    assert re.search(rf"^\.\. auto\w+:: {name}(\(.*\))?$", pages, re.MULTILINE)
