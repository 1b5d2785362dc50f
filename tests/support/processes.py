"""Running tools as processes, and what they say."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

BIN = Path(sys.executable).parent

Tool = Callable[..., subprocess.CompletedProcess[str]]


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
