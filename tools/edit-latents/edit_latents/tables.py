"""From the sums of all parts to the tables, and to the predictions that are kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from edit_latents.effects import FIELDS, Resamples, interval, mean_defined, ratios
from edit_latents.plan import Case, Edit
from saetools.cli.markdown import render_markdown
from saetools.files.edit_tables import (
    CONTROLS,
    DRAWN,
    EFFECT_COLUMNS,
    FIDELITY_COLUMNS,
    INPUTS,
    MEASURES,
    NONE,
    RECONSTRUCTION,
    draw_range,
    with_interval,
)
from saetools.files.formats import EDIT_PARTS
from saetools.files.npz import read_npz

EDITS_AT_ONCE = 256  # whose resamples are in memory
FIDELITY_FIELDS = ("rows", "right", "loss")
FIDELITY_RATIOS = {"accuracy": ("right", "rows"), "cross_entropy": ("loss", "rows")}


def read_parts(paths: Sequence[Path], name: str) -> Iterator[np.ndarray]:
    """One array of each part."""
    for path in paths:
        yield read_npz(path, EDIT_PARTS)[1][name]


def effects_table(
    parts: Sequence[Path],
    cases: Sequence[Case],
    edits: Sequence[Edit],
    names: Sequence[str],
    operation: str,
    amounts: Sequence[float],
    resamples: int,
    seed: int,
) -> pd.DataFrame:
    """A row for each case, amount and control; random controls are the mean of their draws."""
    rows: list[dict[str, Any]] = []
    for group in _rows_of_edits(edits):
        total, drawn = _resampled(parts, [number for row in group for number in row], resamples, seed)
        start = 0
        for members in group:
            here = slice(start, start + len(members))
            first = edits[members[0]]
            of_amounts = range(len(amounts)) if first.control == RECONSTRUCTION else [first.amount]
            values = _row(total[here], drawn[:, here])
            for amount in of_amounts:
                case = cases[first.case]
                rows.append(
                    {
                        "latent": case.latent,
                        "target": names[case.target],
                        "operation": operation,
                        "amount": amounts[amount],
                        "control": first.control,
                        "draws": len(members),
                        **values,
                        "_order": (first.case, amount, CONTROLS.index(first.control)),
                    }
                )
            start += len(members)
    rows.sort(key=lambda row: row.pop("_order"))
    return pd.DataFrame(rows, columns=EFFECT_COLUMNS)


def _rows_of_edits(edits: Sequence[Edit]) -> Iterator[list[list[int]]]:
    """Numbers of the edits of each row, in groups of rows with some EDITS_AT_ONCE edits."""
    rows: dict[tuple[int, str, int], list[int]] = {}
    for number, edit in enumerate(edits):
        rows.setdefault((edit.case, edit.control, edit.amount), []).append(number)
    group: list[list[int]] = []
    for members in rows.values():
        group.append(members)
        if sum(map(len, group)) >= EDITS_AT_ONCE:
            yield group
            group = []
    if group:
        yield group


def _resampled(
    parts: Sequence[Path], numbers: Sequence[int], resamples: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Sums over images {e, FIELDS + images} of some edits, and of each resample {r, e, FIELDS}."""
    drawn = Resamples(resamples, seed, (len(numbers), len(FIELDS)))
    images_e = np.zeros(len(numbers))
    for block, sums_enf in enumerate(read_parts(parts, "sums")):
        chosen = sums_enf[numbers]
        drawn.add(block, chosen.transpose(1, 0, 2))
        images_e += (chosen[..., FIELDS.index("patches")] > 0).sum(1)
    return np.column_stack([drawn.total, images_e]), drawn.drawn


def _row(total_df: np.ndarray, drawn_rdf: np.ndarray) -> dict[str, Any]:
    """The columns of a row from the sums of its draws d."""
    of_draws = ratios(total_df[:, :-1])
    mean, resampled = ratios(total_df[:, :-1].sum(0)), ratios(drawn_rdf.sum(1))
    found: dict[str, Any] = {
        "images": int(total_df[0, -1]),
        "patches": int(total_df[0, FIELDS.index("patches")]),
        "relative_change": float(mean["relative_change"]),
    }
    for name in MEASURES:
        low, high = interval(resampled[name])
        found |= zip(with_interval(name), (float(mean[name]), low, high), strict=True)
    for name in DRAWN:
        found |= zip(draw_range(name), (of_draws[name].min(), of_draws[name].max()), strict=True)
    return found


def fidelity_table(parts: Sequence[Path], inputs: Sequence[str], resamples: int, seed: int) -> pd.DataFrame:
    """A row for each input of the head that was tried, see docs/metrics.md."""
    drawn = Resamples(resamples, seed, (len(INPUTS), len(FIDELITY_FIELDS)))
    n_images = 0
    for block, sums_inf in enumerate(read_parts(parts, "fidelity")):
        drawn.add(block, sums_inf.transpose(1, 0, 2))
        n_images += sums_inf.shape[1]
    whole = ratios(drawn.total, FIDELITY_FIELDS, FIDELITY_RATIOS)
    resampled = ratios(drawn.drawn, FIDELITY_FIELDS, FIDELITY_RATIOS)
    rows = []
    for i, name in enumerate(INPUTS):
        if name not in inputs:
            continue
        row: dict[str, Any] = {"input": name, "images": n_images, "rows": int(drawn.total[i, 0])}
        for measure in FIDELITY_RATIOS:
            low, high = interval(resampled[measure][:, i])
            row |= zip(with_interval(measure), (float(whole[measure][i]), low, high), strict=True)
        recovered, low, high = float("nan"), float("nan"), float("nan")
        if name == RECONSTRUCTION and "mean" in inputs:
            recovered = float(_recovered(whole["cross_entropy"]))
            low, high = interval(_recovered(resampled["cross_entropy"].T))
        row |= zip(with_interval("ce_recovered"), (recovered, low, high), strict=True)
        rows.append(row)
    return pd.DataFrame(rows, columns=FIDELITY_COLUMNS)


def _recovered(loss_i: np.ndarray) -> np.ndarray:
    """(CE_mean - CE_hat) / (CE_mean - CE_x), NaN where the mean does as well as x."""
    of = dict(zip(INPUTS, loss_i, strict=True))
    lost = of["mean"] - of["x"]
    above = of["mean"] - of[RECONSTRUCTION]
    return np.divide(above, lost, out=np.full(np.shape(lost), np.nan), where=np.asarray(lost) != 0)


def kept_predictions(
    parts: Sequence[Path], cases: Sequence[Case], edits: Sequence[Edit], n_amounts: int
) -> Iterator[tuple[list[str], dict[str, np.ndarray]]]:
    """For each case: its controls, and before, after {K, A, N, ...}, value, edited of the N images that are kept."""
    kept = [edit for edit in edits if edit.draw == 0]
    joined = {
        name: np.concatenate(list(read_parts(parts, name)), axis)
        for name, axis in (("before", 0), ("after", 1), ("value", 1), ("edited", 1))
    }
    for number in range(len(cases)):
        mine = [i for i, edit in enumerate(kept) if edit.case == number]
        controls = list(dict.fromkeys(kept[i].control for i in mine))
        at = {(kept[i].control, kept[i].amount): i for i in mine}
        order = [
            [at[control, 0 if control == RECONSTRUCTION else amount] for amount in range(n_amounts)]
            for control in controls
        ]
        yield (
            controls,
            {
                "before": joined["before"],
                "after": joined["after"][np.array(order)],
                "value": joined["value"][number],
                "edited": joined["edited"][number],
            },
        )


def render_effects(table: pd.DataFrame) -> str:
    """By control and amount the mean over latents, for people."""
    amounts = sorted(table["amount"].unique())
    rows = []
    for control in CONTROLS:
        mine = table[table["control"] == control]
        if mine.empty:
            continue
        cells: list[object] = ["the latent" if control == NONE else control]
        for amount in amounts:
            here = mine[mine["amount"] == amount]
            cells += [mean_defined(here["target_changed"]), mean_defined(here["other_changed"])]
        rows.append(cells)
    operation = table["operation"].iloc[0]
    head = ["edit", *(f"{operation} {amount:g}: {of}" for amount in amounts for of in ("target", "others"))]
    return render_markdown(head, rows)


def render_fidelity(table: pd.DataFrame) -> str:
    """For people."""
    columns = ["accuracy", "cross_entropy", "ce_recovered"]
    return render_markdown(
        ["patches replaced by", *(name.replace("_", " ") for name in columns)],
        ([row["input"], *(row[name] for name in columns)] for _, row in table.iterrows()),
    )
