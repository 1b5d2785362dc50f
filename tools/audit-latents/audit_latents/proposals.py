"""The proposals: latents in the order in which image-level labels K ask for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from audit_latents.l1_path import LEAST_SHARE, STEPS, Design
from saetools.labels.rows import RowLabels


@dataclass(frozen=True)
class Ranking:
    """latent {R}: proposals, best first; label, share, coefficient {R}: the label that asked for each (its position in
    K's names), the penalty at which it entered over that label's first, and its coefficient then."""

    latent: npt.NDArray[np.int64]
    label: npt.NDArray[np.int64]
    share: npt.NDArray[np.float64]
    coefficient: npt.NDArray[np.float64]


def columns_of(labels: RowLabels) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """y {N, C} and whether it is known {N, C}."""
    if labels.ids is not None:
        y_nc = (labels.ids[:, None] == np.arange(labels.n_classes)).astype(np.float64)
        return y_nc, np.repeat(labels.keep[:, None], labels.n_classes, axis=1)
    assert labels.table is not None and labels.known is not None
    return labels.table.astype(np.float64), labels.known


def rank(
    design: Design, y_nc: npt.NDArray[np.float64], most: int, advance: Callable[[int], None] = lambda _: None
) -> Ranking:
    """The first `most` latents over all labels, each with the label in whose path it entered earliest.

    Within a step of the path the larger coefficient goes first. Labels that no image or every image has are left out.
    A path is followed no further than to the step at which the labels before it have `most` latents together: what
    enters later has a smaller share than all of those. So many labels take little more time than one. `advance` hears
    of each label that is done.
    """
    n_latents, n_classes = design.n_latents, y_nc.shape[1]
    share_k, size_k, coefficient_k = (np.zeros(n_latents) for _ in range(3))
    best_k = np.zeros(n_latents, np.int64)
    shares = np.geomspace(1.0, LEAST_SHARE, STEPS)
    steps = STEPS
    for c in range(n_classes):
        if 0 < y_nc[:, c].mean() < 1:
            path = design.path(np.ascontiguousarray(y_nc[:, c]), most, steps=steps)
            own_k = np.abs(path.coefficient_k)
            # By share, then by the coefficient's size; of equals the later label, at the same rank.
            better_k = (path.share_k > share_k) | ((path.share_k == share_k) & (own_k >= size_k))
            share_k[better_k], size_k[better_k] = path.share_k[better_k], own_k[better_k]
            coefficient_k[better_k], best_k[better_k] = path.coefficient_k[better_k], c
            if most <= n_latents:
                least = np.partition(share_k, n_latents - most)[n_latents - most]
                steps = int(np.count_nonzero(shares >= least)) if least > 0 else STEPS
        advance(1)
    order = np.lexsort((np.arange(n_latents), -size_k, -share_k))
    order = order[share_k[order] > 0][:most]
    return Ranking(order, best_k[order], share_k[order], coefficient_k[order])
