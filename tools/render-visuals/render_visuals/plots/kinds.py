"""The kinds of figures by name; each draws tables onto a new figure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from render_visuals.csv_tables import read_table
from render_visuals.plots import latent_plots, sweep_plots, trait_plots
from saetools.files.formats import (
    AP_TABLE,
    COLLECTED_RUNS,
    LATENT_PICTURES,
    LATENT_TABLE,
    TRAINING_METRICS,
    Format,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

Table = tuple[Path, "pd.DataFrame"]


@dataclass(frozen=True)
class Kind:
    """formats: of those tables of ours that it can be drawn from."""

    draw: Callable[..., Figure]
    formats: Sequence[Format]


KINDS = {
    "front": Kind(sweep_plots.front, (TRAINING_METRICS, AP_TABLE, COLLECTED_RUNS)),
    "training": Kind(sweep_plots.training, (TRAINING_METRICS,)),
    "map": Kind(trait_plots.map_over_images, (AP_TABLE,)),
    "layers": Kind(trait_plots.layers, (AP_TABLE,)),
    "traits": Kind(trait_plots.trait_groups, (AP_TABLE,)),
    "prevalence": Kind(trait_plots.prevalence, (AP_TABLE,)),
    "histogram": Kind(latent_plots.histogram, (LATENT_TABLE, LATENT_PICTURES)),
}


def draw_kind(kind: str, paths: Sequence[Path], **options: str) -> Figure:
    """The figure of this kind from these CSV files; raises UserError where one is broken or lacks a column."""
    found = KINDS[kind]
    return found.draw([(path, read_table(path, found.formats)[0]) for path in paths], **options)
