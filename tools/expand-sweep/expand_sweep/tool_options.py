"""Asks tools which options they have, so that a sweep is refused before anything of it runs.

A console script of Python is asked through its Typer app, all those of one interpreter in one process;
any other command through the text of its --help, which tells the names of its options and no more.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

_SHEBANG = re.compile(r"#!(\S*python[\d.]*)\n")
_ENTRY = re.compile(r"^from ([\w.]+) import (\w+)", re.MULTILINE)
_LONG_OPTION = re.compile(r"(?<![\w-])(--[a-z][\w-]*)")
_RUNS_OTHERS = re.compile(r"python[\d.]*|(ba|da|z)?sh|env|make|nice|srun|mpirun|torchrun|time|timeout|xargs")
SECONDS = 60  # for a tool to say what options it has


@dataclass(frozen=True)
class Option:
    """flag: it takes no value; choices: what its help lists, where it lists all"""

    names: tuple[str, ...]
    flag: bool = False
    required: bool = False
    kind: str = "text"
    least: float | None = None
    most: float | None = None
    choices: tuple[str, ...] = ()
    help: str = ""
    default: str | None = None

    @cached_property
    def patterns(self) -> list[re.Pattern[str]]:
        """What its values look like, as its help lists them; empty where the help lists nothing."""
        words = self.choices or listed_choices(self.help)
        found = [_pattern(word) for word in words]
        fits = self.default is None or any(pattern.fullmatch(self.default) for pattern in found)
        return found if fits else []


@dataclass(frozen=True)
class ToolOptions:
    """options: by name; sure: the values are known too, and every option; most_arguments: None: any number"""

    options: dict[str, Option]
    commands: dict[str, ToolOptions]
    least_arguments: int
    most_arguments: int | None
    sure: bool


def find_tool(name: str) -> Path | None:
    """The program: beside this one (its virtual environment need not be active), else on PATH."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    return Path(found).absolute() if found else None


def ask_tools(programs: Sequence[Path]) -> dict[Path, ToolOptions | None]:
    """What options each has; None where it does not say, or where most are for a program that it runs."""
    asked: dict[Path, ToolOptions | None] = {}
    scripts: dict[str, dict[str, Path]] = {}
    for program in programs:
        if _RUNS_OTHERS.fullmatch(program.name):
            asked[program] = None
            continue
        entry = _python_entry(program)
        if entry is None:
            asked[program] = _from_help(program)
        else:
            interpreter, target = entry
            scripts.setdefault(interpreter, {})[target] = program
    for interpreter, targets in scripts.items():
        described = _probe(interpreter, list(targets))
        for target, program in targets.items():
            found = described.get(target)
            asked[program] = _to_options(found) if found else _from_help(program)
    return asked


def listed_choices(text: str) -> list[str]:
    """'How: max, mean or topk-mean:M.' -> max, mean, topk-mean:M; nothing where the help is no such list."""
    found = re.match(
        r"(?:[^:.;]*:\s+|.*?\bas )?((?:\S+, )*\S+?),? or ([^\s,;:]\S*?)(?:[.;:]\s.*|[.;]?)$", text
    )
    if not found:
        return []
    words = [*found[1].split(", "), found[2]]
    return words if all(re.fullmatch(r"[\w./:+-]+", word) for word in words) else []


def _pattern(word: str) -> re.Pattern[str]:
    """cuda:N -> cuda: and anything; a word in capitals stands for what the user gives."""
    return re.compile(
        "".join(".+" if part.isupper() else re.escape(part) for part in re.split(r"([A-Z]+)", word))
    )


def _python_entry(program: Path) -> tuple[str, str] | None:
    """Interpreter and MODULE:FUNCTION of a console script as pip writes it."""
    with program.open("rb") as file:
        text = file.read(2000).decode("utf-8", "replace")
    shebang, entry = _SHEBANG.match(text), _ENTRY.search(text)
    return (shebang[1], f"{entry[1]}:{entry[2]}") if shebang and entry else None


def _probe(interpreter: str, targets: Sequence[str]) -> dict[str, Any]:
    probe = Path(__file__).with_name("option_probe.py")
    done = _output([interpreter, "-P", str(probe), *targets])
    if done is None and len(targets) > 1:  # one of them cannot be asked: the others can
        return {target: found for one in targets for target, found in _probe(interpreter, [one]).items()}
    return dict(json.loads(done)) if done else {}


def _from_help(program: Path) -> ToolOptions | None:
    text = _output([str(program), "--help"])
    names = set(_LONG_OPTION.findall(text)) if text else set()
    if not names:
        return None
    return ToolOptions({name: Option((name,)) for name in sorted(names)}, {}, 0, None, sure=False)


def _output(command: Sequence[str]) -> str | None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _to_options(described: dict[str, Any]) -> ToolOptions:
    options = {}
    for found in described["options"]:
        option = Option(
            names=tuple(found["names"]),
            flag=found["flag"],
            required=found["required"],
            kind=found["kind"],
            least=found.get("least"),
            most=found.get("most"),
            choices=tuple(found.get("choices", ())),
            help=found.get("help", ""),
            default=found.get("default"),
        )
        options.update(dict.fromkeys(option.names, option))
    arguments = described["arguments"]
    return ToolOptions(
        options=options,
        commands={name: _to_options(inner) for name, inner in described["commands"].items()},
        least_arguments=sum(found["required"] for found in arguments),
        most_arguments=None if any(found["many"] for found in arguments) else len(arguments),
        sure=True,
    )
