"""Lists of paths, from arguments or from stdin, one per line."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from saetools.errors import UserError


def reads_stdin(arguments: Sequence[Path]) -> bool:
    """True where the list of paths is on stdin: `-`, or no argument and a pipe."""
    if any(str(path) == "-" for path in arguments):
        if len(arguments) > 1:
            raise UserError("-: stdin was given together with other paths; give either - or paths")
        return True
    return not arguments and not sys.stdin.isatty()


def iterate_paths(arguments: Sequence[Path], what: str) -> Iterator[Path]:
    """Yield the paths of `arguments`, or of stdin as its lines arrive.

    Raises UserError where a path does not exist, or where there is none at all; `what` names
    what was expected ("activation shards").
    """
    found = False
    for path in _from_stdin() if reads_stdin(arguments) else arguments:
        if not path.exists():
            raise UserError(f"{path}: no such file or folder; expected {what}")
        found = True
        yield path
    if not found:
        raise UserError(f"no {what} were given; name files or folders, or pipe a list of paths in")


def _from_stdin() -> Iterator[Path]:
    # iter(readline) hands a line on as soon as it arrives; iterating over the file would read ahead.
    for line in iter(sys.stdin.readline, ""):
        if line.strip():
            yield Path(line.rstrip("\n"))
