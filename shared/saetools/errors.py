"""The one exception that a user can cause, and what makes its message helpful."""

import difflib
import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path


class UserError(Exception):
    """Something the user can mend: a bad file, settings that do not fit.

    The message is one to three lines: `FILE: what was found, what was expected, what to do`.
    Commands print it as `tool: error: MESSAGE` and exit with 1 (see `saetools.cli.app`).
    """


class UsageError(UserError):
    """The command line itself is wrong, whatever the files hold; the exit code is 2."""


def why_unreadable(path: Path) -> str | None:
    """Why no file can be read under a path, in words; None where one can.

    Nothing is opened: opening a FIFO, or some devices, would wait for ever.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "a link to a file that does not exist" if path.is_symlink() else "no such file"
    except OSError as error:
        return "a link that leads back to itself" if error.errno == errno.ELOOP else _reason(error)
    except ValueError:
        return "no name of a file"  # a zero byte in it
    if not stat.S_ISREG(mode):
        return next((what for test, what in _NO_FILES if test(mode)), "no file")
    return None if os.access(path, os.R_OK) else "permission denied"


_NO_FILES = (
    (stat.S_ISDIR, "a folder, not a file"),
    (stat.S_ISFIFO, "a FIFO (named pipe), not a file"),
    (stat.S_ISSOCK, "a socket, not a file"),
    (stat.S_ISCHR, "a device, not a file"),
    (stat.S_ISBLK, "a device, not a file"),
)


def _reason(error: OSError) -> str:
    return "permission denied" if isinstance(error, PermissionError) else str(error.strerror)


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
