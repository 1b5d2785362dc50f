"""Which of our modules a file imports, read from its text."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT / "shared"
TOOLS = sorted(path.parent for path in ROOT.glob("tools/*/*/__init__.py"))


def modules() -> dict[str, Path]:
    """Every module of the shared package and the tools: its dotted name, and its file."""
    found = {}
    for package in (SHARED / "saetools", *TOOLS):
        for path in package.rglob("*.py"):
            parts = path.relative_to(package.parent).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imported(path: Path, types: bool = False) -> Iterator[str]:
    """The modules of ours that a file imports, at its head or inside a function; types: for type checkers alone too."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree) if types else _running(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [
                full if (full := f"{node.module}.{alias.name}") in MODULES else node.module
                for alias in node.names
            ]
        else:
            continue
        yield from (name for name in names if name in MODULES)


def _running(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from _running(child)
