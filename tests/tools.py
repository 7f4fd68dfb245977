"""Other people's programs, which say whether what we make is what they understand."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

# The package of Debian that has it; .ci/run installs what is missing.
PACKAGES = {
    "bsdtar": "libarchive-tools",
    "curl": "curl",
    "gzip": "gzip",
    "tar": "tar",
    "unzip": "unzip",
    "zstd": "zstd",
}


def tool(name: str) -> str:
    """Give the path of a program; skip the test where it is missing, but not in CI."""
    path = shutil.which(name)
    if path is None:
        message = f"{name} is missing: apt-get install {PACKAGES[name]}"
        if "CI" in os.environ:
            pytest.fail(message)
        pytest.skip(message)
    return path


def run_tool(name: str, *args: str | os.PathLike[str], data: bytes = b"") -> tuple[int, bytes]:
    """Run a program with *data* as its input; give its exit code, and what it printed."""
    done = subprocess.run(
        [tool(name), *args],
        input=data,
        capture_output=True,
        timeout=30,
        check=False,
    )
    return done.returncode, done.stdout
