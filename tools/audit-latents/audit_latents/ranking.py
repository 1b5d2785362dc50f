"""Ranks latents by an L1 logistic regression: the earlier a latent enters the path, the better.

    minimise  1/N sum_n [ln(1 + e^t_n) - y_n t_n] + penalty sum_k |beta_k|,   t_n = b + sum_k beta_k z_nk / sd_k

with z the largest value of latent k in image n and sd_k its standard deviation over the images, for penalties that
fall from the smallest one at which every beta is zero (the first latent enters at the second).
Equal to scikit-learn's L1 logistic regression with C = 1 / (N penalty) on z / sd.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from audit_latents.kernels.path_kernels import gradients, l1_path
from saetools.labels.rows import RowLabels
from saetools.latents.block import Latents

MIN_SHARE = 0.01  # of the first penalty, at which the path ends
STEPS = 100
TOLERANCE = 1e-14  # mean squared change of the logits


@dataclass(frozen=True)
class L1Path:
    """share_k {K}: the penalty at which a latent entered, as a fraction of the first, 0 where it never did;
    coefficient_k {K}: its coefficient at that step; beta_k, intercept, penalty: the end of the path."""

    share_k: npt.NDArray[np.float64]
    coefficient_k: npt.NDArray[np.float64]
    beta_k: npt.NDArray[np.float64]
    intercept: float
    penalty: float


class Design:
    """Latents of all images, each in units of its standard deviation; shared by all labels and permutations."""

    def __init__(self, latents: Latents) -> None:
        n, values = latents.n_rows, latents.values.astype(np.float64)
        sums_k = _column_sums(values, latents.indptr)
        squares_k = _column_sums(values**2, latents.indptr)
        variance_k = np.maximum(squares_k / n - (sums_k / n) ** 2, 0.0)
        # Constant up to rounding: dividing by its standard deviation would only amplify noise.
        varies_k = variance_k > 1e-12 * squares_k / n
        scale_k = np.divide(1.0, np.sqrt(variance_k), out=np.zeros_like(variance_k), where=varies_k)
        self.indptr, self.n_rows = latents.indptr, n
        self.rows = latents.rows.astype(np.uint16) if n <= 2**16 else latents.rows
        # A kernel has no arithmetic of float16.
        half = latents.values.dtype == np.float16
        self.values = latents.values.astype(np.float32) if half else latents.values
        self.scale_k = scale_k
        self.norm_k = scale_k * np.sqrt(squares_k / n) * (1 + 1e-6)

    @property
    def n_latents(self) -> int:
        return len(self.indptr) - 1

    def path(
        self, y_n: npt.NDArray[np.float64], n_proposals: int, min_share: float = MIN_SHARE, steps: int = STEPS
    ) -> L1Path:
        """Follow the path until `n_proposals` latents have entered, or the penalty is `min_share` of the first; at
        most `steps` of its steps.

        y: {N} labels from 0 to 1, neither all 0 nor all 1.
        """
        assert y_n.shape == (self.n_rows,) and 0 < y_n.mean() < 1, "labels that can be fitted"
        gradient_k = np.zeros(self.n_latents)
        gradients(self.indptr, self.rows, self.values, self.scale_k, y_n - y_n.mean(), gradient_k)
        # Slightly above the largest gradient, so that rounding does not decide whether its latent enters here or next.
        first = float(np.abs(gradient_k).max()) * (1 + 1e-9)
        entry_k, coefficient_k = np.full(self.n_latents, -1), np.zeros(self.n_latents)
        beta_k = np.zeros(self.n_latents)
        if first <= 0.0:
            return L1Path(np.zeros(self.n_latents), coefficient_k, beta_k, 0.0, 0.0)
        shares = np.geomspace(1.0, min_share, STEPS)
        done, intercept = l1_path(
            self.indptr,
            self.rows,
            self.values,
            self.scale_k,
            self.norm_k,
            y_n,
            first * shares[:steps],
            n_proposals,
            TOLERANCE,
            entry_k,
            coefficient_k,
            beta_k,
        )
        share_k = np.where(entry_k >= 0, shares[np.maximum(entry_k, 0)], 0.0)
        return L1Path(share_k, coefficient_k, beta_k, intercept, first * shares[done - 1])


@dataclass(frozen=True)
class Ranking:
    """latent {R}: proposals, best first. label {R}: the label in whose path each entered earliest (its position in K's
    names); share {R}: the penalty at that step as a fraction of the path's first; coefficient {R}: its value then."""

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
    design: Design,
    y_nc: npt.NDArray[np.float64],
    n_proposals: int,
    advance: Callable[[int], None] = lambda _: None,
) -> Ranking:
    """The first `n_proposals` latents over all labels, each with the label in whose path it entered earliest.

    Latents that enter at the same step are ranked by the size of their coefficients. Labels that no image or every
    image has are left out. A path ends at the step by which the earlier labels have `n_proposals` latents together:
    latents that enter later are ranked behind these. So many labels take little more time than one. `advance` is called
    with 1 after each label.
    """
    n_latents, n_classes = design.n_latents, y_nc.shape[1]
    share_k, size_k, coefficient_k = (np.zeros(n_latents) for _ in range(3))
    best_k = np.zeros(n_latents, np.int64)
    shares = np.geomspace(1.0, MIN_SHARE, STEPS)
    steps = STEPS
    for c in range(n_classes):
        if 0 < y_nc[:, c].mean() < 1:
            path = design.path(np.ascontiguousarray(y_nc[:, c]), n_proposals, steps=steps)
            own_k = np.abs(path.coefficient_k)
            # By share, then by the coefficient's size; of equals the later label, at the same rank.
            better_k = (path.share_k > share_k) | ((path.share_k == share_k) & (own_k >= size_k))
            share_k[better_k], size_k[better_k] = path.share_k[better_k], own_k[better_k]
            coefficient_k[better_k], best_k[better_k] = path.coefficient_k[better_k], c
            if n_proposals <= n_latents:
                smallest = np.partition(share_k, n_latents - n_proposals)[n_latents - n_proposals]
                steps = int(np.count_nonzero(shares >= smallest)) if smallest > 0 else STEPS
        advance(1)
    order = np.lexsort((np.arange(n_latents), -size_k, -share_k))
    order = order[share_k[order] > 0][:n_proposals]
    return Ranking(order, best_k[order], share_k[order], coefficient_k[order])


def _column_sums(values: npt.NDArray[np.float64], indptr: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Sum over each column's values; differences of a running sum would cancel."""
    sums = np.zeros(len(indptr) - 1)
    filled = np.flatnonzero(np.diff(indptr))
    if len(filled):
        sums[filled] = np.add.reduceat(values, indptr[filled])
    return sums
