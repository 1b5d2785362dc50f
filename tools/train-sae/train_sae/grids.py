"""Many SAEs in one command: the combinations of a grid, from the command line or from a YAML file."""

from __future__ import annotations

import itertools
import typing
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import NoneType
from typing import Any

from saetools.errors import UsageError, UserError, near_names
from train_sae.options import Flags

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
    """The combinations of a sweep file; raises UserError.

    It has one or more of: `grid`, flags with lists of values, of which every combination is trained; `zip`, flags
    with lists of one length, taken together; `runs`, a list of mappings from flags to values.
    """
    import yaml

    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: no readable YAML file: {error}".replace("\n", " ")) from error
    if not isinstance(found, dict) or set(found) - {"grid", "zip", "runs"} or not found:
        raise UserError(f"{path}: expected a mapping with one or more of grid, zip and runs at its top")
    combinations: list[Combination] = []
    if axes := _axes(found.get("grid", {}), path, "grid"):
        combinations += _product(axes)
    if axes := _axes(found.get("zip", {}), path, "zip"):
        if len({len(values) for values in axes.values()}) > 1:
            raise UserError(
                f"{path}: the lists in zip differ in length; they are taken together, one from each"
            )
        combinations += [dict(zip(axes, values, strict=True)) for values in zip(*axes.values(), strict=True)]
    runs = found.get("runs", [])
    if not isinstance(runs, list) or not all(isinstance(run, dict) for run in runs):
        raise UserError(f"{path}: runs is no list of mappings from flags to values")
    combinations += [{_flag(name, str(path)): _text(value) for name, value in run.items()} for run in runs]
    if not combinations:
        raise UserError(f"{path}: it asks for no runs")
    return combinations


def combine(flags: Flags, combinations: list[Combination]) -> dict[str, Flags]:
    """File names, such as `lr=1e-4_k=16`, and the flags of every combination; raises UsageError."""
    runs: dict[str, Flags] = {}
    for combination in combinations:
        name = "_".join(f"{flag}={text}" for flag, text in combination.items()).replace("/", "-")
        if name in runs:
            raise UsageError(f"{name}: the grid holds this combination twice")
        runs[name] = replace(flags, **{flag: _parse(flag, text) for flag, text in combination.items()})
    return runs


def _product(axes: Mapping[str, list[str]]) -> list[Combination]:
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def _axes(found: Any, path: Path, key: str) -> dict[str, list[str]]:
    if not isinstance(found, dict) or not all(
        isinstance(values, list) and values for values in found.values()
    ):
        raise UserError(f"{path}: {key} is no mapping from flags to lists of values")
    return {_flag(name, str(path)): [_text(value) for value in values] for name, values in found.items()}


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _flag(name: Any, where: str) -> str:
    flag, known = str(name).strip().removeprefix("--").replace("-", "_"), list(Flags.__dataclass_fields__)
    if flag not in known:
        near = near_names(flag, known)
        raise UsageError(f"{where}: {name!r} is no flag that can be swept{near or '; see train-sae --help'}")
    return flag


def _parse(flag: str, text: str) -> Any:
    kinds = typing.get_type_hints(Flags)[flag]
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
