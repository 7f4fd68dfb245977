"""Who may import whom (DESIGN section 4), read from the imports themselves."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "tsstream"
MAX_LINES = 400
NEVER = ("asyncio", "anyio", "sniffio")

# The part of the tree → what its modules may import, besides the standard library and their own
# part. The longest key that fits a module is its row, so a row for one module widens its part's.
BASE = ("tsstream._util", "tsstream._errors", "tsstream._adapters", "tsstream._pieces")
ALLOWED: dict[str, tuple[str, ...]] = {
    "tsstream": ("tsstream",),  # __init__.py gathers the public names
    "tsstream.__main__": ("tsstream._cli",),
    "tsstream._cli": ("attrs", "tsstream"),
    "tsstream._cli_app": ("tsstream._asgi",),
    "tsstream._cli_options": ("attrs", "tsstream._cli_app", "tsstream._server"),
    "tsstream._cli_run": ("attrs", "trio", "tsstream"),
    "tsstream._errors": ("tsstream._sansio.headers",),
    "tsstream._asgi": (),
    "tsstream._pieces": (),
    "tsstream._util": ("trio",),
    "tsstream._adapters": ("trio", "attrs", "tsstream._util", "tsstream._errors"),
    "tsstream._sansio": ("attrs",),
    "tsstream._sansio.multipart": ("attrs", "multipart"),
    "tsstream._streams": ("trio", "attrs", *BASE),
    "tsstream._streams.feeds": ("trio", "attrs", "trio_websocket", *BASE),
    "tsstream._http": ("trio", "attrs", "tsstream._sansio", "tsstream._asgi", *BASE),
    "tsstream._files": (
        *("trio", "attrs", "tsstream._streams", "tsstream._http", "tsstream._sansio"),
        *BASE,
    ),
    "tsstream._files.extras": ("isal", "backports", "compression"),
    "tsstream._server": (
        *("trio", "attrs", "hypercorn", "h11", "h2", "wsproto"),
        *("tsstream._http", "tsstream._sansio", "tsstream._asgi", *BASE),
    ),
    "tsstream._server.reload": ("trio", "watchfiles"),
    "tsstream.testing": (
        *("trio", "attrs"),
        *("tsstream._http", "tsstream._sansio", "tsstream._asgi", *BASE),
    ),
}
# Imported for the type checker only, under "if TYPE_CHECKING:".
ALLOWED_FOR_TYPING: dict[str, tuple[str, ...]] = {
    "tsstream._http": ("hypercorn", "typing_extensions"),
}


@attrs.frozen
class Import:
    name: str
    line: int
    typing_only: bool = False


def module_name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_type_checking(node: ast.expr) -> bool:
    return ast.unparse(node) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def imports(tree: ast.AST, package: str, *, typing_only: bool = False) -> Iterator[Import]:
    """Give every import of a module, those inside functions too, by its absolute name."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, typing_only)
        elif isinstance(node, ast.ImportFrom):
            yield from imported_from(node, package, typing_only)
        elif isinstance(node, ast.If) and is_type_checking(node.test):
            yield from imports(ast.Module(node.body, []), package, typing_only=True)
            yield from imports(ast.Module(node.orelse, []), package, typing_only=typing_only)
        else:
            yield from imports(node, package, typing_only=typing_only)


def imported_from(node: ast.ImportFrom, package: str, typing_only: bool) -> Iterator[Import]:
    if node.level:
        parents = package.split(".")
        base = ".".join(parents[: len(parents) - node.level + 1])
        source = f"{base}.{node.module}" if node.module else base
    else:
        assert node.module is not None
        source = node.module
    if source == "tsstream":  # "from tsstream import _util" and "from . import _util"
        for alias in node.names:
            yield Import(f"tsstream.{alias.name}", node.lineno, typing_only)
    else:
        yield Import(source, node.lineno, typing_only)


def within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def row(table: dict[str, tuple[str, ...]], module: str) -> tuple[str, ...]:
    """Find what governs *module*: its own row, or that of the nearest package above it.

    A new part without a row of its own may import nothing but itself.
    """
    while module.count(".") > 1 and module not in table:
        module = module.rpartition(".")[0]
    return table.get(module, ())


def is_allowed(found: Import, module: str) -> bool:
    top = found.name.partition(".")[0]
    if top in NEVER:
        return False
    if top in sys.stdlib_module_names:
        return True
    own_part = ".".join(module.split(".")[:2])
    allowed = (own_part, *row(ALLOWED, module))
    if found.typing_only:
        allowed += row(ALLOWED_FOR_TYPING, module)
    return any(within(found.name, prefix) for prefix in allowed)


def check_file(path: Path, root: Path = ROOT) -> list[str]:
    """Say what is wrong with a module: an import, no docstring, too long."""
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    module = module_name(path, root)
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    where = path.relative_to(root)
    wrong = [
        f"{where}:{found.line}: {module} may not import {found.name}"
        for found in imports(tree, package)
        if not is_allowed(found, module)
    ]
    if ast.get_docstring(tree) is None:
        wrong.append(f"{where}:1: no docstring; say in one sentence what the module is")
    if (lines := len(source.splitlines())) > MAX_LINES:
        wrong.append(f"{where}: {lines} lines, more than {MAX_LINES}; split it by step of the flow")
    return wrong


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_module_keeps_to_its_layer(path: Path) -> None:
    assert check_file(path) == []


def test_every_row_of_the_table_is_about_something() -> None:
    present = {module_name(path, ROOT) for path in modules()}
    planned = {"tsstream._adapters"}
    assert set(ALLOWED) - present <= planned


@pytest.mark.parametrize(
    ("where", "source", "complaint"),
    [
        ("_sansio/x.py", "import trio", "may not import trio"),
        ("_sansio/x.py", "def f():\n    from trio import sleep", "may not import trio"),
        ("_sansio/x.py", "import tsstream._util", "may not import tsstream._util"),
        ("_sansio/x.py", "from tsstream import _util", "may not import tsstream._util"),
        ("_sansio/x.py", "from .. import _util", "may not import tsstream._util"),
        ("_sansio/x.py", "from .._streams.merge import m", "not import tsstream._streams.merge"),
        ("_streams/x.py", "from tsstream._http.app import App", "not import tsstream._http.app"),
        ("_streams/x.py", "from tsstream import App", "may not import tsstream.App"),
        ("_streams/merge.py", "import trio_websocket", "may not import trio_websocket"),
        ("_streams/x.py", "import anyio", "may not import anyio"),
        ("_http/x.py", "import asyncio", "may not import asyncio"),
        ("_http/x.py", "from tsstream._streams import merge", "not import tsstream._streams"),
        ("_http/x.py", "from hypercorn.typing import Scope", "not import hypercorn.typing"),
        ("testing/x.py", "from tsstream._server import serve", "not import tsstream._server"),
        ("_errors.py", "import trio", "may not import trio"),
        ("brand_new/x.py", "import trio", "may not import trio"),
        ("brand_new/x.py", "import tsstream._util", "may not import tsstream._util"),
    ],
)
def test_checker_sees_a_planted_import(
    tmp_path: Path, where: str, source: str, complaint: str
) -> None:
    path = plant(tmp_path, where, f'"""Planted."""\n{source}\n')
    [wrong] = check_file(path, tmp_path)
    assert complaint in wrong


@pytest.mark.parametrize(
    ("where", "source"),
    [
        ("_sansio/x.py", "import json, attrs\nfrom . import headers\nfrom .headers import Headers"),
        ("_streams/feeds.py", "from trio_websocket import open_websocket_url"),
        ("_http/x.py", "if TYPE_CHECKING:\n    from hypercorn.typing import Scope"),
        ("_http/x.py", "from tsstream._sansio.headers import Headers"),
        ("_server/__init__.py", "from .serve import serve\nimport hypercorn.trio"),
        ("__init__.py", "from ._http.app import App\nfrom tsstream._streams.merge import merge"),
    ],
)
def test_checker_lets_a_good_import_pass(tmp_path: Path, where: str, source: str) -> None:
    assert check_file(plant(tmp_path, where, f'"""Planted."""\n{source}\n'), tmp_path) == []


def test_checker_sees_a_missing_docstring(tmp_path: Path) -> None:
    [wrong] = check_file(plant(tmp_path, "_http/x.py", "import json\n"), tmp_path)
    assert "no docstring" in wrong


def test_checker_sees_a_module_that_is_too_long(tmp_path: Path) -> None:
    source = '"""Planted."""\n' + "x = 1\n" * MAX_LINES
    [wrong] = check_file(plant(tmp_path, "_http/x.py", source), tmp_path)
    assert "401 lines" in wrong


def plant(root: Path, where: str, source: str) -> Path:
    path = root / "tsstream" / where
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source, encoding="utf-8")
    return path
