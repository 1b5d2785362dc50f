"""What a sweep varies: `grid`, `zip` and `runs`, for `expand-sweep` and for `train-sae --sweep`.

    grid: {lr: [1e-4, 3e-4], k: [16, 32]}           every combination
    zip: {d_sae: [512, 2048], seed: [0, 1]}         the first with the first, the second with the second
    runs: [{l1: 1e-3}, {l1: 4e-3, warmup: 0.1}]     one by one

Several of the keys together are their product, in the order of the file. A union is written as entries of `runs`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from saetools.cli.located_yaml import Items, Table, Value, as_items, as_table, fail

KEYS = ("grid", "zip", "runs")
MOST_RUNS = 100_000

Run = Mapping[str, Value]


def list_values(value: Value, name: str) -> list[Value]:
    """What a name varies over: the items of a list; a single value is a list of one."""
    return list(as_items(value, name))


def expand_keys(
    table: Table, values_of: Callable[[Value, str], Sequence[Value]] = list_values
) -> dict[str, list[Run]]:
    """The runs of each of `grid`, `zip` and `runs` that the table has, in the order of the file.

    values_of: the values of one name of `grid` or `zip`. Raises UserError with the place in the file.
    """
    found: dict[str, list[Run]] = {}
    for key in table:
        if key == "grid":
            columns = _columns(table, key, values_of)
            _check_number(key, [len(items) for items in columns.values()])
            rows: Iterator[tuple[Value, ...]] = itertools.product(*columns.values())
        elif key == "zip":
            columns = _columns(table, key, values_of)
            lengths = {str(name): len(items) for name, items in columns.items()}
            if len(set(lengths.values())) > 1:
                raise fail(
                    key, f"zip: its lists differ in length: {lengths}; make them the same, or use grid"
                )
            rows = zip(*columns.values(), strict=True)
        elif key == "runs":
            if not isinstance(table[key], Items):
                raise fail(table[key], "runs must be a list of mappings: [{lr: 1e-4}, {lr: 3e-4}]")
            found[key] = [as_table(run, "an entry of runs") for run in as_items(table[key], key)]
            continue
        else:
            continue
        found[key] = [dict(zip(columns, row, strict=True)) for row in rows]
    return found


def multiply(table: Table, runs_of: Mapping[str, Sequence[Run]]) -> Iterator[Run]:
    """The product of what `expand_keys` found in the table; raises UserError where two keys vary one name."""
    seen: set[str] = set()
    for key, runs in runs_of.items():
        names = {name for run in runs for name in run}
        if twice := sorted(names & seen):
            raise fail(table[key], f"{twice[0]!r} is varied twice; keep it in one of grid, zip and runs")
        seen |= names
    if runs_of:
        _check_number(next(iter(table)), [len(runs) for runs in runs_of.values()])
    for combination in itertools.product(*runs_of.values()):
        yield {name: value for run in combination for name, value in run.items()}


def _check_number(key: Any, lengths: Sequence[int]) -> None:
    if math.prod(lengths) > MOST_RUNS:
        each = " x ".join(f"{length:,}" for length in lengths)
        raise fail(key, f"{each} are more than {MOST_RUNS:,} runs; split them into several sweeps")


def _columns(
    table: Table, key: str, values_of: Callable[[Value, str], Sequence[Value]]
) -> dict[str, Sequence[Value]]:
    columns: dict[str, Sequence[Value]] = {}
    for name, value in as_table(table[key], key).items():
        columns[name] = values_of(value, name)
        if not columns[name]:
            raise fail(value, f"{name!r} has no values; give at least one")
    return columns
