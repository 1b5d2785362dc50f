"""The lower bound of every dependency in the pyproject files, as constraints for pip: `make test-oldest`.

python tests/support/lower_bounds.py > oldest.txt
pip install -e '.[test]' -c oldest.txt
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BOUND = re.compile(r"([A-Za-z0-9._-]+)\s*>=\s*([0-9.]+)")


def requirements() -> Iterator[str]:
    """Those of shared and of every tool, extras included; not our own package."""
    for file in [ROOT / "shared/pyproject.toml", *sorted(ROOT.glob("tools/*/pyproject.toml"))]:
        project = tomllib.loads(file.read_text())["project"]
        extras = project.get("optional-dependencies", {}).values()
        for requirement in [*project["dependencies"], *(one for extra in extras for one in extra)]:
            if not requirement.startswith("saetools"):
                yield requirement


def lower_bounds() -> dict[str, str]:
    """Package -> version; exits with an error where two files disagree or one has no bound."""
    found: dict[str, str] = {}
    for requirement in requirements():
        match = BOUND.match(requirement)
        if match is None:
            sys.exit(f"{requirement}: it has no lower bound; write NAME>=VERSION, the oldest that is tested")
        name, version = match.groups()
        if found.setdefault(name, version) != version:
            sys.exit(f"{name}: bounds {found[name]} and {version} in two pyproject files; write one")
    return found


if __name__ == "__main__":
    sys.stdout.write("".join(f"{name}=={version}\n" for name, version in sorted(lower_bounds().items())))
