"""What every test shares: how hypothesis searches, and what this process has been told."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

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
