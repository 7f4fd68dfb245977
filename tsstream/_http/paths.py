"""Which part of a path is whose, where an app is mounted below another."""

from __future__ import annotations

from tsstream._asgi import Scope


def route_path(scope: Scope) -> str:
    """Give the path below ``root_path``; servers behind a proxy may have removed that already."""
    path: str = scope["path"]
    root_path: str = scope.get("root_path", "")
    below = path.removeprefix(root_path)
    if root_path and below != path and below[:1] in ("", "/"):
        return below or "/"
    return path


def mounted_scope(scope: Scope, prefix: str) -> Scope:
    """Give the scope of an app that is mounted under *prefix*."""
    root_path: str = scope.get("root_path", "")
    # With the root_path, as ASGI has it, also if a proxy has taken that off the path.
    return {**scope, "path": root_path + route_path(scope), "root_path": root_path + prefix}
