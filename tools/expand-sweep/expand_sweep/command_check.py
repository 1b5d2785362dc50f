"""Checks the commands of a sweep against what the tools themselves say that they take."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from expand_sweep.tasks import Task
from expand_sweep.tool_options import Option, ToolOptions, ask_tools, find_tool
from saetools.cli.located_yaml import Value
from saetools.errors import UserError, near_names

_KINDS = {"integer": (int, "a whole number"), "float": (float, "a number")}


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
        found = find_tool(words[0])
        if found is None:
            raise UserError(
                f"{task.template[0].where}: there is no program {words[0]!r} on PATH or beside expand-sweep;"
                " install it, or correct the command"
            )
        programs[words[0]] = found
    return programs


def check_commands(tasks: Iterable[Task], programs: dict[str, Path]) -> None:
    """Raise UserError, with the line of the sweep, at the first option or value that a tool does not know.

    Of joined tasks each is checked too, as if it ran by itself: the tool will read its values from a file.
    """
    checked = [one for task in tasks if task.step.check for one in (*task.members, task)]
    names = {task.template[0].words(task.values)[0] for task in checked}
    options = ask_tools(sorted({programs[name] for name in names}))
    known: set[tuple[str, ...]] = set()
    for task in checked:
        words = task.command
        tool = options[programs[words[0]]]
        if tool is not None:
            try:
                _check(words[0], words[1:], tool, known)
            except _Refused as refused:
                raise UserError(f"{_where(task, refused)}: {refused}") from None


class _Refused(Exception):
    """Why a command cannot be; option, value: the words that are at fault."""

    def __init__(self, message: str, option: str = "", value: str | None = None) -> None:
        super().__init__(message)
        self.option, self.value = option, value


def _check(name: str, words: Sequence[str], tool: ToolOptions, known: set[tuple[str, ...]]) -> None:
    """known: what was found good before, so that many like tasks are checked at little cost."""
    n_arguments = 0
    given: set[str] = set()
    rest = iter(words)
    for word in rest:
        if word == "--":
            n_arguments += len(list(rest))
        elif not word.startswith("-") or word == "-":
            if word in tool.commands:
                _check(f"{name} {word}", list(rest), tool.commands[word], known)
                return
            n_arguments += 1
        else:
            flag, equals, value = word.partition("=")
            option = tool.options.get(flag)
            if option is None:
                if _NUMBER.fullmatch(word) or not flag.startswith("--"):
                    continue
                near = near_names(flag, list(tool.options))
                raise _Refused(f"{name} has no option {flag}{near or f'; see {name} --help'}", flag)
            given.update(option.names)
            if not tool.sure:
                continue
            if option.flag:
                if equals:
                    raise _Refused(f"{name} {flag} takes no value, but has {value!r}", flag)
                continue
            if not equals:
                value = next(rest, None)  # type: ignore[assignment]
                if value is None:
                    raise _Refused(f"{name} {flag} has no value here; give one", flag)
            if (name, flag, value) not in known:
                _check_value(name, flag, value, option)
                known.add((name, flag, value))
    _check_complete(name, n_arguments, given, tool)


_NUMBER = re.compile(r"-[\d.]+(e-?\d+)?")


def _check_complete(name: str, n_arguments: int, given: set[str], tool: ToolOptions) -> None:
    if not tool.sure:
        return
    for option in tool.options.values():
        if option.required and not given & set(option.names):
            raise _Refused(f"{name} needs {option.names[0]}, which the command does not give")
    if n_arguments < tool.least_arguments:
        raise _Refused(f"{name} needs {tool.least_arguments} arguments, but the command gives {n_arguments}")
    if tool.most_arguments is not None and n_arguments > tool.most_arguments:
        raise _Refused(
            f"{name} takes {tool.most_arguments} arguments, but the command gives {n_arguments}; see {name} --help"
        )


def _check_value(name: str, flag: str, value: str, option: Option) -> None:
    kind, expected = _KINDS.get(option.kind, (None, ""))
    if kind is not None:
        try:
            number = kind(value)
        except ValueError:
            raise _Refused(f"{name} {flag} {value!r}: expected {expected}", flag, value) from None
        low, high = option.least, option.most
        if (low is not None and number < low) or (high is not None and number > high):
            bounds = " and ".join(
                f"{word} {bound:g}"
                for word, bound in (("at least", low), ("at most", high))
                if bound is not None
            )
            raise _Refused(f"{name} {flag} {value}: expected {bounds}", flag, value)
    elif option.patterns and not any(pattern.fullmatch(value) for pattern in option.patterns):
        listed = ", ".join(option.choices) or option.help
        raise _Refused(f"{name} {flag} {value!r} is not what its --help knows: {listed}", flag, value)


def _where(task: Task, refused: _Refused) -> str:
    """The place of the value that the step varies, where the fault is in one; else that of the command."""
    for template in task.template:
        words = template.words(task.values)
        if refused.value is None or not any(refused.value in word for word in words):
            continue
        for name in template.names:
            place = _place(task.choices.get(name), refused.value)
            if place:
                return place
    return _line_of(task, refused.option)


def _place(value: Value | None, text: str) -> str | None:
    if isinstance(value, list):
        return next((place for item in value if (place := _place(item, text))), None)
    return value.where if isinstance(value, str) and value == text else None


def _line_of(task: Task, option: str) -> str:
    """A command over several lines of the file: the line with the option in it."""
    path, first, _ = [*task.template[0].where.rsplit(":", 2), "", ""][:3]
    if option and first.isdecimal() and Path(path).is_file():
        lines = Path(path).read_text(encoding="utf-8").splitlines()
        for number in range(int(first), min(len(lines), int(first) + 60) + 1):
            if at := re.search(rf"{re.escape(option)}(?![\w-])", lines[number - 1]):
                return f"{path}:{number}:{at.start() + 1}"
    return task.template[0].where
