"""The kinds of figures by name; each draws tables onto a new figure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from render_visuals.csv_tables import read_table
from render_visuals.plots import latent_plots, sweep_plots, trait_plots

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

Table = tuple[Path, "pd.DataFrame"]

KINDS: dict[str, Callable[[Sequence[Table]], Figure]] = {
    "front": sweep_plots.front,
    "training": sweep_plots.training,
    "map": trait_plots.map_over_images,
    "layers": trait_plots.layers,
    "traits": trait_plots.trait_groups,
    "prevalence": trait_plots.prevalence,
    "histogram": latent_plots.histogram,
}


def draw_kind(kind: str, paths: Sequence[Path]) -> Figure:
    """The figure of this kind from these CSV files; raises UserError where a column is missing."""
    return KINDS[kind]([(path, read_table(path)) for path in paths])
