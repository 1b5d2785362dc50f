"""Figures of trainings: the front of a sweep, and how runs went."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from render_visuals.figures import FAINT, INK, colour_of, legend_above, new_figure
from saetools.csv_files import check_columns
from saetools.errors import UserError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

LABELLED = 12  # points of the front with a name beside them


def front(tables: Sequence[tuple[Path, pd.DataFrame]]) -> Figure:
    """NMSE against L0, one point per SAE; those that no other SAE beats in both are joined and named."""
    names, l0, nmse = _points(tables)
    figure = new_figure(6.4, 4.4)
    axes = figure.add_subplot()
    best = pareto_front(l0, nmse)
    others = np.setdiff1d(np.arange(len(l0)), best)
    axes.scatter(l0[others], nmse[others], s=20, color=FAINT, label="beaten by another", zorder=2)
    axes.plot(
        l0[best], nmse[best], color=colour_of(0), marker="o", markersize=5, label="Pareto front", zorder=3
    )
    middle = np.sqrt(l0.min() * l0.max()) if l0.min() > 0 else l0.mean()
    for i in best if len(best) <= LABELLED else ():
        side, shift = ("left", 6) if l0[i] <= middle else ("right", -6)
        axes.annotate(
            names[i], (l0[i], nmse[i]), (shift, 5), ha=side, textcoords="offset points", fontsize=7, color=INK
        )
    if l0.min() > 0 and l0.max() / l0.min() > 3:
        axes.set_xscale("log")
    if nmse.min() > 0 and nmse.max() / nmse.min() > 10:
        axes.set_yscale("log")
    axes.set_xlabel("L0: latents that fire, mean over patches")
    axes.set_ylabel("NMSE")
    legend_above(axes)
    axes.set_title(f"{len(l0)} SAEs", loc="right")
    return figure


def pareto_front(l0: np.ndarray, nmse: np.ndarray) -> np.ndarray:
    """Numbers of the points that no other has at most as large in both and smaller in one, by ascending L0."""
    order = np.lexsort((nmse, l0))
    lowest = np.minimum.accumulate(np.concatenate([[np.inf], nmse[order][:-1]]))
    kept = order[nmse[order] < lowest]
    return np.array(kept, np.int64)


def _points(tables: Sequence[tuple[Path, pd.DataFrame]]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """From tables of many SAEs (columns l0, nmse), or metrics of one training each (eval_l0, eval_nmse)."""
    names: list[str] = []
    points: list[tuple[float, float]] = []
    for path, table in tables:
        if {"eval_l0", "eval_nmse"} <= set(table.columns):
            rows = table.dropna(subset=["eval_l0", "eval_nmse"]).tail(1)
            found = [(path.name.removesuffix(".csv").removesuffix(".metrics"), rows, "eval_l0", "eval_nmse")]
        else:
            check_columns(path, table, ["l0", "nmse"], "the plot of the front")
            name = next((column for column in ("run", "name", "checkpoint") if column in table.columns), None)
            rows = table.dropna(subset=["l0", "nmse"])
            rows = rows.drop_duplicates([*([name] if name else []), "l0", "nmse"])
            labels = (
                [Path(str(v)).stem for v in rows[name]]
                if name
                else [f"{path.stem} {i}" for i in range(len(rows))]
            )
            found = [(label, rows.iloc[[i]], "l0", "nmse") for i, label in enumerate(labels)]
        for label, row, x, y in found:
            if len(row):
                names.append(label)
                points.append((float(row[x].iloc[0]), float(row[y].iloc[0])))
    if not points:
        raise UserError(
            f"{tables[0][0]}: no row has both L0 and NMSE; give metrics of finished trainings, AP tables of SAEs,"
            " or collected runs"
        )
    return names, np.array([x for x, _ in points]), np.array([y for _, y in points])


def training(tables: Sequence[tuple[Path, pd.DataFrame]]) -> Figure:
    """A run's metrics over the tokens it has seen; several runs as several lines."""
    panels = [
        ("mse", "MSE, of normalised inputs"),
        ("l0", "L0"),
        ("dead", "share of dead latents"),
        ("lr", "learning rate"),
    ]
    for path, table in tables:
        check_columns(path, table, ["tokens", "loss"], "the plot of a training")
    shown = [(name, title) for name, title in panels if any(name in table for _, table in tables)]
    figure = new_figure(7.2, 2.3 * ((len(shown) + 1) // 2) + 0.4)
    for place, (name, title) in enumerate(shown):
        axes = figure.add_subplot((len(shown) + 1) // 2, 2, place + 1)
        for number, (path, table) in enumerate(tables):
            if name in table:
                rows = table.dropna(subset=[name])
                axes.plot(
                    rows["tokens"],
                    rows[name],
                    color=colour_of(number),
                    label=path.name.removesuffix(".metrics.csv"),
                )
        axes.set_title(title, loc="left")
        if name == "mse" and all((table[name].dropna() > 0).all() for _, table in tables if name in table):
            axes.set_yscale("log")
        if name == "dead":
            axes.set_ylim(0, max(0.01, axes.get_ylim()[1]))
        axes.set_xlabel("tokens")
        axes.xaxis.set_major_formatter(_tokens)
        if place == 0 and len(tables) > 1:
            axes.legend()
    figure.tight_layout()
    return figure


def _tokens(value: float, _place: object) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"
