"""The proposals: latents in the order in which image-level labels K ask for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from audit_latents.l1_path import LEAST_SHARE, STEPS, Design
from saetools.row_labels import RowLabels


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
    share_ck, coefficient_ck = np.zeros((n_classes, n_latents)), np.zeros((n_classes, n_latents))
    shares = np.geomspace(1.0, LEAST_SHARE, STEPS)
    steps = STEPS
    for c in range(n_classes):
        if 0 < y_nc[:, c].mean() < 1:
            path = design.path(np.ascontiguousarray(y_nc[:, c]), most, steps=steps)
            share_ck[c], coefficient_ck[c] = path.share_k, path.coefficient_k
            largest = np.sort(share_ck.max(axis=0))[::-1]
            if most <= n_latents and largest[most - 1] > 0:
                steps = int(np.count_nonzero(shares >= largest[most - 1]))
        advance(1)
    # By share, then by the coefficient's size: labels that give a latent the same share settle it in the same way.
    best_k = np.lexsort((np.abs(coefficient_ck), share_ck), axis=0)[-1]
    at = best_k, np.arange(n_latents)
    share_k, coefficient_k = share_ck[at], coefficient_ck[at]
    order = np.lexsort((np.arange(n_latents), -np.abs(coefficient_k), -share_k))
    order = order[share_k[order] > 0][:most]
    return Ranking(order, best_k[order], share_k[order], coefficient_k[order])
