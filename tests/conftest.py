"""What every test shares: how hypothesis searches."""

from __future__ import annotations

import os

from hypothesis import settings

# No deadline: a machine with two busy cores is not a bug. In CI the same examples every time, so
# that a red run means the change; elsewhere new ones, so that somebody finds what is left.
settings.register_profile("here", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")
