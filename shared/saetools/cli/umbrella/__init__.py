"""`saetools`: lists the tools, and runs them: `saetools dump-acts ...` is `dump-acts ...`.

The tools are the console scripts `NAME = "PACKAGE:main"` of this distribution and of those that require it, as the
installation records them.
"""

from __future__ import annotations

import sys
from typing import NoReturn

from saetools.cli.process import prepare, start


def tools() -> list[str]:
    """The names of the tools that are installed, sorted."""
    from importlib.metadata import Distribution, entry_points

    def is_ours(found: Distribution | None) -> bool:
        required = (found.requires or []) if found else []
        return found is not None and (
            found.name == "saetools" or any(one.startswith("saetools") for one in required)
        )

    scripts = entry_points(group="console_scripts")
    return sorted(
        {each.name for each in scripts if each.value == f"{_package(each.name)}:main" and is_ours(each.dist)}
    )


def described(name: str) -> str:
    """What a tool does: the first line of its cli.py, which is not imported."""
    import ast
    from importlib.util import find_spec
    from pathlib import Path

    found = find_spec(_package(name))
    if found is None or found.origin is None:
        return ""
    text = (
        ast.get_docstring(ast.parse(Path(found.origin).with_name("cli.py").read_text(encoding="utf-8"))) or ""
    )
    return text.partition("\n")[0].removeprefix(f"{name}: ")


def main() -> NoReturn:
    """The command `saetools`."""
    prepare("saetools")
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    if wanted not in tools():
        from importlib import import_module

        sys.exit(import_module("saetools.cli.umbrella.cli").main())
    from pathlib import Path

    sys.argv[:] = [str(Path(sys.argv[0]).with_name(wanted)), *sys.argv[2:]]  # as the tool's own program
    start(wanted)


def _package(name: str) -> str:
    return name.replace("-", "_")
