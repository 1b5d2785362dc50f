"""Tables about latents (--table) as columns of the page's table.

Three kinds of CSV, recognised by their columns: one row per latent (latents.csv: `latent` and others), one
per class (probes.csv: `class`, `latent`, `ap`, `r`), one per trait (AP table: `trait`, `prototype`, `ap`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from render_visuals.tables import (
    CLASSES,
    LATENT_TABLES,
    TRAITS,
    check_made_from,
    read_table,
    rows_of_latents,
)
from saetools.errors import UserError
from saetools.files.user_csv import numbers_of, whole_numbers
from saetools.labels.splits import PATCH, TARGET
from saetools.latents.header import LatentsHeader

if TYPE_CHECKING:
    import pandas as pd

# Columns that the page has anyway, and details of a probe.
LEFT_OUT = {
    "latent",
    "frequency",
    "mean_value",
    "max_value",
    "mean",
    "max",
    "n_images",
    "count",
    "weight",
    "bias",
    "flags",
}
TITLES = {"class": "class", "ap": "class AP", "train_r": "train R"}


@dataclass
class Column:
    """One value per latent: numbers {K}, NaN where there is none, or texts [K]."""

    name: str
    title: str
    hint: str
    values: Any

    @property
    def is_text(self) -> bool:
        return isinstance(self.values, list)


@dataclass
class Annotations:
    """What tables add to latents.

    columns: of the page's table. best_for: (latent, `trait` or `class`, name, ap, r, prevalence), for every trait or
    class that has a best latent.
    """

    columns: list[Column] = field(default_factory=list)
    best_for: list[tuple[int, str, str, float, float, float]] = field(default_factory=list)


def read_tables(
    paths: list[Path],
    header: LatentsHeader,
    scorer: Path | None,
    label_names: Sequence[str] | None,
    class_names: Mapping[int, str] | None = None,
) -> Annotations:
    """Read the tables; raises UserError where one is of another kind, or about other latents.

    scorer: its file; selects the rows if an AP table holds several scorers of a kind and size.
    label_names, class_names: names for the numbers in tables that fit-probes made of patch labels, of images' classes.
    """
    known = Annotations()
    for path in paths:
        table, provenance = read_table(path, LATENT_TABLES)
        check_made_from(path, provenance, header)
        # In tables without provenance, classes keep their numbers: what they are of is not known
        of = provenance.settings.get("labels") if provenance is not None else None
        names = {PATCH: dict(enumerate(label_names or [])), TARGET: class_names or {}}.get(str(of), {})
        if set(table.columns) >= TRAITS:
            _add_traits(known, path, table, header, scorer)
        elif set(table.columns) >= CLASSES:
            _add_classes(known, path, _with_class_names(table, names), header)
        elif "latent" in table.columns:
            _add_latents(known, path, _with_class_names(table, names), header)
        else:
            raise UserError(
                f"{path}: its columns are {', '.join(name[:60] for name in list(table.columns)[:8])};"
                " expected latents.csv or probes.csv of"
                " fit-probes, or the AP table of score-traits"
            )
    return known


def _with_class_names(table: pd.DataFrame, names: Mapping[int, str]) -> pd.DataFrame:
    """Classes as text: by their names, where there are any."""
    if "class" not in table or table["class"].dtype.kind not in "if":
        return table

    def name(label: float) -> str:
        return "" if np.isnan(label) else names.get(int(label), f"{label:g}")

    return table.assign(**{"class": [name(float(label)) for label in table["class"]]})


def _add_traits(
    known: Annotations, path: Path, table: pd.DataFrame, header: LatentsHeader, scorer: Path | None
) -> None:
    mine = rows_of_latents(path, table, header, scorer)
    if "n_train" in mine:
        mine = mine[mine["n_train"] == mine["n_train"].max()]
    _add_best(known, path, mine.dropna(subset=["prototype", "ap"]), "prototype", "trait", header)


def _add_classes(known: Annotations, path: Path, table: pd.DataFrame, header: LatentsHeader) -> None:
    _add_best(known, path, table.dropna(subset=["latent", "ap"]), "latent", "class", header)


def _add_best(
    known: Annotations, path: Path, table: pd.DataFrame, latent: str, kind: str, header: LatentsHeader
) -> None:
    """For each latent, the trait or class with the largest AP among those for which it is the best latent."""
    numbers = _latents(path, table[latent], header)
    measures = {
        name: numbers_of(path, table[name]) if name in table else np.full(len(table), np.nan)
        for name in ("ap", "r", "prevalence")
    }
    measures["gain"] = measures["ap"] - measures["prevalence"]
    names = [str(one) for one in table[kind]]
    best = [""] * header.n_latents
    values = {name: np.full(header.n_latents, np.nan) for name in measures}
    for row in np.argsort(-measures["ap"], kind="stable"):
        k = int(numbers[row])
        if not best[k]:
            best[k] = names[row]
            for name, measured in measures.items():
                values[name][k] = measured[row]
        ap, r, prevalence = (float(measures[name][row]) for name in ("ap", "r", "prevalence"))
        known.best_for.append((k, kind, names[row], ap, r, prevalence))
    taken = {column.name for column in known.columns}
    of = f"the {kind} of largest AP for which this is the best latent ({path.name})"
    shown = {
        "ap": ("AP", f"average precision on test of {of}"),
        "gain": ("gain", f"AP minus prevalence (0 for a constant score), of {of}"),
        "r": ("R", f"R: 1 - probe loss / loss of the prior, of {of}"),
    }
    known.columns.append(Column(_free(kind, taken), f"best {kind}", of, best))
    for name, (title, hint) in shown.items():
        if not np.isnan(values[name]).all():
            known.columns.append(Column(_free(name, taken), title, hint, values[name]))


def _free(name: str, taken: set[str]) -> str:
    """The name, with a number if an earlier table has a column of that name."""
    return next(one for one in (name, *(f"{name}_{i}" for i in range(2, 100))) if one not in taken)


def _add_latents(known: Annotations, path: Path, table: pd.DataFrame, header: LatentsHeader) -> None:
    numbers = _latents(path, table["latent"], header)
    if len(np.unique(numbers)) != len(numbers):
        raise UserError(
            f"{path}: it has several rows for one latent; expected one row each, or the columns class and ap"
        )
    taken = {column.name for column in known.columns}
    for name in table.columns:
        if name in LEFT_OUT:
            continue
        series = table[name]
        key = "".join(c if c.isalnum() else "_" for c in str(name).lower())
        key = _free(key, taken)
        values: Any
        if series.dtype.kind in "biuf":
            values = np.full(header.n_latents, np.nan)
            values[numbers] = series.to_numpy(np.float64)
        else:
            values = [""] * header.n_latents
            for k, text in zip(numbers, series.fillna("").astype(str), strict=True):
                values[int(k)] = text
        known.columns.append(
            Column(
                key,
                TITLES.get(str(name), str(name).replace("_", " ")),
                f"column {name} of {path.name}",
                values,
            )
        )


def _latents(path: Path, column: pd.Series, header: LatentsHeader) -> np.ndarray:
    numbers = whole_numbers(path, column)
    if len(numbers) and not (numbers.min() >= 0 and numbers.max() < header.n_latents):
        raise UserError(
            f"{path}: it has latents {numbers.min()} to {numbers.max()}, but these are numbered 0 to"
            f" {header.n_latents - 1}; give a table of the same scorer"
        )
    return numbers
