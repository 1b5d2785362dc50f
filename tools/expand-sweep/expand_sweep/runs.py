"""What a step varies: every combination of its `grid`, `zip` and `runs`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

from expand_sweep.located_yaml import Table, Text, Value, as_items, as_table, fail
from expand_sweep.templates import Resolved, Template, resolve_words

Run = Mapping[str, Value]


def combine(table: Table, values: Mapping[str, Resolved]) -> Iterator[Run]:
    """Every combination of what `grid`, `zip` and `runs` vary: their product, in the order of the file."""
    factors: list[list[Run]] = []
    names: dict[str, Value] = {}
    for key in table:
        if key == "grid":
            grid = as_table(table[key], key)
            factors += [[{name: item} for item in _choices(grid[name], name, values)] for name in grid]
            new = list(grid)
        elif key == "zip":
            columns = {
                name: _choices(items, name, values) for name, items in as_table(table[key], key).items()
            }
            lengths = {name: len(items) for name, items in columns.items()}
            if len(set(lengths.values())) > 1:
                raise fail(
                    key, f"zip: its lists differ in length: {lengths}; make them the same, or use grid"
                )
            factors.append(
                [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
            )
            new = list(columns)
        elif key == "runs":
            rows = [as_table(row, "a run") for row in as_items(table[key], key)]
            for row in rows:
                if set(row) != set(rows[0]):
                    odd = sorted(set(row) ^ set(rows[0]))
                    raise fail(
                        row, f"this run and the first differ in {', '.join(odd)}; give all runs the same keys"
                    )
            factors.append([dict(row) for row in rows])
            new = list(rows[0]) if rows else []
        else:
            continue
        for name in new:
            if name in names:
                raise fail(table[key], f"{name!r} is varied twice; keep it in one of grid, zip and runs")
            names[name] = table[key]
    for combination in itertools.product(*factors):
        yield {name: value for run in combination for name, value in run.items()}


def _choices(value: Value, name: str, values: Mapping[str, Resolved]) -> list[Value]:
    """What a name varies over; `"{layers}"` stands for the values of that list of the sweep."""
    choices: list[Value] = []
    for item in as_items(value, name):
        if (
            isinstance(item, Text)
            and "{" in item
            and all(n in values for n in Template(item, item.where).names)
        ):
            choices += [
                Text(_literal(word), getattr(word, "where", item.where))
                for word in resolve_words(item, values)
            ]
        else:
            choices.append(item)
    if not choices:
        raise fail(value, f"{name!r} has no values; give at least one")
    return choices


def _literal(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")
