"""The sweep of a file: its steps, with the values that each varies, its inputs, outputs, commands and Slurm options."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from expand_sweep.quoting import as_printed, has_controls
from expand_sweep.templates import Resolved, Template, resolve, resolve_words
from saetools.cli.located_yaml import (
    Items,
    Table,
    Text,
    Value,
    as_bool,
    as_items,
    as_number,
    as_table,
    as_text,
    as_text_or_list,
    as_texts,
    check_keys,
    fail,
    parse_setting,
    read_yaml,
    set_value,
)
from saetools.cli.sweeps import MOST_RUNS, Run, expand_keys, list_values, multiply
from saetools.errors import UsageError, UserError, near_names

SWEEP_KEYS = ("name", "values", "state", "preamble", "slurm", "sbatch", "steps")
STEP_KEYS = (
    "command", "grid", "zip", "runs", "values", "inputs", "outputs", "stdout", "needs", "check", "together",
    "preamble", "slurm", "sbatch", "stage", "throttle", "requeues",
)  # fmt: skip
REFERENCE_KEYS = ("outputs", "same")
TOGETHER_KEYS = ("over", "command")
REQUEUES = 20  # default number of times that a task is requeued after its time limit
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_OPTION = re.compile(r"[a-z][a-z0-9-]*")


@dataclass(frozen=True)
class OutputsOf:
    """An input that is the outputs of another step: of all its tasks, or of those with the `same` values."""

    step: Text
    output: Text | None
    same: tuple[Text, ...]


@dataclass(frozen=True)
class Together:
    """Tasks that differ only in the values `over` are joined into one, whose `command` gets lists of these values."""

    over: tuple[Text, ...]
    command: list[Template]


@dataclass(frozen=True)
class SlurmSettings:
    """options: those of sbatch, by their long names; lines: further ones, as on a command line"""

    options: dict[str, str]
    lines: list[Text]
    preamble: str
    stage: tuple[str, ...]
    throttle: int | None
    requeues: int


@dataclass(frozen=True)
class Step:
    name: str
    where: str
    command: list[Template]
    runs: list[Run]
    values: dict[str, Value]
    inputs: dict[Text, list[Text] | OutputsOf]
    outputs: dict[Text, list[Text]]
    needs: tuple[Text, ...]
    check: bool
    stdout: Text | None
    together: Together | None
    slurm: SlurmSettings


@dataclass(frozen=True)
class Sweep:
    """values: for every step; state: folder of logs and of records of what is done"""

    path: Path
    name: str
    values: dict[str, Resolved]
    state: Path
    steps: dict[str, Step]
    table: Table  # the file's, with --set applied


def read_sweep(path: Path, settings: Sequence[str] = ()) -> Sweep:
    """The sweep of a file, with --set KEY=VALUE applied; raises UserError with file and line."""
    table = read_yaml(path)
    for setting in settings:
        _apply(table, setting)
    check_keys(table, SWEEP_KEYS, "a sweep")
    if "steps" not in table:
        raise fail(table, "there are no `steps:`; a sweep needs at least one step with a command and outputs")
    name = as_text(table.get("name", Text(path.stem, str(path))), "name")
    _check_name(name, "the sweep's name")
    values = resolve_all(as_table(table.get("values"), "values", table.where), {"name": str(name)})
    state = resolve(as_text(table.get("state", Text("out/{name}/.sweep", table.where)), "state"), values)
    if not isinstance(state, str):
        raise fail(table["state"], "state must be one folder")
    if has_controls(state):
        raise fail(
            table.get("state", table),
            f"state is {state!r}; expected a folder without control characters in its name",
        )
    steps = as_table(table["steps"], "steps", table.where)
    return Sweep(
        path,
        name,
        values,
        Path(state),
        {key: _read_step(key, steps[key], table, values) for key in steps},
        table,
    )


def resolve_all(table: Mapping[str, Value], known: Mapping[str, Resolved]) -> dict[str, Resolved]:
    """The values of a mapping, each of which may refer to those before it and to the `known`."""
    values = dict(known)
    for key, value in table.items():
        values[key] = resolve(as_text_or_list(value, f"the value {key!r}"), values)
    return values


def _apply(table: Table, setting: str) -> None:
    key, equals, text = setting.partition("=")
    if not equals or not key:
        raise UsageError(f"--set {setting}: expected KEY=VALUE, for example --set tokens=1M")
    setting = as_printed(setting)
    value = parse_setting(text, f"--set {setting}")
    if "." not in key:
        known = as_table(table.get("values"), "values", table.where)
        if key not in known:
            raise UsageError(
                f"--set {setting}: the sweep has no value {key!r}{near_names(key, list(known))};"
                f" it has {', '.join(known) or 'none'}, and STEP.KEY or slurm.KEY for the rest"
            )
        known[key] = value
        return
    first, *rest = key.split(".")
    steps = as_table(table.get("steps"), "steps", table.where)
    if first in steps:
        set_value(as_table(steps[first], f"the step {first!r}"), rest, value)
    elif first in SWEEP_KEYS and first != "steps":
        set_value(table, [first, *rest], value)
    else:
        raise UsageError(f"--set {setting}: there is no step {first!r}{near_names(first, list(steps))}")


def _read_step(name: str, value: Value, sweep: Table, values: Mapping[str, Resolved]) -> Step:
    _check_name(name, "the step's name")
    table = as_table(value, f"the step {name!r}")
    check_keys(table, STEP_KEYS, f"the step {name!r}")
    for key in ("command", "outputs"):
        if not table.get(key):
            raise fail(table, f"the step {name!r} has no `{key}:`; every step has a command and outputs")
    inputs = {key: _read_input(key, found) for key, found in _entries(table, "inputs")}
    outputs = {key: as_texts(found, f"the output {key!r}") for key, found in _entries(table, "outputs")}
    slurm = _read_slurm(table, sweep)
    for stage in slurm.stage:
        if stage not in inputs:
            raise fail(
                table["stage"], f"stage: {stage!r} is no input of the step{near_names(stage, list(inputs))}"
            )
    runs = _read_runs(table, values)
    for key in itertools.chain(inputs, outputs):
        if key in inputs and key in outputs:
            raise fail(key, f"{key!r} is an input and an output; name them differently")
        if runs and key in runs[0]:
            raise fail(key, f"{key!r} is also a value that the step varies; name them differently")
    return Step(
        name=name,
        where=table.where,
        command=_command(table["command"]),
        runs=runs,
        values=dict(as_table(table.get("values"), "values")),
        inputs=inputs,
        outputs=outputs,
        needs=tuple(as_text(item, "needs") for item in as_items(table.get("needs"), "needs")),
        check=as_bool(table["check"], "check") if "check" in table else True,
        stdout=_read_stdout(table["stdout"], outputs) if "stdout" in table else None,
        together=_read_together(table["together"]) if "together" in table else None,
        slurm=slurm,
    )


def _read_runs(table: Table, values: Mapping[str, Resolved]) -> list[Run]:
    """The values of every task: the product of `grid`, `zip` and `runs`, one empty run where there is none."""
    runs_of = expand_keys(table, lambda value, name: _varied(value, name, values))
    for row in runs_of.get("runs", ()):
        first = runs_of["runs"][0]
        if odd := sorted(set(row) ^ set(first)):
            raise UserError(
                f"{getattr(row, 'where', table.where)}: this run and the first differ in {', '.join(odd)};"
                " give all runs the same keys"
            )
    return list(multiply(table, runs_of))


def _varied(value: Value, name: str, values: Mapping[str, Resolved]) -> list[Value]:
    """The values of a name; `"{layers}"` stands for the values of that list of the sweep."""
    found: list[Value] = []
    for item in list_values(value, name):
        if (
            isinstance(item, Text)
            and "{" in item
            and all(n in values for n in Template(item, item.where).names)
        ):
            found += [
                Text(word.replace("{", "{{").replace("}", "}}"), getattr(word, "where", item.where))
                for word in resolve_words(item, values)
            ]
        else:
            found.append(item)
        if len(found) > MOST_RUNS:
            raise fail(value, f"{name!r} has more than {MOST_RUNS:,} values; split them into several sweeps")
    return found


def _read_input(key: Text, value: Value) -> list[Text] | OutputsOf:
    if not isinstance(value, Table):
        return as_texts(value, f"the input {key!r}")
    check_keys(value, REFERENCE_KEYS, f"the input {key!r}")
    if "outputs" not in value:
        raise fail(value, f"the input {key!r} needs `outputs: STEP`, the step whose outputs it is")
    target = as_text(value["outputs"], "outputs")
    step, _, output = target.partition(".")
    same = tuple(as_text(item, "same") for item in as_items(value.get("same"), "same"))
    return OutputsOf(Text(step, target.where), Text(output, target.where) if output else None, same)


def _read_stdout(value: Value, outputs: Mapping[Text, list[Text]]) -> Text:
    name = as_text(value, "stdout")
    if name not in outputs:
        raise fail(name, f"stdout: {name!r} is no output of the step{near_names(name, list(outputs))}")
    return name


def _read_together(value: Value) -> Together:
    table = as_table(value, "together")
    check_keys(table, TOGETHER_KEYS, "together")
    for key in TOGETHER_KEYS:
        if not table.get(key):
            raise fail(
                table,
                f"together has no `{key}:`; it needs the values that differ (over) and a command",
            )
    over = tuple(as_text(item, "over") for item in as_items(table["over"], "over"))
    return Together(over, _command(table["command"]))


def _read_slurm(table: Table, sweep: Table) -> SlurmSettings:
    options: dict[str, str] = {}
    for level in (sweep, table):
        for key, value in as_table(level.get("slurm"), "slurm").items():
            name = key.replace("_", "-")
            if not _OPTION.fullmatch(name):
                raise fail(
                    key, f"slurm: {key!r} is no option of sbatch; expected its long name, like mem-per-cpu"
                )
            options.pop(name, None)
            if value != []:  # empty: the step is submitted without this option of the sweep
                options[name] = _one_line(value, f"slurm: {name}")
    lines = [
        _one_line(line, "sbatch")
        for level in (sweep, table)
        for line in as_items(level.get("sbatch"), "sbatch")
    ]
    preamble = table.get("preamble", sweep.get("preamble"))
    return SlurmSettings(
        options=options,
        lines=lines,
        preamble=as_text(preamble, "preamble") if preamble else "",
        stage=tuple(as_text(item, "stage") for item in as_items(table.get("stage"), "stage")),
        throttle=as_number(table["throttle"], "throttle", 1) if "throttle" in table else None,
        requeues=as_number(table["requeues"], "requeues", 0) if "requeues" in table else REQUEUES,
    )


def _one_line(value: Value, what: str) -> Text:
    """A value for an #SBATCH line: a line break would start a line of bash, which runs as a command."""
    text = as_text(value, what)
    if has_controls(text):
        raise fail(
            value,
            f"{what} has the value {text!r}, which no #SBATCH line can hold; expected one line without control"
            " characters (commands for the start of a job are `preamble:`)",
        )
    return text


def _command(value: Value) -> list[Template]:
    """The words of a command, split as a shell would, before anything is filled in; a list is taken as it is."""
    if isinstance(value, Items):
        return [
            Template(as_text(word, "a word of the command"), as_text(word, "a word").where) for word in value
        ]
    text = as_text(value, "command")
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise fail(text, f"the command cannot be split into words: {str(error).lower()}") from error
    return [Template(word, text.where) for word in words]


def _entries(table: Table, key: str) -> Iterator[tuple[Text, Value]]:
    for name, value in as_table(table.get(key), key).items():
        assert isinstance(name, Text)
        yield name, value


def _check_name(name: str, what: str) -> None:
    if not _NAME.fullmatch(name):
        raise UserError(
            f"{getattr(name, 'where', name)}: {what} is {name!r}; use letters, digits, - and _ (it names files)"
        )
