"""Figures of training runs: the Pareto front of a sweep, and metrics over tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from render_visuals.plots.style import FAINT, INK, colour_of, legend_above, new_figure
from saetools.errors import UserError
from saetools.files.ap_tables import name_scorers
from saetools.files.tables import check_columns, sidecar_path, sidecar_values
from saetools.metrics.pareto import APART, measured_on, pareto_front

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

LABELLED = 12  # points of fronts with a name beside them
ERRORS = {"nmse": "NMSE", "nmse_standardized": "NMSE of standardized dimensions", "mse": "MSE"}
TITLES = {"weights": "weights", "hook": "place in the block", "data": "data set"}


def front(tables: Sequence[tuple[Path, pd.DataFrame]], y: str = "nmse") -> Figure:
    """NMSE (or the column `y`) against L0, a point for each SAE; the Pareto front is joined and named.

    Only SAEs of one layer, model and data set are compared: each of these has its own front.
    """
    points = _points(tables, y)
    l0, errors = points["l0"].to_numpy(), points[y].to_numpy()
    best_r = pareto_front(points, ["l0", y], list(points["front"]))
    figure = new_figure(6.4, 4.4)
    axes = figure.add_subplot()
    fronts = list(dict.fromkeys(points["front"]))
    middle = np.sqrt(l0.min() * l0.max()) if l0.min() > 0 else l0.mean()
    for number, name in enumerate(fronts):
        mine_r = (points["front"] == name).to_numpy()
        colour = colour_of(number)
        beaten = np.flatnonzero(mine_r & ~best_r)
        said = (
            "dominated" if number == 0 else "_dominated"
        )  # once in the legend: matplotlib skips names with _
        faint = FAINT if len(fronts) == 1 else colour
        axes.scatter(l0[beaten], errors[beaten], s=20, color=faint, alpha=0.6, zorder=2, label=said)
        best = np.flatnonzero(mine_r & best_r)
        best = best[np.lexsort((errors[best], l0[best]))]
        label = f"Pareto front{f', {name}' if name else ''}"
        axes.plot(l0[best], errors[best], color=colour, marker="o", markersize=5, label=label, zorder=3)
        for i in best if best_r.sum() <= LABELLED else ():
            side, shift = ("left", 6) if l0[i] <= middle else ("right", -6)
            axes.annotate(
                points["name"].iloc[i],
                (l0[i], errors[i]),
                (shift, 5),
                ha=side,
                textcoords="offset points",
                fontsize=7,
                color=INK,
            )
    if l0.min() > 0 and l0.max() / l0.min() > 3:
        axes.set_xscale("log")
    if errors.min() > 0 and errors.max() / errors.min() > 10:
        axes.set_yscale("log")
    axes.set_xlabel("L0: latents that fire, mean over patches")
    axes.set_ylabel(ERRORS[y])
    legend_above(axes)
    axes.set_title(f"{len(l0)} SAEs", loc="right")
    return figure


def _points(tables: Sequence[tuple[Path, pd.DataFrame]], y: str) -> pd.DataFrame:
    """name, l0, y and front of every SAE, from tables of many, or metrics of one training each (eval_l0, eval_...).

    front: what the SAEs on it have in common and others have not: `layer 7`; nothing where all are comparable.
    """
    import pandas as pd

    found: list[pd.DataFrame] = []
    for path, table in tables:
        if {"eval_l0", f"eval_{y}"} <= set(table.columns):
            rows = table.dropna(subset=["eval_l0", f"eval_{y}"]).tail(1)
            rows = rows[["eval_l0", f"eval_{y}"]].set_axis(["l0", y], axis=1)
            rows = rows.assign(name=path.name.removesuffix(".csv").removesuffix(".metrics"))
        else:
            check_columns(path, table, ["l0", y], "the plot of the front")
            name = next((column for column in ("run", "name", "checkpoint") if column in table.columns), None)
            rows = table.dropna(subset=["l0", y])
            own = [column for column in APART if column in rows and column != "n_train"]
            if not len(rows):
                names = []
            elif name == "checkpoint" and "scorer" in rows:
                names = name_scorers(rows)
            else:
                names = [Path(str(v)).stem for v in rows[name]] if name else [path.stem] * len(rows)
            rows = rows[["l0", y, *own]].assign(name=names).drop_duplicates()
            if not name:
                rows = rows.assign(name=[f"{path.stem} {i}" for i in range(len(rows))])
        sidecar = sidecar_values(path) if sidecar_path(path).is_file() else {}
        for column, value in measured_on(sidecar).items():
            if column not in rows:
                rows = rows.assign(**{column: value})
        found.append(rows)
    points = pd.concat(found, ignore_index=True)
    if not len(points):
        raise UserError(
            f"{tables[0][0]}: no row has both L0 and {ERRORS[y]}; give metrics of finished trainings, AP tables of"
            " SAEs, or collected runs"
        )
    return points.assign(front=_fronts(points))


def _fronts(points: pd.DataFrame) -> list[str]:
    """For each point, the values in which its front differs from the others, in words."""
    parts: list[list[str]] = [[] for _ in range(len(points))]
    for column in APART:
        if column not in points or points[column].nunique(dropna=False) == 1:
            continue
        values = list(dict.fromkeys(points[column]))
        for part, value in zip(parts, points[column], strict=True):
            known = isinstance(value, str) or not np.isnan(value)
            if column == "layer":
                part.append(f"layer {value:g}" if known else "layer unknown")
            elif column in ("weights", "hook", "data"):  # no words for people: numbered
                part.append(f"{TITLES[column]} {values.index(value) + 1}")
            else:
                part.append(str(value) if known else f"{column} unknown")
    return [", ".join(part) for part in parts]


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
