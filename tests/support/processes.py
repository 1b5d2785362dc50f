"""Running tools as processes, and what they say."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

BIN = Path(sys.executable).parent

Tool = Callable[..., subprocess.CompletedProcess[str]]


ONE_AFTER_THE_OTHER = """
import importlib, json, sys
from saetools.cli import app

name, commands = sys.argv[1], json.loads(sys.argv[2])
tool = importlib.import_module(name.replace("-", "_") + ".cli")
for sys.argv in commands:
    code = app.call(name, tool.app)
    if code:
        sys.exit(code)
"""


def run_all(name: str, *commands: list[object]) -> subprocess.CompletedProcess[str]:
    """Run a tool several times in one process of its own, with other arguments each time: it imports once."""
    lines = [[name, *map(str, arguments)] for arguments in commands]
    command = [sys.executable, "-c", ONE_AFTER_THE_OTHER, name, json.dumps(lines)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def run_on_a_full_disk(n_bytes: int, name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a tool that can write no file beyond so many bytes: to it the same as a disk without room."""
    return subprocess.run(
        [str(BIN / name), *map(str, arguments)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, n_bytes)),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def error_lines(done: subprocess.CompletedProcess[str]) -> str:
    """What an error said, after checking that it is one to three lines without a traceback."""
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    start = next(i for i, line in enumerate(lines) if ": error: " in line)
    assert len(lines) - start <= 3, done.stderr
    assert "Traceback" not in done.stderr
    return "\n".join(lines[start:])
