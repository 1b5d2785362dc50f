"""Averages of runs: one row for each combination of the columns that identify a row."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import pandas as pd

from saetools.errors import UsageError, near_names
from saetools.files.ap_tables import spread
from saetools.log import logger
from saetools.metrics.pareto import APART

DEFAULT_BY = ["scorer", "n_prototypes", "checkpoint", "layer", "n_train"]
EDITS_BY = ["operation", "amount", "control", "input"]
# These are one axis of a sweep together: a scorer has its own number of prototypes, a checkpoint its own layer.
ONE_AXIS = {
    *("scorer", "n_prototypes", "checkpoint", "file", "model", "d_sae", "group"),
    *("operation", "amount", "latent", "target"),
}
RESULTS = ["runs", "traits", "map", "map_sd", "ap_5", "ap_95"]


def default_by(runs: pd.DataFrame) -> list[str]:
    """The columns that identify a row without --by: DEFAULT_BY for AP tables, else the file, with EDITS_BY of edits."""
    found = [name for name in DEFAULT_BY if name in runs and runs[name].notna().any()]
    all_ap = "scorer" in found and "n_train" in found and runs["n_train"].notna().all()
    return found if all_ap else ["file", *found, *(name for name in EDITS_BY if name in runs)]


def check_columns(option: str, names: Sequence[str], runs: pd.DataFrame) -> None:
    """Raise UsageError for a column that no run has."""
    for name in names:
        if name not in runs.columns:
            near = near_names(name, list(runs.columns)) or f"; there are {', '.join(map(str, runs.columns))}"
            raise UsageError(f"{option} {name}: no run has such a column{near}")


def gather(runs: pd.DataFrame, by: Sequence[str], wanted: Sequence[str] = ()) -> pd.DataFrame:
    """One row per combination of `by`, in order of appearance: numbers are means over runs.

    `runs` is their number; text is kept if all runs agree. `map_sd` is the standard deviation of mAP between runs,
    empty if all are equal; `wanted` names others, such as `nmse_sd`. Logs the columns in which some
    runs have no value: the mean is then over fewer than `runs`.
    """
    groups = runs.groupby(list(by), sort=False, dropna=False)
    columns: dict[str, pd.Series] = {"runs": groups.size()}
    for name in runs.columns:
        if name in by:
            continue
        if pd.api.types.is_numeric_dtype(runs[name]) and not pd.api.types.is_bool_dtype(runs[name]):
            columns[str(name)] = groups[name].mean()
            if f"{name}_sd" in wanted or (name == "map" and (columns["runs"] > 1).any()):
                columns[f"{name}_sd"] = spread(groups[name])
            n_known = groups[name].count()
            is_fewer = (n_known > 0) & (n_known < columns["runs"])
            if len(fewer := n_known[is_fewer]):
                logger.info(
                    "%s: the mean of %d rows is over fewer runs than in the column `runs` (first: %d of %d);"
                    " the others have no value",
                    *(name, len(fewer), fewer.iloc[0], columns["runs"][is_fewer].iloc[0]),
                )
        elif (groups[name].nunique(dropna=False) <= 1).all():
            columns[str(name)] = groups[name].first()
    columns.pop("seed", None)
    ordered = [name for name in RESULTS if name in columns]
    asked = {*ordered, *wanted}
    rest = [
        name for name in columns if name not in RESULTS and (name in asked or not columns[name].isna().all())
    ]
    return pd.DataFrame({name: columns[name] for name in [*ordered, *rest]}).reset_index()


def comparable(runs: pd.DataFrame, by: Sequence[str]) -> list[str]:
    """For each row of `gather`, the values of APART: rows with the same values are compared on one Pareto front."""
    names = [name for name in APART if name in runs]
    if not names:
        return [""] * runs.groupby(list(by), sort=False, dropna=False).ngroups
    joined = runs[names].astype(str).agg("|".join, axis=1)
    groups = joined.groupby([runs[name] for name in by], sort=False, dropna=False)
    return list(groups.agg(lambda values: "; ".join(sorted(set(values)))))


def missing_runs(runs: pd.DataFrame, by: Sequence[str]) -> list[str]:
    """The combinations of a full sweep that have no run, each as `a=1, b=2`.

    Every column of `by`, and the seed, is an axis of the sweep with the values that occur; those that
    belong together (a scorer and its number of prototypes), or that some runs lack, are one axis.
    """
    names = [*by, *(name for name in ["seed"] if name in runs and name not in by)]
    together = [name for name in names if name in ONE_AXIS or runs[name].isna().any()]
    if "checkpoint" in together:
        together += [name for name in ("layer",) if name in names and name not in together]
    alone = [name for name in names if name not in together]
    if not alone:
        return []
    axes = [_values(runs, together)] if together else []
    axes += [_values(runs, [name]) for name in alone]
    order = [*together, *alone]
    seen = {tuple(map(_comparable, row)) for row in runs[order].itertuples(index=False)}
    missing = []
    for parts in product(*axes):
        values = [value for part in parts for value in part]
        if tuple(map(_comparable, values)) not in seen:
            named = [f"{n}={v}" for n, v in zip(order, values, strict=True) if not pd.isna(v)]
            missing.append(", ".join(named))
    return missing


def _values(runs: pd.DataFrame, names: Sequence[str]) -> list[tuple[object, ...]]:
    return list(runs[list(names)].drop_duplicates().itertuples(index=False, name=None))


def _comparable(value: object) -> object:
    return None if pd.isna(value) else value
