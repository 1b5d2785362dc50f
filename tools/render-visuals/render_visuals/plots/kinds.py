"""The kinds of figures by name, and the histogram. Begin here: `draw_kind`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from render_visuals.plots import sweep_plots, trait_plots
from render_visuals.plots.style import colour_of, new_figure
from render_visuals.tables import read_table
from saetools.errors import UserError
from saetools.files.formats import (
    AP_TABLE,
    COLLECTED_RUNS,
    LATENT_PICTURES,
    LATENT_TABLE,
    TRAINING_METRICS,
    Format,
)
from saetools.files.tables import check_columns

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

MEAN_NAMES = ("mean_value", "mean")
Table = tuple[Path, "pd.DataFrame"]


@dataclass(frozen=True)
class Kind:
    """draw: makes the figure from (path, table) pairs; formats: of the tables that it takes."""

    draw: Callable[..., Figure]
    formats: Sequence[Format]


def histogram(tables: Sequence[tuple[Path, pd.DataFrame]]) -> Figure:
    """Frequency and mean activation of latents, and the one against the other; logarithmic."""
    figure = new_figure(9.6, 3.2)
    panels = [figure.add_subplot(1, 3, place) for place in (1, 2, 3)]
    for number, (path, table) in enumerate(tables):
        mean = next((name for name in MEAN_NAMES if name in table.columns), MEAN_NAMES[0])
        check_columns(path, table, ["frequency", mean], "the histogram of latents")
        active = table[(table["frequency"] > 0) & (table[mean] > 0)]
        if not len(active):
            raise UserError(f"{path}: no latent is active; there is nothing to draw")
        inactive = len(table) - len(active)
        label = f"{path.stem}: {len(active):,} active, {inactive:,} not"
        values = np.log10(active["frequency"]), np.log10(active[mean])
        for axes, value in zip(panels, values, strict=False):
            axes.hist(value, bins=60, histtype="stepfilled", color=colour_of(number), alpha=0.45, label=label)
        panels[2].scatter(*values, s=3, alpha=0.35, color=colour_of(number), linewidth=0)
    titles = ("log10 frequency, of patches", "log10 mean value")
    for axes, title in zip(panels, titles, strict=False):
        axes.set_xlabel(title)
        axes.set_ylabel("latents")
    panels[2].set_xlabel(titles[0])
    panels[2].set_ylabel(titles[1])
    figure.tight_layout()
    figure.legend(*panels[0].get_legend_handles_labels(), loc="upper left", bbox_to_anchor=(0.05, 1.1))
    return figure


KINDS = {
    "front": Kind(sweep_plots.front, (TRAINING_METRICS, AP_TABLE, COLLECTED_RUNS)),
    "training": Kind(sweep_plots.training, (TRAINING_METRICS,)),
    "map": Kind(trait_plots.map_over_images, (AP_TABLE,)),
    "layers": Kind(trait_plots.layers, (AP_TABLE,)),
    "traits": Kind(trait_plots.trait_groups, (AP_TABLE,)),
    "prevalence": Kind(trait_plots.prevalence, (AP_TABLE,)),
    "histogram": Kind(histogram, (LATENT_TABLE, LATENT_PICTURES)),
}


def draw_kind(kind: str, paths: Sequence[Path], **options: str) -> Figure:
    """The figure of this kind from these CSV files; raises UserError where one is broken or lacks a column."""
    found = KINDS[kind]
    return found.draw([(path, read_table(path, found.formats)[0]) for path in paths], **options)
