"""The command `heatmap`: the matrix of latents x images as a figure."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from render_visuals.analysis.heat_matrix import Groups, Matrix
from render_visuals.plots.style import finish, new_figure, save_figure, shortened
from saetools.latents.header import LatentsHeader
from saetools.vision.heat import STOPS

INCHES_PER_LATENT, INCHES_PER_IMAGE = 0.02, 0.012
INCHES_PER_NAME = 0.13  # the least distance of two names, of groups or of latents


def draw_heatmap(matrix: Matrix, groups: Groups, header: LatentsHeader, target: Path) -> None:
    """Each row is a latent, from 0 to its maximum; groups are named above and separated by thin lines."""
    from matplotlib.colors import LinearSegmentedColormap

    m, n = matrix.value_mn.shape
    width = float(np.clip(n * INCHES_PER_IMAGE, 4.2, 40))
    height = float(np.clip(m * INCHES_PER_LATENT, 3, 40))
    group_n = groups.group_n[matrix.images]
    named = [shortened(groups.names[group], 40) for group in group_n]
    figure = new_figure(width + 1.3, height + 0.6 + 0.07 * max(map(len, named), default=0), "constrained")
    axes = figure.add_subplot()
    largest_m = np.maximum(matrix.value_mn.max(1, initial=0), 1e-30)
    image = axes.imshow(
        matrix.value_mn / largest_m[:, None],
        cmap=LinearSegmentedColormap.from_list("heat", ["#141414", *(f"#{stop}" for stop in STOPS)]),
        vmin=0,
        vmax=1,
        aspect="auto",
        interpolation="none",
    )
    starts = np.flatnonzero(np.diff(group_n, prepend=-1))
    ends = np.append(starts[1:], n)
    for start in starts[1:]:
        axes.axvline(start - 0.5, color="white", linewidth=0.3, alpha=0.5)
    centres, names, last = [], [], -np.inf
    for start, end in zip(starts, ends, strict=True):
        centre = (start + end) / 2 - 0.5
        if (centre - last) * width / n >= INCHES_PER_NAME:
            centres.append(centre)
            names.append(named[start])
            last = centre
    axes.set_xticks(centres, names, rotation=90)
    axes.xaxis.tick_top()
    every = max(1, int(np.ceil(INCHES_PER_NAME * m / height)))
    axes.set_yticks(range(0, m, every), [str(k) for k in matrix.latents[::every]])
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.set_ylabel("latent, by co-occurrence")
    axes.set_xlabel(f"{n:,} images, by {groups.by}")
    bar = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.015, aspect=40)
    bar.set_label("largest value in the image / the latent's largest value")
    bar.set_ticks([0, 0.25, 0.5, 0.75, 1], labels=["0", "0.25", "0.5", "0.75", "1"])
    bar.outline.set_visible(False)
    of = f"layer {header.layer} of {header.source.get('model', 'an unknown model')}"
    title = f"{m:,} of the {header.n_latents:,} latents of {header.kind} {header.scorer[:8]}, {of}"
    save_figure(finish(figure, title, []), target)
