"""Figures of AP tables: over training images, layers, groups of traits, prevalence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from render_visuals.plots.style import FAINT, colour_of, legend_above, log_limits, new_figure
from saetools.errors import UserError
from saetools.files.ap_tables import mean_ap, name_scorers
from saetools.files.tables import check_columns

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

NEEDED = ["scorer", "n_prototypes", "n_train", "trait", "ap", "prevalence"]


def map_over_images(tables: Sequence[tuple[Path, pd.DataFrame]]) -> Figure:
    """mAP against the number of training images, a line for each scorer, bands from the 5% to the 95% quantile of
    the traits' AP; one panel for each layer."""
    rows = _rows(tables)
    layers = sorted(rows["layer"].dropna().unique()) if "layer" in rows else []
    panels = [(f"layer {layer:g}", rows[rows["layer"] == layer]) for layer in layers] or [("", rows)]
    figure = new_figure(5.2 * min(len(panels), 3), 4.0 * -(-len(panels) // 3))
    for place, (title, panel) in enumerate(panels):
        axes = figure.add_subplot(-(-len(panels) // 3), min(len(panels), 3), place + 1)
        for number, (name, lines) in enumerate(panel.groupby("label", sort=False)):
            by_size = mean_ap(lines, ["n_train"]).sort_index()
            colour = colour_of(number)
            axes.plot(by_size.index, by_size["map"], color=colour, marker="o", markersize=4, label=name)
            if len(by_size) > 1:
                low, high = by_size["ap_5"], by_size["ap_95"]
                axes.fill_between(by_size.index, low, high, color=colour, alpha=0.06, linewidth=0)
                for edge in (low, high):
                    axes.plot(edge.index, edge, color=colour, linewidth=0.8, linestyle=":")
        log_limits(axes, list(panel["n_train"]))
        axes.set_ylim(0, 1)
        axes.set_xlabel("training images")
        axes.set_ylabel("mAP; band: 5% to 95% of traits")
        legend_above(axes)
        axes.set_title(title, loc="right")
    figure.tight_layout()
    return figure


def layers(tables: Sequence[tuple[Path, pd.DataFrame]]) -> Figure:
    """mAP against layer, a line for each scorer, from the largest number of training images; bands as above."""
    rows = _rows(tables)
    check_columns(tables[0][0], rows, ["layer"], "the plot over layers")
    rows = rows[rows["n_train"] == rows.groupby(["label", "layer"])["n_train"].transform("max")]
    figure = new_figure(6.4, 4.2)
    axes = figure.add_subplot()
    for number, (name, lines) in enumerate(rows.groupby("label", sort=False)):
        by_layer = mean_ap(lines, ["layer"]).sort_index()
        colour = colour_of(number)
        axes.plot(by_layer.index, by_layer["map"], color=colour, marker="o", markersize=4, label=name)
        axes.fill_between(
            by_layer.index,
            by_layer["ap_5"],
            by_layer["ap_95"],
            color=colour,
            alpha=0.12,
            linewidth=0,
        )
    axes.set_xticks(sorted(rows["layer"].unique()))
    axes.set_ylim(0, 1)
    axes.set_xlabel("layer")
    axes.set_ylabel("mAP; band: 5% to 95% of traits")
    legend_above(axes)
    return figure


def trait_groups(tables: Sequence[tuple[Path, pd.DataFrame]]) -> Figure:
    """AP by group of attributes, the part of a trait's name before `::`; points are traits, bars their means."""
    rows = _largest_training(_rows(tables))
    rows = rows.assign(group=[_group(trait) for trait in rows["trait"]])
    order = rows.groupby("group")["ap"].mean().sort_values().index
    labels = list(dict.fromkeys(rows["label"]))
    figure = new_figure(6.8, 0.9 + 0.17 * len(order) * max(len(labels), 1.6))
    axes = figure.add_subplot()
    step = 0.8 / len(labels)
    jitter = np.random.default_rng(0)
    for number, label in enumerate(labels):
        mine = rows[rows["label"] == label]
        for place, group in enumerate(order):
            ap = mine.loc[mine["group"] == group, "ap"]
            if not len(ap):
                continue
            y = place + 0.4 - (number + 0.5) * step
            spread = jitter.uniform(-0.3, 0.3, len(ap)) * step
            axes.scatter(ap, y + spread, s=7, color=colour_of(number), alpha=0.45, linewidth=0)
            axes.plot([ap.mean()] * 2, [y - step / 2, y + step / 2], color=colour_of(number), linewidth=2.2)
        axes.plot([], [], color=colour_of(number), linewidth=2.2, label=label)
    axes.set_yticks(range(len(order)), order)
    axes.set_ylim(-0.6, len(order) - 0.4)
    axes.set_xlim(-0.02, 1.02)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("AP on test; a point per trait, a bar at the group's mean")
    legend_above(axes)
    return figure


def prevalence(tables: Sequence[tuple[Path, pd.DataFrame]]) -> Figure:
    """AP against prevalence; on the line is the AP of a constant score."""
    rows = _largest_training(_rows(tables))
    rows = rows[rows["prevalence"] > 0]
    figure = new_figure(5.6, 4.6)
    axes = figure.add_subplot()
    line = np.geomspace(max(rows["prevalence"].min(), 1e-6), 1, 200)
    axes.plot(line, line, color=FAINT, linewidth=1, linestyle="--", label="AP = prevalence: a constant score")
    for number, (label, mine) in enumerate(rows[rows["scorer"] != "const"].groupby("label", sort=False)):
        axes.scatter(
            mine["prevalence"], mine["ap"], s=12, color=colour_of(number), alpha=0.6, linewidth=0, label=label
        )
    axes.set_xscale("log")
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel("prevalence of the trait in the test images")
    axes.set_ylabel("AP")
    legend_above(axes)
    return figure


def _rows(tables: Sequence[tuple[Path, pd.DataFrame]]) -> pd.DataFrame:
    """The rows of all AP tables that have an AP, with a label for each scorer."""
    import pandas as pd

    for path, table in tables:
        check_columns(path, table, NEEDED, "the plot of an AP table")
    rows = pd.concat([table for _, table in tables], ignore_index=True).dropna(subset=["ap", "n_train"])
    if not len(rows):
        raise UserError(f"{tables[0][0]}: no trait has an AP (none has a positive among the test images)")
    labels = [
        name if scorer == "const" else f"{name}, {int(k)}"
        for name, scorer, k in zip(name_scorers(rows), rows["scorer"], rows["n_prototypes"], strict=True)
    ]
    return rows.assign(label=labels)


def _largest_training(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["n_train"] == rows.groupby("label")["n_train"].transform("max")]


def _group(trait: str) -> str:
    return str(trait).split("::")[0].removeprefix("has_").replace("_", " ")
