"""Average precision of the images drawn again and again, and the confidence intervals that are made of it.

AP of a few images is, on average, higher than that of many from the same source: the precision at a positive
counts that positive itself. `debiased_average_precision` takes every positive out of its own precision; intervals
are made of it. Definitions and demands on scores as in `saetools.metrics.average_precision`.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

from saetools.compute.kernels.average_precision import RESAMPLES, average_precision_weighted_columns
from saetools.compute.threads import share_out
from saetools.metrics.validate import checked_labels, checked_scores, refuse_not_finite

_MAX_COPIES = np.iinfo(np.uint16).max
_NORMAL_QUANTILE = NormalDist().inv_cdf(0.975)


def average_precision_weighted(
    scores_nt: np.ndarray,
    labels_nt: np.ndarray,
    counts_rn: np.ndarray,
    *,
    valid_nt: np.ndarray | None = None,
    threads: int | None = None,
) -> np.ndarray:
    """AP of each trait's own scores on resampled images, float64 {R, T}.

    scores_nt: float32, the score of image n for the prototype that was chosen for trait t
    labels_nt, valid_nt, threads: as `average_precision`
    counts_rn: integers from 0 to 65,535, how often image n is in resample r; a row sums up to less than 2^31

    Equal to `average_precision` with every image repeated that often, and to
    `average_precision_score(..., sample_weight=counts_rn[r])`; NaN where a resample holds no positive. One row of
    ones gives the AP of the images as they are. Each trait is sorted once for all resamples. Raises as
    `average_precision`.
    """
    return _weighted(scores_nt, labels_nt, counts_rn, valid_nt, threads, debiased=False)


def debiased_average_precision(
    scores_nt: np.ndarray,
    labels_nt: np.ndarray,
    counts_rn: np.ndarray,
    *,
    valid_nt: np.ndarray | None = None,
    threads: int | None = None,
) -> np.ndarray:
    """Debiased AP: an estimate of the AP on very many images of the same source, float64 {R, T}, per resample.

    This project's own estimator; docs/metrics.md derives it. With P positives, and c positives among the n images
    that score at least as high as positive i, which is there m times:

        AP° = 1/P sum_i m a / (a + b)     a = P (c - m)     b = (P - m) (n - c)

    The recall at the score of i is estimated from the other positives, (c - m) / (P - m), the prevalence and the
    false positives as they are; where c = P that recall is 1, also when nothing else is left. Where nothing else
    scores as high (c = m = n), the term is half way between 1 and that of the next positive.

    Arguments and errors as `average_precision_weighted`.
    """
    return _weighted(scores_nt, labels_nt, counts_rn, valid_nt, threads, debiased=True)


def effective_positives(
    ap_t: np.ndarray, n_positives_t: np.ndarray, groups_t: np.ndarray, resampled_rt: np.ndarray
) -> np.ndarray:
    """To how many independent positives those of each trait amount, float64 {T}, from groups_t to n_positives_t.

    ap_t: debiased AP; resampled_rt: the same of resamples of the groups (images or classes)
    groups_t: effective number of groups that hold the positives; with one positive in each group n_positives_t

    AP of n independent positives has a variance of about AP (1 - AP) / n, which is solved for n, with the variance
    of the resamples times G / (G - 1). With one group, or an AP so close to 0 or 1 that its variance says nothing,
    it is the number of groups.
    """
    margin_t = 0.5 / (groups_t + 1)
    inside_t = (groups_t > 1) & (ap_t > margin_t) & (ap_t < 1 - margin_t)
    n_t = np.array(groups_t, float)
    for t in np.flatnonzero(inside_t):
        ap_r = resampled_rt[:, t]
        ap_r = ap_r[~np.isnan(ap_r)]
        variance = ap_r.var() * groups_t[t] / (groups_t[t] - 1) if len(ap_r) else np.inf
        upper = float(n_positives_t[t])
        independent = upper if variance == 0 else ap_t[t] * (1 - ap_t[t]) / variance
        n_t[t] = min(max(independent, groups_t[t]), upper)
    return n_t


def logit_interval(ap_t: np.ndarray, n_t: np.ndarray) -> np.ndarray:
    """95% intervals {2, T} of AP that was measured as ap_t with n_t >= 1 independent positives.

        theta = AP, but at least h and at upper 1 - h          h = 1 / (2 (n + 1))
        1 / (1 + exp(-(logit theta -+ 1.96 tau)))             tau = (n theta (1 - theta))^(-1/2)

    The logit interval of Boyd, Eng and Page (Area under the precision-recall curve: point estimates and confidence
    intervals, ECML PKDD 2013). The bounds on theta are ours: at 0 and 1 the logit is infinite. There, where
    AP <= h, the lower end is 0, and where AP >= 1 - h, the upper end is 1.
    """
    h_t = 0.5 / (n_t + 1)
    theta_t = np.clip(ap_t, h_t, 1 - h_t)
    logit_t = np.log(theta_t / (1 - theta_t))
    reach_t = _NORMAL_QUANTILE / np.sqrt(n_t * theta_t * (1 - theta_t))
    low_t, high_t = 1 / (1 + np.exp(reach_t - logit_t)), 1 / (1 + np.exp(-reach_t - logit_t))
    return np.stack([np.where(ap_t <= h_t, 0.0, low_t), np.where(ap_t >= 1 - h_t, 1.0, high_t)])


def _weighted(
    scores_nt: np.ndarray,
    labels_nt: np.ndarray,
    counts_rn: np.ndarray,
    valid_nt: np.ndarray | None,
    threads: int | None,
    *,
    debiased: bool,
) -> np.ndarray:
    label_nt, valid_nt = checked_labels(labels_nt, valid_nt)
    n_images, n_traits = label_nt.shape
    scores_nt = checked_scores(scores_nt, n_images)
    if scores_nt.shape[1] != n_traits:
        raise ValueError(
            f"scores_nt: found {scores_nt.shape[1]} columns, expected one for each of {n_traits} traits"
        )
    counts_xnr, n_resamples = _tiled_counts(counts_rn, n_images)
    label_tn = np.ascontiguousarray(label_nt.T)
    valid_tn = np.ones_like(label_tn) if valid_nt is None else np.ascontiguousarray(valid_nt.T)
    bits_nt = np.ascontiguousarray(scores_nt).view(np.uint32)
    ap_tr = np.empty((n_traits, n_resamples))

    def run(first: int, last: int) -> None:
        found = average_precision_weighted_columns(
            bits_nt, first, last, label_tn, valid_tn, counts_xnr, debiased, ap_tr
        )
        refuse_not_finite(scores_nt, found)

    share_out(n_traits, max(1, n_traits // 32), threads, run)
    return np.ascontiguousarray(ap_tr.T)


def _tiled_counts(counts_rn: np.ndarray, n_images: int) -> tuple[np.ndarray, int]:
    """Counts as uint16 {X, N, W}, W at upper RESAMPLES, the last tile filled up with zeros; and R."""
    counts_rn = np.asarray(counts_rn)
    if counts_rn.ndim != 2 or counts_rn.shape[1] != n_images or counts_rn.dtype.kind not in "iu":
        raise ValueError(
            f"counts: found {counts_rn.dtype} {counts_rn.shape}, expected integers of shape (R, {n_images})"
        )
    if counts_rn.size and (counts_rn.min() < 0 or counts_rn.max() > _MAX_COPIES):
        raise ValueError(f"counts: found {counts_rn.min()} to {counts_rn.max()}, expected 0 to {_MAX_COPIES}")
    if counts_rn.size and counts_rn.sum(axis=1, dtype=np.int64).max() >= 2**31:
        raise ValueError("counts: a resample holds 2^31 images or more")
    n_resamples = counts_rn.shape[0]
    width = min(RESAMPLES, max(1, n_resamples))
    counts_xnr = np.zeros((-(-n_resamples // width), n_images, width), np.uint16)
    for x, tile_nr in enumerate(counts_xnr):
        rows = counts_rn[x * width : (x + 1) * width]
        tile_nr[:, : len(rows)] = rows.T
    return counts_xnr, n_resamples
