"""The one exception that a user can cause, and what makes its message helpful."""

import difflib
from collections.abc import Sequence


class UserError(Exception):
    """Something the user can mend: a bad file, settings that do not fit.

    The message is one to three lines: `FILE: what was found, what was expected, what to do`.
    Commands print it as `tool: error: MESSAGE` and exit with 1 (see `saetools.cli.app`).
    """


class UsageError(UserError):
    """The command line itself is wrong, whatever the files hold; the exit code is 2."""


def some_of(items: Sequence[object], most: int) -> str:
    """The first of many, for a message: 'A, B, ...'."""
    return ", ".join(map(str, items[:most])) + (", ..." if len(items) > most else "")


def near_names(name: str, known: Sequence[str]) -> str:
    """'; did you mean A, B or C?' for a misspelt name, else ''."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    if not near:
        return ""
    last = near.pop()
    return f"; did you mean {', '.join(near)} or {last}?" if near else f"; did you mean {last}?"
