"""Running tools as processes, and what they say."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

BIN = Path(sys.executable).parent

Tool = Callable[..., subprocess.CompletedProcess[str]]


def error_lines(done: subprocess.CompletedProcess[str]) -> str:
    """What an error said, after checking that it is one to three lines without a traceback."""
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    start = next(i for i, line in enumerate(lines) if ": error: " in line)
    assert len(lines) - start <= 3, done.stderr
    assert "Traceback" not in done.stderr
    return "\n".join(lines[start:])
