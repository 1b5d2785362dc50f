"""Average precision of the images drawn again and again, from which confidence intervals are made.

AP of a few images is, on average, higher than that of many from the same source: the precision at a positive
counts that positive itself. `debiased_average_precision` takes every positive out of its own precision; intervals
are made of it. Definitions and demands on scores as in `saetools.average_precision`.
"""

from __future__ import annotations

import numpy as np

from saetools.kernels.average_precision_kernels import RESAMPLES, average_precision_weighted_columns
from saetools.scores_and_labels import checked_labels, checked_scores, refuse_not_finite
from saetools.workers import share_out

_MOST_COPIES = np.iinfo(np.uint16).max


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
    """Estimate of the AP on very many images of the same source, float64 {R, T}, for each resample.

    With P positives, and c positives among the n images that score at least as high as positive i, which is there
    m times:

        AP = 1/P sum_i m a / (a + b)     a = P (c - m)     b = (P - m) (n - c)

    so a positive takes no part in the precision at its own score, and the others stand in for it, which keeps the
    prevalence (where c = P the factor P - m cancels, also when it is zero). Where nothing else scores as high
    (c = m = n), the term is half way between 1 and that of the next positive.

    With rows of counts drawn from a multinomial over the images, the 2.5% and 97.5% quantiles of the result
    are the bootstrap interval of AP, and those of the rows' means that of mAP (the percentile method: Efron and
    Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13). Quantiles of plain AP do not cover the AP of
    many images: it is biased upwards, and more so in resamples. Arguments and errors as
    `average_precision_weighted`.
    """
    return _weighted(scores_nt, labels_nt, counts_rn, valid_nt, threads, debiased=True)


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
    """Counts as uint16 {X, N, W}, W at most RESAMPLES, the last tile filled up with zeros; and R."""
    counts_rn = np.asarray(counts_rn)
    if counts_rn.ndim != 2 or counts_rn.shape[1] != n_images or counts_rn.dtype.kind not in "iu":
        raise ValueError(
            f"counts: found {counts_rn.dtype} {counts_rn.shape}, expected integers of shape (R, {n_images})"
        )
    if counts_rn.size and (counts_rn.min() < 0 or counts_rn.max() > _MOST_COPIES):
        raise ValueError(
            f"counts: found {counts_rn.min()} to {counts_rn.max()}, expected 0 to {_MOST_COPIES}"
        )
    if counts_rn.size and counts_rn.sum(axis=1, dtype=np.int64).max() >= 2**31:
        raise ValueError("counts: a resample holds 2^31 images or more")
    n_resamples = counts_rn.shape[0]
    width = min(RESAMPLES, max(1, n_resamples))
    counts_xnr = np.zeros((-(-n_resamples // width), n_images, width), np.uint16)
    for x, tile_nr in enumerate(counts_xnr):
        rows = counts_rn[x * width : (x + 1) * width]
        tile_nr[:, : len(rows)] = rows.T
    return counts_xnr, n_resamples
