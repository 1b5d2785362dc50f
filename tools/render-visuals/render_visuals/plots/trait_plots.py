"""Figures of AP tables: over training images, layers, groups of traits, prevalence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from render_visuals.plots.style import (
    FAINT,
    INK,
    STRIPE,
    WIDTH,
    finish,
    look_of,
    new_panels,
    plain_ticks,
    shortened,
    ticks_at,
)
from saetools.errors import UserError
from saetools.files.ap_tables import mean_ap, name_scorers, scorer_files
from saetools.files.tables import check_columns

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

NEEDED = ["scorer", "n_prototypes", "n_train", "trait", "ap", "prevalence"]
FEW = 4  # series of points in one panel: more would cover each other
POINTS_APART = 2.2  # between two whiskers: nearer ones would be a band
MOST_GROUPS = 60
SPREAD = "whiskers: 5% to 95% of traits"


def map_over_images(tables: Sequence[tuple[Path, pd.DataFrame]]) -> Figure:
    """mAP against the number of training images, a line for each scorer, whiskers from the 5% to the 95% quantile of
    the traits' AP; one panel for each layer."""
    rows = _rows(tables)
    layers = sorted(rows["layer"].dropna().unique()) if "layer" in rows else []
    panels = [(f"layer {layer:g}", rows[rows["layer"] == layer]) for layer in layers] or [("", rows)]
    few = rows["label"].nunique() <= FEW
    figure, axes_p = new_panels(len(panels), 2 if few else 1, 2.6 if few and len(panels) > 1 else 3.2)
    for axes, (title, panel) in zip(axes_p, panels, strict=True):
        whiskers = _lines_of_means(axes, panel, "n_train", _order(rows), log=True)
        axes.set_xlabel("training images")
        axes.set_ylabel(f"mAP; {SPREAD}" if whiskers else "mAP")
        axes.set_title(title if len(panels) > 1 else "", loc="right")
    return finish(figure, f"mAP against training images: {_what(rows)}", _by_value(axes_p, rows))


def layers(tables: Sequence[tuple[Path, pd.DataFrame]]) -> Figure:
    """mAP against layer, a line for each scorer, from the largest number of training images; whiskers as above."""
    rows = _rows(tables)
    check_columns(tables[0][0], rows, ["layer"], "the plot over layers")
    rows = rows[rows["n_train"] == rows.groupby(["label", "layer"])["n_train"].transform("max")]
    figure, (axes,) = new_panels(1, 1, 3.2)
    whiskers = _lines_of_means(axes, rows, "layer", _order(rows))
    axes.set_xlabel("layer")
    axes.set_ylabel(f"mAP; {SPREAD}" if whiskers else "mAP")
    return finish(figure, f"mAP against layer: {_what(rows)}", _by_value([axes], rows))


def _lines_of_means(
    axes: Axes, rows: pd.DataFrame, x: str, order: Sequence[str], *, log: bool = False
) -> bool:
    """A line with whiskers for each label, beside each other so that none covers another; returns whether there was
    room for whiskers."""
    places = np.array(sorted(rows[x].unique()), float)
    scaled = np.log(places) if log else places
    gap = np.diff(scaled).min() if len(places) > 1 else 1.0
    here = [name for name in order if name in set(rows["label"])]
    apart = 0.7 * gap / len(here)
    width = float(axes.get_position().width * WIDTH * 72 * 0.85)  # points, less names of ticks
    whiskers = len(here) == 1 or apart / (np.ptp(scaled) + gap) * width >= POINTS_APART
    for rank, name in enumerate(here):
        by_x = mean_ap(rows[rows["label"] == name], [x]).sort_index()
        shift = (rank - (len(here) - 1) / 2) * apart if whiskers else 0.0
        at = by_x.index * np.exp(shift) if log else by_x.index + shift
        look = look_of(order.index(name))
        means = by_x["map"]
        spread = np.stack([means - by_x["ap_5"], by_x["ap_95"] - means]).clip(0) if whiskers else None
        axes.plot(at, means, **look._asdict(), label=name)
        axes.errorbar(at, means, spread, fmt="none", ecolor=look.color, elinewidth=0.8)
    if log:
        axes.set_xscale("log")
    ends = np.array([scaled[0] - 0.6 * gap, scaled[-1] + 0.6 * gap])
    axes.set_xlim(*(np.exp(ends) if log else ends))
    axes.set_ylim(0, 1)
    ticks_at(axes, list(places))
    axes.grid(axis="x", visible=False)
    return whiskers


def trait_groups(tables: Sequence[tuple[Path, pd.DataFrame]]) -> Figure:
    """AP by group of attributes, the part of a trait's name before `::`; a mark at each scorer's mean.

    Points are traits where there are few scorers; else whiskers go from their 5% to their 95% quantile.
    """
    rows = _largest_training(_rows(tables))
    rows = rows.assign(group=[_group(trait) for trait in rows["trait"]])
    groups = list(rows.groupby("group")["ap"].mean().sort_values().index)
    note = ""
    if len(groups) > MOST_GROUPS:
        half = MOST_GROUPS // 2
        note = f"; the {half} highest and the {half} lowest of {len(groups)} groups"
        groups = [*groups[:half], *groups[-half:]]
    labels = _order(rows)
    of_group = float(np.clip(0.06 * len(labels), 0.3, 1.5))
    figure, (axes,) = new_panels(1, 1, 0.8 + of_group * len(groups))
    step = 0.84 / len(labels)
    jitter = np.random.default_rng(0)
    for number, label in enumerate(labels):
        look = look_of(number)
        found = rows[rows["label"] == label].groupby("group")["ap"]
        ap_g = {group: ap.to_numpy() for group, ap in found}
        here = [(place, ap_g[group]) for place, group in enumerate(groups) if group in ap_g]
        y = np.array([place for place, _ in here]) + 0.42 - (number + 0.5) * step
        means = np.array([ap.mean() for _, ap in here])
        spread = None
        if len(labels) <= FEW:
            for at, (_, ap) in zip(y, here, strict=True):
                beside = at + jitter.uniform(-0.32, 0.32, len(ap)) * step
                axes.scatter(ap, beside, s=6, color=look.color, alpha=0.5, linewidth=0)
        else:
            ends = np.array([np.quantile(ap, [0.05, 0.95]) for _, ap in here])
            spread = np.abs(ends - means[:, None]).T
        axes.errorbar(means, y, xerr=spread, fmt="none", ecolor=look.color, elinewidth=0.7, capsize=0)
        axes.plot(means, y, color=look.color, marker=look.marker, linestyle="", markersize=5, label=label)
    for place in range(0, len(groups), 2):
        axes.axhspan(place - 0.5, place + 0.5, color=STRIPE, zorder=0, linewidth=0)
    axes.set_yticks(range(len(groups)), groups)
    axes.set_ylim(-0.5, len(groups) - 0.5)
    axes.set_xlim(-0.02, 1.02)
    axes.grid(axis="y", visible=False)
    of_traits = "points: traits, marks: means" if len(labels) <= FEW else f"marks: means, {SPREAD}"
    axes.set_xlabel(f"AP on test; {of_traits}")
    return finish(figure, f"AP by group of traits: {_what(rows)}{note}", _by_value([axes], rows))


def prevalence(tables: Sequence[tuple[Path, pd.DataFrame]]) -> Figure:
    """AP against prevalence; on the line is the AP of a constant score. Many scorers have a panel each."""
    rows = _largest_training(_rows(tables))
    rows = rows[rows["prevalence"] > 0]
    labels = [
        label for label in _order(rows) if (rows.loc[rows["label"] == label, "scorer"] != "const").any()
    ]
    one_panel = len(labels) <= FEW
    figure, panels = new_panels(1, 1, 3.4) if one_panel else new_panels(len(labels), 3, 1.6)
    line = np.geomspace(max(rows["prevalence"].min(), 1e-6), 1, 200)
    constant = "AP = prevalence: a constant score"
    for axes in panels:
        (dashed,) = axes.plot(line, line, color=FAINT, linewidth=1, linestyle="--", label=constant)
        axes.set_xscale("log")
        plain_ticks(axes.xaxis)
        axes.set_ylim(-0.02, 1.02)
    series: list[Artist] = [dashed]
    for number, label in enumerate(labels):
        look, mine = look_of(number), rows[rows["label"] == label]
        axes = panels[0 if one_panel else number]
        if not one_panel:
            axes.scatter(rows["prevalence"], rows["ap"], s=1.5, color="#dfe2e5", linewidth=0, zorder=1)
            axes.set_title(shortened(label, 23), loc="left", fontsize=8.5)
        series.append(
            axes.scatter(
                mine["prevalence"], mine["ap"], s=14 if one_panel else 7, facecolor="none", label=label,
                marker=look.marker, edgecolor=look.color, linewidth=0.8 if one_panel else 0.6, zorder=2,
            )
        )  # fmt: skip
    title = f"AP against prevalence, a point per trait: {_what(rows)}"
    prevalences = "prevalence of the trait in the test images"
    if one_panel:
        panels[0].set_xlabel(prevalences)
        panels[0].set_ylabel("AP on test")
        return finish(figure, title, series)
    figure.supxlabel(prevalences, fontsize=9, color=INK)
    figure.supylabel("AP on test", fontsize=9, color=INK)
    return finish(figure, f"{title}; grey: all scorers; dashed: a constant score", [])


def _order(rows: pd.DataFrame) -> list[str]:
    """Labels in the order of the tables, which gives each its look."""
    return list(dict.fromkeys(rows["label"]))


def _by_value(axes_p: Sequence[Axes], rows: pd.DataFrame) -> list[Line2D]:
    """The series of all panels, once each, highest mAP first: the order in which they are seen."""
    drawn = {str(line.get_label()): line for axes in axes_p for line in axes.get_lines()}
    best = rows.groupby("label")["ap"].mean().sort_values(ascending=False, kind="stable")
    return [drawn[label] for label in best.index if label in drawn]


def _what(rows: pd.DataFrame) -> str:
    """Of what the figure is: traits, images, model and layer, as far as the table says."""
    n = rows["trait"].nunique()
    parts = [f"{n:,} trait{'s' if n > 1 else ''}"]
    if "n_test" in rows and rows["n_test"].nunique() == 1:
        parts.append(f"{rows['n_test'].iloc[0]:,.0f} test images")
    if "layer" in rows and rows["layer"].nunique() == 1:
        parts.append(f"layer {rows['layer'].iloc[0]:g}")
    if "model" in rows and rows["model"].nunique() == 1:
        parts.append(str(rows["model"].iloc[0]))
    return ", ".join(parts)


def _rows(tables: Sequence[tuple[Path, pd.DataFrame]]) -> pd.DataFrame:
    """The rows of all AP tables that have an AP, with a label for each scorer: name, K, and uid if it is one file."""
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
    rows = rows.assign(label=labels)
    if "checkpoint" not in rows:
        return rows
    uids: dict[tuple[str, str], set[str]] = {}
    for path, _ in tables:
        for one in scorer_files(path) or ():
            uids.setdefault((str(one["kind"]), str(one["spec"])), set()).add(str(one["uid"]))
    of_label: dict[str, set[str]] = {}
    for label, kind, file in (
        rows[["label", "scorer", "checkpoint"]].drop_duplicates().itertuples(index=False)
    ):
        of_label.setdefault(label, set()).update(uids.get((str(kind), str(file)), ()))
    said = {label: f"{label} ({next(iter(own))[:8]})" for label, own in of_label.items() if len(own) == 1}
    return rows.assign(label=[said.get(label, label) for label in labels])


def _largest_training(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["n_train"] == rows.groupby("label")["n_train"].transform("max")]


def _group(trait: str) -> str:
    return str(trait).split("::")[0].removeprefix("has_").replace("_", " ")
