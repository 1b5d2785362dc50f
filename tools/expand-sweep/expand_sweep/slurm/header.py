"""The #SBATCH lines of an array's script: options of the sweep, checked, and those that the scripts need."""

from __future__ import annotations

import contextlib
import io
import re
import shlex

from expand_sweep.context import RunContext
from expand_sweep.quoting import has_controls, quote_header
from expand_sweep.slurm.arrays import Array, compress
from expand_sweep.slurm.status import log_name
from expand_sweep.sweep import Sweep
from saetools.cli.located_yaml import Text, fail
from saetools.errors import UserError

SECONDS_BEFORE_LIMIT = 120  # at which a task is asked to stop, where the sweep does not say (slurm: signal:)

# What the scripts set themselves -> what to write in the sweep instead.
_OURS = {
    "array": "use `throttle:` to limit how many run at a time",
    "dependency": "steps depend on each other by inputs, outputs and `needs:`",
    "output": "logs are in the folder `state:`",
    "error": "logs are in the folder `state:`",
    "open-mode": "logs are appended to",
    "requeue": "use `requeues:`, 0 for never",
    "no-requeue": "use `requeues: 0`",
    "kill-on-invalid-dep": "it is always yes",
    "parsable": "submit.sh sets it",
    "wait": "use submit.sh --wait",
    "wrap": "the command is the step's `command:`",
    "chdir": "commands run where expand-sweep was run",
}
_SHORT = {"-a": "array", "-d": "dependency", "-o": "output", "-e": "error", "-W": "wait", "-D": "chdir"}
_VALUE_AFTER_EQUALS = ("exclusive", "nice", "propagate", "get-user-env")  # for sbatch their value is optional


def render_header(sweep: Sweep, array: Array, context: RunContext, seconds: int) -> str:
    """The #SBATCH lines."""
    slurm = array.step.slurm
    options = {
        "job-name": f"{sweep.name}-{array.step.name}",
        **slurm.options,
        "array": compress(array.indices) + (f"%{slurm.throttle}" if slurm.throttle else ""),
        "output": f"{str(context.logs).replace('%', '%%')}/{log_name(array.step.name, array.offset, '%a')}",
        "open-mode": "append",
        "signal": f"B:USR1@{seconds}",
        "kill-on-invalid-dep": "yes",
    }
    lines = [line if line.startswith("-") else f"--{line}" for line in slurm.lines]
    for line, given in zip(lines, slurm.lines, strict=True):
        _check_line(line, given)
    if slurm.requeues:
        lines.append("--requeue")
    for name in [name for name in _VALUE_AFTER_EQUALS if options.get(name)]:
        value = options.pop(name)
        lines.append(f"--{name}" if value == "true" else f"--{name}={quote_header(value)}")
    return _render_options(options, array) + "".join(f"#SBATCH {line}\n" for line in lines)


def _check_line(line: str, given: Text) -> None:
    """Raise UserError where a line of `sbatch:` is no option, or one that the scripts set themselves."""
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise fail(given, f"sbatch: {given!r} cannot be split into words: {str(error).lower()}") from error
    for word in words:
        name = _SHORT.get(word[:2], word.removeprefix("--").partition("=")[0])
        if word.startswith("-") and name in _OURS:
            raise fail(given, f"sbatch: --{name} is set by expand-sweep; {_OURS[name]}")


def _render_options(options: dict[str, str], array: Array) -> str:
    from simple_slurm import Slurm  # type: ignore[import-untyped]

    slurm = Slurm()
    for name, value in options.items():
        where = getattr(array.step.slurm.options.get(name), "where", array.step.where)
        if name in _OURS and name in array.step.slurm.options:
            raise UserError(f"{where}: slurm: {name} is set by expand-sweep; {_OURS[name]}")
        if has_controls(value) or value.startswith("-"):
            raise UserError(f"{where}: slurm: {name} has the value {value!r}, which no #SBATCH line can hold")
        attribute = name.replace("-", "_")
        with contextlib.suppress(SystemExit), contextlib.redirect_stderr(io.StringIO()):
            slurm.add_arguments(attribute, "" if value == "true" else quote_header(value))
        if attribute not in vars(slurm.namespace):  # argparse also takes the first letters of a name
            raise UserError(
                f"{where}: slurm: simple-slurm knows no option {name!r} of sbatch; where sbatch does,"
                f" write it under `sbatch:`, as on a command line: - --{name}={value}"
            )
    return slurm.script(shell="/bin/bash", convert=False)


def seconds_before_limit(array: Array) -> int:
    """How long before its time limit a task is asked to stop."""
    given = array.step.slurm.options.get("signal", str(SECONDS_BEFORE_LIMIT))
    if not re.fullmatch("[0-9]{1,9}", given):
        raise UserError(
            f"{getattr(given, 'where', array.step.where)}: slurm: signal: {given!r}; expected the number of seconds"
            " before the time limit at which a task is asked to stop"
        )
    return int(given)
