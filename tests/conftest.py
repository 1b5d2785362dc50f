"""Fixtures that several tests share: running tools as processes, and real data where it is."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from processes import BIN, Tool

ROOT = Path(__file__).resolve().parents[1]

# Tests run side by side on few cores; more threads than that make them slower, not faster.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Commands keep ignoring what was ignored when they were started: SIGHUP under nohup, SIGINT behind a shell's `&`.
for number, handler in ((signal.SIGHUP, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def tool() -> Tool:
    """Run a tool as a process: tool("train-sae", "--out", path, ..., stdin="...") -> its exit code and output."""

    def run(
        name: str, *arguments: object, stdin: str | None = None, code: int = 0
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [str(BIN / name), *map(str, arguments)],
            input=stdin if stdin is not None else "",
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    return run


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with real images and weights; tests that need it are skipped where it is absent."""
    place = Path(os.environ.get("SAETOOLS_REAL", ROOT.parent / "shared" / "real"))
    if not place.is_dir():
        pytest.skip("no real images here (set SAETOOLS_REAL to their folder)")
    return place
