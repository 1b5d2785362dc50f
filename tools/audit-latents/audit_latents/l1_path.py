"""Ranks latents by an L1 logistic regression: the earlier one enters the path, the better.

    minimise  1/N sum_n [ln(1 + e^t_n) - y_n t_n] + penalty sum_k |beta_k|,   t_n = b + sum_k beta_k z_nk / sd_k

with z the largest value of latent k in image n and sd_k its standard deviation over the images, for penalties that
fall from the least one at which every beta is zero (the first latent enters at the second).
Equal to scikit-learn's L1 logistic regression with C = 1 / (N penalty) on z / sd.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from audit_latents.kernels.path_kernels import gradients, l1_path
from saetools.latents.block import Latents

LEAST_SHARE = 0.01  # of the first penalty, at which the path ends
STEPS = 100
TOLERANCE = 1e-14  # mean squared change of the logits


@dataclass(frozen=True)
class Path:
    """share_k {K}: the penalty at which a latent entered over the first one, 0 where it never did; coefficient_k: its
    coefficient then; beta_k, intercept, penalty: the end of the path; pull_k: |gradient| there."""

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
        # Constant to rounding: it says nothing, and dividing by its deviation would make noise of it.
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
        self, y_n: npt.NDArray[np.float64], most: int, least_share: float = LEAST_SHARE, steps: int = STEPS
    ) -> Path:
        """Follow the path until `most` latents have entered, or the penalty is `least_share` of the first; at most so
        many of its steps.

        y: {N} labels from 0 to 1, neither all 0 nor all 1.
        """
        assert y_n.shape == (self.n_rows,) and 0 < y_n.mean() < 1, "labels that can be fitted"
        gradient_k = np.zeros(self.n_latents)
        gradients(self.indptr, self.rows, self.values, self.scale_k, y_n - y_n.mean(), gradient_k)
        # Above the largest pull by more than rounding, which would decide whether its latent enters here or next.
        first = float(np.abs(gradient_k).max()) * (1 + 1e-9)
        entry_k, coefficient_k = np.full(self.n_latents, -1), np.zeros(self.n_latents)
        beta_k = np.zeros(self.n_latents)
        if first <= 0.0:
            return Path(np.zeros(self.n_latents), coefficient_k, beta_k, 0.0, 0.0)
        shares = np.geomspace(1.0, least_share, STEPS)
        done, intercept = l1_path(
            self.indptr,
            self.rows,
            self.values,
            self.scale_k,
            self.norm_k,
            y_n,
            first * shares[:steps],
            most,
            TOLERANCE,
            entry_k,
            coefficient_k,
            beta_k,
        )
        share_k = np.where(entry_k >= 0, shares[np.maximum(entry_k, 0)], 0.0)
        return Path(share_k, coefficient_k, beta_k, intercept, first * shares[done - 1])


def _column_sums(values: npt.NDArray[np.float64], indptr: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Sum over each column's events; by differences of a running sum where columns are empty would cancel."""
    sums = np.zeros(len(indptr) - 1)
    filled = np.flatnonzero(np.diff(indptr))
    if len(filled):
        sums[filled] = np.add.reduceat(values, indptr[filled])
    return sums
