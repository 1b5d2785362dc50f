"""The kinds of figures by name, and the histogram. Begin here: `draw_kind`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from render_visuals.plots import edit_plots, sweep_plots, trait_plots
from render_visuals.plots.style import WIDTH, finish, look_of, new_figure
from render_visuals.tables import read_table, short_names
from saetools.errors import UsageError, UserError, near_names
from saetools.files.formats import (
    AP_TABLE,
    COLLECTED_RUNS,
    EDIT_EFFECTS,
    LATENT_PICTURES,
    LATENT_TABLE,
    TRAINING_METRICS,
    Format,
)
from saetools.files.tables import check_columns, sidecar_path, sidecar_values

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure

MEAN_NAMES = ("mean_value", "mean")
Table = tuple[Path, "pd.DataFrame"]


@dataclass(frozen=True)
class Kind:
    """draw: makes the figure from (path, table) pairs; formats: of the tables that it takes; ys: its values of `y`."""

    draw: Callable[..., Figure]
    formats: Sequence[Format]
    ys: Collection[str] = ()


def histogram(tables: Sequence[tuple[Path, pd.DataFrame]]) -> Figure:
    """How often and how strongly latents are active, and the one against the other; logarithmic.

    The third panel has a point for each latent of one table; of several, each one's quartiles about its medians.
    """
    names = [
        f"{name} of {scorer}" if scorer else name
        for name, scorer in zip(
            short_names([path for path, _ in tables]), (_scorer(path) for path, _ in tables), strict=True
        )
    ]
    values = [_active_latents(path, table) for path, table in tables]
    figure = new_figure(WIDTH, 4.6, "constrained")
    grid = figure.add_gridspec(2, 2)
    panels = [figure.add_subplot(part) for part in (grid[0, 0], grid[0, 1], grid[1, :])]
    edges = [
        np.linspace(
            min(one[axis].min() for one in values), max(one[axis].max() for one in values), 41
        ).tolist()
        for axis in (0, 1)
    ]
    series: list[Artist] = []
    for number, ((_, table), name, value) in enumerate(zip(tables, names, values, strict=True)):
        look = look_of(number)
        n_active = len(value[0])
        label = f"{name}: {n_active:,} active, {len(table) - n_active:,} not"
        for axes, one, bins in zip(panels, value, edges, strict=False):
            axes.hist(one, bins=bins, histtype="stepfilled" if len(tables) == 1 else "step", color=look.color,
                      linestyle=look.linestyle, linewidth=1)  # fmt: skip
        if len(tables) == 1:
            points = panels[2].scatter(*value, s=6, alpha=0.5, color=look.color, linewidth=0, label=label)
            series.append(points)
            continue
        (x, left, right), (y, low, high) = (_quartiles(one) for one in value)
        panels[2].plot([left, right], [y, y], color=look.color, linewidth=0.8)
        panels[2].plot([x, x], [low, high], color=look.color, linewidth=0.8)
        series += panels[2].plot([x], [y], **look._asdict(), label=label)
    titles = ("log10 frequency, of patches", "log10 mean value")
    for axes, title in zip(panels, titles, strict=False):
        axes.set_xlabel(title)
        axes.set_ylabel("latents")
    panels[2].set_xlabel(titles[0])
    panels[2].set_ylabel(titles[1] if len(tables) == 1 else f"{titles[1]}\n(medians, quartiles)")
    return finish(figure, "Active latents: how often, and how strongly", series)


def _active_latents(path: Path, table: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """log10 of frequency and mean value of the latents that are active; raises UserError where there are none."""
    mean = next((name for name in MEAN_NAMES if name in table.columns), MEAN_NAMES[0])
    check_columns(path, table, ["frequency", mean], "the histogram of latents")
    active = table[(table["frequency"] > 0) & (table[mean] > 0)]
    if not len(active):
        raise UserError(f"{path}: no latent is active; there is nothing to draw")
    return np.log10(active["frequency"]), np.log10(active[mean])


def _scorer(path: Path) -> str:
    """Kind and uid of the scorer of a table of latents; nothing where it has no sidecar that says."""
    settings = sidecar_values(path).get("settings", {}) if sidecar_path(path).is_file() else {}
    return f"{settings.get('kind', '')} {settings['scorer'][:8]}".strip() if "scorer" in settings else ""


def _quartiles(values: pd.Series) -> tuple[float, float, float]:
    """Median, first and third quartile."""
    low, middle, high = (float(one) for one in np.quantile(values, [0.25, 0.5, 0.75]))
    return middle, low, high


KINDS = {
    "front": Kind(sweep_plots.front, (TRAINING_METRICS, AP_TABLE, COLLECTED_RUNS), sweep_plots.ERRORS),
    "training": Kind(sweep_plots.training, (TRAINING_METRICS,)),
    "map": Kind(trait_plots.map_over_images, (AP_TABLE,)),
    "layers": Kind(trait_plots.layers, (AP_TABLE,)),
    "traits": Kind(trait_plots.trait_groups, (AP_TABLE,)),
    "prevalence": Kind(trait_plots.prevalence, (AP_TABLE,)),
    "histogram": Kind(histogram, (LATENT_TABLE, LATENT_PICTURES)),
    "edits": Kind(edit_plots.edits, (EDIT_EFFECTS,), edit_plots.MEASURES),
}


def check_kind(kind: str, y: str | None) -> None:
    """Raise UsageError for a kind of plot that there is not, and for a `y` that it cannot draw."""
    if kind not in KINDS:
        raise UsageError(
            f"{kind}: unknown kind of plot; known are {', '.join(KINDS)}{near_names(kind, list(KINDS))}"
        )
    if y is None or y in KINDS[kind].ys:
        return
    if not (known := list(KINDS[kind].ys)):
        raise UsageError(f"--y {y}: it has no effect on {kind}; leave it out")
    raise UsageError(f"--y {y}: {kind} can draw {', '.join(known)}{near_names(y, known)}")


def draw_kind(kind: str, paths: Sequence[Path], **options: str) -> Figure:
    """The figure of this kind from these CSV files; raises UserError where one is broken or lacks a column."""
    found = KINDS[kind]
    return found.draw([(path, read_table(path, found.formats)[0]) for path in paths], **options)
