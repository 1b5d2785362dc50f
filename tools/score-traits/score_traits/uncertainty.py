"""95% intervals of AP and mAP by bootstrap, and shuffles of the labels for the null distribution.

Formulas, their sources and the coverage that was measured: docs/metrics.md, section Intervals.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from saetools.labels.dense import KnownRows
from saetools.metrics.bootstrap import (
    debiased_average_precision,
    effective_positives,
    logit_interval,
)

COUNTS_AT_A_TIME = 2**24  # of resampled rows
QUANTILES = (0.025, 0.975)


@dataclass(frozen=True)
class Intervals:
    """95% intervals {2, T} of the AP of each trait, and {2} of mAP; NaN for a trait without positives."""

    ap_2t: np.ndarray
    map_2: np.ndarray


def resampled_ap(
    scores_nt: np.ndarray, test: KnownRows, group_n: np.ndarray, n_resamples: int, seed: int
) -> np.ndarray:
    """Debiased AP {1 + R, T}: of the test rows as they are, then of R resamples of their groups.

    scores_nt: of the prototype chosen for each trait
    group_n:   the group of each row, from 0: its image (`test.image_n`) or its image's class

    Groups are drawn with replacement, each with all its rows, so the patches of an image, or the images of a
    class, do not count as independent. The same seed draws the same groups for any traits.
    """
    rng = np.random.default_rng([seed, 3])
    n_groups = int(group_n.max(initial=-1)) + 1
    ap_rt = np.empty((1 + n_resamples, scores_nt.shape[1]))
    once = np.ones((1, len(group_n)), np.uint16)
    ap_rt[:1] = debiased_average_precision(scores_nt, test.labels_nt, once, valid_nt=test.valid_nt)
    at_a_time = max(16, min(256, COUNTS_AT_A_TIME // max(1, len(scores_nt))))
    for first in range(1, 1 + n_resamples, at_a_time):
        last = min(first + at_a_time, 1 + n_resamples)
        even = np.full(n_groups, 1 / n_groups)
        counts = rng.multinomial(n_groups, even, size=last - first).astype(np.uint16)
        ap_rt[first:last] = debiased_average_precision(
            scores_nt, test.labels_nt, counts[:, group_n], valid_nt=test.valid_nt
        )
    return ap_rt


def intervals(ap_rt: np.ndarray, test: KnownRows, group_n: np.ndarray) -> Intervals:
    """Intervals from `resampled_ap` of these rows and groups: of a trait the logit interval, of mAP the bootstrap's.

    A trait with a single positive varies little between resamples, however much it varies between test sets. So mAP's
    interval is the bootstrap's for the mean over the other traits, and these take part with the ends of their own
    intervals.
    """
    ap_t = ap_rt[0]
    ap_2t = np.full((2, len(ap_t)), np.nan)
    some_t = ~np.isnan(ap_t)
    if not some_t.any():
        return Intervals(ap_2t, np.full(2, np.nan))
    groups_t = positive_groups(test, group_n)
    n_t = effective_positives(ap_t, test.n_positives, groups_t, ap_rt[1:])
    ap_2t[:, some_t] = logit_interval(ap_t[some_t], n_t[some_t])
    drawn_t = some_t & (test.n_positives > 1) & ~np.isnan(ap_rt[1:]).all(0)
    sum_2 = ap_2t[:, some_t & ~drawn_t].sum(1)
    if drawn_t.any():
        sum_2 += drawn_t.sum() * _mean_interval(ap_rt[:, drawn_t])
    return Intervals(ap_2t, np.clip(sum_2 / some_t.sum(), 0, 1))


def _mean_interval(ap_rt: np.ndarray) -> np.ndarray:
    """Bootstrap interval {2} of the mean over traits; the first row is that of the test rows, NaN where not drawn.

    From the lower end of two intervals to the upper: the percentile interval moved by the resamples' bias, and the
    basic one, which corrects the estimate for that bias too. Each covers too little in cases of its own.
    """
    centre = ap_rt[0].mean()
    means_r = np.array([row[~np.isnan(row)].mean() for row in ap_rt[1:] if not np.isnan(row).all()])
    low, high = np.quantile(means_r, QUANTILES)
    bias = means_r.mean() - centre
    return np.array([min(low - bias, 2 * centre - high), max(high - bias, 2 * centre - low)])


def positive_groups(test: KnownRows, group_n: np.ndarray) -> np.ndarray:
    """Effective number {T} of groups that hold the positives: (sum_g p_g)^2 / sum_g p_g^2 for p_g in group g.

    Kish's effective sample size (Survey Sampling, 1965): G for G groups with equally many, 1 where
    all are in one, 0 where there are none.
    """
    labels_nt = test.labels_nt if test.valid_nt is None else test.labels_nt & test.valid_nt
    found_t = np.zeros(labels_nt.shape[1])
    for t, label_n in enumerate(labels_nt.T):
        per_group = np.bincount(group_n[label_n]).astype(float)
        found_t[t] = per_group.sum() ** 2 / max(1.0, (per_group**2).sum())
    return found_t


def shuffles(n_rows: int, n_shuffles: int, seed: int) -> np.ndarray:
    """Orders {M, n_rows} that permute the labels of the training rows."""
    rng = np.random.default_rng([seed, 4])
    return np.array([rng.permutation(n_rows) for _ in range(n_shuffles)])
