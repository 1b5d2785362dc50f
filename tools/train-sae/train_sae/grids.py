"""Many SAEs in one command: the combinations of a grid, from the command line or from a YAML file."""

from __future__ import annotations

import itertools
import json
import typing
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import NoneType
from typing import Any

import yaml

from saetools.cli.located_yaml import Items, Text, Value, check_keys, fail, read_yaml
from saetools.cli.sweeps import KEYS, Run, expand_keys
from saetools.errors import UsageError, UserError, near_names
from train_sae.config import SAETraining

LONGEST_ENTRIES = 2000  # characters of `runs` that an error writes out
Combination = dict[str, str]  # flag, with _ in place of -, to its text


def parse_grid(text: str) -> list[Combination]:
    """`lr=1e-4,3e-4 k=16,32` -> the four combinations; raises UsageError."""
    axes: dict[str, list[str]] = {}
    for part in text.split():
        name, equals, values = part.partition("=")
        if not equals or not all(values.split(",")):
            raise UsageError(f"--grid {part!r}: expected FLAG=VALUE,VALUE,..., such as lr=1e-4,3e-4")
        if (flag := _flag(name, "--grid")) in axes:
            raise UsageError(f"--grid {part!r}: {name} stands there twice")
        axes[flag] = values.split(",")
    if not axes:
        raise UsageError("--grid: it is empty; expected FLAG=VALUE,VALUE,..., such as lr=1e-4,3e-4")
    return _product(axes)


def read_sweep(path: Path) -> list[Combination]:
    """The combinations of a sweep file, which has `grid`, `zip` or `runs` (see saetools.cli.sweeps); raises UserError.

    A file with two or three of the keys is refused, with the text that keeps its earlier meaning: their product
    (`multiply`), as in expand-sweep, where earlier versions trained the combinations of each, one after the other.
    """
    table = read_yaml(path, f"a mapping with one of {', '.join(KEYS)}")
    check_keys(table, KEYS, "a sweep of train-sae")
    runs_of = expand_keys(table)
    listed = [run for runs in runs_of.values() for run in runs]
    if len(runs_of) > 1:
        keys = " and ".join(runs_of)
        entries = ", ".join(map(_as_entry, listed))
        text = f"runs: [{entries}]"
        if len(text) > LONGEST_ENTRIES:
            text = f"runs: [{_as_entry(listed[0])}, ...] with each of the {len(listed)} as an entry"
        raise UserError(
            f"{path}: {keys} in one file are a product, as in expand-sweep; earlier versions of train-sae trained the"
            f" one after the other;\nlist the SAEs under runs alone. As earlier versions read this file:\n{text}"
        )
    combinations = [
        {_flag(name, getattr(name, "where", str(path))): _text(value) for name, value in run.items()}
        for run in listed
        if run
    ]
    if not combinations:
        raise UserError(f"{path}: it asks for no runs; write grid: {{lr: [1e-4, 3e-4]}}, for example")
    return combinations


def combine(flags: SAETraining, combinations: list[Combination]) -> dict[str, SAETraining]:
    """File names, such as `lr=1e-4_k=16`, and the flags of every combination; raises UsageError."""
    runs: dict[str, SAETraining] = {}
    for combination in combinations:
        name = "_".join(f"{flag}={text}" for flag, text in combination.items()).replace("/", "-")
        if name in runs:
            raise UsageError(f"{name}: the grid holds this combination twice")
        runs[name] = replace(flags, **{flag: _parse(flag, text) for flag, text in combination.items()})
    return runs


def _product(axes: Mapping[str, list[str]]) -> list[Combination]:
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def _text(value: Value) -> str:
    """As in the name of a file: a plain number or truth value as YAML reads it, other text as typed."""
    if isinstance(value, list):
        return ",".join(map(_text, value))
    if not isinstance(value, Text):
        raise fail(value, "expected a value, or a list of values")
    try:
        found = yaml.safe_load(value) if value.plain else str(value)
    except (ValueError, yaml.YAMLError):  # 2026-13-01 is no date, and 5,000 digits are no number
        found = str(value)
    return str(found).lower() if isinstance(found, bool) else str(found)


def _as_entry(run: Run) -> str:
    """An entry of `runs` as YAML on one line, as it stands in the file."""

    def written(value: Value) -> str:
        if isinstance(value, Text):
            return str(value) if value.plain else json.dumps(value)
        return f"[{', '.join(map(written, value))}]" if isinstance(value, Items) else "{}"

    return "{" + ", ".join(f"{name}: {written(value)}" for name, value in run.items()) + "}"


def _flag(name: Any, where: str) -> str:
    flag, known = (
        str(name).strip().removeprefix("--").replace("-", "_"),
        list(SAETraining.__dataclass_fields__),
    )
    if flag not in known:
        near = near_names(flag, known)
        raise UsageError(f"{where}: {name!r} is no flag that can be swept{near or '; see train-sae --help'}")
    return flag


def _parse(flag: str, text: str) -> Any:
    kinds = typing.get_type_hints(SAETraining)[flag]
    kind = next(option for option in (*typing.get_args(kinds), kinds) if option is not NoneType)
    if kind is bool:
        if text not in ("true", "false"):
            raise UsageError(f"{flag}={text}: expected true or false")
        return text == "true"
    try:
        value = kind(text)
    except ValueError as error:
        expected = "a whole number" if kind is int else "a number"
        raise UsageError(f"{flag}={text}: expected {expected}") from error
    if kind is not str and flag != "seed" and not 0 <= value < float("inf"):
        raise UsageError(f"{flag}={text}: expected a number that is not negative")
    return value
