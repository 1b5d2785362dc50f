"""What every command line shares: exit codes, errors, logging, common options.

A tool is a module with a Typer app and

    def main() -> None:
        run("dump-acts", app)

which the package's own `main` calls through `saetools.cli.process.start`, so that signals are handled from the start.

Exit codes: 0 success; 1 failure; 2 wrong usage; 130 after Ctrl-C, 128 plus its number after another signal.
Data goes to stdout, messages go to stderr.

Errors of the library name arguments in back quotes: "`layer`: ...". A command shows those that it has as the options
that people type: "--layer: ...".
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import signal
import sys
from collections.abc import Callable
from typing import Annotated, Any, NoReturn, TypeVar

import typer

from saetools import __version__
from saetools.cli.help import choice as choice
from saetools.cli.help import completing as completing
from saetools.cli.help import new_app as new_app
from saetools.cli.process import (
    SIGNALS,
    exceptions_from_signals,
    ignore_signals,
    prepare,
    reader_is_gone,
    say_stopped,
)
from saetools.errors import UsageError, UserError
from saetools.log import logger

N = TypeVar("N", int, float)


def _print_version(context: typer.Context, asked: bool) -> None:
    if asked:
        sys.stdout.write(f"{context.find_root().info_name} {__version__}\n")
        raise typer.Exit


VersionOption = Annotated[
    bool,
    typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
]
VerboseOption = Annotated[
    bool,
    typer.Option(
        "--verbose",
        "-v",
        callback=lambda on: logger.setLevel(logging.DEBUG if on else logging.INFO),
        help="Print details to stderr, and the traceback of an error.",
    ),
]
SeedOption = Annotated[int, typer.Option(help="Random seed.")]
DeviceOption = Annotated[
    str,
    typer.Option(
        help="Device: auto, cpu, cuda, cuda:N or mps.",
        autocompletion=completing("auto", "cpu", "cuda", "mps"),
    ),
]


def examples(*commands: str) -> str:
    """The end of a command's help, for `@app.command(epilog=examples(...))`: two or three commands to copy.

    They use the names of the README's walk through the drawn birds, and tests/house/test_examples.py runs them.
    """
    return "\n\n".join(["Examples:", *commands])


def parse_numbers(option: str, text: str, kind: Callable[[str], N], count: int | None = None) -> list[N]:
    """The numbers of an option like `--layers 8,11`; a usage error where it is no list of (count) numbers."""
    try:
        numbers = [kind(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or (count is not None and len(numbers) != count):
        expected = f"{count} numbers" if count is not None else "numbers"
        raise UsageError(f"{option} {text!r}: expected {expected} with commas between them")
    return numbers


def write_line(line: str) -> None:
    """Write one line of data to stdout at once, so that the next program in the pipe can start."""
    write_data(line + "\n")


def write_data(text: str) -> None:
    """Write data to stdout at once; exit with code 0 if its reader has ended."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise SystemExit(0) from None


def run(name: str, app: typer.Typer) -> NoReturn:
    """Run `app` as the command `name` and exit the process with the project's exit codes."""
    prepare(name)
    code = call(name, app)
    ignore_signals()
    sys.exit(code)


def call(name: str, app: typer.Typer) -> int:
    """Run `app` as the command `name`, with the arguments in `sys.argv`; its exit code, after any error is printed."""
    _log_to_stderr(name)
    try:
        return _exit_code(name, app)
    finally:
        try:
            sys.stdout.flush()
        except OSError:  # said already; what is still buffered must not fail again when Python exits
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


# Typer brings its own copy of click, whose UsageError is public by this way alone.
_USAGE_ERROR: Any = typer.BadParameter.__base__


def _exit_code(name: str, app: typer.Typer) -> int:
    # Not `app()`: that would turn an EOFError into Ctrl-C, and every closed pipe into exit code 1.
    command: Any = typer.main.get_command(app)
    try:
        with exceptions_from_signals():
            command._main_shell_completion({}, name)  # where the shell asks for completions: it leaves then
            with command.make_context(name, sys.argv[1:]) as context:
                command.invoke(context)
        sys.stdout.flush()
    except typer.Exit as left:
        return left.exit_code
    except _USAGE_ERROR as error:
        hint = f"{name} --help lists the options and arguments"
        return _fail(name, f"{error.format_message()}\n{hint}", 2)
    except UserError as error:
        return _fail(name, _with_options(str(error), app), 2 if isinstance(error, UsageError) else 1)
    except KeyboardInterrupt:
        return say_stopped(name, signal.SIGINT)
    except SystemExit as left:
        if left.code in [128 + number for number in SIGNALS]:
            return say_stopped(name, int(left.code or 0) - 128)
        if isinstance(left.__context__, BrokenPipeError):  # Rich prints the help, and leaves with 1
            return 0
        return left.code if isinstance(left.code, int) else int(left.code is not None)
    except OSError as error:
        if isinstance(error, BrokenPipeError) and reader_is_gone():
            return 0
        return _fail(name, _what_failed(error), 1)
    except (MemoryError, RuntimeError) as error:
        if not (message := _ran_out(error)):
            raise
        return _fail(name, message, 1)
    return 0


def _with_options(message: str, app: typer.Typer) -> str:
    """The message with the names of the command's arguments, in back quotes, as its options."""
    command: Any = typer.main.get_command(app)
    options = {
        parameter.name: next((o for o in parameter.opts if o.startswith("--")), parameter.opts[0].upper())
        for each in (command, *getattr(command, "commands", {}).values())
        for parameter in each.params
    }
    return re.sub(r"`(\w+)`", lambda found: options.get(found[1], found[0]), message)


_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}


def _what_failed(error: OSError) -> str:
    """The file, what the system said, and what to do."""
    where = f"{error.filename}: " if error.filename else ""
    what = error.strerror or str(error)
    if error.errno in _DISK_ERRORS:
        what = "the disk is full" if error.errno == errno.ENOSPC else what
        return f"{where}{what}; free some space or write elsewhere, then run it again"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"{where}permission denied; change its permissions, or use another place"
    return f"{where}{what[:1].lower()}{what[1:]}; --verbose shows where it happened"


def _ran_out(error: Exception) -> str | None:
    """What to do where memory ran out, here or in a worker process; None for any other error."""
    text = str(error).strip().split("\n")[0]
    if type(error).__name__ == "BrokenProcessPool" or text.startswith("DataLoader worker"):
        return f"a worker process was killed, probably since memory ran out ({text}); use fewer `workers`"
    if (
        isinstance(error, MemoryError)
        or "OutOfMemory" in type(error).__name__
        or "DefaultCPUAllocator" in text
    ):
        return f"not enough memory ({text or 'of this process'}); ask for less at a time, or use a machine with more"
    return None


def _fail(name: str, message: str, code: int) -> int:
    with contextlib.suppress(OSError):
        if logger.isEnabledFor(logging.DEBUG) and code == 1:
            logger.debug("where it happened:", exc_info=True)
        sys.stderr.write(f"{name}: error: {message}\n")
    return code


class _AboveProgressBars(logging.StreamHandler):
    """Writes a log line above the progress bar on the last line of a terminal."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        with contextlib.suppress(
            OSError
        ):  # the reader of stderr has ended, or its disk is full: the work goes on
            tqdm.write(self.format(record), file=sys.stderr)


def _log_to_stderr(name: str) -> None:
    handler = _AboveProgressBars()
    handler.setFormatter(logging.Formatter(f"{name}: %(message)s"))
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False
