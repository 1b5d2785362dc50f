"""Running a tool inside the test's own process: for tools that take seconds to import what they need.

Some tests of each tool run it as a real process too (the fixture `tool`).
"""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from collections.abc import Callable
from unittest import mock

import typer

from saetools.cli import app as cli


def runner(name: str, app: typer.Typer) -> Callable[..., subprocess.CompletedProcess[str]]:
    """A function like the fixture `tool`: run(*arguments, code=0) -> exit code and output; code: None for any."""

    def run(*arguments: object, code: int | None = 0) -> subprocess.CompletedProcess[str]:
        argv = [name, *map(str, arguments)]
        stdout, stderr = io.StringIO(), io.StringIO()
        with (
            mock.patch.object(sys, "argv", argv),
            contextlib.redirect_stdout(stdout),
            contextlib.redirect_stderr(stderr),
        ):
            found = cli.call(name, app)
        assert code in (found, None), f"exit code {found}\n{stdout.getvalue()}\n{stderr.getvalue()}"
        return subprocess.CompletedProcess(argv, found, stdout.getvalue(), stderr.getvalue())

    return run
