"""Checks command lines with the parsers of the Typer or Click programs themselves, in the programs' own interpreter.

    python click_check.py <COMMANDS.json

COMMANDS: {"MODULE:FUNCTION": {"name": PROGRAM, "words": [[word, ...], ...]}}, with the words after the program's name
in each command; MODULE:FUNCTION is what its console script calls. Prints {"MODULE:FUNCTION": [fault or null, ...]},
with a fault for each command that the program would refuse; null in place of the list where it is not a Click program.
Programs are imported, but not run. Only the standard library is imported here, since the interpreter may be another one
than that of expand-sweep.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import re
import sys
from typing import Any

Fault = dict[str, Any]
ANY_TEXT = "a text, neither number nor choice"


class Checker:
    """A command, or a group of them, whose parser is made once; `known` values were found good before."""

    def __init__(self, command: Any, name: str, parent: Any = None) -> None:
        self.command, self.name = command, name
        self.context = command.make_context(name, [], parent=parent, resilient_parsing=True)
        self.parser = command.make_parser(self.context)
        self.options = {option: each for each in command.get_params(self.context) for option in flags(each)}
        self.required = [each for each in command.params if each.required]
        self.commands: dict[str, Checker] = {}
        self.any_text: dict[str, bool] = {}
        self.known: set[tuple[str, Any]] = set()

    def fault(self, words: list[str]) -> Fault | None:
        """What is wrong with the words after the command's name."""
        self.context.resilient_parsing = False  # else the parser passes over errors
        try:
            values, rest, given = self.parser.parse_args(list(words))
        except Exception as error:
            return self._parsing_fault(error)
        if any("--help" in each.opts for each in given):
            return None
        for each in self.required:
            if each.value_is_missing(values.get(each.name)) and not each.resolve_envvar_value(self.context):
                what = next(iter(flags(each)), (each.metavar or each.name).upper())
                return {"message": f"needs {what}, which the command does not give"}
        for each in given:
            if fault := self._value_fault(each, values.get(each.name)):
                return fault
        if hasattr(self.command, "commands") and rest:
            return self._inner_fault(rest)
        if rest and not self.context.allow_extra_args:
            return {"message": f"has no place for the argument {rest[0]!r}; see {self.name} --help"}
        return None

    def _parsing_fault(self, error: Exception) -> Fault:
        option = getattr(error, "option_name", None)
        if option is None or not hasattr(error, "message"):
            raise error
        if option not in self.options and hasattr(error, "possibilities"):
            return {"option": option, "known": sorted(self.options)}
        return {"option": option, "message": f"{option}: {lowered(error.message)}"}

    def _value_fault(self, each: Any, value: Any) -> Fault | None:
        if each.value_is_missing(value):  # an argument that may be left out
            return None
        for one in value if takes_many(each) else [value]:
            if not isinstance(one, str | tuple) or (each.name, one) in self.known:
                continue
            self.known.add((each.name, one))
            message = None if self._takes_any_text(each) else self._refusal(each, one)
            text = one if isinstance(one, str) else " ".join(one)
            if message := message or unlisted(each, text):
                option = max(flags(each), key=len, default="")
                return {
                    "option": option,
                    "value": text,
                    "message": f"{option or each.name} {text!r}: {message}",
                }
        return None

    def _takes_any_text(self, each: Any) -> bool:
        """Whether its type takes whatever text, so that thousands of different paths need not be tried."""
        if each.name not in self.any_text:
            self.any_text[each.name] = each.nargs in (1, -1) and self._refusal(each, ANY_TEXT) is None
        return self.any_text[each.name]

    def _refusal(self, each: Any, value: Any) -> str | None:
        """Why the parameter's own type refuses a value; None where it takes it."""
        self.context.resilient_parsing = True  # callbacks do nothing then
        try:
            with contextlib.redirect_stdout(sys.stderr):
                each.process_value(self.context, [value] if takes_many(each) else value)
        except Exception as error:
            message = str(getattr(error, "message", ""))
            # No errors of the value: a callback ended the program, or an earlier step writes the file that is missing
            return None if not message or "exist" in message else lowered(message)
        return None

    def _inner_fault(self, words: list[str]) -> Fault | None:
        name, *rest = words
        if name not in self.commands:
            command = self.command.get_command(self.context, name)
            if command is None:
                known = ", ".join(self.command.list_commands(self.context))
                return {"message": f"has no command {name!r}; it has {known}"}
            self.commands[name] = Checker(command, f"{self.name} {name}", self.context)
        return self.commands[name].fault(rest)


def flags(parameter: Any) -> list[str]:
    """The options of a parameter; none of an argument."""
    return [] if parameter.param_type_name == "argument" else [*parameter.opts, *parameter.secondary_opts]


def takes_many(parameter: Any) -> bool:
    return parameter.nargs == -1 or bool(getattr(parameter, "multiple", False))


def unlisted(parameter: Any, value: str) -> str | None:
    """Why a text is none of the choices that its option shows; None where it is, or shows none.

    They are shown as A|B|C in place of a value, or listed in the help.
    """
    words = (parameter.metavar or "").split("|")
    text = (
        f"{', '.join(words[:-1])} or {words[-1]}"
        if len(words) > 1
        else getattr(parameter, "help", None) or ""
    )
    patterns = choice_patterns(text)
    default = parameter.default
    if isinstance(default, str) and not any(each.fullmatch(default) for each in patterns):
        return None  # the list is not complete
    if not patterns or any(each.fullmatch(value) for each in patterns):
        return None
    return f"expected {', '.join(listed_choices(text)[:-1])} or {listed_choices(text)[-1]}"


def listed_choices(text: str) -> list[str]:
    """'How: max, mean or topk-mean:M.' -> max, mean, topk-mean:M; nothing where the help is no such list."""
    found = re.match(
        r"(?:[^:.;]*:\s+|.*?\bas )?((?:\S+, )*\S+?),? or ([^\s,;:]\S*?)(?:[.;:]\s.*|[.;]?)$", text
    )
    if not found:
        return []
    words = [*found[1].split(", "), found[2]]
    return words if all(re.fullmatch(r"[\w./:+-]+", word) for word in words) else []


def pattern(word: str) -> re.Pattern[str]:
    """cuda:N -> cuda: and anything; a word in capitals stands for what the user gives."""
    return re.compile(
        "".join(".+" if part.isupper() else re.escape(part) for part in re.split(r"([A-Z]+)", word))
    )


@functools.cache
def choice_patterns(text: str) -> list[re.Pattern[str]]:
    return [pattern(word) for word in listed_choices(text)]


def lowered(message: str) -> str:
    """A message of Click as the second part of a sentence; newer Typer's "Input should be ..." as "expected ..."."""
    message = re.sub(r"^Input should be (.*?)(, unable to parse .*)?$", r"expected \1", message)
    return message[:1].lower() + message[1:].rstrip(".")


def find_command(entry: str) -> Any:
    """The Click command behind MODULE:FUNCTION: the function itself, or that of the module's Typer app `app`."""
    module_name, _, function = entry.partition(":")
    module = importlib.import_module(module_name)
    command = getattr(module, function, None)
    if not hasattr(command, "make_context") and not hasattr(module, "app"):
        with contextlib.suppress(ModuleNotFoundError):  # where ours have it
            module = importlib.import_module(f"{module_name}.cli")
    if not hasattr(command, "make_context") and hasattr(module, "app"):
        from typer.main import get_command

        command = get_command(module.app)
    return command if hasattr(command, "make_context") else None


def main() -> None:
    faults: dict[str, list[Fault | None] | None] = {}
    for entry, commands in json.load(sys.stdin).items():
        try:
            with contextlib.redirect_stdout(sys.stderr):
                command = find_command(entry)
                checker = Checker(command, commands["name"]) if command is not None else None
                faults[entry] = [checker.fault(words) for words in commands["words"]] if checker else None
        except (
            Exception,
            SystemExit,
        ):  # whatever the program does when it is imported, or its own types of options
            faults[entry] = None
    json.dump(faults, sys.stdout)


if __name__ == "__main__":
    main()
