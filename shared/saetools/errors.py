"""The one exception that a user can cause."""


class UserError(Exception):
    """Something the user can mend: a bad file, settings that do not fit, a full disk.

    The message is one to three lines: `FILE: what was found, what was expected, what to do`.
    Commands print it as `tool: error: MESSAGE` and exit with 1 (see `saetools.cli`).
    """
