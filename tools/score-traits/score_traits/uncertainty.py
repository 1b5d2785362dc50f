"""How sure a row of the AP table is: bootstrap intervals over test images, and what shuffled labels reach."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from saetools.resampled_average_precision import debiased_average_precision
from score_traits.traits import Split

COUNTS_AT_A_TIME = 2**24  # of resampled rows
QUANTILES = (0.025, 0.975)


@dataclass(frozen=True)
class Intervals:
    """95% intervals {2, T} of the AP of each trait, and {2} of mAP; NaN for a trait without positives."""

    ap_2t: np.ndarray
    map_2: np.ndarray


def resampled_ap(scores_nt: np.ndarray, test: Split, n_resamples: int, seed: int) -> np.ndarray:
    """Debiased AP (`saetools.resampled_average_precision`) {R, T} over test images drawn with replacement.

    scores_nt: of the prototype chosen for each trait. All rows of an image are drawn together, so patches
    of one image do not count as independent. The same seed draws the same images for any traits.
    """
    rng = np.random.default_rng([seed, 3])
    ap_rt = np.empty((n_resamples, scores_nt.shape[1]))
    at_a_time = max(16, min(256, COUNTS_AT_A_TIME // max(1, len(scores_nt))))
    for first in range(0, n_resamples, at_a_time):
        last = min(first + at_a_time, n_resamples)
        even = np.full(test.n_images, 1 / test.n_images)
        counts = rng.multinomial(test.n_images, even, size=last - first).astype(np.uint16)
        ap_rt[first:last] = debiased_average_precision(
            scores_nt, test.labels_nt, counts[:, test.image_n], valid_nt=test.valid_nt
        )
    return ap_rt


def intervals(ap_rt: np.ndarray) -> Intervals:
    """Percentile intervals; in a resample mAP is the mean over the traits that have a positive there."""
    some_t = ~np.isnan(ap_rt).all(0)
    ap_2t = np.full((2, ap_rt.shape[1]), np.nan)
    if not some_t.any():
        return Intervals(ap_2t, np.full(2, np.nan))
    ap_2t[:, some_t] = np.nanquantile(ap_rt[:, some_t], QUANTILES, axis=0)
    means_r = np.array([row[~np.isnan(row)].mean() for row in ap_rt if not np.isnan(row).all()])
    return Intervals(ap_2t, np.quantile(means_r, QUANTILES))


def shuffles(n_rows: int, n_shuffles: int, seed: int) -> np.ndarray:
    """Orders {M, n_rows} that take the labels of the training rows away from their scores."""
    rng = np.random.default_rng([seed, 4])
    return np.array([rng.permutation(n_rows) for _ in range(n_shuffles)])
