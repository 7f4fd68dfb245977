"""What the command line means by ``module:app``, and how it says what is wrong."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from operator import attrgetter

from tsstream._asgi import ASGIApp


class Mistake(Exception):
    """What was asked for cannot be done; the message says why, in one line."""


class BrokenModule(Mistake):
    """The application's module is there, but its own code fails."""


def load(target: str) -> ASGIApp:
    """Import the application that *target* names, ``module:attribute`` or ``module`` alone.

    Raises:
      Mistake: there is none.
    """
    module_name, _, path = target.partition(":")
    path = path or "app"
    if "/" in module_name or module_name.endswith(".py") or module_name[:1] in ("", "."):
        raise Mistake(f"{target!r} is not module:app; write it as in `import`, without .py or /")
    if (directory := os.getcwd()) not in sys.path:
        sys.path.insert(0, directory)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # One that the module itself imports is the module's fault, and needs the traceback.
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            raise Mistake(
                f"there is no module {error.name!r} here or among what is installed"
            ) from None
        raise _import_failure(module_name) from error
    except Exception as error:
        raise _import_failure(module_name) from error
    try:
        app = attrgetter(path)(module)
    except AttributeError:
        raise Mistake(f"module {module_name!r} has no {path!r}") from None
    if not callable(app):
        raise Mistake(
            f"{path!r} in module {module_name!r} is of type {type(app).__name__}, "
            "which is not an ASGI application: it cannot be called"
        )
    loaded: ASGIApp = app
    return loaded


def _import_failure(module_name: str) -> BrokenModule:
    traceback.print_exc()
    return BrokenModule(f"importing {module_name!r} failed; see the traceback above")
