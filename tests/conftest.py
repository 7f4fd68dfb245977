"""What every test shares: how hypothesis searches, and what this process has been told."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import pytest
from hypothesis import settings
from wire import host_of_test

from tsstream._http.lifespan import _warn_of_bare_hypercorn

# No deadline: a machine with two busy cores is not a bug. In CI the same examples every time, so
# that a red run means the change; elsewhere new ones, so that somebody finds what is left.
settings.register_profile("here", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")


@pytest.fixture(scope="session", autouse=True)
def _warned_of_bare_hypercorn() -> None:
    """Get the warning that comes once in a process out of the way of the first test that serves."""
    _warn_of_bare_hypercorn()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that uses ``each_host`` on both, unless it is marked ``stock_host``."""
    if "each_host" in metafunc.fixturenames:
        stock_only = metafunc.definition.get_closest_marker("stock_host") is not None
        hosts = ["stock"] if stock_only else ["stock", "guarded"]
        metafunc.parametrize("each_host", hosts, indirect=True)


@pytest.fixture
def each_host(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run the test twice: ``wire.open_server()`` opens the stock Hypercorn, then our own server."""
    token = host_of_test.set(request.param)
    yield
    host_of_test.reset(token)


def pytest_collection_finish() -> None:
    # Thousands of tests are two hundred thousand objects, which a full collection walks through in
    # the middle of one of them: a pause of more than PROMPT. It need not look at these.
    gc.collect()
    gc.freeze()
