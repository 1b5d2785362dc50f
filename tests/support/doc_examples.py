"""The examples of a Markdown page: commands and Python, run in order in one folder, with the output that it shows.

    python tests/support/doc_examples.py docs/python.md     runs them and writes their output into the page

After ```python comes ```text with what it prints, or nothing; `<!-- differs by machine -->` before it where its digits
depend on the machine.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from in_process import runner

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(
    r"```(console|python)\n(.*?)```\n(?:\n(<!-- differs by machine -->\n)?```text\n(.*?)```\n)?", re.DOTALL
)


@dataclass(frozen=True)
class Example:
    """A block and what the page says that it prints; exact: on every machine."""

    kind: str
    code: str
    shown: str
    exact: bool


def examples(page: str) -> Iterator[Example]:
    for found in BLOCK.finditer(page):
        yield Example(found[1], found[2], found[4] or "", found[3] is None)


def run(code: str, names: dict[str, object]) -> str:
    """What Python code prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "<example>", "exec"), names)
    return printed.getvalue()


def run_commands(text: str) -> None:
    """The lines after `$ `: our commands in this process, which has imported what they need, others by a shell."""
    for line in text.splitlines():
        command = line.removeprefix("$ ")
        name, *arguments = shlex.split(command)
        if (ROOT / "tools" / name).is_dir() and not re.search(r"[|&;<>$`*\\]", command):
            app = importlib.import_module(f"{name.replace('-', '_')}.cli").app
            runner(name, app)(*arguments)
        else:
            path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
            subprocess.run(
                ["bash", "-c", command], env={**os.environ, "PATH": path}, check=True, capture_output=True
            )


def prepare(folder: Path) -> None:
    """As the root of a checkout, but for what the examples make."""
    (folder / "examples").symlink_to(ROOT / "examples")


def main() -> None:
    page = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        prepare(Path(name))
        names: dict[str, object] = {}

        def filled(found: re.Match[str]) -> str:
            block = f"```{found[1]}\n{found[2]}```\n"
            if found[1] == "console":
                run_commands(found[2])
                return block
            printed = run(found[2], names)
            return block + (f"\n{found[3] or ''}```text\n{printed}```\n" if printed else "")

        page.write_text(BLOCK.sub(filled, page.read_text()))


if __name__ == "__main__":
    main()
