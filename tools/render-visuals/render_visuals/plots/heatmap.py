"""The command `heatmap`: the matrix of latents x images as a figure."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from render_visuals.analysis.heat_matrix import Groups, Matrix
from render_visuals.plots.style import new_figure, save_figure
from saetools.vision.heat import STOPS

LEAST_GAP = 0.011  # of the width of the plot between two names of groups
INCHES_PER_LATENT, INCHES_PER_IMAGE = 0.02, 0.012


def draw_heatmap(matrix: Matrix, groups: Groups, target: Path) -> None:
    """Each row is a latent, from 0 to its maximum; groups are named above and separated by thin lines."""
    from matplotlib.colors import LinearSegmentedColormap

    m, n = matrix.value_mn.shape
    width = float(np.clip(n * INCHES_PER_IMAGE, 7, 40))
    height = float(np.clip(m * INCHES_PER_LATENT, 4, 40))
    figure = new_figure(width + 1.2, height + 2.0)
    axes = figure.add_axes(
        (0.9 / (width + 1.2), 0.5 / (height + 2.0), width / (width + 1.2), height / (height + 2.0))
    )
    largest_m = np.maximum(matrix.value_mn.max(1, initial=0), 1e-30)
    colours = LinearSegmentedColormap.from_list("heat", ["#141414", *(f"#{stop}" for stop in STOPS)])
    axes.imshow(
        matrix.value_mn / largest_m[:, None],
        cmap=colours,
        vmin=0,
        vmax=1,
        aspect="auto",
        interpolation="none",
    )
    group_n = groups.group_n[matrix.images]
    starts = np.flatnonzero(np.diff(group_n, prepend=-1))
    ends = np.append(starts[1:], n)
    for start in starts[1:]:
        axes.axvline(start - 0.5, color="white", linewidth=0.3, alpha=0.5)
    centres, names, last = [], [], -np.inf
    for start, end in zip(starts, ends, strict=True):
        centre = (start + end) / 2 - 0.5
        if (centre - last) * width >= LEAST_GAP * n * 12:
            centres.append(centre)
            names.append(groups.names[group_n[start]])
            last = centre
    axes.set_xticks(centres, names, rotation=90, fontsize=7)
    axes.xaxis.tick_top()
    every = max(1, int(np.ceil(9 / (height * 72 / m))))
    axes.set_yticks(range(0, m, every), [str(k) for k in matrix.latents[::every]], fontsize=6)
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.set_ylabel("latent, by co-occurrence")
    axes.set_xlabel(f"{n:,} images, by {groups.by}; colour: value, from 0 to the latent's largest")
    save_figure(figure, target)
