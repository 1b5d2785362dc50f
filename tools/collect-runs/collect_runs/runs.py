"""Reads a table of ours as runs: one row for each run, with its settings and results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from saetools.errors import UserError
from saetools.files.ap_tables import mean_ap
from saetools.files.formats import (
    AP_TABLE,
    COLLECTED_RUNS,
    EDIT_EFFECTS,
    EDIT_FIDELITY,
    TABLES,
    TRAINING_METRICS,
)
from saetools.files.provenance import Provenance
from saetools.files.tables import check_columns, read_csv, sidecar_values
from saetools.files.user_csv import numbers_of
from saetools.metrics.pareto import measured_on

# The columns that identify a run of an AP table; an empty cell counts as a value.
AP_RUN = ["scorer", "n_prototypes", "checkpoint", "model", "layer", "n_train", "seed"]
GROUP, GROUP_MARK = "group", "::"
EVALUATION = "eval_"
EDITS = (EDIT_EFFECTS.name, EDIT_FIDELITY.name)
# Ends of intervals and ranges: the mean of several says nothing
ENDS = ("_low", "_high", "_draw_min", "_draw_max")
HIDDEN = (
    "weights",
    "hook",
    "data",
)  # digests and the like: they separate Pareto fronts, but are not shown
NAMES = ("model", "scorer")  # text columns that are the same in all rows of a table
FORMATS = [format for format in TABLES if format != COLLECTED_RUNS]


def read_runs(path: Path, by: Sequence[str] | None) -> tuple[pd.DataFrame, Provenance]:
    """(runs, provenance) of the CSV at `path`; columns: `file`, those of its kind, and the settings in the provenance.

    AP table: a run is a scorer, layer, seed and number of training images; its traits become `traits`, `map`,
    `ap_5` and `ap_95`, per group of traits where `by` has `group`.
    Training metrics: the last row, the evaluation under plain names.
    Effects and fidelity of edits: every row is a run, without the ends of its intervals.
    Any other table: the means of its numbers. Raises UserError where it is not one of our tables, or broken.
    `scorer` is the kind of the scorer, never its uid. Columns of `measured_on` are
    added where the table does not have them.
    """
    table, provenance = read_csv(path, FORMATS)
    if provenance.format == AP_TABLE.name:
        runs = _ap_runs(table, path, grouped=by is not None and GROUP in by)
    elif provenance.format == TRAINING_METRICS.name:
        runs = _last_row(table, path, provenance)
    elif provenance.format in EDITS:
        runs = _edit_rows(table, provenance)
    else:
        means = table.select_dtypes("number").mean().to_frame().T.assign(rows=len(table))
        for name in NAMES:
            if name in table and name not in means and table[name].nunique(dropna=False) == 1:
                means.insert(0, name, table[name].iloc[0])
        runs = _with_settings(means, provenance)
    for name, value in measured_on(sidecar_values(path)).items():
        if name not in runs:
            runs[name] = value
    runs.insert(0, "file", str(path))
    return runs, provenance


def _ap_runs(table: pd.DataFrame, path: Path, *, grouped: bool) -> pd.DataFrame:
    check_columns(path, table, [*AP_RUN, "trait", "ap"], "the mAP of a run")
    table = table.assign(ap=numbers_of(path, table["ap"]))
    by = list(AP_RUN)
    if grouped:
        table = table.assign(group=table["trait"].astype(str).str.partition(GROUP_MARK)[0])
        by.append(GROUP)
    runs = table.groupby(by, sort=False, dropna=False)
    result = mean_ap(table, by)
    per_trait = {*by, "trait", "prototype", "ap_train", "ap", "ap_low", "ap_high", "n_pos", "threshold"}
    for name in table.columns:
        if name not in per_trait:
            result[name] = runs[name].mean() if table[name].dtype.kind in "iuf" else runs[name].first()
    return result.reset_index()


def _last_row(table: pd.DataFrame, path: Path, provenance: Provenance) -> pd.DataFrame:
    """The settings, the evaluation under plain names, and what else was logged last, in this order of precedence.

    So `lr` is the one asked for, not that of the last step, and `mse` the evaluation's, not the last batch's.
    """
    if table.empty:
        raise UserError(f"{path}: it has no rows: the run has not logged anything yet")
    row = table.tail(1).reset_index(drop=True)
    evaluation = row[[name for name in row if name.startswith(EVALUATION)]].dropna(axis=1)
    evaluation.columns = evaluation.columns.str.removeprefix(EVALUATION)
    run = _with_settings(evaluation, provenance)
    logged = [name for name in row if not name.startswith(EVALUATION) and name not in run]
    return pd.concat([run, row[logged]], axis=1)


def _edit_rows(table: pd.DataFrame, provenance: Provenance) -> pd.DataFrame:
    """The rows with the settings beside them. Latents are names, of which there is no mean."""
    rows = table[[name for name in table if not str(name).endswith(ENDS)]]
    if "latent" in rows:
        rows = rows.astype({"latent": str})
    settings = _with_settings(rows.iloc[:1], provenance)
    added = {str(name): settings[name].iloc[0] for name in settings if name not in rows}
    return rows.assign(**added) if len(rows) else rows


def _with_settings(row: pd.DataFrame, provenance: Provenance) -> pd.DataFrame:
    """Plain settings become columns, where the table has no column of that name.

    Of probes, `scorer` in the settings is a uid and `kind` what people call it.
    """
    settings = dict(provenance.settings)
    if "kind" in settings:
        settings["scorer"] = settings.pop("kind")
    elif provenance.format in EDITS:
        settings.pop("scorer", None)
    plain = {
        name: value
        for name, value in settings.items()
        if isinstance(value, str | int | float | bool) and name not in row
    }
    return pd.concat([pd.DataFrame([plain]), row], axis=1) if plain else row
