"""Sweeps for tests: toy steps that are quick, and running expand-sweep in a folder."""

from __future__ import annotations

import os
import subprocess
import textwrap
from pathlib import Path

from processes import BIN

# Values as nobody should choose them, each of which breaks a shell script that is not careful.
ODD_VALUES = [
    "two words",
    "it's",
    'say "hello"',
    "$HOME and ${PATH}",
    "$(touch pwned) `touch pwned`",
    "first\nsecond\n",
    "tab\tback\\slash",
    "~/x *? [a] {b} <c> |d; & # e!",
    "%a %% %j",
    " naïve – “ünïcode” ’ ",
    "-n",
    "trailing\\",
    "done",
    "=x",
    "‘quoted’ “twice”",
    "",
]


def expand_sweep(
    folder: Path, *arguments: object, code: int = 0, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run expand-sweep in `folder`, and check its exit code."""
    done = subprocess.run(
        [str(BIN / "expand-sweep"), *map(str, arguments)],
        cwd=folder,
        env=env if env is not None else dict(os.environ),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def write_sweep(folder: Path, text: str, name: str = "toy.yml") -> Path:
    path = folder / name
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return path


def bash(folder: Path, script: str, code: int | None = 0, env: dict[str, str] | None = None) -> str:
    """Run a line of bash in `folder`; what it printed."""
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=env, capture_output=True, text=True, timeout=300, check=False
    )
    assert code is None or done.returncode == code, (
        f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    )
    return done.stdout


def quoted_yaml(text: str) -> str:
    """A double-quoted scalar of YAML, braces doubled since values are templates."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    return '"' + escaped.replace("{", "{{").replace("}", "}}") + '"'
