"""Prints as JSON which options commands have: run by the interpreter that the commands belong to.

    python option_probe.py MODULE:FUNCTION ...     as the console scripts name them

For each, the Typer app `app` of the module is asked; nothing of it is run.
"""

from __future__ import annotations

import enum
import importlib
import inspect
import json
import sys
import types
import typing
from typing import Any

from typer.main import get_command

KINDS = {int: "integer", float: "float"}


def describe(command: Any) -> dict[str, Any]:
    """Options and arguments of a command, and those of its subcommands."""
    annotations = typing.get_type_hints(inspect.unwrap(command.callback)) if command.callback else {}
    options: list[dict[str, Any]] = []
    arguments: list[dict[str, Any]] = []
    for parameter in command.params:
        kind, choices = _kind(annotations.get(parameter.name, str))
        limits = getattr(
            parameter, "type", parameter
        )  # Typer keeps limits with the type, or since 0.2x itself
        found = {
            "names": [*parameter.opts, *parameter.secondary_opts],
            "flag": bool(getattr(parameter, "is_flag", False)) or bool(getattr(parameter, "count", False)),
            "required": bool(parameter.required),
            "many": parameter.nargs == -1 or bool(getattr(parameter, "multiple", False)),
            "kind": kind,
            "least": getattr(limits, "min", None),
            "most": getattr(limits, "max", None),
            "choices": choices,
            "default": parameter.default if isinstance(parameter.default, str) else None,
            "help": getattr(parameter, "help", None) or "",
        }
        (arguments if parameter.param_type_name == "argument" else options).append(found)
    help_names = ["-h", "--help"]
    options.append({"names": help_names, "flag": True, "required": False, "many": False, "kind": "text"})
    commands = {name: describe(inner) for name, inner in getattr(command, "commands", {}).items()}
    return {"options": options, "arguments": arguments, "commands": commands}


def _kind(annotation: Any) -> tuple[str, list[str]]:
    """integer, float or text, and the choices where the type has them; of a list, its items'."""
    while typing.get_origin(annotation) in (list, typing.Union, types.UnionType):
        inner = [part for part in typing.get_args(annotation) if part is not types.NoneType]
        if len(inner) != 1:
            return "text", []
        annotation = inner[0]
    if typing.get_origin(annotation) is typing.Literal:
        return "text", [str(choice) for choice in typing.get_args(annotation)]
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return "text", [str(member.value) for member in annotation]
    return KINDS.get(annotation, "text"), []


def main() -> None:
    described = {}
    for entry in sys.argv[1:]:
        module = importlib.import_module(entry.partition(":")[0])
        described[entry] = describe(get_command(module.app)) if hasattr(module, "app") else None
    json.dump(described, sys.stdout)


if __name__ == "__main__":
    main()
