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
    """A function like the fixture `tool`: run(*arguments, stdin=..., code=0) -> exit code and output.

    code: the expected one, None for any.
    """

    def run(
        *arguments: object, stdin: str | None = None, code: int | None = 0
    ) -> subprocess.CompletedProcess[str]:
        argv = [name, *map(str, arguments)]
        stdout, stderr = io.StringIO(), io.StringIO()
        with (
            mock.patch.object(sys, "argv", argv),
            mock.patch.object(sys, "stdin", sys.stdin if stdin is None else io.StringIO(stdin)),
            contextlib.redirect_stdout(stdout),
            contextlib.redirect_stderr(stderr),
        ):
            found = cli.call(name, app)
        assert code in (found, None), f"exit code {found}\n{stdout.getvalue()}\n{stderr.getvalue()}"
        return subprocess.CompletedProcess(argv, found, stdout.getvalue(), stderr.getvalue())

    return run
