"""Checks the commands of a sweep before anything runs: programs, options and values.

A console script of Python is checked with its own Click parser (click_check.py), all scripts of one interpreter in one
process; any other program through the text of its --help, which tells the names of its options only.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from expand_sweep.tasks import Task
from saetools.cli.located_yaml import Value
from saetools.errors import UserError, near_names
from saetools.log import logger

_SHEBANG = re.compile(r"#!(\S*python[\d.]*)\n")
_ENTRY = re.compile(r"^from ([\w.]+) import (\w+)", re.MULTILINE)
_LONG_OPTION = re.compile(r"(?<![\w-])(--[a-z][\w-]*)")
_RUNS_OTHERS = re.compile(r"python[\d.]*|(ba|da|z)?sh|env|make|nice|srun|mpirun|torchrun|time|timeout|xargs")
SECONDS = 60  # for the programs to be imported, or to print their --help
LINES_OF_A_COMMAND = 60  # among which the line with an option is looked for

Fault = Mapping[str, Any]  # option, value: the words at fault; message, or the options that are known


def find_programs(tasks: Iterable[Task]) -> dict[str, Path]:
    """The program of every command, by the name it has there; raises UserError where there is none."""
    programs: dict[str, Path] = {}
    for task in (one for found in tasks for one in (found, *found.members)):
        words = task.template[0].words(task.values)
        if not words:
            raise UserError(
                f"{task.template[0].where}: the command is empty; it starts with the name of a program"
            )
        if words[0] in programs:
            continue
        found = find_program(words[0])
        if found is None:
            raise UserError(
                f"{task.template[0].where}: there is no program {words[0]!r} on PATH or beside expand-sweep;"
                " install it, or correct the command"
            )
        programs[words[0]] = found
    return programs


def find_program(name: str) -> Path | None:
    """The program: beside this one (its virtual environment need not be active), else on PATH."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    return Path(found).absolute() if found else None


def check_commands(tasks: Iterable[Task], programs: Mapping[str, Path]) -> None:
    """Raise UserError, with its place in the sweep, for the first command that its program would refuse.

    Of joined tasks each is checked too, as if it ran by itself: the program will read its values from a file.
    """
    checked = [one for task in tasks if task.step.check for one in (*task.members, task)]
    by_program: dict[Path, list[Task]] = defaultdict(list)
    for task in checked:
        by_program[programs[task.command[0]]].append(task)
    fault_of = _faults(by_program)
    for task in checked:
        if fault := fault_of.get(id(task)):
            message = fault.get("message")
            if message is None:
                near = near_names(fault["option"], fault["known"])
                message = f"has no option {fault['option']}{near or f'; see {task.command[0]} --help'}"
            raise UserError(f"{_where(task, fault)}: {task.command[0]} {message}")


def _faults(by_program: Mapping[Path, Sequence[Task]]) -> dict[int, Fault]:
    """id of a task -> what is wrong with its command."""
    faults: dict[int, Fault] = {}
    scripts: dict[str, dict[str, Path]] = defaultdict(dict)
    by_help: list[Path] = []
    for program in by_program:
        if _RUNS_OTHERS.fullmatch(program.name):  # most of the words are for another program
            continue
        interpreter, entry = _python_entry(program)
        if interpreter:
            scripts[interpreter][entry] = program
        else:
            by_help.append(program)
    for interpreter, entries in scripts.items():
        commands = {
            entry: {"name": program.name, "words": [task.command[1:] for task in by_program[program]]}
            for entry, program in entries.items()
        }
        script = Path(__file__).with_name("click_check.py")
        answer = _answers(_output([interpreter, "-P", str(script)], json.dumps(commands)))
        for entry, program in entries.items():
            found = answer.get(entry)
            tasks = by_program[program]
            if not isinstance(found, list) or len(found) != len(tasks):
                by_help.append(program)
            else:
                faults |= {id(task): fault for task, fault in zip(tasks, found, strict=True) if fault}
    for program in by_help:
        known = set(_LONG_OPTION.findall(_output([str(program), "--help"]) or ""))
        if not known:
            logger.warning(
                "%s: its commands are not checked: it is no Click program that can be imported, and its --help names"
                " no options (`check: false` in the step says that this is meant)",
                by_program[program][0].command[0],
            )
        for task in by_program[program] if known else ():
            if unknown := [option for option in _long_options(task.command[1:]) if option not in known]:
                faults[id(task)] = {"option": unknown[0], "known": sorted(known)}
    return faults


def _answers(text: str | None) -> Mapping[str, Any]:
    """What click_check.py printed; nothing where it failed, or where a program printed among it."""
    try:
        found = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _long_options(words: Sequence[str]) -> list[str]:
    before = words[: words.index("--")] if "--" in words else words
    return [word.partition("=")[0] for word in before if word.startswith("--")]


def _python_entry(program: Path) -> tuple[str, str]:
    """Interpreter and MODULE:FUNCTION of a console script as pip writes it; empty for other programs."""
    try:
        with program.open("rb") as file:
            text = file.read(2000).decode("utf-8", "replace")
    except OSError:  # it may be run, but not read
        return "", ""
    shebang, entry = _SHEBANG.match(text), _ENTRY.search(text)
    return (shebang[1], f"{entry[1]}:{entry[2]}") if shebang and entry else ("", "")


def _output(command: Sequence[str], stdin: str = "") -> str | None:
    try:
        done = subprocess.run(
            command,
            input=stdin,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _where(task: Task, fault: Fault) -> str:
    """The place of the value that the step varies, where the fault is in one; else that of the command."""
    value: str | None = fault.get("value")
    for template in task.template:
        if value is not None and any(value in word for word in template.words(task.values)):
            for name in template.names:
                if place := _place(task.choices.get(name), value):
                    return place
    return _line_of(task, fault.get("option", ""))


def _place(value: Value | None, text: str) -> str | None:
    if isinstance(value, list):
        return next((place for item in value if (place := _place(item, text))), None)
    return value.where if isinstance(value, str) and value == text else None


def _line_of(task: Task, option: str) -> str:
    """The place of an option in a command over several lines of the file, else that of the command."""
    path, first, _ = [*task.template[0].where.rsplit(":", 2), "", ""][:3]
    if option and first.isdecimal() and Path(path).is_file():
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
        start = int(first)
        for number, line in enumerate(lines[start - 1 : start + LINES_OF_A_COMMAND], start=start):
            if at := re.search(rf"{re.escape(option)}(?![\w-])", line):
                return f"{path}:{number}:{at.start() + 1}"
    return task.template[0].where
